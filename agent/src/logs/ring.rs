//! The newest lines in memory, within a number of lines and bytes.

use std::collections::VecDeque;

use herdsman_wire::report::LogSource;
use herdsman_wire::session::LogQuery;
use herdsman_wire::{Timestamp, limits};

/// Most lines kept.
const LINES: usize = 20_000;
/// Most bytes of text kept.
const BYTES: usize = 4 << 20;

/// A line; the node's name is added on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) t: Timestamp,
    pub(super) source: LogSource,
    pub(super) text: Box<str>,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    lines: VecDeque<Stored>,
    bytes: usize,
}

impl Ring {
    pub(super) fn push(&mut self, line: Stored) {
        self.bytes += line.text.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len();
        }
    }

    /// Matching lines by time. Sources are followed by tasks of their own, so the
    /// order in which lines came in may differ a little.
    pub(super) fn query(&self, query: &LogQuery) -> Vec<&Stored> {
        let since = Timestamp(query.since.unwrap_or(0));
        let matches = self
            .lines
            .iter()
            .filter(|l| l.t >= since && wants(&query.sources, l.source));
        let mut found: Vec<&Stored> = matches.collect();
        found.sort_by_key(|l| l.t);
        let tail = query.tail as usize;
        if tail > 0 && found.len() > tail {
            found.drain(..found.len() - tail);
        }
        found
    }
}

/// Whether a source is among those asked for; none asked for is all.
pub(super) fn wants(sources: &[LogSource], source: LogSource) -> bool {
    sources.is_empty() || sources.contains(&source)
}

/// Takes what would move a terminal's cursor or change its colours out of a line,
/// and cuts it at the limit.
pub(super) fn clean(line: &str) -> String {
    const MARK: &str = " [cut]";
    let mut text: String = line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    if text.len() > limits::LOG_LINE {
        let mut end = limits::LOG_LINE - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn old_lines_go_by_number_and_by_size() {
        let mut ring = Ring::default();
        let line = |n: usize, text: String| Stored {
            t: Timestamp(n as u64),
            source: LogSource::Dask,
            text: text.into(),
        };
        for n in 0..LINES + 10 {
            ring.push(line(n, "x".into()));
        }
        assert_eq!(
            (ring.lines.len(), ring.lines[0].t, ring.bytes),
            (LINES, Timestamp(10), LINES)
        );
        for n in 0..2000 {
            ring.push(line(n, "y".repeat(limits::LOG_LINE)));
        }
        assert!(ring.bytes <= BYTES);
        assert_eq!(ring.bytes, ring.lines.iter().map(|l| l.text.len()).sum::<usize>());
    }

    #[test]
    fn lines_cannot_play_with_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\r\tc\u{7}"), "a[31mb\tc");
        let long = clean(&"é".repeat(limits::LOG_LINE));
        assert!(long.len() <= limits::LOG_LINE && long.ends_with(" [cut]"));
    }

    proptest! {
        #[test]
        fn clean_keeps_the_limit(text in "\\PC{0,5000}é{0,5000}") {
            prop_assert!(clean(&text).len() <= limits::LOG_LINE);
        }
    }
}
