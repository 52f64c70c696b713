//! What clouds announce: told once, with its time, and nothing made up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use herdsman_agent::notice::{self, Notice};
use herdsman_agent::source::dmi::Cloud;
use herdsman_agent::source::machine::Machine;
use herdsman_agent::source::metadata::Metadata;
use herdsman_tests::home::LONG;
use herdsman_tests::metadata::{Service, Trouble};
use herdsman_wire::Timestamp;
use herdsman_wire::report::NoticeKind;
use tokio::sync::mpsc::Receiver;

use super::PACE;

const ACTION: &str = "/latest/meta-data/spot/instance-action";
const EVENTS: &str = "/metadata/scheduledevents";

fn watch(cloud: Cloud, service: &Service) -> Result<Receiver<Notice>> {
    let machine = Machine {
        cloud: Some(cloud),
        metadata: Metadata::new(vec![service.address], PACE),
    };
    notice::watch(&machine).context("nothing to watch")
}

async fn next(notices: &mut Receiver<Notice>) -> Result<Notice> {
    let notice = tokio::time::timeout(LONG, notices.recv()).await;
    notice.context("no notice")?.context("the watch ended")
}

/// Waits until the service was asked so often for a path.
async fn asked(service: &Service, path: &str, times: usize) -> Result<()> {
    let all = async {
        while service.asked(path) < times {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(LONG, all).await;
    done.with_context(|| format!("{path}: {:?}", service.facts().log))
}

#[tokio::test]
async fn ec2_takes_a_spot_machine_back() -> Result<()> {
    let service = Service::start(Some(Cloud::Ec2))?;
    service.set("/latest/meta-data/instance-life-cycle", "spot");
    let mut notices = watch(Cloud::Ec2, &service)?;
    asked(&service, ACTION, 1).await?;
    ensure!(notices.try_recv().is_err());
    service.set(
        "/latest/meta-data/events/recommendations/rebalance",
        "{\"noticeTime\": \"2026-11-24T08:13:00Z\"}",
    );
    let warning = next(&mut notices).await?;
    ensure!(warning.told.kind == NoticeKind::Warning, "{warning:?}");
    // Its token expires, the service has a bad moment; the notice comes all the same.
    service.facts().token_uses = Some(1);
    service.trouble(Trouble::Status(503), 2);
    service.set(ACTION, "{\"action\": \"stop\", \"time\": \"2026-11-24T08:15:00Z\"}");
    let last = next(&mut notices).await?;
    ensure!(
        last.told.kind == NoticeKind::Preempted && last.told.text.contains("stops"),
        "{last:?}"
    );
    ensure!(
        last.told.at.map(|t| t.to_string()).as_deref() == Some("2026-11-24T08:15:00Z"),
        "{last:?}"
    );
    ensure!(
        tokio::time::timeout(LONG, notices.recv()).await?.is_none(),
        "told twice"
    );
    Ok(())
}

#[tokio::test]
async fn a_machine_that_is_no_spot_machine_is_not_watched() -> Result<()> {
    let service = Service::start(Some(Cloud::Ec2))?;
    service.set("/latest/meta-data/instance-life-cycle", "on-demand");
    let mut notices = watch(Cloud::Ec2, &service)?;
    ensure!(tokio::time::timeout(LONG, notices.recv()).await?.is_none());
    ensure!(service.asked(ACTION) == 0);
    // Nor is one whose service is switched off.
    service.trouble(Trouble::Status(403), usize::MAX);
    let mut notices = watch(Cloud::Ec2, &service)?;
    ensure!(tokio::time::timeout(LONG, notices.recv()).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn google_preempts_at_once_and_waits_otherwise() -> Result<()> {
    let (preempted, event) = (
        "/computeMetadata/v1/instance/preempted",
        "/computeMetadata/v1/instance/maintenance-event",
    );
    let service = Service::start(Some(Cloud::Gce))?;
    service.set(preempted, "FALSE");
    service.set(event, "NONE");
    let mut notices = watch(Cloud::Gce, &service)?;
    asked(&service, "preempted?wait_for_change=true", 1).await?;
    asked(&service, "maintenance-event?wait_for_change=true", 1).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(
        service.facts().log.len() == 4,
        "it asks without end: {:?}",
        service.facts().log
    );
    service.set(event, "MIGRATE_ON_HOST_MAINTENANCE");
    let warning = next(&mut notices).await?;
    ensure!(warning.told.kind == NoticeKind::Warning, "{warning:?}");
    service.set(event, "NONE");
    let before = Timestamp::now();
    service.set(preempted, "TRUE");
    let last = next(&mut notices).await?;
    ensure!(last.told.kind == NoticeKind::Preempted, "{last:?}");
    let at = last.told.at.context("when")?;
    ensure!(at >= before.plus(Duration::from_secs(30)), "{last:?}");
    service.set(event, "TERMINATE_ON_HOST_MAINTENANCE");
    let end = next(&mut notices).await?;
    ensure!(end.told.kind == NoticeKind::Preempted, "{end:?}");
    Ok(())
}

#[tokio::test]
async fn azure_tells_of_this_machine_and_is_told_that_it_may_go() -> Result<()> {
    let event = |id: &str, kind: &str, machine: &str, at: &str| {
        serde_json::json!({
            "EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [machine],
            "EventStatus": "Scheduled", "NotBefore": at, "Description": "", "EventSource": "Platform",
            "DurationInSeconds": -1
        })
    };
    let service = Service::start(Some(Cloud::Azure))?;
    service.set("/metadata/instance/compute/name", "demo-w0");
    let mut notices = watch(Cloud::Azure, &service)?;
    asked(&service, EVENTS, 1).await?;
    let at = "Tue, 24 Nov 2026 08:15:00 GMT";
    let mut all = vec![
        event("A-1", "Preempt", "other-vm", at),
        event("A-2", "Freeze", "demo-w0", at),
    ];
    let set = |all: &[serde_json::Value]| {
        let document = serde_json::json!({"DocumentIncarnation": all.len(), "Events": all});
        service.set(EVENTS, document.to_string());
    };
    set(&all);
    let warning = next(&mut notices).await?;
    ensure!(
        warning.told.kind == NoticeKind::Warning && warning.approval.is_none(),
        "{warning:?}"
    );
    all.push(event("A-3", "Preempt", "DEMO-W0", at));
    set(&all);
    let last = next(&mut notices).await?;
    ensure!(last.told.kind == NoticeKind::Preempted, "{last:?}");
    ensure!(
        last.told.at.map(|t| t.to_string()).as_deref() == Some("2026-11-24T08:15:00Z"),
        "{last:?}"
    );
    ensure!(service.facts().posted.is_empty());
    last.approval.context("no approval")?.give().await;
    let posted: Vec<serde_json::Value> = service
        .facts()
        .posted
        .iter()
        .map(|p| serde_json::from_str(p))
        .collect::<Result<_, _>>()?;
    ensure!(
        posted == [serde_json::json!({"StartRequests": [{"EventId": "A-3"}]})],
        "{posted:?}"
    );
    let seen = service.asked(EVENTS);
    asked(&service, EVENTS, seen + 2).await?;
    ensure!(notices.try_recv().is_err(), "told twice");
    Ok(())
}

#[tokio::test]
async fn clouds_without_notices_are_not_asked() -> Result<()> {
    for cloud in [Cloud::DigitalOcean, Cloud::Hetzner, Cloud::OpenStack] {
        let service = Service::start(Some(cloud))?;
        ensure!(watch(cloud, &service).is_err());
    }
    Ok(())
}
