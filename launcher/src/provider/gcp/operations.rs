//! What the vendor does after it has answered. A call that makes or deletes is answered
//! by an operation; whether it went well is known when that has ended.

use std::time::Duration;

use herdsman_wire::{ClusterId, Code};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::Instant;

use super::super::ProviderError;
use super::super::cloud::error;
use super::answers::{Operation, project_in, tail};
use super::{Gcp, failure};

/// Longest wait for machines to be made: a bulk call of a thousand takes minutes.
pub(super) const MAKING: Duration = Duration::from_secs(600);
/// Pause where a wait came back at once.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a request id that are the cluster's.
const MARK: usize = 6;

/// Where an operation is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// In a zone of our project.
    Zone(&'a str),
    /// In a project, as rules of firewalls are.
    Global(&'a str),
}

/// A wait for what the vendor's parts tell each other, with an end.
#[derive(Debug)]
pub(super) struct Patience {
    end: Instant,
    pause: Duration,
}

impl Patience {
    /// For what is known everywhere after seconds.
    pub(super) fn short() -> Self {
        Self::until(Duration::from_secs(60))
    }

    /// For machines to go, which have to shut down first.
    pub(super) fn long() -> Self {
        Self::until(Duration::from_secs(300))
    }

    fn until(within: Duration) -> Self {
        Self {
            end: Instant::now() + within,
            pause: PAUSE,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// A pause, longer each time.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(Duration::from_secs(5));
    }
}

impl Gcp {
    /// Waits for the end of an operation; what went wrong with it stands in it.
    ///
    /// # Errors
    /// `E-DEADLINE`, or why nobody could be asked.
    pub(super) async fn ended(
        &self,
        action: &str,
        place: Place<'_>,
        mut operation: Operation,
    ) -> Result<Operation, ProviderError> {
        let until = Instant::now() + MAKING;
        let (name, project, folder) = match place {
            Place::Zone(zone) => (
                "zoneOperations.wait",
                self.api.project().await?,
                format!("zones/{zone}"),
            ),
            Place::Global(project) => ("globalOperations.wait", project, "global".to_owned()),
        };
        let path = format!("{folder}/operations/{}/wait", operation.name);
        while operation.status != "DONE" {
            if Instant::now() >= until {
                let text = format!("{action}: not done after {} minutes", MAKING.as_secs() / 60);
                return Err(error(Code::Deadline, text));
            }
            let asked = Instant::now();
            operation = self.api.wait(name, project, &path).await?;
            if operation.status != "DONE" && asked.elapsed() < PAUSE {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(operation)
    }

    /// Calls that make something and have not ended. Whoever started them may be dead;
    /// what was asked for comes all the same, and is in no list before.
    async fn unfinished(&self) -> Result<Vec<Operation>, ProviderError> {
        let (name, filter) = ("globalOperations.aggregatedList", "status != DONE");
        let path = "aggregated/operations";
        let mut all: Vec<Operation> = self.api.everywhere(name, path, "operations", filter).await?;
        all.retain(|o| o.operation_type.to_ascii_lowercase().contains("insert"));
        let (ours, network) = (self.api.project().await?, self.network_project().await?);
        if network != ours && self.settings.has_firewall() {
            let path = "global/operations";
            all.extend(self.api.list("globalOperations.list", network, path, filter).await?);
        }
        Ok(all)
    }

    async fn wait_for(&self, operations: impl IntoIterator<Item = Operation>) -> Result<(), ProviderError> {
        let ours = self.api.project().await?;
        for operation in operations {
            let (zone, target) = (operation.zone.clone(), operation.target_link.clone());
            let place = match &zone {
                Some(zone) => Place::Zone(tail(zone)),
                None => Place::Global(project_in(&target).unwrap_or(ours)),
            };
            // What went wrong with it is nobody's trouble here.
            self.ended("instances.insert", place, operation).await?;
        }
        Ok(())
    }

    /// Waits until no call of a cluster makes anything any more. Gives whether there
    /// were any.
    pub(super) async fn all_ended(&self, cluster: &ClusterId) -> Result<bool, ProviderError> {
        let of = |o: &Operation| is_of(o.client_operation_id.as_deref().unwrap_or_default(), cluster);
        let ours: Vec<Operation> = self.unfinished().await?.into_iter().filter(of).collect();
        let any = !ours.is_empty();
        self.wait_for(ours).await?;
        Ok(any)
    }

    /// The same for somebody who knows a cluster's name alone, and so waits for a little
    /// more.
    pub(super) async fn all_ended_of(&self, cluster: &str) -> Result<(), ProviderError> {
        let all = self.unfinished().await?;
        self.wait_for(all.into_iter().filter(|o| may_be_of(o, cluster))).await
    }
}

/// Whether an operation may make something of a cluster of this name. A bulk call does
/// not say what it makes.
fn may_be_of(operation: &Operation, cluster: &str) -> bool {
    let target = &operation.target_link;
    operation.operation_type.contains("bulk")
        || target.contains("/firewalls/herdsman-")
        || target.contains(&format!("/instances/{cluster}-"))
}

/// The first thing that went wrong with an operation that has ended.
pub(super) fn failed(action: &str, operation: &Operation) -> Option<ProviderError> {
    let errors = operation.error.as_ref()?.errors.as_slice();
    // The cause stands among consequences.
    let told = |e: &&super::answers::OperationError| e.code != "VM_MIN_COUNT_NOT_REACHED";
    let first = errors.iter().find(told).or_else(|| errors.first())?;
    Some(failure::of_operation(action, first, operation.http_error_status_code))
}

/// A request id: a UUID (RFC 9562, version 8) that begins with the cluster's mark, so
/// that an operation is known as the cluster's by anybody; the rest is random, as a
/// name may be used again and its machine must not be taken for the old one.
///
/// # Errors
/// `E-INTERNAL` without randomness.
pub(super) fn request_id(cluster: &ClusterId) -> Result<String, ProviderError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| error(Code::Internal, "the system gives no randomness"))?;
    bytes[..MARK].copy_from_slice(&mark(cluster));
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn mark(cluster: &ClusterId) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark.copy_from_slice(&digest(&SHA256, cluster.as_str().as_bytes()).as_ref()[..MARK]);
    mark
}

fn is_of(request_id: &str, cluster: &ClusterId) -> bool {
    let hex: String = mark(cluster).iter().map(|b| format!("{b:02x}")).collect();
    let plain: String = request_id.chars().filter(|c| *c != '-').collect();
    plain.to_ascii_lowercase().starts_with(&hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids_that_tell_the_cluster() {
        let a: ClusterId = "aaaaaaaaaa".parse().unwrap();
        let b: ClusterId = "bbbbbbbbbb".parse().unwrap();
        let id = request_id(&a).unwrap();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(id[14..15] == *"8" && "89ab".contains(&id[19..20]), "{id}");
        assert!(is_of(&id, &a) && !is_of(&id, &b) && !is_of("", &a));
        assert_ne!(id, request_id(&a).unwrap());
    }

    #[test]
    fn what_is_on_its_way_is_known_by_its_name() {
        let o = |kind: &str, target: &str| Operation {
            operation_type: kind.into(),
            target_link: format!("https://compute/v1/projects/p/{target}"),
            ..Operation::default()
        };
        assert!(may_be_of(&o("insert", "zones/z/instances/demo-w1"), "demo"));
        assert!(!may_be_of(&o("insert", "zones/z/instances/other-demo-w1"), "demo"));
        assert!(may_be_of(&o("insert", "global/firewalls/herdsman-x"), "demo"));
        assert!(!may_be_of(&o("insert", "global/firewalls/x"), "demo"));
        assert!(may_be_of(&o("bulkInsert", "zones/z/instances"), "demo"));
    }

    #[test]
    fn the_cause_is_told_and_not_its_consequence() {
        let text = r#"{"name": "operation-1", "status": "DONE", "operationType": "bulkInsert",
            "httpErrorStatusCode": 503, "error": {"errors": [
            {"code": "VM_MIN_COUNT_NOT_REACHED", "message": "Requested minimum count of 1 VMs could not be created."},
            {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone does not have enough resources"}]}}"#;
        let operation: Operation = serde_json::from_str(text).unwrap();
        let e = failed("instances.bulkInsert", &operation).unwrap();
        assert_eq!(e.code, Code::Capacity);
        assert!(e.message.contains("enough resources"), "{}", e.message);
        assert!(failed("x", &Operation::default()).is_none());
    }
}
