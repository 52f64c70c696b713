//! Texts that come from elsewhere: lines of logs, answers of providers, words of
//! errors. A terminal obeys what is hidden in them; a reader should see it.

use std::borrow::Cow;

/// One line without what would move the cursor, recolour the screen, set titles
/// or turn the direction of writing. Colours, which logs are full of, are left
/// out; everything else is shown, as in `\u{1b}`. Tabs stay.
#[must_use]
pub fn clean(line: &str) -> Cow<'_, str> {
    if !line.contains(is_odd) {
        return line.into();
    }
    let mut out = String::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(behind) = without_color(rest) {
            rest = behind;
            continue;
        }
        if is_odd(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    out.into()
}

/// As [`clean`] for each line of a text.
#[must_use]
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && is_odd(c)) {
        return text.into();
    }
    let lines: Vec<_> = text.split('\n').map(clean).collect();
    lines.join("\n").into()
}

fn is_odd(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// What follows a colour sequence (`ESC [ numbers m`), if the text begins with
/// one.
fn without_color(text: &str) -> Option<&str> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let behind = numbers.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | ':'));
    behind.strip_prefix('m')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_moves_the_cursor() {
        assert_eq!(clean("ok\tgrün 日本"), "ok\tgrün 日本");
        assert_eq!(clean("a\u{1b}[2Jb\rc\u{202e}d"), "a\\u{1b}[2Jb\\rc\\u{202e}d");
        assert_eq!(clean("\u{1b}]0;title\u{7}"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(clean("\u{9b}2J"), "\\u{9b}2J");
        assert_eq!(clean("a\nb"), "a\\nb");
        assert_eq!(clean_lines("a\nb\u{8}\n"), "a\nb\\u{8}\n");
    }

    #[test]
    fn colours_of_logs_are_left_out() {
        assert_eq!(clean("\u{1b}[1;31mERROR\u{1b}[0m words\u{1b}[m"), "ERROR words");
        assert_eq!(clean("\u{1b}[38:5:1mx"), "x");
        assert_eq!(clean("\u{1b}[31"), "\\u{1b}[31");
        assert_eq!(clean("\u{1b}"), "\\u{1b}");
    }

    proptest::proptest! {
        #[test]
        fn what_is_left_is_plain(text in "(?s).{0,80}") {
            let out = clean(&text).into_owned();
            proptest::prop_assert!(!out.contains(is_odd));
            proptest::prop_assert_eq!(clean(&out), out.as_str());
            proptest::prop_assert!(!clean_lines(&text).contains(|c| c != '\n' && is_odd(c)));
        }
    }
}
