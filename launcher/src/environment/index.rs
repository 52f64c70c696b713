//! Package indexes and the passwords for them. Addresses go into the manifest,
//! passwords travel beside it.

use std::path::PathBuf;

use herdsman_wire::Secret;
use herdsman_wire::environment::{IndexCredential, index_host};

use super::error::Error;
use super::interpreter::Variables;
use super::netrc;

/// One index, its URL without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// Name as in `UV_INDEX_<NAME>_USERNAME`, where it has one.
    pub(super) name: Option<String>,
    pub(super) url: String,
}

/// Indexes in the order of their priority, the default one last, and access to
/// them.
#[derive(Clone, Debug, Default)]
pub(super) struct Indexes {
    pub(super) list: Vec<Index>,
    pub(super) credentials: Vec<IndexCredential>,
}

/// The public index, named only where others come before it.
const PUBLIC: &str = "https://pypi.org/simple";

/// A URL without user and password.
pub(super) fn without_credentials(url: &str) -> String {
    split(url).0
}

/// The URL without credentials, and these.
fn split(url: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    match authority.rsplit_once('@') {
        None => (url.to_owned(), None),
        Some((access, host)) => {
            let (user, password) = access.split_once(':').unwrap_or((access, ""));
            (
                format!("{scheme}://{host}{tail}"),
                Some((decoded(user), decoded(password))),
            )
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let raw = text.as_bytes();
    let mut i = 0;
    while let Some(b) = raw.get(i) {
        let code = (*b == b'%')
            .then(|| raw.get(i + 1..i + 3))
            .flatten()
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*b));
        i += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Gathers the indexes: `configured` (`URL` or `NAME=URL`, before the public
/// one), else what uv's and pip's variables name; and access to them from URLs,
/// `UV_INDEX_<NAME>_USERNAME`/`_PASSWORD` and netrc.
pub(super) fn gather(configured: &[String], env: &Variables, with_credentials: bool) -> Result<Indexes, Error> {
    let text = |name: &str| {
        env.get(name)
            .and_then(|v| v.to_str())
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .map(str::to_owned)
    };
    let first = |names: &[&str]| names.iter().find_map(|n| text(n));
    let many = |value: Option<String>| -> Vec<String> {
        value
            .iter()
            .flat_map(|v| v.split_whitespace())
            .map(str::to_owned)
            .collect()
    };
    let mut told: Vec<String> = configured.to_vec();
    let default = first(&["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"]);
    if told.is_empty() {
        told.extend(many(text("UV_INDEX")));
        told.extend(many(first(&["UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"])));
    }
    if let Some(default) = default {
        told.push(default);
    } else if !told.is_empty() {
        told.push(PUBLIC.to_owned());
    }

    let netrc = if with_credentials { netrc_file(env) } else { Vec::new() };
    let mut found = Indexes::default();
    for text_of in told {
        let (name, url) = match text_of.split_once('=') {
            Some((name, url)) if !name.contains(['/', ':']) => (Some(name.to_owned()), url.to_owned()),
            _ => (None, text_of.clone()),
        };
        let (url, inline) = split(&url);
        let host = index_host(&url)
            .filter(|_| url.starts_with("https://") || url.starts_with("http://"))
            .ok_or_else(|| {
                Error::refused(
                    format!("the package index `{url}` is no http or https URL"),
                    ["nodes cannot read folders of the laptop; serve it, or include the wheels".to_owned()],
                )
            })?;
        if found.list.iter().any(|i| i.url == url) {
            continue;
        }
        let variable = |what: &str| {
            let name: String = name
                .as_ref()?
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                })
                .collect();
            text(&format!("UV_INDEX_{name}_{what}"))
        };
        let access = inline
            .or_else(|| Some((variable("USERNAME").unwrap_or_default(), variable("PASSWORD")?)))
            .or_else(|| {
                netrc
                    .iter()
                    .find(|e| e.host.as_ref().is_none_or(|h| *h == host))
                    .map(|e| (e.user.clone(), e.password.reveal().to_owned()))
            });
        if let Some((user, password)) = access.filter(|_| with_credentials)
            && !found.credentials.iter().any(|c| c.host == host)
        {
            found.credentials.push(IndexCredential {
                host,
                user,
                password: Secret::new(password),
            });
        }
        found.list.push(Index { name, url });
    }
    Ok(found)
}

fn netrc_file(env: &Variables) -> Vec<netrc::Entry> {
    let path = env
        .get("NETRC")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".netrc")));
    path.and_then(|p| fs_err::read_to_string(p).ok())
        .map(|text| netrc::parse(&text))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{env, folder, write};
    use super::*;

    fn gathered(configured: &[&str], pairs: &[(&str, &str)]) -> Indexes {
        let env = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).into())).collect();
        let configured: Vec<String> = configured.iter().map(|s| (*s).to_owned()).collect();
        gather(&configured, &env, true).unwrap()
    }

    fn urls(i: &Indexes) -> Vec<&str> {
        i.list.iter().map(|i| i.url.as_str()).collect()
    }

    #[test]
    fn order_and_sources() {
        assert!(gathered(&[], &[]).list.is_empty());
        let i = gathered(&["corp=https://a.example/simple"], &[("UV_INDEX", "https://b.example")]);
        assert_eq!(urls(&i), ["https://a.example/simple", PUBLIC]);
        let i = gathered(
            &[],
            &[
                ("PIP_INDEX_URL", "https://c.example/s"),
                ("UV_INDEX", "x=https://b.example/s https://d.example"),
            ],
        );
        assert_eq!(
            urls(&i),
            ["https://b.example/s", "https://d.example", "https://c.example/s"]
        );
    }

    #[test]
    fn passwords_leave_the_urls_and_are_found_elsewhere() {
        let i = gathered(&["https://bob:p%40ss@a.example/simple"], &[]);
        assert_eq!(urls(&i)[0], "https://a.example/simple");
        assert_eq!(
            (i.credentials[0].user.as_str(), i.credentials[0].password.reveal()),
            ("bob", "p@ss")
        );
        assert!(!format!("{i:?}").contains("p@ss"));

        let i = gathered(
            &["my-corp=https://A.example/s"],
            &[
                ("UV_INDEX_MY_CORP_USERNAME", "u"),
                ("UV_INDEX_MY_CORP_PASSWORD", "secret"),
            ],
        );
        assert_eq!(
            (i.credentials[0].host.as_str(), i.credentials[0].password.reveal()),
            ("a.example", "secret")
        );

        let dir = folder();
        let file = write(dir.path().join("n"), "machine a.example login l password p\n");
        let variables = env(&[("NETRC", &file)]);
        let of = |with| {
            gather(&["https://a.example/s".into()], &variables, with)
                .unwrap()
                .credentials
        };
        assert_eq!((of(true)[0].user.as_str(), of(true).len()), ("l", 1));
        assert!(of(false).is_empty());
    }

    #[test]
    fn a_folder_is_no_index_for_nodes_and_the_error_holds_no_password() {
        let error = gather(&["file://u:hunter2@/srv".into()], &Variables::new(), true).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
