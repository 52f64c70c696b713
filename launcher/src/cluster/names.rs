//! Names of a cluster's nodes: `demo-scheduler`, `demo-w0`, `demo-w1` ….

use herdsman_wire::name::NameError;
use herdsman_wire::{ClusterName, NodeName};

/// The scheduler's node.
///
/// # Errors
/// When the cluster's name is too long for it.
pub fn scheduler_name(cluster: &ClusterName) -> Result<NodeName, NameError> {
    format!("{cluster}-scheduler").parse()
}

/// A worker's node; numbers are never used twice in a cluster.
///
/// # Errors
/// When the cluster's name is too long for it.
pub fn worker_name(cluster: &ClusterName, number: u32) -> Result<NodeName, NameError> {
    format!("{cluster}-w{number}").parse()
}

/// What machines that are told the same have in place of a name. `first` is the
/// number of the first of them.
///
/// # Errors
/// When the cluster's name is too long for it.
pub(super) fn batch_name(cluster: &ClusterName, first: u32) -> Result<NodeName, NameError> {
    format!("{cluster}-batch-{first}").parse()
}

/// The number in a worker's name.
pub(super) fn number_of(cluster: &ClusterName, node: &NodeName) -> Option<u32> {
    let rest = node.as_str().strip_prefix(cluster.as_str())?;
    rest.strip_prefix("-w")?.parse().ok()
}

/// The first number that no name in use has.
pub(super) fn next_number<'a>(cluster: &ClusterName, names: impl Iterator<Item = &'a NodeName>) -> u32 {
    names.filter_map(|n| number_of(cluster, n)).max().map_or(0, |n| n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        let c: ClusterName = "demo".parse().unwrap();
        let names = [
            scheduler_name(&c).unwrap(),
            worker_name(&c, 3).unwrap(),
            worker_name(&c, 1).unwrap(),
        ];
        assert_eq!(names[1].as_str(), "demo-w3");
        assert_eq!(number_of(&c, &names[0]), None);
        assert_eq!(next_number(&c, names.iter()), 4);
        assert_eq!(next_number(&c, [].iter()), 0);
    }
}
