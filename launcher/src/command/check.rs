//! `herdsman check`: whether providers can be used.

use std::time::Duration;

use herdsman_wire::Code;
use serde_json::json;

use super::cli::{CheckArgs, Output};
use super::context::Session;
use crate::config::ProviderName;
use crate::provider::Provider;
use crate::provider::cloud::{CLOUDS, Finding, Mood};
use crate::ui::{Error, Exit};

/// Longest look at one provider.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(session: &Session, args: &CheckArgs) -> Result<u8, Error> {
    let mut reports = Vec::new();
    for name in providers(session, args)? {
        let mut findings = look(session, name, args.region.as_deref()).await;
        findings.push(agent(session, name));
        reports.push((name, findings));
    }
    let printer = &session.printer;
    let ready = |f: &[Finding]| f.iter().all(|f| f.mood != Mood::Bad);
    if printer.output() == Output::Json {
        let all: Vec<_> = reports
            .iter()
            .map(|(name, f)| json!({"provider": name.as_str(), "ready": ready(f), "findings": f}))
            .collect();
        printer.json(&json!({"providers": all}))?;
    } else {
        let mut text = String::new();
        for (name, findings) in &reports {
            text += &format!("{name}\n");
            findings.iter().for_each(|f| text += &line(f));
        }
        printer.text(&text)?;
    }
    let bad = reports.iter().filter(|(_, f)| !ready(f)).count();
    if reports.len() > 1 {
        printer.note(&format!("{} of {} providers ready", reports.len() - bad, reports.len()));
    }
    // Of many, those that nobody set up do not count.
    let failed = if reports.len() > 1 {
        bad == reports.len()
    } else {
        bad > 0
    };
    Ok(if failed { Exit::NotFound } else { Exit::Done } as u8)
}

fn providers(session: &Session, args: &CheckArgs) -> Result<Vec<ProviderName>, Error> {
    if args.all {
        let mut all = vec![ProviderName::Local];
        all.extend(CLOUDS);
        return Ok(all);
    }
    if args.providers.is_empty() {
        return Ok(vec![session.provider_of(None)?]);
    }
    Ok(args.providers.clone())
}

async fn look(session: &Session, name: ProviderName, region: Option<&str>) -> Vec<Finding> {
    let provider = match session.provider(name, region) {
        Ok(ctx) => ctx.provider,
        Err(e) => return vec![failed("settings", &e)],
    };
    let Provider::Cloud(cloud) = &provider else {
        return vec![match provider.list(None).await {
            Ok(machines) => Finding::new(
                Mood::Good,
                "machines",
                format!("{} here; they need no account and cost nothing", machines.len()),
            ),
            Err(e) => Finding::failed("machines", &e),
        }];
    };
    tokio::time::timeout(PATIENCE, cloud.check()).await.unwrap_or_else(|_| {
        let text = format!("not all was looked at within {}s", PATIENCE.as_secs());
        vec![Finding::new(Mood::Bad, "time", text).with_hint("check the network, and HTTPS_PROXY")]
    })
}

fn failed(what: &str, e: &Error) -> Finding {
    Finding {
        mood: Mood::Bad,
        what: what.into(),
        text: e.message.clone(),
        hint: e.hint.clone(),
    }
}

/// Machines have to get the agent from somewhere.
fn agent(session: &Session, name: ProviderName) -> Finding {
    if name == ProviderName::Local {
        return match session.agent() {
            Ok(path) => Finding::new(Mood::Good, "agent", path.display().to_string()),
            Err(e) => failed("agent", &e),
        };
    }
    let settings = match session.load(&super::cli::UpArgs::default()) {
        Ok(loaded) => loaded.settings,
        Err(e) => return failed("agent", &e),
    };
    match session.boot(&settings).download {
        Ok(download) => {
            let from: Vec<String> = download.mirrors.iter().map(ToString::to_string).collect();
            Finding::new(Mood::Good, "agent", format!("machines get it from {}", from.join(", ")))
        }
        Err(e) => failed("agent", &Error::new(Code::NotFound, e.message)),
    }
}

fn line(f: &Finding) -> String {
    let mark = match f.mood {
        Mood::Good => "✓",
        Mood::Fair => "!",
        Mood::Bad => "✗",
    };
    let mut lines = f.text.lines();
    let mut out = format!("  {mark} {:<13} {}\n", f.what, lines.next().unwrap_or_default());
    for more in lines {
        out += &format!("{:<18}{more}\n", "");
    }
    for (i, hint) in f.hint.iter().enumerate() {
        out += &format!("{:<18}{} {hint}\n", "", if i == 0 { "try:" } else { "    " });
    }
    out
}
