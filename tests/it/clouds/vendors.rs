//! The six emulated clouds as whoever makes machines of what they were asked for sees
//! them: how they are started, what a user sets, and what there is.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_tests::clouds::Emulator;
use herdsman_tests::home::Home;
use herdsman_tests::machines::cluster::{NAME, SCHEDULER};
use serde_json::{Map, Value, json};

use super::{aws, azure, openstack};

/// One of them.
#[derive(Debug)]
pub(super) struct Vendor {
    pub(super) name: &'static str,
    script: &'static str,
    /// What its machines' firmware says.
    pub(super) cloud: Cloud,
    /// What is set in `herdsman.toml` besides the provider.
    pub(super) settings: &'static str,
    /// Somebody who may do everything.
    keys: &'static [(&'static str, &'static str)],
}

const PRIVATE: &str = "[place]\nprivate = true\n";

pub(super) static AWS: Vendor = Vendor {
    name: "aws",
    script: "ec2.py",
    cloud: Cloud::Ec2,
    settings: "[place]\nprivate = true\nnetwork = \"lab\"\n[scheduler]\ntype = [\"t3.medium\"]\n\
               [[workers]]\ntype = [\"t3.large\"]\n",
    keys: &aws::KEYS,
};
pub(super) static AZURE: Vendor = Vendor {
    name: "azure",
    script: "resource_manager.py",
    cloud: Cloud::Azure,
    settings: "[place]\nprivate = true\nnetwork = \"lab/net\"\n",
    keys: &azure::KEYS,
};
pub(super) static DIGITALOCEAN: Vendor = Vendor {
    name: "digitalocean",
    script: "digitalocean.py",
    cloud: Cloud::DigitalOcean,
    settings: "",
    keys: &[super::digitalocean::VENDOR.token],
};
pub(super) static GCP: Vendor = Vendor {
    name: "gcp",
    script: "gcp.py",
    cloud: Cloud::Gce,
    settings: PRIVATE,
    keys: &[("GCE_METADATA_HOST", "127.0.0.1:1")],
};
pub(super) static HETZNER: Vendor = Vendor {
    name: "hetzner",
    script: "hetzner.py",
    cloud: Cloud::Hetzner,
    settings: "",
    keys: &[super::hetzner::VENDOR.token],
};
pub(super) static OPENSTACK: Vendor = Vendor {
    name: "openstack",
    script: "openstack.py",
    cloud: Cloud::OpenStack,
    settings: PRIVATE,
    keys: &openstack::KEYS,
};

/// A machine that a cloud was asked for.
#[derive(Clone, Debug)]
pub(super) struct Born {
    /// The vendor's number of it.
    pub(super) id: String,
    /// What the vendor's metadata service calls it.
    pub(super) name: String,
    pub(super) is_scheduler: bool,
    pub(super) address: Ipv4Addr,
    pub(super) user_data: String,
}

impl Vendor {
    /// An account whose machines will have these addresses, by node, where it is not the
    /// vendor that chooses them.
    pub(super) fn start(&self, address: impl Fn(&str) -> Ipv4Addr, workers: usize) -> Result<Option<Emulator>> {
        let Some(emulator) = Emulator::start(self.name, self.script, &[])? else {
            return Ok(None);
        };
        let nodes = std::iter::once(SCHEDULER.to_owned()).chain((0..workers).map(|n| format!("{NAME}-w{n}")));
        let pool: Map<String, Value> = nodes
            .map(|node| (node.clone(), address(&node).to_string().into()))
            .collect();
        match self.cloud {
            Cloud::Ec2 => {
                let network = json!({"name": "lab", "network": "10.99.0.0/16", "subnet": "10.99.1.0/24"});
                emulator.ask("network", &network)?
            }
            Cloud::Azure => {
                let network = json!({"group": "lab", "name": "net", "subnets": {"machines": "10.99.1.0/24"}});
                emulator.ask("network", &network)?
            }
            Cloud::Gce => emulator.ask("set", &json!({"addresses": pool}))?,
            Cloud::OpenStack => emulator.ask("addresses", &Value::Object(pool))?,
            Cloud::DigitalOcean | Cloud::Hetzner => emulator.ask("pool", &Value::Object(pool))?,
        };
        Ok(Some(emulator))
    }

