//! Machines that one call of a cloud made, and that were all told the same: they
//! share a bootstrap certificate. Each use of it is bound to one address that was
//! announced, and gives the node that was announced for it; none is good twice.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use herdsman_wire::NodeName;

/// A bootstrap certificate with several uses.
#[derive(Clone, Debug, Default)]
struct Batch {
    /// Name in the certificate, in place of a node's.
    label: String,
    /// Uses that are not announced yet.
    open: u32,
    /// Announced uses.
    placed: BTreeMap<IpAddr, NodeName>,
}

/// All of them, by the certificate's serial.
#[derive(Clone, Debug, Default)]
pub(super) struct Batches(HashMap<String, Batch>);

/// What a batch says of a use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It makes this node.
    Node(NodeName),
    /// Its address may be announced yet.
    Later,
    /// All uses are announced, for other addresses.
    Elsewhere,
    /// The certificate has another name.
    WrongName,
}

impl Batches {
    /// Nodes will be announced: so many, or, where that is not known, as many as are.
    pub(super) fn open(&mut self, serial: &str, label: &str, uses: u32) {
        let batch = self.0.entry(serial.to_owned()).or_default();
        label.clone_into(&mut batch.label);
        let placed = u32::try_from(batch.placed.len()).unwrap_or(u32::MAX);
        batch.open = uses.saturating_sub(placed);
    }

    /// Announces a node at its address. A second one there takes the place of the
    /// first, whose machine is gone.
    pub(super) fn place(&mut self, serial: &str, label: &str, node: &NodeName, address: IpAddr) {
        let batch = self.0.entry(serial.to_owned()).or_default();
        if batch.label.is_empty() {
            label.clone_into(&mut batch.label);
        }
        if batch.placed.insert(address.to_canonical(), node.clone()).is_none() {
            batch.open = batch.open.saturating_sub(1);
        }
    }

    /// Its use is over, as its node is removed or revoked.
    pub(super) fn remove(&mut self, serial: &str, node: &NodeName) {
        if let Some(batch) = self.0.get_mut(serial) {
            batch.placed.retain(|_, n| n != node);
        }
    }

    /// What a use from an address would make; absent where the serial is no batch's.
    pub(super) fn look(&self, serial: &str, label: Option<&str>, from: IpAddr) -> Option<Use> {
        let batch = self.0.get(serial)?;
        if label != Some(batch.label.as_str()) {
            return Some(Use::WrongName);
        }
        Some(match batch.placed.get(&from.to_canonical()) {
            Some(node) => Use::Node(node.clone()),
            None if batch.open > 0 => Use::Later,
            None => Use::Elsewhere,
        })
    }

    /// Under which a use is remembered as spent.
    pub(super) fn key(&self, serial: &str, node: &NodeName) -> String {
        if self.0.contains_key(serial) {
            format!("{serial}/{node}")
        } else {
            serial.to_owned()
        }
    }
}
