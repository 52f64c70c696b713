//! The netrc file, as far as package indexes need it.

use herdsman_wire::Secret;

/// Access to one host; no host is netrc's `default`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) host: Option<String>,
    pub(super) user: String,
    pub(super) password: Secret,
}

/// Reads `machine`, `default`, `login`, `account` and `password`; macros are
/// passed over. Entries without a password are left out.
pub(super) fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words = Words { rest: text };
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => entries.push(Entry {
                host: if word == "machine" {
                    words.next().map(|h| h.to_ascii_lowercase())
                } else {
                    None
                },
                user: String::new(),
                password: Secret::default(),
            }),
            "macdef" => words.skip_macro(),
            "login" | "user" => {
                if let (Some(entry), Some(value)) = (entries.last_mut(), words.next()) {
                    entry.user = value;
                }
            }
            "password" => {
                if let (Some(entry), Some(value)) = (entries.last_mut(), words.next()) {
                    entry.password = Secret::new(value);
                }
            }
            "account" => drop(words.next()),
            _ => {}
        }
    }
    entries.retain(|e| !e.password.is_empty());
    entries
}

struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn next(&mut self) -> Option<String> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                break;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, r)| r);
        }
        let quoted = self.rest.starts_with('"');
        let mut word = String::new();
        let mut chars = self.rest.char_indices().skip(usize::from(quoted));
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if quoted => word.extend(chars.next().map(|(_, c)| c)),
                '"' if quoted => {
                    self.rest = &self.rest[at + 1..];
                    return Some(word);
                }
                c if c.is_whitespace() && !quoted => {
                    self.rest = &self.rest[at..];
                    return Some(word);
                }
                c => word.push(c),
            }
        }
        self.rest = "";
        (!word.is_empty()).then_some(word)
    }

    /// A macro ends at an empty line.
    fn skip_macro(&mut self) {
        self.rest = self.rest.split_once("\n\n").map_or("", |(_, r)| r);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_forms() {
        let text = "# mine\nmachine A.example login bob password pw#1\nmacdef x\n password evil\n\nmachine b.example\n  login \"a b\"\n  password \"q\\\"x\"\nmachine none login x\ndefault login d password e";
        let found = parse(text);
        let list: Vec<_> = found
            .iter()
            .map(|e| (e.host.as_deref(), e.user.as_str(), e.password.reveal()))
            .collect();
        assert_eq!(
            list,
            [
                (Some("a.example"), "bob", "pw#1"),
                (Some("b.example"), "a b", "q\"x"),
                (None, "d", "e")
            ]
        );
        assert!(!format!("{found:?}").contains("pw#1"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(machine |login |password |\"|\\\\|#|\n|é|a){0,40}") {
            let _ = parse(&text);
        }
    }
}
