//! What a node measures of its machine, from `/proc`, `/sys/fs/cgroup` and the
//! file system that holds its state. What cannot be read is told as 0: a report
//! never fails for a number.

mod cgroup;
pub mod parse;

use std::path::{Path, PathBuf};

use herdsman_wire::report::Health;
use herdsman_wire::{ApiError, Code};
use tokio::time::Instant;

use parse::{CpuTimes, NetBytes};

/// Takes measurements; rates are since the one before.
#[derive(Debug)]
pub struct Sampler {
    proc: PathBuf,
    cgroups: PathBuf,
    state: PathBuf,
    before: Option<Before>,
}

#[derive(Clone, Copy, Debug)]
struct Before {
    at: Instant,
    cpu: Option<CpuTimes>,
    net: NetBytes,
}

impl Sampler {
    /// Measures this machine and the disk of this folder.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self::at("/proc".as_ref(), "/sys/fs/cgroup".as_ref(), state_dir)
    }

    fn at(proc: &Path, cgroups: &Path, state_dir: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            cgroups: cgroups.to_owned(),
            state: state_dir.to_owned(),
            before: None,
        }
    }

    fn read(&self, file: &str) -> String {
        let raw = std::fs::read(self.proc.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&raw).into_owned()
    }

    /// Measures now. The first measurement has no rates and no share of the
    /// processors.
    pub fn sample(&mut self) -> Health {
        let now = Before {
            at: Instant::now(),
            cpu: parse::cpu_times(&self.read("stat")),
            net: parse::net_bytes(&self.read("self/net/dev")),
        };
        let mut health = Health {
            load: parse::load(&self.read("loadavg")).unwrap_or_default(),
            // Affinity and quotas of control groups are counted in.
            cpus: std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            agent_rss: parse::kib_field(&self.read("self/status"), "VmRSS").unwrap_or_default(),
            ..Health::default()
        };
        self.memory(&mut health);
        self.disk(&mut health);
        if let Some(before) = self.before {
            let seconds = now.at.duration_since(before.at).as_secs_f64();
            health.net_rx_rate = parse::rate(before.net.received, now.net.received, seconds);
            health.net_tx_rate = parse::rate(before.net.sent, now.net.sent, seconds);
            if let (Some(a), Some(b)) = (before.cpu, now.cpu) {
                health.cpu_percent = parse::cpu_percent(a, b);
            }
        }
        self.before = Some(now);
        health
    }

    fn memory(&self, health: &mut Health) {
        let meminfo = self.read("meminfo");
        health.memory_total = parse::kib_field(&meminfo, "MemTotal").unwrap_or_default();
        health.memory_available = parse::kib_field(&meminfo, "MemAvailable").unwrap_or_default();
        for limit in cgroup::limits(&self.cgroups, &self.read("self/cgroup")) {
            // "No limit" is a number beyond all memory in version 1.
            if limit.total < health.memory_total {
                health.memory_total = limit.total;
            }
            health.memory_available = health.memory_available.min(limit.available);
        }
    }

    /// An earlier measurement with the disk as it is now.
    #[must_use]
    pub fn with_disk(&self, earlier: &Health) -> Health {
        let mut health = earlier.clone();
        self.disk(&mut health);
        health
    }

    fn disk(&self, health: &mut Health) {
        if let Ok(stat) = rustix::fs::statvfs(&self.state) {
            health.disk_total = stat.f_blocks.saturating_mul(stat.f_frsize);
            // What is kept for root is of no use to Dask.
            health.disk_free = stat.f_bavail.saturating_mul(stat.f_frsize);
        }
    }
}

/// Less free space than this is none, bytes.
const ROOM: u64 = 16 * 1024;

/// Whether the file system of a folder has no room for even a line of a log.
#[must_use]
pub fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < ROOM)
}

/// A disk with less than this share of it free is full in practice: one in so many.
const FULL_SHARE: u64 = 100;
/// And of a large disk, with less than this free, bytes.
const FULL_BELOW: u64 = 64 << 20;

