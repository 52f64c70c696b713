//! What happens while a command waits: live lines on a terminal, plain lines
//! elsewhere, JSON lines for programs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anstyle::AnsiColor;
use herdsman_wire::report::{NodeState, Phase, PhaseName, PhaseStatus};
use herdsman_wire::{NodeName, Timestamp};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::clean::{clean, clean_lines};
use super::human;
use super::printer::Printer;
use crate::cluster::Step;

/// More nodes than this are counted, not drawn one by one.
const LINES: usize = 12;

/// Shows steps.
#[derive(Debug)]
pub struct Progress {
    printer: Printer,
    bars: Option<MultiProgress>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeName, Line>,
    count: Option<ProgressBar>,
}

#[derive(Debug, Default)]
struct Line {
    bar: Option<ProgressBar>,
    done: Vec<(PhaseName, Duration)>,
    now: Option<(PhaseName, Option<String>)>,
    failed: bool,
    ready: bool,
}

impl Line {
    fn text(&self, name: &NodeName) -> String {
        let mut text = name.to_string();
        for (phase, took) in &self.done {
            text += &format!("  {} {}", phase.as_str(), human::seconds(*took));
        }
        match &self.now {
            Some((phase, Some(detail))) if !self.ready => text += &format!("  {} … {detail}", phase.as_str()),
            Some((phase, None)) if !self.ready => text += &format!("  {} …", phase.as_str()),
            _ => {}
        }
        if self.ready {
            text += "  ready";
        }
        clean(&text).into_owned()
    }
}

impl Progress {
    /// Shows nothing yet.
    #[must_use]
    pub fn new(printer: &Printer) -> Self {
        Self {
            bars: printer.live().then(MultiProgress::new),
            printer: printer.clone(),
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a step.
    pub fn see(&self, step: &Step) {
        match step {
            Step::Phase(node, phase) => self.phase(node, phase),
            Step::State(node, state, why) => self.state(node, *state, why.as_deref()),
            Step::Note(text) => self.say(text),
            Step::Count(ready, wanted) => self.count(*ready, *wanted),
            Step::Made(nodes) => self.printer.event(&json!({"t": iso(Timestamp::now()), "made": nodes})),
        }
    }

    fn say(&self, text: &str) {
        if self.printer.events() {
            self.printer.event(&json!({"t": iso(Timestamp::now()), "note": text}));
        } else if let Some(bars) = &self.bars {
            let _ = bars.println(clean_lines(text));
        } else {
            self.printer.note(text);
        }
    }

    fn phase(&self, node: &NodeName, phase: &Phase) {
        let took = phase.ended.map(|e| e.since(phase.started));
        if self.printer.events() {
            let mut event = json!({
                "t": iso(phase.ended.unwrap_or(phase.started)),
                "node": node,
                "phase": phase.phase,
                "status": phase.status,
            });
            if let Some(took) = took {
                event["seconds"] = json!((took.as_secs_f64() * 1000.0).round() / 1000.0);
            }
            if let Some(e) = &phase.error {
                event["error"] = json!(e);
            }
            self.printer.event(&event);
            return;
        }
        let mut inner = self.inner();
        let many = inner.nodes.len() >= LINES && !inner.nodes.contains_key(node);
        let line = inner.nodes.entry(node.clone()).or_default();
        match phase.status {
            PhaseStatus::Started => line.now = Some((phase.phase, phase.detail.clone())),
            PhaseStatus::Done => {
                line.failed = false;
                // The agent's own start is too short to be told.
                if phase.phase != PhaseName::Agent && !line.done.iter().any(|(p, _)| *p == phase.phase) {
                    line.done.push((phase.phase, took.unwrap_or_default()));
                }
            }
            PhaseStatus::Failed => {
                line.failed = true;
                let why = phase
                    .error
                    .as_ref()
                    .map(|e| e.message.lines().next().unwrap_or_default().to_owned());
                line.now = Some((phase.phase, why));
            }
        }
        self.draw(node, line, many);
        if self.bars.is_none() && phase.status == PhaseStatus::Failed {
            let why = phase.error.as_ref().map_or("failed", |e| e.message.as_str());
            self.printer.note(&format!("{node}: {}: {why}", phase.phase.as_str()));
        }
    }

    fn state(&self, node: &NodeName, state: NodeState, why: Option<&str>) {
        if self.printer.events() {
            self.printer
                .event(&json!({"t": iso(Timestamp::now()), "node": node, "state": state, "why": why}));
            return;
        }
        let mut inner = self.inner();
        let many = inner.nodes.len() >= LINES && !inner.nodes.contains_key(node);
        let line = inner.nodes.entry(node.clone()).or_default();
        let was = line.ready;
        line.ready = state == NodeState::Ready;
        self.draw(node, line, many);
        if self.bars.is_none() && line.ready && !was {
            self.printer.note(&line.text(node));
        } else if matches!(state, NodeState::Lost | NodeState::Revoked) {
            self.printer.note(&format!("{node}: {}", why.unwrap_or("is lost")));
        }
    }

    fn draw(&self, node: &NodeName, line: &mut Line, many: bool) {
        let Some(bars) = &self.bars else { return };
        if many && line.bar.is_none() {
            return;
        }
        let text = line.text(node);
        let bar = line.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
                bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        bar.set_message(text);
        if line.ready && !bar.is_finished() {
            if let Ok(style) = ProgressStyle::with_template("{prefix} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(self.printer.paint("✓", AnsiColor::Green));
            bar.finish();
        } else if line.failed {
            bar.set_prefix(self.printer.paint("✗", AnsiColor::Red));
        }
    }

    fn count(&self, ready: u32, wanted: u32) {
        if self.printer.events() {
            self.printer
                .event(&json!({"t": iso(Timestamp::now()), "workers": {"ready": ready, "want": wanted}}));
            return;
        }
        let Some(bars) = &self.bars else { return };
        let mut inner = self.inner();
        let bar = inner.count.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(u64::from(wanted)));
            if let Ok(style) = ProgressStyle::with_template("  workers  {bar:20.green} {pos}/{len}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(u64::from(ready));
    }

    /// Leaves what was shown on the screen.
    pub fn finish(&self) {
        let inner = self.inner();
        for line in inner.nodes.values() {
            if let Some(bar) = line.bar.as_ref().filter(|b| !b.is_finished()) {
                bar.abandon();
            }
        }
        if let Some(bar) = &inner.count {
            bar.finish_and_clear();
        }
    }
}

/// A time as RFC 3339 in UTC.
#[must_use]
pub(crate) fn iso(t: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(t.0).unwrap_or(i64::MAX))
        .map_or_else(|_| t.0.to_string(), |t| format!("{t:.3}"))
}
