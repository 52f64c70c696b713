//! EC2's spot interruption notices and rebalance recommendations.
//!
//! Amazon EC2 User Guide, "Spot Instance interruption notices": about two minutes
//! before the machine is stopped or terminated `spot/instance-action` has
//! `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`; until then it is 404. To be
//! asked every five seconds. "EC2 instance rebalance recommendations":
//! `events/recommendations/rebalance` has a `noticeTime` when the machine is at elevated
//! risk; it may still run for hours, so that is a warning only.

use std::time::Duration;

use herdsman_wire::report::NoticeKind;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Notice, Troubles, when};
use crate::source::dmi::Cloud;
use crate::source::ec2::Ec2;
use crate::source::metadata::{Fault, Metadata};

const EVERY: Duration = Duration::from_secs(5);
const LIFE_CYCLE: &str = "/latest/meta-data/instance-life-cycle";
const ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";

#[derive(Deserialize)]
struct Action {
    action: String,
    time: String,
}

pub(super) async fn watch(metadata: Metadata, tell: mpsc::Sender<Notice>) {
    let service = Ec2::new(metadata);
    let mut troubles = Troubles::default();
    let mut warned = false;
    loop {
        match look(&service, &mut warned).await {
            Ok(Seen::Nothing) => troubles.over(),
            Ok(Seen::Never) => return,
            Ok(Seen::Notice(notice)) => {
                let last = notice.told.kind == NoticeKind::Preempted;
                if tell.send(notice).await.is_err() || last {
                    return;
                }
            }
            Err(fault) => {
                if !troubles.pass(Cloud::Ec2, fault).await {
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

enum Seen {
    Nothing,
    /// The machine is no spot machine.
    Never,
    Notice(Notice),
}

async fn look(service: &Ec2, warned: &mut bool) -> Result<Seen, Fault> {
    let life = service.fact(LIFE_CYCLE).await?;
    if life.is_some_and(|l| l.trim_ascii() != b"spot") {
        return Ok(Seen::Never);
    }
    if let Some(body) = service.fact(ACTION).await? {
        let action: Action = serde_json::from_slice(&body).map_err(|_| Fault::Garbage("an instance action"))?;
        let what = match action.action.as_str() {
            "stop" => "stops",
            "hibernate" => "hibernates",
            _ => "terminates",
        };
        let text = format!("EC2 takes this spot machine back and {what} it");
        return Ok(Seen::Notice(Notice::new(
            NoticeKind::Preempted,
            when::iso(&action.time),
            text,
        )));
    }
    if !*warned && service.fact(REBALANCE).await?.is_some() {
        *warned = true;
        let text = "EC2 recommends a rebalance: this spot machine may be taken back soon";
        return Ok(Seen::Notice(Notice::new(NoticeKind::Warning, None, text)));
    }
    Ok(Seen::Nothing)
}