    /// Tells a command where the account is, and whose it is.
    pub(super) fn dress(&self, command: &mut Command, emulator: &Emulator, home: &Home) -> Result<()> {
        let mut url = emulator.url();
        if self.cloud == Cloud::OpenStack {
            url += "/identity";
        }
        let endpoint = format!("HERDSMAN_{}_ENDPOINT", self.name.to_ascii_uppercase());
        command.env(endpoint, url).envs(self.keys.iter().copied());
        if self.cloud == Cloud::Gce {
            let key = home.path().join("key.json");
            std::fs::write(&key, emulator.ask("key", &Value::Null)?.to_string())?;
            command.env("GOOGLE_APPLICATION_CREDENTIALS", key);
        }
        Ok(())
    }

    /// Machines that have an address, and are not about to go.
    pub(super) fn machines(&self, emulator: &Emulator) -> Result<Vec<Born>> {
        let (question, told, list) = match self.cloud {
            Cloud::Ec2 | Cloud::Gce => ("instances", json!(true), "instances"),
            Cloud::OpenStack => ("there", json!(true), "servers"),
            _ => ("there", Value::Null, "machines"),
        };
        let all = emulator.ask(question, &told)?;
        let mut found = Vec::new();
        for m in all[list].as_array().context("no machines")? {
            let text = |key: &str| m[key].as_str().unwrap_or_default();
            let (id, name, address, ready) = match self.cloud {
                Cloud::Ec2 => ("id", "id", "address", text("state") == "running"),
                Cloud::Gce => ("name", "name", "address", text("status") == "RUNNING"),
                Cloud::OpenStack => ("id", "name", "address", m["deleting"] != true),
                Cloud::Azure => ("id", "computer", "private", true),
                Cloud::DigitalOcean | Cloud::Hetzner => ("id", "name", "private", true),
            };
            let Ok(address) = text(address).parse() else { continue };
            if !ready {
                continue;
            }
            let role = [&m["tags"], &m["labels"], &m["metadata"]];
            let is_scheduler = text(name) == SCHEDULER || role.iter().any(|r| r["herdsman-role"] == "scheduler");
            found.push(Born {
                id: m[id].as_str().map_or_else(|| m[id].to_string(), str::to_owned),
                name: text(name).to_owned(),
                is_scheduler,
                address,
                user_data: text("user_data").to_owned(),
            });
        }
        Ok(found)
    }

    /// Wants an account without anything of ours, and in which nothing comes any more.
    pub(super) fn is_empty(&self, emulator: &Emulator) -> Result<()> {
        let left = |all: &Value, kinds: &[&str]| -> Result<()> {
            for kind in kinds {
                ensure!(all[kind] == json!([]), "{kind} are left: {:#}", all[kind]);
            }
            Ok(())
        };
        match self.cloud {
            Cloud::Ec2 => {
                let mut all = emulator.ask("instances", &Value::Null)?;
                let machines = all["instances"].as_array_mut().context("no machines")?;
                machines.retain(|m| m["state"] != "terminated" && m["state"] != "shutting-down");
                left(&all, &["instances", "groups"])
            }
            Cloud::Gce => {
                let all = emulator.ask("instances", &Value::Null)?;
                ensure!(all["busy"] == 0, "something is still being done");
                left(&all, &["instances", "rules", "disks"])
            }
            Cloud::OpenStack => {
                let all = emulator.ask("there", &json!(false))?;
                left(&all, &["servers", "groups", "ports", "floating", "server_groups"])
            }
            Cloud::Azure => {
                let mut all = emulator.ask("there", &Value::Null)?;
                for kind in azure::KINDS {
                    // The user's own network.
                    let things = all[kind].as_array_mut().context(kind)?;
                    things.retain(|t| !["lab", "net"].contains(&t["name"].as_str().unwrap_or_default()));
                }
                left(&all, &azure::KINDS)
            }
            Cloud::DigitalOcean => left(
                &emulator.ask("there", &Value::Null)?,
                super::digitalocean::VENDOR.things,
            ),
            Cloud::Hetzner => left(&emulator.ask("there", &Value::Null)?, super::hetzner::VENDOR.things),
        }
    }

    /// The agent's data source of this vendor in cloud-init, as its last words name it.
    pub(super) fn source(&self) -> Result<&'static str> {
        match self.cloud {
            Cloud::Ec2 => Ok("DataSourceEc2Local"),
            Cloud::Gce => Ok("DataSourceGCELocal"),
            Cloud::Hetzner => Ok("DataSourceHetzner"),
            Cloud::OpenStack => Ok("DataSourceOpenStackLocal"),
            other => bail!("no machine with {other:?}'s firmware is booted yet"),
        }
    }
}
