//! Getting machines made: by the user's program, or by a person.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use herdsman_wire::{Code, Role};
use tokio::time::Instant;

use super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::call::{self, Created, Request};
use super::record::{Layout, Remembered, Stage, VERSION, address_file};
use super::{Manual, fail};

/// Programs that run at the same time.
const AT_ONCE: usize = 8;
/// How often the file with the scheduler's address is looked for.
const LOOK: Duration = Duration::from_millis(300);

impl Manual {
    /// Records and user-data, and what a person is to do where no program does it.
    pub(super) fn write_all(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
    ) -> Result<Vec<String>, ProviderError> {
        let by_program = self.programs(cluster).create.is_some();
        let mut todo = Vec::new();
        for spec in machines {
            let record = self.write(cluster, spec)?;
            if by_program || record.stage != Stage::Asked {
                continue;
            }
            todo.push(format!(
                "make a machine for {} with the user-data in {}",
                spec.node,
                record.user_data.display()
            ));
            if spec.role == Role::Scheduler && record.address.is_none() {
                todo.push(format!(
                    "then write its address into a file, so that workers can be told:\n  echo ADDRESS > {}\n  \
                     (a second address after it, if this computer reaches it by another)",
                    address_file(&record.user_data).display()
                ));
            }
        }
        Ok(todo)
    }

    fn write(&self, cluster: &ClusterRef, spec: &MachineSpec) -> Result<Remembered, ProviderError> {
        let known = self.layout.node(&cluster.id, &spec.node)?;
        if let Some(record) = known.filter(|r| r.stage != Stage::Asked) {
            return Ok(record);
        }
        let scheduler = spec.role == Role::Scheduler;
        let record = Remembered {
            version: VERSION,
            cluster: cluster.clone(),
            node: spec.node.clone(),
            role: spec.role,
            tags: spec.tags.clone(),
            stage: Stage::Asked,
            user_data: self.user_data_path(cluster, spec),
            id: None,
            address: self.settings.scheduler_address.filter(|_| scheduler),
            public: self.settings.public_address.filter(|_| scheduler),
        };
        self.layout.save(&record)?;
        Layout::write_user_data(&record, &spec.user_data)?;
        if scheduler {
            // One of an earlier cluster of this name.
            remove_if_there(&address_file(&record.user_data))?;
        }
        Ok(record)
    }

    fn user_data_path(&self, cluster: &ClusterRef, spec: &MachineSpec) -> PathBuf {
        match &self.settings.user_data_dir {
            Some(folder) => {
                let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
                folder.join(format!("{}.user-data", spec.node))
            }
            None => self.layout.of_node(&cluster.id, &spec.node).join("user-data"),
        }
    }

    pub(super) async fn create_all(
        &self,
        cluster: &ClusterRef,
        machines: &[MachineSpec],
    ) -> Vec<Result<Machine, ProviderError>> {
        let one = |spec: &MachineSpec| {
            let record = self.write(cluster, spec);
            async { self.create_one(record?).await }
        };
        futures_util::stream::iter(machines.iter().map(one).collect::<Vec<_>>())
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn create_one(&self, mut record: Remembered) -> Result<Machine, ProviderError> {
        if record.stage != Stage::Asked {
            return Ok(self.machine(&record, record.stage == Stage::Made));
        }
        if let Some(argv) = &self.programs(&record.cluster).create {
            let within = self.within(&record.cluster, self.settings.patience);
            let made: Created = call::json(argv, &Request::create(&record), within).await?;
            record.id = Some(made.id);
            record.address = made.address.or(record.address);
            record.public = made.public_address.or(record.public);
            if record.role == Role::Scheduler && record.address.is_none() {
                self.layout.save(&record)?;
                return Err(ProviderError {
                    hint: vec![
                        "answer {\"id\": …, \"address\": \"10.0.0.5\"} once it is known".into(),
                        "or set manual.scheduler_address".into(),
                    ],
                    ..fail(
                        Code::Provider,
                        format!("`create` for {} answered no address; workers need it", record.node),
                    )
                });
            }
        } else if record.role == Role::Scheduler && record.address.is_none() {
            let (address, public) = self.asked_address(&record).await?;
            record.address = Some(address);
            record.public = public.or(record.public);
        }
        record.stage = Stage::Made;
        self.layout.save(&record)?;
        Ok(self.machine(&record, true))
    }

    /// Waits for the address that a person writes into a file.
    async fn asked_address(&self, record: &Remembered) -> Result<(IpAddr, Option<IpAddr>), ProviderError> {
        let path = address_file(&record.user_data);
        let until = Instant::now() + self.settings.patience;
        let mut last = String::new();
        loop {
            let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
            match parse_addresses(&text) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(why) => {
                    if last != why {
                        tracing::warn!("{}: {why}", path.display());
                    }
                    last = why;
                }
            }
            if Instant::now() >= until {
                let why = if last.is_empty() {
                    String::new()
                } else {
                    format!(" ({last})")
                };
                return Err(ProviderError {
                    hint: vec![
                        format!("echo ADDRESS > {}     while `up` waits", path.display()),
                        "or give --scheduler-address, where it is known before the machine is made".into(),
                    ],
                    ..fail(
                        Code::Deadline,
                        format!(
                            "nobody said where {} is within {} s{why}",
                            record.node,
                            self.settings.patience.as_secs()
                        ),
                    )
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One or two addresses; nothing yet in a file that is being written.
fn parse_addresses(text: &str) -> Result<Option<(IpAddr, Option<IpAddr>)>, String> {
    if !text.ends_with('\n') {
        return Ok(None);
    }
    let address = |word: &str| word.parse::<IpAddr>().map_err(|_| format!("{word:?} is no IP address"));
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((address(one)?, None))),
        [one, public] => Ok(Some((address(one)?, Some(address(public)?)))),
        _ => Err("there are more than two words in it".into()),
    }
}

fn remove_if_there(path: &Path) -> Result<(), ProviderError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(fail(Code::Disk, format!("cannot remove {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_once_their_line_is_whole() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert_eq!(parse_addresses("10.0.0"), Ok(None));
        assert_eq!(parse_addresses("\n"), Ok(None));
        assert_eq!(parse_addresses("10.0.0.5\n"), Ok(Some((ip("10.0.0.5"), None))));
        assert_eq!(
            parse_addresses(" fd00::1 192.0.2.7 \n"),
            Ok(Some((ip("fd00::1"), Some(ip("192.0.2.7")))))
        );
        assert!(parse_addresses("example.org\n").unwrap_err().contains("example.org"));
        assert!(parse_addresses("10.0.0.1 10.0.0.2 10.0.0.3\n").is_err());
    }
}
