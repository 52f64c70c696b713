//! Changes one key in the text of a TOML file; everything else in it, comments
//! and order too, stays as it is.
//!
//! Nothing here understands all of TOML. Instead there are a few places where a
//! key can stand, and whoever asked looks which of the resulting texts reads
//! back as it should.

use super::key::written;
use super::places::{Place, places};

/// Texts in which the key has this value (as TOML), the best first. `tables`
/// leads to the key, `last` is its own name. The first item of a list of tables
/// is meant where there is one; `list` is how many of `tables` name such a list.
pub(super) fn with(old: &str, tables: &[String], last: &str, value: &str, list: Option<usize>) -> Vec<String> {
    let places = places(old);
    let table = tables.join(".");
    let path = if table.is_empty() {
        last.to_owned()
    } else {
        format!("{table}.{last}")
    };
    // The one key with two names keeps the one that it has.
    let second = path.replace("workers_per_vm", "workers_per_node");
    if let Some(place) = places.iter().find(|p| p.path == path || p.path == second) {
        let mut new = old.to_owned();
        new.replace_range(place.value.clone(), value);
        return vec![new];
    }
    let line = format!("{} = {value}\n", written([last]));
    let mut all = Vec::new();
    // Behind the last key of the same table.
    let sibling = |p: &&Place| !p.is_table && p.path.rsplit_once('.').map_or("", |(t, _)| t) == table;
    if let Some(end) = places.iter().filter(sibling).map(|p| p.value.end).max() {
        all.push(insert(old, line_end(old, end), &line));
    }
    let header = header(tables, list.is_some_and(|n| n == tables.len()));
    if let Some(at) = position_after(old, &header) {
        all.push(insert(old, at, &line));
    }
    if tables.is_empty() {
        // Keys of no table stand before all tables.
        let at = first_header(old).unwrap_or(old.len());
        let gap = if at < old.len() { "\n" } else { "" };
        all.push(insert(old, at, &format!("{line}{gap}")));
    } else {
        let gap = if old.trim().is_empty() { "" } else { "\n" };
        all.push(insert(old, old.len(), &format!("{gap}{header}\n{line}")));
        // A table inside of an item of a list that has none yet.
        if let Some(n) = list.filter(|n| *n < tables.len()) {
            let outer = self::header(tables.get(..n).unwrap_or_default(), true);
            all.push(insert(old, old.len(), &format!("{gap}{outer}\n\n{header}\n{line}")));
        }
    }
    all
}

fn header(tables: &[String], list: bool) -> String {
    if list {
        format!("[[{}]]", written(tables))
    } else {
        format!("[{}]", written(tables))
    }
}

/// `text` at a position that begins a line, or ends the file.
fn insert(old: &str, at: usize, text: &str) -> String {
    let (before, after) = old.split_at_checked(at).unwrap_or((old, ""));
    let end = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{before}{end}{text}{after}")
}

/// Where the line that holds a position ends, its line break included.
fn line_end(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.find('\n').map_or(rest.len(), |n| n + 1)
}

fn position_after(text: &str, header: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        if line.split('#').next().is_some_and(|t| t.trim() == header) {
            return Some(at);
        }
    }
    None
}

fn first_header(text: &str) -> Option<usize> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            return Some(at);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(old: &str, tables: &[&str], last: &str, value: &str) -> String {
        let tables: Vec<String> = tables.iter().map(|t| (*t).to_owned()).collect();
        with(old, &tables, last, value, None).remove(0)
    }

    #[test]
    fn a_value_is_replaced_where_it_stands() {
        let old = "# mine\n[limits] # when\nidle = \"1h\" # long\n\nlifetime = \"2h\"\n# end";
        assert_eq!(
            best(old, &["limits"], "idle", "\"20m\""),
            old.replace("\"1h\"", "\"20m\"")
        );
    }

    #[test]
    fn a_key_joins_its_table_wherever_that_is() {
        let old = "[a]\nx = 1 # one\n\n# b\n[b]\n";
        assert_eq!(best(old, &["a"], "y", "2"), "[a]\nx = 1 # one\ny = 2\n\n# b\n[b]\n");
        assert_eq!(best(old, &["b"], "y", "2"), format!("{old}y = 2\n"));
        assert_eq!(best(old, &["c"], "y", "2"), format!("{old}\n[c]\ny = 2\n"));
        assert_eq!(best(old, &[], "y", "2"), format!("y = 2\n\n{old}"));
        assert_eq!(best("# only words", &[], "y", "2"), "# only words\ny = 2\n");
        assert_eq!(best("", &["a", "b.c"], "y", "2"), "[a.\"b.c\"]\ny = 2\n");
    }

    #[test]
    fn no_text_is_too_odd() {
        for old in ["x = [", "\u{feff}", "é", "[[", "[a]\nx = '''\n[b]\n'''"] {
            for new in with(old, &["b".into()], "y", "2", Some(1)) {
                assert!(new.contains("y = 2"), "{new}");
            }
        }
    }
}
