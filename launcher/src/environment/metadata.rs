//! The files of a `dist-info` folder that matter here.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::versions::normalize;

/// What a distribution's `METADATA` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) version: String,
    /// Normal names of what it requires on Linux, extras left out.
    pub(super) requires: Vec<String>,
}

/// Reads the head of a `METADATA` file.
pub(super) fn metadata(text: &str) -> Option<Metadata> {
    let mut found = Metadata::default();
    for line in text.lines() {
        // The description follows after an empty line.
        if line.is_empty() {
            break;
        }
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "name" => value.clone_into(&mut found.name),
            "version" => value.clone_into(&mut found.version),
            "requires-dist" => found.requires.extend(required_on_linux(value)),
            _ => {}
        }
    }
    let fine = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_alphanumeric())
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+' | b'!'))
    };
    (fine(&found.name) && fine(&found.version)).then_some(found)
}

/// The name in a requirement, unless its marker keeps it from Linux or binds it
/// to an extra. Markers with `or` count as true: asking for one package too many
/// is safer than for one too few.
fn required_on_linux(text: &str) -> Option<String> {
    let (requirement, marker) = text.split_once(';').unwrap_or((text, ""));
    let marker: String = marker
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| if c == '"' { '\'' } else { c })
        .collect();
    let elsewhere = [
        "extra==",
        "sys_platform=='win32'",
        "sys_platform=='darwin'",
        "platform_system=='Windows'",
        "platform_system=='Darwin'",
        "os_name=='nt'",
        "sys_platform!='linux'",
        "implementation_name=='pypy'",
        "platform_python_implementation=='PyPy'",
    ];
    let never = elsewhere.iter().any(|m| marker.contains(m));
    let only = !marker.contains("'or") || marker.contains("extra==");
    if never && only {
        return None;
    }
    let name: String = requirement
        .trim()
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .collect();
    (!name.is_empty()).then(|| normalize(&name))
}

/// Where a distribution came from when it was no index (PEP 610).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Editable(PathBuf),
    Local(PathBuf),
    Vcs(String),
    Url(String),
}

/// Reads a `direct_url.json`.
pub(super) fn origin(text: &str) -> Option<Origin> {
    #[derive(Deserialize)]
    struct Direct {
        url: String,
        #[serde(default)]
        dir_info: Option<DirInfo>,
        #[serde(default)]
        vcs_info: Option<VcsInfo>,
    }
    #[derive(Deserialize)]
    struct DirInfo {
        #[serde(default)]
        editable: bool,
    }
    #[derive(Deserialize)]
    struct VcsInfo {
        #[serde(default)]
        commit_id: String,
    }
    let direct: Direct = serde_json::from_str(text).ok()?;
    if let Some(vcs) = direct.vcs_info {
        let short: String = vcs.commit_id.chars().take(10).collect();
        return Some(Origin::Vcs(format!(
            "{} at {short}",
            super::index::without_credentials(&direct.url)
        )));
    }
    match (local_path(&direct.url), direct.dir_info) {
        (Some(path), Some(DirInfo { editable: true })) => Some(Origin::Editable(path)),
        (Some(path), _) => Some(Origin::Local(path)),
        (None, _) => Some(Origin::Url(super::index::without_credentials(&direct.url))),
    }
}

/// The path of a `file` URL.
fn local_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("file://")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    let mut bytes = Vec::new();
    let mut chars = rest.bytes();
    while let Some(b) = chars.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let digits = [chars.next()?, chars.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    let text = String::from_utf8(bytes).ok()?;
    // `file:///C:/…` on Windows.
    let text = match text.as_bytes() {
        [b'/', drive, b':', ..] if drive.is_ascii_alphabetic() => text[1..].to_owned(),
        _ => text,
    };
    Path::new(&text).is_absolute().then(|| PathBuf::from(text))
}

/// `Root-Is-Purelib` and the tags of a `WHEEL` file.
pub(super) fn wheel_tags(text: &str) -> Option<(bool, Vec<String>)> {
    let mut pure = None;
    let mut tags = Vec::new();
    for line in text.lines() {
        match line.split_once(':') {
            Some(("Root-Is-Purelib", v)) => pure = Some(v.trim().eq_ignore_ascii_case("true")),
            Some(("Tag", v)) => tags.push(v.trim().to_owned()),
            _ => {}
        }
    }
    let fine = |t: &String| {
        t.split('-').count() == 3
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    (!tags.is_empty() && tags.iter().all(fine)).then_some((pure?, tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_up_to_the_description() {
        let text = "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0+cpu\nRequires-Dist: click>=8\nRequires-Dist: colorama; sys_platform == \"win32\"\nRequires-Dist: numpy[x]>1 ; python_version >= '3.9'\nRequires-Dist: pytest; extra == 'test'\nRequires-Dist: both; sys_platform == 'win32' or python_version > '3'\n\nName: evil\n";
        let m = metadata(text).unwrap();
        assert_eq!((m.name.as_str(), m.version.as_str()), ("Foo_Bar", "1.0+cpu"));
        assert_eq!(m.requires, ["click", "numpy", "both"]);
        for bad in [
            "",
            "Name: --index-url\nVersion: 1",
            "Name: x\nVersion: 1 @ http://x",
            "Name: x",
        ] {
            assert_eq!(metadata(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins() {
        let cases = [
            (
                r#"{"url":"file:///home/u/my%20lib","dir_info":{"editable":true}}"#,
                Some(Origin::Editable("/home/u/my lib".into())),
            ),
            (
                r#"{"url":"file:///x/a.whl","archive_info":{}}"#,
                Some(Origin::Local("/x/a.whl".into())),
            ),
            (
                r#"{"url":"https://u:pw@h/r.git","vcs_info":{"vcs":"git","commit_id":"0123456789abcdef"}}"#,
                Some(Origin::Vcs("https://h/r.git at 0123456789".into())),
            ),
            (
                r#"{"url":"https://h/a.whl","archive_info":{}}"#,
                Some(Origin::Url("https://h/a.whl".into())),
            ),
            ("{", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(origin(text), wanted, "{text}");
        }
    }

    #[test]
    fn tags_of_wheels() {
        let text = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n";
        assert_eq!(
            wheel_tags(text),
            Some((true, vec!["py2-none-any".into(), "py3-none-any".into()]))
        );
        assert_eq!(wheel_tags("Root-Is-Purelib: true\nTag: ../../x\n"), None);
    }
}
