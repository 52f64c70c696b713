//! MIME multipart user-data, as cloud-init's users write it: the parts with their
//! transfer encoding undone (RFC 2045, RFC 2046). Pure.

use super::base64;

/// Parts that are looked at; cloud-init's own tools make a handful.
const PARTS: usize = 64;
/// Parts in parts.
const DEPTH: usize = 4;

/// The bodies of all parts, or `None` when this is no multipart message.
#[must_use]
pub(super) fn parts(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    collect(text, DEPTH, &mut found).then_some(found)
}

fn collect(text: &[u8], depth: usize, found: &mut Vec<Vec<u8>>) -> bool {
    let (head, body) = split(text);
    let Some(boundary) = head.boundary().filter(|_| depth > 0) else {
        return false;
    };
    for part in between(body, &boundary) {
        if found.len() >= PARTS {
            break;
        }
        if !collect(part, depth - 1, found) {
            let (head, body) = split(part);
            found.push(head.decode(body));
        }
    }
    true
}

/// Headers of a part, names in small letters, folded lines joined.
struct Head(Vec<(String, String)>);

impl Head {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn boundary(&self) -> Option<String> {
        let kind = self.get("content-type")?;
        if !kind.trim_start().to_ascii_lowercase().starts_with("multipart/") {
            return None;
        }
        let at = kind.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
        let value = kind.get(at..)?.trim_start();
        let value = match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => value.split([';', ' ', '\t']).next()?,
        };
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn decode(&self, body: &[u8]) -> Vec<u8> {
        match self.get("content-transfer-encoding").map(str::to_ascii_lowercase) {
            // What does not decode is looked at as it stands: it holds no markers
            // then, or another source has it.
            Some(e) if e == "base64" => base64::decode(body).unwrap_or_else(|| body.to_vec()),
            Some(e) if e == "quoted-printable" => unquote(body),
            _ => body.to_vec(),
        }
    }
}

/// Splits at the first empty line.
fn split(text: &[u8]) -> (Head, &[u8]) {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut rest = text;
    loop {
        let (line, after) = line_of(rest);
        let end = rest.is_empty() || line.is_empty();
        rest = after;
        if end {
            return (Head(headers), rest);
        }
        let line = String::from_utf8_lossy(line);
        match (line.starts_with([' ', '\t']), headers.last_mut(), line.split_once(':')) {
            (true, Some((_, value)), _) => value.push_str(line.trim_end()),
            (false, _, Some((name, value))) => {
                headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            // Shell scripts and YAML are no headers.
            _ => return (Head(Vec::new()), text),
        }
        if headers.len() > PARTS {
            return (Head(Vec::new()), text);
        }
    }
}

/// First line without its end, and what follows it.
fn line_of(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|b| *b == b'\n') {
        Some(at) => {
            let line = text[..at].strip_suffix(b"\r").unwrap_or(&text[..at]);
            (line, &text[at + 1..])
        }
        None => (text, &[]),
    }
}

/// What stands between the delimiter lines.
fn between<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let open = format!("--{boundary}").into_bytes();
    let close = format!("--{boundary}--").into_bytes();
    let mut parts = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at < body.len() && parts.len() <= PARTS {
        let (line, after) = line_of(&body[at..]);
        let line = line.trim_ascii_end();
        if line == open || line == close {
            if let Some(from) = start.take() {
                parts.push(&body[from..at]);
            }
            if line == close {
                return parts;
            }
            start = Some(body.len() - after.len());
        }
        at = body.len() - after.len();
    }
    // A message that was cut off still has its last part.
    if let Some(from) = start {
        parts.push(&body[from..]);
    }
    parts
}

/// Quoted-printable: `=XX` is a byte, `=` at a line's end joins lines.
fn unquote(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'=' {
            out.push(*first);
            continue;
        }
        if let Some(joined) = after.strip_prefix(b"\r\n").or_else(|| after.strip_prefix(b"\n")) {
            rest = joined;
        } else if let Some(byte) = after.get(..2).and_then(|h| std::str::from_utf8(h).ok())
            && let Ok(byte) = u8::from_str_radix(byte, 16)
        {
            out.push(byte);
            rest = &after[2..];
        } else {
            out.push(b'=');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "Content-Type: multipart/mixed;\n boundary=\"===x==\"\nMIME-Version: 1.0\n\npreamble\n--===x==\n\
        Content-Type: text/cloud-config\n\n#cloud-config\nruncmd: []\n--===x==\n\
        Content-Type: text/x-shellscript; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\nIyEvYmlu\nL3NoCg==\n\
        --===x==\nContent-Transfer-Encoding: quoted-printable\n\na=3Db=\nc\n--===x==--\nepilogue\n";

    #[test]
    fn every_part_is_decoded() {
        for text in [MESSAGE.to_owned(), MESSAGE.replace('\n', "\r\n")] {
            let parts = parts(text.as_bytes()).unwrap();
            assert_eq!(parts.len(), 3);
            assert!(parts[0].starts_with(b"#cloud-config"));
            assert_eq!(parts[1], b"#!/bin/sh\n");
            assert_eq!(parts[2].trim_ascii_end(), b"a=bc");
        }
    }

    #[test]
    fn messages_in_messages() {
        let text = format!(
            "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\n\nfirst\n--o\n{MESSAGE}--o--\n"
        );
        assert_eq!(parts(text.as_bytes()).unwrap().len(), 4);
    }

    #[test]
    fn other_user_data_is_no_message() {
        for text in [
            "",
            "#!/bin/sh\necho: x\n",
            "#cloud-config\na: b\n\nc: d\n",
            "a: b\n\nc",
            "{\"a\": 1}",
        ] {
            assert!(parts(text.as_bytes()).is_none(), "{text}");
        }
    }
}
