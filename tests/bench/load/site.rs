//! A laptop and its machines, which are containers or run under QEMU.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_tests::machines::{Cluster, Setup, Vm, VmSetup};
use herdsman_wire::Timestamp;

/// How long a command on a machine may take.
const COMMAND: Duration = Duration::from_secs(120);

pub(crate) struct Site {
    /// The laptop, and machines that are containers.
    pub(crate) cluster: Cluster,
    /// Machines under QEMU, where it shall be them.
    vms: Option<BTreeMap<String, Vm>>,
}

impl Site {
    /// The calling thread stands at the laptop then.
    pub(crate) fn new(scratch: &Path, under_qemu: bool) -> Result<Self> {
        Ok(Self {
            cluster: Cluster::new(scratch)?,
            vms: under_qemu.then(BTreeMap::new),
        })
    }

    /// User-data that waits for its machine, by node.
    pub(crate) fn wanted(&self) -> Result<BTreeMap<String, String>> {
        let mut wanted = self.cluster.wanted()?;
        wanted.retain(|node, _| self.vms.as_ref().is_none_or(|vms| !vms.contains_key(node)));
        Ok(wanted)
    }

    /// Makes the machine of a node; gives when it was switched on.
    pub(crate) fn make(&mut self, node: &str, user_data: &str, setup: &Setup) -> Result<Timestamp> {
        let Some(vms) = &mut self.vms else {
            let on = Timestamp::now();
            self.cluster.make(node, user_data, setup.clone())?;
            return Ok(on);
        };
        let mut folders = setup.folders.clone();
        folders.extend(setup.trees.iter().map(|tree| (tree.clone(), "/".into())));
        let setup = VmSetup {
            folders,
            ..VmSetup::default()
        };
        let address = self.cluster.address(node)?;
        let vm = Vm::boot(&self.cluster.network, node, address, user_data, &setup)?;
        // Its disk was copied before, which is no part of a boot.
        let on = vm.on();
        vms.insert(node.to_owned(), vm);
        Ok(on)
    }

    fn vm(&self, node: &str) -> Option<&Vm> {
        self.vms.as_ref()?.get(node)
    }

    /// What a machine's console has shown.
    pub(crate) fn console(&self, node: &str) -> Result<String> {
        match self.vm(node) {
            Some(vm) => Ok(vm.console()),
            None => Ok(self.cluster.machine(node)?.console()),
        }
    }

    /// The ends of all consoles.
    pub(crate) fn consoles(&self) -> String {
        let mut text = self.cluster.consoles();
        for (node, vm) in self.vms.iter().flatten() {
            let console = vm.console();
            let lines: Vec<&str> = console.lines().collect();
            text += &format!("\n== console of {node}\n");
            text += &lines[lines.len().saturating_sub(40)..].join("\n");
        }
        text
    }

    /// Runs a shell line on a machine and gives what it printed.
    pub(crate) fn run(&self, node: &str, line: &str) -> Result<String> {
        let Some(vm) = self.vm(node) else {
            return self.cluster.machine(node)?.ok(line);
        };
        let ran = vm.exec(line, COMMAND)?;
        ensure!(ran.code == 0, "{node}: `{line}`: {ran:?}");
        Some(ran.out).filter(|o| !o.is_empty()).context("it printed nothing")
    }
}
