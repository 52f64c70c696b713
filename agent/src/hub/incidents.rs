//! Misused certificates, for the owner to see: refusals that no honest machine
//! causes, counted by what was done with whose certificate from where.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use herdsman_wire::report::Incident;
use herdsman_wire::{NodeName, Timestamp};

use super::audit::Line;

/// Kinds that are told, by the audit log's names.
const KINDS: [&str; 4] = ["clone", "double-use", "wrong-address", "wrong-name"];
/// Different ones that are kept. Whoever holds a certificate may have many
/// addresses; the oldest give way.
const KEPT: usize = 64;

/// The incidents of one hub, the newest last.
#[derive(Debug, Default)]
pub struct Incidents {
    inner: Mutex<Vec<Incident>>,
}

impl Incidents {
    /// Those that an audit log tells of, so that a restart forgets none. Lines that
    /// are no incidents, or no lines, are passed over.
    #[must_use]
    pub fn of(audit: &str) -> Self {
        let this = Self::default();
        for line in audit.lines() {
            // Most lines are something else, and a line costs microseconds to parse.
            if !KINDS.iter().any(|k| line.contains(k)) {
                continue;
            }
            let Ok(line) = serde_json::from_str::<Line>(line) else {
                continue;
            };
            let field = |name: &str| line.detail.get(name).and_then(|v| v.as_str()).unwrap_or_default();
            if let (true, Ok(from)) = (KINDS.contains(&line.event.as_str()), field("from").parse()) {
                let node = field("node").parse().ok();
                this.add(&line.event, node.as_ref(), from, field("why"), line.t);
            }
        }
        this
    }

    /// Counts one; says whether it is the first of its kind, node and address.
    pub fn add(&self, kind: &str, node: Option<&NodeName>, from: IpAddr, why: &str, now: Timestamp) -> bool {
        let mut all = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |i: &Incident| i.kind == kind && i.node.as_ref() == node && i.from == from;
        let old = all.iter().position(same).map(|at| all.remove(at));
        let is_new = old.is_none();
        let mut incident = old.unwrap_or_else(|| Incident {
            kind: kind.to_owned(),
            node: node.cloned(),
            from,
            count: 0,
            first: now,
            last: now,
            why: String::new(),
        });
        incident.count += 1;
        incident.last = now;
        why.clone_into(&mut incident.why);
        if all.len() >= KEPT {
            all.remove(0);
        }
        all.push(incident);
        is_new
    }

    /// All of them, the newest last.
    #[must_use]
    pub fn all(&self) -> Vec<Incident> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::audit::Audit;
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn the_same_is_counted_and_the_oldest_gives_way() {
        let (incidents, w0) = (Incidents::default(), "demo-w0".parse().unwrap());
        let add = |kind, n, t| incidents.add(kind, Some(&w0), ip(n), "why", Timestamp(t));
        assert!(add("double-use", 1, 10));
        assert!(add("clone", 1, 20));
        assert!(!add("double-use", 1, 30));
        let all = incidents.all();
        assert_eq!((all.len(), all[0].kind.as_str(), all[1].count), (2, "clone", 2));
        assert_eq!((all[1].first, all[1].last), (Timestamp(10), Timestamp(30)));
        for n in 0..KEPT {
            add("wrong-address", u8::try_from(n).unwrap(), 40);
        }
        let all = incidents.all();
        assert_eq!(all.len(), KEPT);
        assert!(all.iter().all(|i| i.kind == "wrong-address"));
    }

    #[test]
    fn a_restart_forgets_none() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(&dir.path().join("audit")).unwrap();
        let detail = json!({"from": ip(9), "node": "demo-w0", "why": "used before"});
        audit.refusal("double-use", "x", detail.clone());
        audit.note("enrol", "double-use", json!({"from": ip(8)}));
        audit.refusal("double-use", "x", detail);
        audit.refusal("clone", "x", json!({"from": "nowhere"}));
        let all = Incidents::of(&format!("{}{{cut", audit.read(1 << 20).unwrap())).all();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(
            (all[0].count, all[0].from, all[0].why.as_str()),
            (2, ip(9), "used before")
        );
        assert_eq!(all[0].node.as_ref().unwrap().as_str(), "demo-w0");
    }
}
