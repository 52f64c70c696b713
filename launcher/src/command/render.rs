//! `herdsman render`: texts for people who make machines by themselves.

use herdsman_wire::{Code, limits};
use serde_json::json;

use super::cli::{CloudInitArgs, Output, RenderRole, RenderVerb, UpArgs};
use super::context::Session;
use crate::cluster;
use crate::ui::{Error, iso};

/// The unit as the agent installs it.
const UNIT: &str = include_str!("../../../agent/src/service/herdsman-agent.service");

pub(super) async fn run(session: &Session, what: &RenderVerb) -> Result<(), Error> {
    match what {
        RenderVerb::CloudInit(args) => cloud_init(session, args).await,
        RenderVerb::Systemd => session.printer.data(UNIT),
    }
}

async fn cloud_init(session: &Session, args: &CloudInitArgs) -> Result<(), Error> {
    if args.role == RenderRole::Scheduler {
        return Err(
            Error::new(Code::Usage, "a scheduler's user-data is made together with its cluster")
                .with_hint("herdsman up NAME --provider manual     writes it, and waits for the machine"),
        );
    }
    if args.ttl.get() > limits::BOOTSTRAP_LIFE_MAX {
        let most = limits::BOOTSTRAP_LIFE_MAX.as_secs() / 60;
        return Err(Error::new(
            Code::Usage,
            format!("--ttl: an invitation is good for {most}m at most"),
        ));
    }
    let boot = session.boot(&session.load(&UpArgs::default())?.settings);
    let (ctx, access) = session.open(args.cluster.as_ref()).await?;
    // What cannot be rendered must not use an invitation up.
    if args.form != crate::bootstrap::UserDataForm::Json {
        boot.download.as_ref().map_err(Clone::clone)?;
    }
    let invited = cluster::invite(&ctx, &access, &boot, args.form, args.node.clone(), args.ttl.get()).await?;
    let until = iso(invited.not_after);
    let printer = &session.printer;
    printer.warn(&format!(
        "this holds a key with which one machine, wherever it is, becomes {} until {until}; keep it as secret as a password until then",
        invited.node
    ));
    match printer.output() {
        Output::Json => printer.json(&json!({
            "node": invited.node,
            "until": until,
            "user_data": invited.user_data.reveal(),
        })),
        _ => printer.data(invited.user_data.reveal()),
    }
}
