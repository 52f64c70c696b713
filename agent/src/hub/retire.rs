//! Emptying workers before their machines go.

use std::collections::HashMap;
use std::time::Duration;

use herdsman_wire::report::{NodeState, NoticeKind};
use herdsman_wire::session::{Command, Down};
use herdsman_wire::{ApiError, Code, NodeName, Role, api};
use serde_json::json;

use super::core::Hub;

impl Hub {
    /// Empties workers so that their machines can go.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a name that is none, [`Code::Dask`] when the
    /// scheduler does not run.
    pub async fn retire(&self, request: &api::Retire) -> Result<api::Retired, ApiError> {
        let within = Duration::from_secs(request.timeout_seconds.clamp(1, 24 * 3600));
        let nodes = if request.nodes.is_empty() {
            self.pick(request.count).await?
        } else {
            request.nodes.clone()
        };
        for node in &nodes {
            let known = self.registry().node(node).map(|n| n.role);
            match known {
                None => return Err(self.no_node(node)),
                Some(Role::Scheduler) => {
                    let text = format!("{node} is the scheduler; only workers are retired");
                    let hint = format!("herdsman down {}          deletes the whole cluster", self.name);
                    return Err(ApiError::new(Code::Usage, text).with_hint(hint));
                }
                Some(Role::Worker) => {}
            }
        }
        // Only when all names are good: nothing would take a state back.
        for node in &nodes {
            self.set_state(node, NodeState::Draining, None);
        }
        let names = self.worker_names(&nodes);
        let mut result = api::Retired::default();
        let mut kept: HashMap<NodeName, String> = HashMap::new();
        if !names.is_empty() {
            let args = json!({
                "names": names, "timeout": within.as_secs(),
                "idle": request.idle, "running": request.running_seconds,
            });
            let answer = self.link.call("retire", args, within + Duration::from_secs(5)).await;
            match answer {
                Ok(answer) => {
                    for k in answer["kept"].as_array().map(Vec::as_slice).unwrap_or_default() {
                        let worker = k["name"].as_str().unwrap_or_default();
                        let why = k["why"].as_str().unwrap_or("its data could not be moved").to_owned();
                        if let Some(node) = self.registry().node_of_worker(worker) {
                            kept.insert(node, why);
                        }
                    }
                }
                Err(e) => {
                    for node in &nodes {
                        self.set_state(node, NodeState::Ready, Some(&e.message));
                    }
                    return Err(e);
                }
            }
        }
        for node in nodes {
            if let Some(why) = kept.remove(&node) {
                self.set_state(&node, NodeState::Ready, Some(&why));
                result.kept.push((node, why));
            } else {
                self.set_state(&node, NodeState::Stopped, Some(self.why_gone(&node)));
                self.send(
                    &node,
                    Down::Command {
                        id: 0,
                        command: Command::Stop { why: "retired".into() },
                    },
                );
                result.retired.push(node);
            }
        }
        Ok(result)
    }

    /// Why an emptied node goes.
    fn why_gone(&self, node: &NodeName) -> &'static str {
        let registry = self.registry();
        let notice = registry.node(node).and_then(|n| n.report.notice.as_ref());
        match notice.map(|n| n.kind) {
            Some(NoticeKind::Preempted) => "preempted",
            _ => "retired",
        }
    }

    /// Chooses nodes to give up: those without a worker first, then those that
    /// Dask itself would close first.
    pub(super) async fn pick(&self, count: usize) -> Result<Vec<NodeName>, ApiError> {
        let (mut bare, with): (Vec<NodeName>, usize) = {
            let registry = self.registry();
            let workers = registry
                .nodes()
                .filter(|(_, n)| n.role == Role::Worker && !matches!(n.state, NodeState::Stopped | NodeState::Revoked));
            let (bare, with): (Vec<_>, Vec<_>) = workers.partition(|(_, n)| n.workers.is_empty());
            (bare.into_iter().map(|(n, _)| n.clone()).collect(), with.len())
        };
        bare.truncate(count);
        let missing = (count - bare.len()).min(with);
        if missing == 0 {
            return Ok(bare);
        }
        let per_node = self.spec().dask.workers_per_node.max(1);
        let n = missing * usize::from(per_node);
        let answer = self.link.call("pick", json!({"n": n}), Duration::from_secs(10)).await?;
        let names: Vec<String> = serde_json::from_value(answer["names"].clone())
            .map_err(|e| ApiError::new(Code::Malformed, format!("the guard's answer to `pick`: {e}")))?;
        let registry = self.registry();
        let mut picked: Vec<NodeName> = Vec::new();
        for node in names.iter().filter_map(|w| registry.node_of_worker(w)) {
            if !picked.contains(&node) && picked.len() < missing {
                picked.push(node);
            }
        }
        bare.extend(picked);
        Ok(bare)
    }
}
