//! Getting machines deleted, or saying honestly that only their owner can.

use futures_util::StreamExt as _;

use super::super::{Deleted, Machine, ProviderError};
use super::call::{self, Request, Verb};
use super::record::Stage;
use super::{DELETION, Manual};

/// Programs that run at the same time.
const AT_ONCE: usize = 8;

/// What became of a machine.
enum Fate {
    Deleted,
    Forgotten,
    Left(String),
}

impl Manual {
    pub(super) async fn delete_all(&self, machines: &[Machine]) -> Deleted {
        let one = |machine: Machine| async move {
            let fate = self.delete_one(&machine).await;
            (machine, fate)
        };
        let all: Vec<_> = machines.iter().cloned().map(one).collect();
        let mut report = Deleted::default();
        let mut fates = futures_util::stream::iter(all).buffered(AT_ONCE);
        while let Some((machine, fate)) = fates.next().await {
            let name = machine.node.to_string();
            match fate.unwrap_or_else(|e| Fate::Left(e.message)) {
                Fate::Deleted => report.deleted.push(name),
                Fate::Forgotten => report.forgotten.push(shown(&machine)),
                Fate::Left(why) => report.left.push((shown(&machine), why)),
            }
        }
        report
    }

    async fn delete_one(&self, machine: &Machine) -> Result<Fate, ProviderError> {
        let (id, node) = (&machine.cluster.id, &machine.node);
        // A damaged record is no reason to keep the machine.
        let record = self.layout.node(id, node).unwrap_or_default();
        if let Some(argv) = &self.programs(&machine.cluster).delete {
            let request = Request::of_machine(Verb::Delete, machine, record.as_ref());
            call::text(argv, &request, self.within(&machine.cluster, DELETION)).await?;
            self.layout.remove(id, node)?;
            return Ok(Fate::Deleted);
        }
        if self.settings.forget {
            self.layout.remove(id, node)?;
            return Ok(Fate::Forgotten);
        }
        self.layout.remove_user_data(id, node).or_else(ignore_damage)?;
        if let Some(mut record) = record {
            record.stage = Stage::Ended;
            self.layout.save(&record)?;
        }
        Ok(Fate::Left("only you can delete it: herdsman did not make it".into()))
    }
}

fn ignore_damage(e: ProviderError) -> Result<(), ProviderError> {
    match e.code {
        herdsman_wire::Code::Malformed | herdsman_wire::Code::Protocol => Ok(()),
        _ => Err(e),
    }
}

/// A machine as its owner may recognise it.
fn shown(machine: &Machine) -> String {
    let id = (machine.id != machine.node.as_str()).then(|| format!("id {}", machine.id));
    let address = machine.address.map(|a| a.to_string());
    let details: Vec<String> = id.into_iter().chain(address).collect();
    if details.is_empty() {
        machine.node.to_string()
    } else {
        format!("{} ({})", machine.node, details.join(", "))
    }
}
