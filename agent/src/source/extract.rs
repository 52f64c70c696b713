//! Finds the join configuration in user-data. Pure.
//!
//! It stands as one JSON object between the lines [`BEGIN`] and [`END`], inside
//! whatever a machine runs: a shell script's here-document, a cloud-config (there
//! the lines are indented), a part of a MIME message. Or the user-data, a tag or an
//! attribute is the JSON object itself. All of it may be packed by gzip and written
//! in base64.

use herdsman_wire::join::JoinConfig;
use herdsman_wire::{ApiError, Code, Secret, limits};
use serde::de::IgnoredAny;

use super::{base64, gzip, mime, parse};

/// Line before the join configuration.
pub const BEGIN: &str = "#HERDSMAN-JOIN-BEGIN";
/// Line behind it.
pub const END: &str = "#HERDSMAN-JOIN-END";
/// Largest user-data that is looked at, packed or not, bytes. The most that any
/// cloud takes is 256 KiB (GCE).
pub const LARGEST: usize = 1 << 20;
/// Wrappings around wrappings: base64, gzip, a message, a part's own gzip.
const DEPTH: usize = 5;

/// A join configuration and its own text, to be kept as it came.
#[derive(Clone, Debug)]
pub struct Joined {
    /// What it says.
    pub join: JoinConfig,
    /// The JSON object.
    pub text: Secret,
}

/// The join configuration in user-data; `None` when it has none. `place` is what
/// errors call it.
///
/// # Errors
/// [`Code::Malformed`], [`Code::TooLarge`] or [`Code::Protocol`], naming the place
/// and the field, never the content: it holds a key.
pub fn join(content: &[u8], place: &str) -> Result<Option<Joined>, ApiError> {
    let told = |e: ApiError| ApiError {
        message: format!("{place}: {}", e.message),
        ..e
    };
    let Some(text) = find(content, DEPTH).map_err(told)? else {
        return Ok(None);
    };
    let join = parse(text.reveal().as_bytes()).map_err(told)?;
    Ok(Some(Joined { join, text }))
}

fn find(content: &[u8], depth: usize) -> Result<Option<Secret>, ApiError> {
    if content.len() > LARGEST {
        let text = format!("user-data of {} bytes; the limit is {LARGEST}", content.len());
        return Err(ApiError::new(Code::TooLarge, text));
    }
    let Some(deeper) = depth.checked_sub(1) else {
        return Ok(None);
    };
    if gzip::is_gzip(content) {
        let unpacked = gzip::unpack(content, LARGEST).map_err(|e| bad(e.to_string()))?;
        return find(&unpacked, deeper);
    }
    if content.trim_ascii_start().starts_with(b"{") {
        let object = object(content)?;
        return Ok(is_ours(&object).then_some(object));
    }
    if let Some(parts) = mime::parts(content) {
        for part in parts {
            if let Some(found) = find(&part, deeper)? {
                return Ok(Some(found));
            }
        }
        return Ok(None);
    }
    if let Some(inside) = between(content)? {
        return object(inside).map(Some);
    }
    match base64::decode(content) {
        Some(decoded) => find(&decoded, deeper),
        None => Ok(None),
    }
}

/// Other programs take JSON from user-data as well, Ignition for one.
fn is_ours(object: &Secret) -> bool {
    #[derive(serde::Deserialize)]
    struct Mark {
        cluster: Option<IgnoredAny>,
        bootstrap: Option<IgnoredAny>,
    }
    serde_json::from_str::<Mark>(object.reveal()).map_or(true, |m| m.cluster.is_some() || m.bootstrap.is_some())
}

/// What stands between the two lines, from its first `{` at a line's start.
fn between(content: &[u8]) -> Result<Option<&[u8]>, ApiError> {
    let mut start = None;
    let mut at = 0;
    for line in content.split_inclusive(|b| *b == b'\n') {
        let after = at + line.len();
        let line = line.trim_ascii();
        match start {
            None if line == BEGIN.as_bytes() => start = Some(after),
            Some(from) if line == END.as_bytes() => {
                let inside = &content[from..at];
                let mut skip = 0;
                for line in inside.split_inclusive(|b| *b == b'\n') {
                    if line.trim_ascii_start().starts_with(b"{") {
                        return Ok(Some(&inside[skip..]));
                    }
                    skip += line.len();
                }
                return Err(bad(format!("nothing between `{BEGIN}` and `{END}`")));
            }
            _ => {}
        }
        at = after;
    }
    match start {
        Some(_) => Err(bad(format!("it ends before `{END}`: was it cut off?"))),
        None => Ok(None),
    }
}

