//! The agent's own events as log lines.

use std::fmt::Write as _;

use herdsman_wire::Timestamp;
use herdsman_wire::report::LogSource;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::LogStore;

/// Writes events of `tracing` into a [`LogStore`]: the agent's own from `INFO`,
/// those of libraries from `WARN`.
#[derive(Debug)]
pub struct LogLayer {
    store: LogStore,
}

impl LogLayer {
    pub(super) const fn new(store: LogStore) -> Self {
        Self { store }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let own = meta.target().starts_with("herdsman");
        if *meta.level() > if own { Level::INFO } else { Level::WARN } {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let target = meta.target().rsplit("::").next().unwrap_or_default();
        let text = format!("{} {target}: {}{}", meta.level(), line.message, line.fields);
        self.store.push(LogSource::Agent, Timestamp::now(), &text);
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use herdsman_wire::session::LogQuery;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn events_become_lines() {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(dir.path(), "n-1".parse().unwrap()).unwrap();
        let subscriber = tracing_subscriber::registry().with(store.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(pid = 5, name = "x y", "it {}", "happened");
            tracing::debug!("too small");
            tracing::info!(target: "hyper::proto", "not ours");
            tracing::error!(target: "hyper::proto", "theirs\nin two lines");
        });
        let lines = store.query(&LogQuery::default());
        let texts: Vec<_> = lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "WARN tests: it happened pid=5 name=\"x y\"",
                "ERROR proto: theirs",
                "in two lines"
            ]
        );
    }
}
