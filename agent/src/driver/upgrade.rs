//! Another agent in this one's place, as the driver sees it.

use herdsman_wire::{ApiError, Code};
use tokio::time::Instant;

use super::install::Source;
use super::{Driver, Input, Side, spawn_into};
use crate::service::upgrade::{self, Outcome};

/// Exit code of an agent that failed its trial.
const EXIT_FAILED: u8 = 1;

/// When this agent has to have shown that its node works.
pub(super) fn trial() -> Option<Instant> {
    upgrade::is_on_trial().then(|| Instant::now() + upgrade::TRIAL)
}

impl Driver {
    pub(super) fn upgrade(&mut self, id: u64, sha256: String) {
        let source = match &self.side {
            Side::Worker(w) => w.client().map(Source::Hub),
            Side::Hub(_) => self.environment_blobs().map(|h| Source::Here(h.blobs.clone())),
        };
        let Some(source) = source else { return };
        let work = async move {
            let outcome = upgrade::replace(&sha256, async |to| source.fetch(&sha256, to).await).await;
            (id, outcome)
        };
        spawn_into(self.inputs.clone(), work, |(id, outcome)| Input::Upgraded(id, outcome));
    }

    pub(super) fn on_upgraded(&mut self, id: u64, outcome: Result<Outcome, ApiError>) {
        let done = matches!(outcome, Ok(Outcome::Replaced));
        match &outcome {
            Err(e) if e.code != Code::TooEarly => super::tell(e),
            _ => {}
        }
        self.answer(id, outcome.err());
        // On its way out anyway: the new one is for the next start.
        if done && !self.end.has_begun() {
            tracing::info!("the agent makes way for another one, Dask goes on");
            self.dask.detach();
            self.end.make_way(upgrade::EXIT_UPGRADED);
        }
    }

    /// A new agent whose node is ready is there to stay; one whose node is not
    /// makes way for the old one, in the end.
    pub(super) fn judge_trial(&mut self) {
        let Some(until) = self.trial else { return };
        if self.phases.summary() == "ready" {
            self.trial = None;
            upgrade::confirm();
            tracing::info!("this agent works; the one before it is removed");
        } else if Instant::now() >= until && !self.end.has_begun() {
            self.trial = None;
            tracing::error!("the node is not ready with this agent: {}", self.phases.summary());
            self.dask.detach();
            self.end.make_way(EXIT_FAILED);
        }
    }
}