/// The JSON object at the start of a text; what follows it is somebody else's.
fn object(text: &[u8]) -> Result<Secret, ApiError> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => {}
        // Places only: serde's own words may quote what they stumbled over.
        Some(Err(e)) if e.is_eof() => return Err(bad("its JSON is cut off".into())),
        Some(Err(e)) => {
            let text = format!("no JSON at line {} column {}", e.line(), e.column());
            return Err(bad(text));
        }
        None => return Err(bad("it is empty".into())),
    }
    let object = &text[..values.byte_offset()];
    if object.len() > limits::JOIN_CONFIG {
        let text = format!(
            "the join configuration has {} bytes; the limit is {}",
            object.len(),
            limits::JOIN_CONFIG
        );
        return Err(ApiError::new(Code::TooLarge, text));
    }
    let object = std::str::from_utf8(object).map_err(|_| bad("it is no UTF-8".into()))?;
    Ok(Secret::new(object.trim()))
}

fn bad(what: String) -> ApiError {
    ApiError::new(Code::Malformed, format!("join configuration: {what}"))
        .with_hint("render it anew with `herdsman render cloud-init`, or run `herdsman up` again")
}

#[cfg(test)]
mod tests {
    use ::base64;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const JSON: &str = r#"{"version":1,"role":"worker","bootstrap":{"key":"KEY-MATERIAL"}}"#;

    fn script() -> String {
        format!(
            "#!/bin/sh\nset -eu\numask 077\ncat >/x <<'EOF'\n{BEGIN}\n{JSON}\n{END}\nEOF\nexec herdsman-agent install\n"
        )
    }

    fn config() -> String {
        let lines: String = script().lines().map(|l| format!("      {l}\n")).collect();
        format!("#cloud-config\nwrite_files:\n  - path: /x\n    permissions: '0600'\n    content: |\n{lines}")
    }

    fn found(content: &[u8]) -> Option<String> {
        find(content, DEPTH).unwrap().map(|s| s.reveal().to_owned())
    }

    #[test]
    fn every_form_of_user_data_gives_the_same_object() {
        let message = format!(
            "Content-Type: multipart/mixed; boundary=\"b\"\n\n--b\nContent-Type: text/cloud-config\n\n#cloud-config\n\
             --b\nContent-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n{}\n--b--\n",
            STANDARD.encode(script())
        );
        let here = script().replace(&format!("{BEGIN}\n"), &format!("{BEGIN}\ncat >/x <<'E'\n"));
        let pretty = JSON.replace(',', ",\n   ");
        for text in [
            script(),
            script().replace('\n', "\r\n"),
            config(),
            here,
            message,
            JSON.to_owned(),
            format!("\n  {JSON}\n"),
        ] {
            assert_eq!(found(text.as_bytes()).as_deref(), Some(JSON), "{text}");
            let packed = gzip::tests::pack(text.as_bytes(), None);
            assert_eq!(found(&packed).as_deref(), Some(JSON));
            assert_eq!(found(STANDARD.encode(&text).as_bytes()).as_deref(), Some(JSON));
            assert_eq!(found(STANDARD.encode(&packed).as_bytes()).as_deref(), Some(JSON));
        }
        assert_eq!(
            found(script().replace(JSON, &pretty).as_bytes()).as_deref(),
            Some(&*pretty)
        );
    }

    #[test]
    fn user_data_of_others_is_none() {
        for text in [
            "",
            "\n",
            "#!/bin/sh\necho hello\n",
            "#cloud-config\npackages: [x]\n",
            "#include\nhttp://x/\n",
            "aGVsbG8=",
            "{\"ignition\": {}}",
        ] {
            assert_eq!(found(text.as_bytes()), None, "{text}");
        }
        assert_eq!(found(&[0xff, 0xfe, 0, 1]), None);
        assert_eq!(
            found(format!("echo {BEGIN}\n").as_bytes()),
            None,
            "a mention is no marker"
        );
    }

    #[test]
    fn faults_are_named_and_nothing_is_echoed() {
        for (text, word) in [
            (script().split(END).next().unwrap().to_owned(), "cut off"),
            (format!("{BEGIN}\n{END}\n"), "nothing between"),
            (script().replace("}}", "}"), "cut off"),
            (script().replace("\"role\":", "\"role\" KEY-MATERIAL"), "line 1 column"),
            (format!("{{\"x\": \"{}\"}}", "x".repeat(limits::JOIN_CONFIG)), "limit"),
            ("x".repeat(LARGEST + 1), "limit"),
        ] {
            let e = join(text.as_bytes(), "EC2 user-data").unwrap_err();
            assert!(
                e.message.starts_with("EC2 user-data: ") && e.message.contains(word),
                "{e}"
            );
            assert!(!e.to_string().contains("KEY-MATERIAL"), "{e}");
        }
        let e = join(JSON.as_bytes(), "a tag").unwrap_err();
        assert_eq!(e.code, Code::Malformed);
        assert!(e.message.contains("missing field `certificate`"), "{e}");
    }

    #[test]
    fn wrappings_end() {
        let mut text = JSON.as_bytes().to_vec();
        for _ in 0..DEPTH {
            text = gzip::tests::pack(&text, None);
        }
        assert_eq!(found(&text), None);
    }
}
