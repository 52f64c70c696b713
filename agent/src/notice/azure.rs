//! Azure's scheduled events.
//!
//! Microsoft Learn, "Azure Metadata Service: Scheduled Events for Linux VMs": a GET of
//! `/metadata/scheduledevents` gives `{"DocumentIncarnation": n, "Events": […]}`; each event
//! has an `EventId`, an `EventType` (Freeze, Reboot, Redeploy, Preempt, Terminate), the
//! names of the machines it means (`Resources`) and `NotBefore` (RFC 1123; empty once it
//! has started). Preempt is announced 30 seconds ahead, Terminate as its owner asked
//! for. The first request switches the service on and may take two minutes. A POST of
//! `{"StartRequests": [{"EventId": …}]}` says that the machine is ready.

use std::time::Duration;

use bytes::Bytes;
use herdsman_wire::Timestamp;
use herdsman_wire::report::NoticeKind;
use hyper::Method;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Notice, Troubles, when};
use crate::source::azure::{HEADER, name};
use crate::source::dmi::Cloud;
use crate::source::metadata::{Fault, Metadata};

const PATH: &str = "/metadata/scheduledevents?api-version=2020-07-01";
/// The first answer may take this long.
const FIRST: Duration = Duration::from_secs(150);
/// Thirty seconds are not many.
const EVERY: Duration = Duration::from_secs(2);
/// An approval that takes longer has lost its sense.
const APPROVE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    event_id: String,
    event_type: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    not_before: String,
}

/// Says to Azure that an event need not wait any longer.
#[derive(Debug)]
pub struct Approval {
    metadata: Metadata,
    event: String,
}

impl Approval {
    /// Says it. Without success Azure goes on at the time that it announced.
    pub async fn give(self) {
        let body = serde_json::json!({ "StartRequests": [{ "EventId": self.event }] }).to_string();
        let headers = [HEADER, ("content-type", "application/json")];
        let metadata = self.metadata.within(APPROVE);
        match metadata.once(Method::POST, PATH, &headers, Bytes::from(body)).await {
            Ok(a) if a.status.is_success() => tracing::info!("told Azure that this machine may go"),
            Ok(a) => tracing::warn!("Azure answers {} to the approval of its event", a.status),
            Err(e) => tracing::warn!("{}", e.told("Azure").message),
        }
    }
}

pub(super) async fn watch(metadata: Metadata, tell: mpsc::Sender<Notice>) {
    let metadata = metadata.within(FIRST);
    let mut troubles = Troubles::default();
    let mut own = None;
    let mut seen: Vec<String> = Vec::new();
    loop {
        match look(&metadata, &mut own).await {
            Ok(events) => {
                troubles.over();
                for event in events {
                    if seen.contains(&event.event_id) {
                        continue;
                    }
                    seen.push(event.event_id.clone());
                    if tell.send(notice_of(event, &metadata, Timestamp::now())).await.is_err() {
                        return;
                    }
                }
            }
            Err(fault) => {
                if !troubles.pass(Cloud::Azure, fault).await {
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = tell.closed() => return,
        }
    }
}

/// Events for this machine; all machines of a scale set see all events.
async fn look(metadata: &Metadata, own: &mut Option<String>) -> Result<Vec<Event>, Fault> {
    let own = match own {
        Some(own) => own,
        None => own.insert(name(metadata).await?.ok_or(Fault::Garbage("the machine's name"))?),
    };
    let body = metadata.get(PATH, &[HEADER]).await?.content(PATH)?.unwrap_or_default();
    let document: Document = serde_json::from_slice(&body).map_err(|_| Fault::Garbage("scheduled events"))?;
    let means_us = |e: &Event| e.resources.iter().any(|r| r.eq_ignore_ascii_case(own));
    Ok(document.events.into_iter().filter(means_us).collect())
}

fn notice_of(event: Event, metadata: &Metadata, now: Timestamp) -> Notice {
    let at = match event.not_before.as_str() {
        "" => Some(now),
        time => when::rfc1123(time),
    };
    let (kind, text) = match event.event_type.as_str() {
        "Preempt" => (NoticeKind::Preempted, "Azure takes this spot machine back".to_owned()),
        "Terminate" => (NoticeKind::Preempted, "Azure deletes this machine".to_owned()),
        "Freeze" => (
            NoticeKind::Warning,
            "Azure will pause this machine for a moment".to_owned(),
        ),
        "Reboot" => (NoticeKind::Warning, "Azure will reboot this machine".to_owned()),
        "Redeploy" => (
            NoticeKind::Warning,
            "Azure will move this machine to another host".to_owned(),
        ),
        // A type that is newer than this program; whose text is not ours to print.
        _ => (
            NoticeKind::Warning,
            "Azure announces an event for this machine".to_owned(),
        ),
    };
    let mut notice = Notice::new(kind, at, text);
    if kind == NoticeKind::Preempted {
        notice.approval = Some(Approval {
            metadata: metadata.clone(),
            event: event.event_id,
        });
    }
    notice
}
