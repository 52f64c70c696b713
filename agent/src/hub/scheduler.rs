//! What Dask's scheduler tells through its guard.

use std::time::Duration;

use herdsman_wire::Timestamp;
use herdsman_wire::report::{Tasks, WorkerStatus};
use herdsman_wire::session::Down;

use super::core::Hub;
use super::registry::state_of;

impl Hub {
    /// A worker appeared at Dask's scheduler.
    pub fn worker_added(&self, worker: WorkerStatus) {
        let node = {
            let mut registry = self.registry();
            let Some(node) = registry.node_of_worker(&worker.name) else {
                return;
            };
            let Some(n) = registry.node_mut(&node) else { return };
            n.workers.insert(worker.name.clone(), worker);
            let all = n.workers.len() >= usize::from(self.spec().dask.workers_per_node.max(1));
            if !all {
                return;
            }
            let state = state_of(&n.report, true, n.state);
            drop(registry);
            self.set_state(&node, state, None);
            node
        };
        self.send(&node, Down::Registered(true));
    }

    /// A worker went from Dask's scheduler.
    pub fn worker_removed(&self, worker: &str) {
        let node = {
            let mut registry = self.registry();
            let Some(node) = registry.node_of_worker(worker) else {
                return;
            };
            let Some(n) = registry.node_mut(&node) else { return };
            n.workers.remove(worker);
            let state = state_of(&n.report, !n.workers.is_empty(), n.state);
            drop(registry);
            self.set_state(&node, state, Some("its worker left the scheduler"));
            node
        };
        self.send(&node, Down::Registered(false));
    }

    /// Dask's scheduler started anew: nobody is registered any more but these.
    pub fn scheduler_started(&self, workers: Vec<WorkerStatus>) {
        let gone: Vec<String> = {
            let registry = self.registry();
            let known = registry.nodes().flat_map(|(_, n)| n.workers.keys().cloned());
            known.filter(|k| !workers.iter().any(|w| w.name == *k)).collect()
        };
        gone.iter().for_each(|w| self.worker_removed(w));
        workers.into_iter().for_each(|w| self.worker_added(w));
    }

    /// Dask's scheduler told its counts.
    pub fn scheduler_report(&self, tasks: Tasks, clients: u64, idle_seconds: Option<f64>, workers: Vec<WorkerStatus>) {
        let now = Timestamp::now();
        {
            let mut view = self.view();
            view.tasks = Some(tasks);
            view.clients = clients;
            view.idle_since = idle_seconds.map(|s| now.minus(Duration::from_secs_f64(s.clamp(0.0, 1e9))));
            view.clientless_since = if clients > 0 {
                None
            } else {
                view.clientless_since.or(Some(now))
            };
        }
        let mut registry = self.registry();
        for w in workers {
            if let Some(node) = registry.node_of_worker(&w.name)
                && let Some(known) = registry.node_mut(&node).and_then(|n| n.workers.get_mut(&w.name))
            {
                known.processing = w.processing;
                known.memory_tasks = w.memory_tasks;
                known.memory_bytes = w.memory_bytes;
            }
        }
    }
}
