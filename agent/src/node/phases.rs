//! The node's phases: when each started and ended, and why it failed.

use std::time::Duration;

use herdsman_wire::report::{Phase, PhaseName, PhaseStatus};
use herdsman_wire::{ApiError, Code, Timestamp};

/// All phases so far, in the order in which they started.
#[derive(Clone, Debug, Default)]
pub struct Phases(Vec<Phase>);

impl Phases {
    /// A phase starts, or starts again after it failed.
    pub fn start(&mut self, phase: PhaseName, now: Timestamp, within: Option<Duration>) {
        let fresh = Phase {
            phase,
            status: PhaseStatus::Started,
            started: now,
            ended: None,
            deadline: within.map(|d| now.plus(d)),
            detail: None,
            error: None,
        };
        match self.0.iter_mut().find(|p| p.phase == phase) {
            Some(old) => *old = fresh,
            None => self.0.push(fresh),
        }
    }

    /// A phase ended well. Says whether that is news.
    pub fn done(&mut self, phase: PhaseName, now: Timestamp) -> bool {
        let Some(p) = self
            .0
            .iter_mut()
            .find(|p| p.phase == phase && p.status != PhaseStatus::Done)
        else {
            return false;
        };
        p.status = PhaseStatus::Done;
        p.ended = Some(now);
        p.error = None;
        p.detail = None;
        true
    }

    /// A phase ended badly.
    pub fn fail(&mut self, phase: PhaseName, now: Timestamp, error: ApiError) {
        if let Some(p) = self.0.iter_mut().find(|p| p.phase == phase) {
            p.status = PhaseStatus::Failed;
            p.ended = Some(now);
            p.error = Some(error);
        }
    }

    /// Says what a phase is busy with.
    pub fn detail(&mut self, phase: PhaseName, text: &str) {
        if let Some(p) = self.0.iter_mut().find(|p| p.phase == phase) {
            p.detail = Some(text.to_owned());
        }
    }

    /// What the node is at, in one line: the first phase that is not done.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(p) = self.0.iter().find(|p| p.status != PhaseStatus::Done) else {
            return "ready".to_owned();
        };
        let why = match (&p.error, &p.detail) {
            (Some(e), _) => format!(": {}", e.message.lines().next().unwrap_or_default()),
            (None, Some(detail)) => format!(": {detail}"),
            (None, None) => String::new(),
        };
        format!("{}{why}", p.phase.as_str())
    }

    /// Marks phases whose deadline has passed as failed; they may still end
    /// well later. Says whether there were any.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        for p in &mut self.0 {
            if p.status == PhaseStatus::Started && p.deadline.is_some_and(|d| now > d) {
                let busy = p.detail.as_deref().map_or_else(String::new, |d| format!(", last: {d}"));
                let took = now.since(p.started).as_secs();
                p.status = PhaseStatus::Failed;
                p.error = Some(ApiError::new(
                    Code::Deadline,
                    format!("phase `{}` did not end within {took} s{busy}", p.phase.as_str()),
                ));
                any = true;
            }
        }
        any
    }

    /// Why a phase failed, if it did.
    #[must_use]
    pub fn error_of(&self, phase: PhaseName) -> Option<ApiError> {
        self.0.iter().find(|p| p.phase == phase)?.error.clone()
    }

    /// What a phase is busy with.
    #[must_use]
    pub fn detail_of(&self, phase: PhaseName) -> Option<String> {
        self.0.iter().find(|p| p.phase == phase)?.detail.clone()
    }

    /// All of them, for a report.
    #[must_use]
    pub fn list(&self) -> Vec<Phase> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_a_failure_with_a_cause_and_may_be_made_good() {
        let mut p = Phases::default();
        p.start(PhaseName::Dask, Timestamp(0), Some(Duration::from_secs(2)));
        p.detail(PhaseName::Dask, "waits for the scheduler");
        assert!(!p.expire(Timestamp(2000)));
        assert!(p.expire(Timestamp(3000)));
        let error = p.list()[0].error.clone().unwrap();
        assert_eq!(error.code, Code::Deadline);
        assert!(error.message.contains("waits for the scheduler"), "{error}");
        assert!(p.done(PhaseName::Dask, Timestamp(4000)));
        assert!(!p.done(PhaseName::Dask, Timestamp(5000)));
        let end = p.list()[0].clone();
        assert_eq!(
            (end.status, end.ended, end.error),
            (PhaseStatus::Done, Some(Timestamp(4000)), None)
        );
    }
}
