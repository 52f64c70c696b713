//! The node's packet filter: on from the first moment, then as the node learns
//! who belongs to its cluster.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::join::Paths;
use herdsman_wire::report::{FirewallReport, FirewallState, PhaseName};
use herdsman_wire::{ApiError, Code, Timestamp};
use ipnet::IpNet;

use super::{Driver, Input, Side};
use crate::firewall::cli::{self, Asked};
use crate::firewall::{Error, Firewall, News, Policy, Ports};

/// Whether there shall be a packet filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// On a machine of the node's own, which the state folder's place tells.
    #[default]
    Machine,
    /// In any case; the node has a network namespace of its own.
    On,
    /// Never; nodes share the network, or another wall stands around it.
    Off,
}

/// Changes of a rule set come in many pieces.
const SETTLE: Duration = Duration::from_millis(100);

/// Closes a machine that does not know yet what it is to become, so that nothing
/// is open while it looks; [`super::run`] goes on from there.
///
/// # Errors
/// When the rules cannot be put in force.
pub fn close(wish: Wish) -> Result<(), ApiError> {
    FirewallSide::close(wish, &Paths::default()).map(drop)
}

pub(super) struct FirewallSide {
    firewall: Option<Firewall>,
    shown: FirewallReport,
    /// Where root's wishes lie.
    run: PathBuf,
    /// Networks that root let in before there was a hub to remember them.
    by_root: BTreeSet<IpNet>,
    /// Whether the hub told this agent who the members are. Until then those
    /// stay that an earlier agent of this boot knew: Dask runs on between.
    told: bool,
}

impl FirewallSide {
    /// Closes the machine, or says why there is no packet filter.
    pub(super) fn close(wish: Wish, paths: &Paths) -> Result<Self, ApiError> {
        let run = paths.run.clone();
        let off = |why: &str| Self {
            firewall: None,
            shown: FirewallReport {
                state: FirewallState::Off,
                why: Some(why.to_owned()),
                ..FirewallReport::default()
            },
            run: run.clone(),
            by_root: BTreeSet::new(),
            told: false,
        };
        let machine = paths.state == Paths::default().state;
        match wish {
            Wish::Off => return Ok(off("switched off")),
            Wish::Machine if !machine => {
                return Ok(off("the node shares its machine's network with others"));
            }
            Wish::Machine | Wish::On if !nix::unistd::geteuid().is_root() => {
                return Ok(off("the agent does not run as root"));
            }
            Wish::Machine | Wish::On => {}
        }
        crate::files::make_dir(&run)?;
        let firewall = Firewall::close(&run).map_err(|e| {
            let e = cli::error(&e);
            ApiError::new(
                e.code,
                format!("the machine cannot be closed to strangers: {}", e.message),
            )
            .with_hint("herdsman-agent run --firewall off      where another wall closes the cluster's ports")
        })?;
        Ok(Self {
            firewall: Some(firewall),
            shown: FirewallReport {
                state: FirewallState::On,
                ..FirewallReport::default()
            },
            ..off("")
        })
    }

    pub(super) fn report(&self) -> FirewallReport {
        self.shown.clone()
    }

    fn failed(&mut self, e: &Error) -> ApiError {
        let e = cli::error(e);
        self.shown.state = FirewallState::Failed;
        self.shown.why = Some(e.message.clone());
        e
    }
}

impl Driver {
    /// Begins to watch over it, with what is known of the cluster.
    pub(super) fn start_firewall(&mut self) {
        let Some(why) = self
            .firewall
            .shown
            .why
            .clone()
            .filter(|_| self.firewall.firewall.is_none())
        else {
            let now = Timestamp::now();
            self.phases.start(PhaseName::Firewall, now, None);
            self.watch_tables();
            self.update_firewall();
            return;
        };
        tracing::info!("no packet filter: {why}");
    }

    fn watch_tables(&self) {
        let inputs = self.inputs.clone();
        let news = match News::open() {
            Ok(news) => news,
            // Checks go on by the clock.
            Err(e) => return tracing::warn!("firewall: {e}"),
        };
        tokio::spawn(async move {
            loop {
                news.next().await;
                if inputs.send(Input::FirewallTouched).await.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
            }
        });
    }

