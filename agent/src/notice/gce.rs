//! GCE's preemption and host maintenance.
//!
//! Google Cloud documentation, "Spot VMs" and "Get live migration notices":
//! `instance/preempted` turns `TRUE` when the machine is taken back, about 30 seconds
//! before its power goes; `instance/maintenance-event` turns
//! `TERMINATE_ON_HOST_MAINTENANCE` or `MIGRATE_ON_HOST_MAINTENANCE`, 60 seconds before a
//! migration. A GET with `wait_for_change=true` is answered when the value is another
//! one than `last_etag` names, or after `timeout_sec`.

use std::time::Duration;

use herdsman_wire::Timestamp;
use herdsman_wire::report::NoticeKind;
use tokio::sync::mpsc;

use super::{Notice, Troubles};
use crate::source::dmi::Cloud;
use crate::source::gce::answer;
use crate::source::metadata::{Fault, Metadata};

/// How long one question waits for news.
const WAIT_SECONDS: u64 = 60;
/// The server's answer is late by no more.
const LATE: Duration = Duration::from_secs(15);
/// An answer without news that came at once: the server does not wait.
const PAUSE: Duration = Duration::from_secs(2);
/// From the announcement to the loss of power.
const PREEMPTED: Duration = Duration::from_secs(30);
const MAINTAINED: Duration = Duration::from_secs(60);

pub(super) async fn watch(metadata: Metadata, tell: mpsc::Sender<Notice>) {
    let metadata = metadata.within(Duration::from_secs(WAIT_SECONDS) + LATE);
    let closed = tell.closed();
    let values = async {
        tokio::join!(
            follow(&metadata, "instance/preempted", &tell),
            follow(&metadata, "instance/maintenance-event", &tell),
        )
    };
    tokio::select! {
        _ = values => {}
        () = closed => {}
    }
}

async fn follow(metadata: &Metadata, path: &str, tell: &mpsc::Sender<Notice>) {
    let mut troubles = Troubles::default();
    let mut etag = String::new();
    let mut last = String::new();
    loop {
        let asked = tokio::time::Instant::now();
        match ask(metadata, path, &etag).await {
            Ok((value, new)) => {
                troubles.over();
                let news = value != last;
                if news {
                    let notice = notice_of(path, &value, Timestamp::now());
                    last = value;
                    if let Some(notice) = notice
                        && tell.send(notice).await.is_err()
                    {
                        return;
                    }
                }
                etag = new;
                // A server that does not wait is not asked without end.
                if etag.is_empty() || (!news && asked.elapsed() < PAUSE) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(fault) => {
                if !troubles.pass(Cloud::Gce, fault).await {
                    return;
                }
            }
        }
    }
}

/// The value and its tag. The first question does not wait.
async fn ask(metadata: &Metadata, path: &str, etag: &str) -> Result<(String, String), Fault> {
    let path = if etag.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?wait_for_change=true&timeout_sec={WAIT_SECONDS}&last_etag={etag}")
    };
    let got = answer(metadata, &path).await?;
    let tag = got
        .headers
        .get("etag")
        .and_then(|t| t.to_str().ok())
        .unwrap_or_default();
    // It becomes a part of the next path.
    let tag = tag.trim_matches('"');
    let tag = tag.chars().all(|c| c.is_ascii_alphanumeric()).then(|| tag.to_owned());
    let value = got.content(&path)?.unwrap_or_default();
    let value = String::from_utf8_lossy(value.trim_ascii()).into_owned();
    Ok((value, tag.unwrap_or_default()))
}

fn notice_of(path: &str, value: &str, now: Timestamp) -> Option<Notice> {
    let (kind, at, text) = match (path, value) {
        ("instance/preempted", "TRUE") => (
            NoticeKind::Preempted,
            Some(now.plus(PREEMPTED)),
            "GCE preempts this machine",
        ),
        (_, "TERMINATE_ON_HOST_MAINTENANCE") => (
            NoticeKind::Preempted,
            Some(now.plus(MAINTAINED)),
            "GCE stops this machine for the maintenance of its host",
        ),
        (_, "MIGRATE_ON_HOST_MAINTENANCE") => (
            NoticeKind::Warning,
            Some(now.plus(MAINTAINED)),
            "GCE moves this machine to another host; it will pause for a moment",
        ),
        _ => return None,
    };
    Some(Notice::new(kind, at, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_meaning() {
        let now = Timestamp(1_000_000);
        let kind = |path, value| notice_of(path, value, now).map(|n| (n.told.kind, n.told.at.unwrap()));
        assert_eq!(
            kind("instance/preempted", "TRUE"),
            Some((NoticeKind::Preempted, now.plus(PREEMPTED)))
        );
        assert_eq!(kind("instance/preempted", "FALSE"), None);
        let event = "instance/maintenance-event";
        assert_eq!(kind(event, "NONE"), None);
        assert_eq!(kind(event, ""), None);
        assert_eq!(
            kind(event, "MIGRATE_ON_HOST_MAINTENANCE").unwrap().0,
            NoticeKind::Warning
        );
        assert_eq!(
            kind(event, "TERMINATE_ON_HOST_MAINTENANCE").unwrap().0,
            NoticeKind::Preempted
        );
    }
}
