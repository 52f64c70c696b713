//! What may happen to a machine: its cable is pulled, its clock is wrong, its disk
//! is full.

use anyhow::{Context, Result, ensure};

use super::machine::Machine;

/// Where the library that shifts the clock stands in a machine.
const FAKETIME: &str = "/usr/local/lib/herdsman-test/libfaketime.so.1";

impl Machine {
    /// Pulls the network cable: nothing comes in or goes out, connections are not
    /// told.
    ///
    /// The bridge's port is taken out of the bridge; the machine still sees a
    /// carrier, as a virtual machine does when the network behind its card fails.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn cut(&self) -> Result<()> {
        self.bridge_side().ip(&["link", "set", self.port(), "nomaster"])
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn mend(&self) -> Result<()> {
        let bridge = super::network::BRIDGE;
        self.bridge_side().ip(&["link", "set", self.port(), "master", bridge])
    }

    /// Sets the clock of one systemd service wrong by so many seconds, from its next
    /// start on; 0 sets it right.
    ///
    /// A container shares its clock with all others (a time namespace shifts only the
    /// monotonic clocks), so this works by preloading libfaketime, which must be
    /// installed here: for dynamically linked programs only. A whole machine with a
    /// wrong clock, and a static agent in it, needs `Vm` with its own clock.
    ///
    /// # Errors
    /// When the library is not there or the service cannot be changed.
    pub fn skew(&self, service: &str, seconds: i64) -> Result<()> {
        let folder = format!("/etc/systemd/system/{service}.service.d");
        if seconds == 0 {
            self.ok(&format!("rm -f {folder}/skew.conf && systemctl daemon-reload"))?;
            return Ok(());
        }
        self.put(FAKETIME, &std::fs::read(library()?)?, "0755")?;
        let unit = format!(
            "[Service]\nEnvironment=LD_PRELOAD={FAKETIME} FAKETIME={seconds:+}s FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1\n"
        );
        self.put(&format!("{folder}/skew.conf"), unit.as_bytes(), "0644")?;
        self.ok("systemctl daemon-reload").map(drop)
    }

    /// Fills the disk up to the last `leave` bytes. The machine needs a disk of its
    /// own size: see `Setup::disk`.
    ///
    /// # Errors
    /// When it has none, or it is not full then.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        let free = || -> Result<u64> {
            let out = self.ok("stat -f -c '%a %S' /")?;
            let (blocks, size) = out.trim().split_once(' ').context("stat")?;
            Ok(blocks.parse::<u64>()? * size.parse::<u64>()?)
        };
        let now = free()?;
        // A disk without a limit is the host's: never fill that one.
        ensure!(self.sized(), "{} has no disk of its own size", self.name());
        if let Some(bytes) = now.checked_sub(leave).filter(|b| *b > 0) {
            // head, not fallocate: an overlay in memory has none.
            let _ = self.exec(&format!("head -c {bytes} /dev/zero >/var/tmp/ballast"))?;
        }
        let left = free()?;
        ensure!(left <= leave + 4096, "{left} bytes are still free");
        Ok(())
    }

    /// Gives the disk back.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn empty_disk(&self) -> Result<()> {
        self.ok("rm -f /var/tmp/ballast").map(drop)
    }

    /// Writes a file of the machine, with its folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, path: &str, content: &[u8], mode: &str) -> Result<()> {
        use std::io::Write as _;
        let line = format!("mkdir -p \"$(dirname '{path}')\" && cat >'{path}' && chmod {mode} '{path}'");
        let mut child = self
            .command(&["sh", "-c", &line])?
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(content)?;
        let out = child.wait_with_output()?;
        ensure!(
            out.status.success(),
            "{}: {path}: {}",
            self.name(),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(())
    }
}

/// The library of the package `libfaketime`.
fn library() -> Result<std::path::PathBuf> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let folders = [format!("/usr/lib/{triple}/faketime"), "/usr/lib/faketime".into()];
    let all = folders.iter().map(|f| std::path::Path::new(f).join("libfaketime.so.1"));
    let found = all.into_iter().find(|p| p.exists());
    found.context("libfaketime is not installed (package faketime)")
}