/// Whether the measured disk is full, in words.
#[must_use]
pub fn disk_trouble(health: &Health, folder: &Path) -> Option<ApiError> {
    let Health {
        disk_total, disk_free, ..
    } = *health;
    let least = (disk_total / FULL_SHARE).min(FULL_BELOW);
    // Whole MiB, so that the report does not change with each line of a log.
    (disk_free < least).then(|| {
        let text = format!(
            "the disk of {} is full: {} of {} MiB are free; nothing can be spilled or renewed",
            folder.display(),
            disk_free >> 20,
            disk_total >> 20
        );
        ApiError::new(Code::Disk, text)
            .with_hint("herdsman exec NAME NODE -- df -h     says which disk it is")
            .with_hint("free space there, or give the nodes larger disks; the node goes on by itself then")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn this_machine_has_sensible_numbers() {
        let mut sampler = Sampler::new("/".as_ref());
        let h = sampler.sample();
        assert!(
            h.cpus >= 1 && h.memory_total > 1 << 20 && h.memory_available <= h.memory_total,
            "{h:?}"
        );
        assert!(
            h.disk_total > 0 && h.disk_free <= h.disk_total && h.agent_rss > 1 << 16,
            "{h:?}"
        );
        assert_eq!((h.cpu_percent, h.net_rx_rate), (0.0, 0.0));
        let again = sampler.sample();
        assert!((0.0..=100.0).contains(&again.cpu_percent));
    }

    #[test]
    fn a_full_disk_is_a_trouble_and_a_small_one_is_not() {
        let told = |disk_total: u64, disk_free: u64| {
            let health = Health {
                disk_total,
                disk_free,
                ..Health::default()
            };
            disk_trouble(&health, "/var/lib/herdsman".as_ref()).map(|e| e.message)
        };
        assert_eq!(told(0, 0), None, "not measured");
        assert_eq!(told(300 << 20, 3 << 20), None);
        assert_eq!(
            told(300 << 20, (3 << 20) - 1).unwrap(),
            "the disk of /var/lib/herdsman is full: 2 of 300 MiB are free; nothing can be spilled or renewed"
        );
        assert_eq!(told(1 << 40, 65 << 20), None);
        assert!(told(1 << 40, 63 << 20).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_per_second_and_limits_count() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, sys) = (dir.path().join("proc"), dir.path().join("sys"));
        std::fs::create_dir_all(proc.join("self/net")).unwrap();
        std::fs::create_dir_all(sys.join("a/b")).unwrap();
        std::fs::write(sys.join("cgroup.controllers"), "memory").unwrap();
        std::fs::write(sys.join("a/memory.max"), "1000000").unwrap();
        std::fs::write(sys.join("a/memory.current"), "600000").unwrap();
        std::fs::write(sys.join("a/memory.stat"), "anon 5\ninactive_file 100000\n").unwrap();
        std::fs::write(sys.join("a/b/memory.max"), "max").unwrap();
        std::fs::write(proc.join("self/cgroup"), "0::/a/b\n").unwrap();
        std::fs::write(proc.join("meminfo"), "MemTotal: 4000 kB\nMemAvailable: 3000 kB\n").unwrap();
        let counters = |rx: u64, busy: u64| {
            std::fs::write(
                proc.join("self/net/dev"),
                format!("h\nh\n lo: 9 0 0 0 0 0 0 0 9 0\n eth0:{rx} 0 0 0 0 0 0 0 7 0\n"),
            )
            .unwrap();
            std::fs::write(proc.join("stat"), format!("cpu {busy} 0 0 100 0 0 0 0 0 0\n")).unwrap();
        };
        let mut sampler = Sampler::at(&proc, &sys, "/nonexistent".as_ref());
        counters(1000, 0);
        let h = sampler.sample();
        assert_eq!((h.memory_total, h.memory_available), (1_000_000, 500_000));
        assert_eq!((h.disk_total, h.load), (0, 0.0));
        counters(5000, 300);
        tokio::time::advance(Duration::from_secs(2)).await;
        let h = sampler.sample();
        assert_eq!((h.net_rx_rate, h.net_tx_rate, h.cpu_percent), (2000.0, 0.0, 100.0));
        // Counters that go back (an interface went) are no rate.
        counters(10, 300);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(sampler.sample().net_rx_rate, 0.0);
    }
}
