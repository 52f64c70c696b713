//! `herdsman allow`, `herdsman deny`: from where people reach a cluster.

use herdsman_wire::api::{Allow as Ask, Allowed};
use herdsman_wire::{ClusterName, Code};
use ipnet::IpNet;

use super::cli::{AllowArgs, DenyArgs, Output};
use super::context::Session;
use crate::config::Allow;
use crate::link::SOON;
use crate::ui::Error;

pub(super) async fn allow(session: &Session, args: &AllowArgs) -> Result<(), Error> {
    let ask = Ask {
        add: networks(&args.networks)?,
        me: args.networks.contains(&Allow::Me),
        ..Ask::default()
    };
    change(session, &args.name, &ask).await
}

pub(super) async fn deny(session: &Session, args: &DenyArgs) -> Result<(), Error> {
    if args.networks.contains(&Allow::Me) {
        return Err(Error::new(
            Code::Usage,
            "say which network: `me` would be the one that you need to undo it",
        ));
    }
    let ask = Ask {
        remove: networks(&args.networks)?,
        force: args.force,
        ..Ask::default()
    };
    change(session, &args.name, &ask).await
}

fn networks(list: &[Allow]) -> Result<Vec<IpNet>, Error> {
    if list.contains(&Allow::None) {
        return Err(Error::new(Code::Usage, "`none` is no network")
            .with_hint("herdsman deny NAME NETWORK          lets a network in no longer"));
    }
    let nets = list.iter().filter_map(|a| match a {
        Allow::Net(net) => Some(*net),
        Allow::Me | Allow::None => None,
    });
    Ok(nets.collect())
}

async fn change(session: &Session, name: &ClusterName, ask: &Ask) -> Result<(), Error> {
    let (_, access) = session.open(Some(name)).await?;
    let allowed: Allowed = access.link.post("/v1/allow", ask, SOON).await?;
    let printer = &session.printer;
    if printer.output() == Output::Json {
        return printer.json(&allowed);
    }
    printer.note(&format!("{name} lets in {}", listed(&allowed.allowed)));
    if !allowed.enforced {
        printer.warn(&format!(
            "the scheduler's machine of {name} has no packet filter of ours: whoever reaches its ports is asked for a \
             certificate only"
        ));
    }
    Ok(())
}

/// A list for people.
pub(super) fn listed(networks: &[IpNet]) -> String {
    if networks.is_empty() {
        return "nobody but its own nodes".into();
    }
    let list: Vec<String> = networks.iter().map(IpNet::to_string).collect();
    list.join(", ")
}
