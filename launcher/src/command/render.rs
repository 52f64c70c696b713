//! `herdsman render`: texts for people who make machines by themselves.

#[cfg(test)]
mod tests;

use std::process::Stdio;
use std::time::Duration;

use herdsman_wire::{Code, limits};
use serde_json::json;

use super::cli::{CloudInitArgs, FirewallArgs, IamArgs, Output, RenderRole, RenderVerb, UpArgs};
use super::context::Session;
use crate::cluster;
use crate::ui::{Error, iso};

/// The unit as the agent installs it.
const UNIT: &str = include_str!("../../../agent/src/service/herdsman-agent.service");
/// Makes images: the agent goes in, no identity stays.
const PACKER: &str = include_str!("render/herdsman.pkr.hcl");
/// An example; what is right for a network is its owner's to say.
const TERRAFORM: &str = include_str!("render/herdsman.tf");
/// How long the agent may take to print its rules.
const RENDERED_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(session: &Session, what: &RenderVerb) -> Result<(), Error> {
    match what {
        RenderVerb::CloudInit(args) => cloud_init(session, args).await,
        RenderVerb::Systemd => session.printer.data(UNIT),
        RenderVerb::Packer => session.printer.data(PACKER),
        RenderVerb::Terraform => session.printer.data(TERRAFORM),
        RenderVerb::Firewall(args) => firewall(session, args).await,
        RenderVerb::Iam(args) => iam(session, args),
    }
}

/// What the account has to allow; nothing where there is no account.
fn iam(session: &Session, args: &IamArgs) -> Result<(), Error> {
    let name = session.provider_of(args.provider)?;
    match session.provider(name, None)?.provider.cloud() {
        Some(cloud) => session.printer.data(&cloud.policy()),
        None => {
            session
                .printer
                .note(&format!("provider {name} has no account, so nothing has to be allowed"));
            Ok(())
        }
    }
}

/// The agent knows its rules; here is only who asks for them.
async fn firewall(session: &Session, args: &FirewallArgs) -> Result<(), Error> {
    let program = session.agent()?;
    let failed = |why: String| Error::new(Code::Internal, format!("{}: {why}", program.display()));
    let mut command = tokio::process::Command::new(&program);
    command
        .args(["firewall", "--render"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for network in &args.allow {
        command.arg("--allow").arg(network.to_string());
    }
    let output = tokio::time::timeout(RENDERED_WITHIN, command.output())
        .await
        .map_err(|_| failed(format!("no rules within {} s", RENDERED_WITHIN.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    session.printer.data(&String::from_utf8_lossy(&output.stdout))
}

/// What makes an image of a machine: nothing of any cluster, and no secret.
fn image(session: &Session, args: &CloudInitArgs) -> Result<(), Error> {
    let boot = session.boot(&session.load(&UpArgs::default())?.settings);
    let download = boot.download.as_ref().map_err(Clone::clone)?;
    let text = crate::bootstrap::image(download, &boot.extra, limits::BOOTSTRAP_LIFE, args.form)?;
    match session.printer.output() {
        Output::Json => session.printer.json(&json!({"user_data": text})),
        _ => session.printer.data(&text),
    }
}

async fn cloud_init(session: &Session, args: &CloudInitArgs) -> Result<(), Error> {
    if args.role == RenderRole::Image {
        return image(session, args);
    }
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