    /// What is wanted, from what is known now.
    fn policy(&self) -> Policy {
        let known = self.identity.is_some();
        let spec = self.spec();
        let mut ports = if known { Ports::of(&spec.dask) } else { Ports::default() };
        if let Side::Hub(_) = self.side {
            ports.agent = self.join.listen_address().port();
        }
        let mut policy = Policy {
            ports,
            metadata_open: known && spec.firewall.metadata,
            members: self.members.clone(),
            ..Policy::default()
        };
        match &self.side {
            Side::Hub(side) => match side.hub() {
                Some(hub) => {
                    let access = hub.access.borrow();
                    policy.owners.clone_from(&access.owners);
                    policy.joining.clone_from(&access.joining);
                    policy.members.extend(&access.members);
                }
                // Nobody but the owner has business here yet.
                None => {
                    policy.owners = self.join.allow.iter().map(IpNet::trunc).collect();
                    policy.owners.extend(&self.firewall.by_root);
                }
            },
            Side::Worker(_) => {
                if !self.firewall.told
                    && let Some(firewall) = &self.firewall.firewall
                {
                    policy.members.clone_from(&firewall.policy().members);
                }
                let scheduler = self.identity.as_ref().map(|i| i.issued.scheduler.ip());
                let hub = self.join.hub.map(|h| h.ip());
                policy.members.extend(scheduler.into_iter().chain(hub));
            }
        }
        policy
    }

    /// The hub told who the members are.
    pub(super) fn on_members(&mut self) {
        self.firewall.told = true;
        self.update_firewall();
    }

    /// Brings the packet filter to what is known now.
    pub(super) fn update_firewall(&mut self) {
        if self.firewall.firewall.is_none() {
            return;
        }
        let (policy, known) = (self.policy(), self.identity.is_some());
        let side = &mut self.firewall;
        let Some(firewall) = &mut side.firewall else { return };
        let now = Timestamp::now();
        match firewall.apply(policy) {
            Ok(()) => {
                if known {
                    self.phases.done(PhaseName::Firewall, now);
                }
            }
            // What was in force still is: nothing is open that was closed.
            Err(e) => {
                let e = side.failed(&e);
                tracing::error!("firewall: {}", e.message);
                self.phases.fail(PhaseName::Firewall, now, e);
            }
        }
    }

    /// Looks whether the rules are still in force, and what they kept out.
    pub(super) fn check_firewall(&mut self) {
        let side = &mut self.firewall;
        let Some(firewall) = &mut side.firewall else { return };
        let repaired = firewall.check();
        side.shown = firewall.report();
        let failed = match repaired {
            Ok(None) => false,
            Ok(Some(why)) => {
                tracing::warn!("firewall: {why}; it is put back");
                false
            }
            Err(e) => {
                let e = side.failed(&e);
                tracing::error!("firewall: {}", e.message);
                self.phases.fail(PhaseName::Firewall, Timestamp::now(), e);
                true
            }
        };
        if !failed && self.phases.error_of(PhaseName::Firewall).is_some() {
            self.phases.start(PhaseName::Firewall, Timestamp::now(), None);
            self.update_firewall();
            self.start_dask_late();
        }
    }

    /// Root on this machine may let networks in, above all the owner's new one.
    pub(super) fn take_root_s_wishes(&mut self) {
        if self.firewall.firewall.is_none() {
            return;
        }
        let Some(asked) = Asked::take(&self.firewall.run) else {
            return;
        };
        match &self.side {
            Side::Worker(_) => tracing::warn!("firewall: a worker lets in nodes of its cluster only"),
            Side::Hub(side) => match side.hub().cloned() {
                Some(hub) => {
                    tokio::spawn(async move {
                        if let Err(e) = hub.allow_by_root(asked.allow, asked.deny).await {
                            tracing::error!("firewall: {}", e.message);
                        }
                    });
                }
                None => {
                    self.firewall.by_root.extend(&asked.allow);
                    self.firewall.by_root.retain(|n| !asked.deny.contains(n));
                    self.update_firewall();
                }
            },
        }
    }

    /// Whether Dask may start: never on a machine that is open.
    pub(super) fn is_closed(&self) -> Result<(), ApiError> {
        match self.phases.error_of(PhaseName::Firewall) {
            Some(e) if self.firewall.firewall.is_some() => Err(ApiError::new(
                Code::Firewall,
                format!("Dask does not start on a machine that is open: {}", e.message),
            )),
            _ => Ok(()),
        }
    }

    /// The node is gone for good: the host gets its packet filter back.
    pub(super) fn end_firewall(&mut self) {
        if !self.end.is_final() {
            return;
        }
        if let Some(firewall) = self.firewall.firewall.take()
            && let Err(e) = firewall.remove()
        {
            tracing::warn!("firewall: {e}");
        }
    }
}
