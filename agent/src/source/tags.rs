//! A join configuration in tags. Clouds limit a tag's value to about 256 characters,
//! so it is cut into `herdsman-join-00`, `herdsman-join-01` …, joined in the order of
//! the numbers. The whole is what [`super::extract`] takes: JSON, or base64 of JSON or
//! of gzip where a cloud allows few characters.

/// Begins the names of our tags.
const NAME: &str = "herdsman-join";

/// Whether a tag may hold a piece of a join configuration. Its name becomes a part
/// of a path, so it has nothing but a number behind ours.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    number(key).is_some()
}

fn number(key: &str) -> Option<u16> {
    match key.strip_prefix(NAME)? {
        "" => Some(0),
        rest => {
            let digits = rest
                .strip_prefix('-')
                .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok()
        }
    }
}

/// The pieces put together; `None` when there are none.
#[must_use]
pub fn joined(tags: impl IntoIterator<Item = (String, String)>) -> Option<Vec<u8>> {
    let numbered = tags.into_iter().filter_map(|(key, value)| Some((number(&key)?, value)));
    let mut pieces: Vec<(u16, String)> = numbered.collect();
    pieces.sort();
    let whole: String = pieces.into_iter().map(|(_, value)| value).collect();
    (!whole.trim().is_empty()).then(|| whole.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_by_number() {
        let tag = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let tags = [
            tag("herdsman-join-10", "c"),
            tag("Name", "x"),
            tag("herdsman-join-02", "b"),
            tag("herdsman-join-1", "a"),
            tag("herdsman-joined", "x"),
        ];
        assert_eq!(joined(tags), Some(b"abc".to_vec()));
        assert_eq!(joined([tag("herdsman-join", "{}")]), Some(b"{}".to_vec()));
        assert_eq!(joined([tag("herdsman-role", "worker")]), None);
        for bad in [
            "herdsman-join-",
            "herdsman-join-x",
            "herdsman-join-1/..",
            "herdsman-join-+1",
            "other",
        ] {
            assert!(!is_ours(bad), "{bad}");
        }
    }
}
