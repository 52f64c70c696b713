//! What the kernel took from Dask when memory ran out.

use herdsman_wire::{ApiError, Code};

use crate::dask::cgroup::{leave_room, oom_kills};
use crate::dask::spec::Group;
use crate::health::parse::kib_field;

/// Counts what is killed in Dask's control group.
#[derive(Debug)]
pub(super) struct Memory {
    /// The kernel's count when the agent started: it goes on over agents.
    before: u64,
    seen: u64,
}

impl Memory {
    /// Starts to count; first makes sure of what the rest of the machine needs.
    pub(super) fn new(group: Option<&Group>) -> Self {
        let total = std::fs::read_to_string("/proc/meminfo")
            .ok()
            .and_then(|text| kib_field(&text, "MemTotal"));
        if let (Some(group), Some(total)) = (group, total)
            && let Some(limit) = leave_room(&group.path, total)
        {
            tracing::info!(
                "Dask and the agent may use {} of {} MiB, the rest is the machine's own",
                limit >> 20,
                total >> 20
            );
        }
        let now = count(group);
        Self { before: now, seen: now }
    }

    /// Processes since the agent started.
    pub(super) const fn ended(&self) -> u64 {
        self.seen.saturating_sub(self.before)
    }

    /// What is new, as a cause. `size` is what the node may use, bytes.
    pub(super) fn look(&mut self, group: Option<&Group>, size: u64) -> Option<ApiError> {
        let now = count(group);
        let new = now.checked_sub(self.seen).filter(|n| *n > 0)?;
        self.seen = now;
        let processes = if new == 1 { "process" } else { "processes" };
        let e = ApiError::new(
            Code::Dask,
            format!(
                "out of memory: the kernel ended {new} {processes} of Dask; this node may use {} MiB",
                size >> 20
            ),
        );
        Some(e.with_hint("give workers more memory, or let fewer or smaller tasks run on each at once"))
    }
}

fn count(group: Option<&Group>) -> u64 {
    group.map_or(0, |g| oom_kills(&g.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let events =
            |n: u64| std::fs::write(dir.path().join("memory.events"), format!("oom 9\noom_kill {n}\n")).unwrap();
        let group = Group {
            path: dir.path().join("dask"),
            memory_max: None,
        };
        let (group, size) = (Some(&group), 2 << 30);
        events(4);
        let mut memory = Memory::new(group);
        assert!(memory.look(group, size).is_none());
        events(5);
        let text = memory.look(group, size).unwrap().to_string();
        assert!(
            text.contains("1 process of Dask") && text.contains("2048 MiB"),
            "{text}"
        );
        assert!(memory.look(group, size).is_none());
        events(7);
        assert!(memory.look(group, size).unwrap().message.contains("2 processes"));
        assert_eq!(memory.ended(), 3);
        assert!(Memory::new(None).look(None, size).is_none());
    }
}
