//! `.gitignore` and `.herdsmanignore` in their common forms: names, `*`, `?`,
//! `**`, a leading or inner `/`, a trailing `/`, `!`. Not done: `[a-z]` is taken
//! as text; rules outside of the project count not.

use std::path::Path;

/// Files that hold such rules, the later one wins.
const FILES: [&str; 2] = [".gitignore", ".herdsmanignore"];

#[derive(Clone, Debug)]
struct Rule {
    /// The folder it stands in, relative to the root, with a `/` at its end.
    base: String,
    pattern: String,
    anchored: bool,
    folders_only: bool,
    negated: bool,
}

/// Rules that were met on the way down to a folder.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// Adds the rules of a folder; `base` is its path below the root, `/` at its
    /// end, empty for the root.
    pub(super) fn read(&mut self, folder: &Path, base: &str) {
        for file in FILES {
            if let Ok(text) = fs_err::read_to_string(folder.join(file)) {
                self.0.extend(text.lines().filter_map(|l| rule(l, base)));
            }
        }
    }

    /// Whether a path below the root is left out. Its folders were asked before.
    pub(super) fn ignores(&self, path: &str, folder: bool) -> bool {
        let hit = self.0.iter().rev().find(|rule| {
            let Some(rest) = path.strip_prefix(rule.base.as_str()) else {
                return false;
            };
            if rule.folders_only && !folder {
                return false;
            }
            let text = if rule.anchored {
                rest
            } else {
                rest.rsplit('/').next().unwrap_or(rest)
            };
            matches(rule.pattern.as_bytes(), text.as_bytes())
        });
        hit.is_some_and(|rule| !rule.negated)
    }
}

fn rule(line: &str, base: &str) -> Option<Rule> {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (negated, line) = line.strip_prefix('!').map_or((false, line), |l| (true, l));
    let line = line.strip_prefix('\\').unwrap_or(line);
    let (folders_only, line) = line.strip_suffix('/').map_or((false, line), |l| (true, l));
    let anchored = line.contains('/');
    let pattern = line.strip_prefix('/').unwrap_or(line).to_owned();
    (!pattern.is_empty()).then(|| Rule {
        base: base.to_owned(),
        pattern,
        anchored,
        folders_only,
        negated,
    })
}

/// `*` and `?` stay within a name, `**` goes over names. In time of length times
/// length: each position of the pattern keeps the set of places reached.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some(first) = rest.first() {
        let mut next = vec![false; text.len() + 1];
        if rest.starts_with(b"**/") {
            // Nothing, or any number of whole names.
            let mut on = false;
            for (i, slot) in next.iter_mut().enumerate() {
                on |= reached[i];
                let start = i == 0 || text[i - 1] == b'/';
                *slot = reached[i] || (on && start);
            }
            rest = &rest[3..];
        } else if rest.starts_with(b"**") {
            let mut on = false;
            for (i, slot) in next.iter_mut().enumerate() {
                on |= reached[i];
                *slot = on;
            }
            rest = &rest[2..];
        } else if *first == b'*' {
            let mut on = false;
            for (i, slot) in next.iter_mut().enumerate() {
                on = reached[i] || (on && text[i - 1] != b'/');
                *slot = on;
            }
            rest = &rest[1..];
        } else {
            for i in 0..text.len() {
                let fits = if *first == b'?' {
                    text[i] != b'/'
                } else {
                    text[i] == *first
                };
                next[i + 1] = reached[i] && fits;
            }
            rest = &rest[1..];
        }
        reached = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_as_git_reads_them() {
        let cases = [
            ("*.log", "a.log", false, true),
            ("*.log", "deep/er/a.log", false, true),
            ("data/", "data", true, true),
            ("data/", "data", false, false),
            ("/data", "sub/data", true, false),
            ("a/b", "a/b", false, true),
            ("a/b", "x/a/b", false, false),
            ("a/*.py", "a/b/c.py", false, false),
            ("**/c.py", "a/b/c.py", false, true),
            ("**/c.py", "c.py", false, true),
            ("a/**", "a/b/c.py", false, true),
            ("a/**/z", "a/z", false, true),
            ("a/**/z", "a/b/c/z", false, true),
            ("a?c", "abc", false, true),
            ("# x", "# x", false, false),
            ("\\#x", "#x", false, true),
        ];
        for (pattern, path, folder, wanted) in cases {
            let rules = Rules(rule(pattern, "").into_iter().collect());
            assert_eq!(rules.ignores(path, folder), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn later_rules_win_and_bases_bind() {
        let rules = Rules(
            [("*.csv", ""), ("!keep.csv", ""), ("/x", "sub/")]
                .into_iter()
                .filter_map(|(p, b)| rule(p, b))
                .collect(),
        );
        assert!(rules.ignores("a.csv", false) && !rules.ignores("keep.csv", false));
        assert!(rules.ignores("sub/x", false) && !rules.ignores("x", false));
    }

    proptest! {
        #[test]
        fn no_pattern_panics_or_hangs(p in "[*?/a-c]{0,30}", t in "[/a-c]{0,60}") {
            let _ = matches(p.as_bytes(), t.as_bytes());
        }
    }
}
