//! What the hub says to a node, and what a node does about it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use herdsman_wire::report::PhaseName;
use herdsman_wire::session::{self, Command, Down, StreamRequest, Up};
use herdsman_wire::{ApiError, Timestamp};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::input::Io;
use super::{Driver, Input, Side};
use crate::dask::supervisor::Control;
use crate::firewall::Ports;
use crate::node::session::News;
use crate::node::stream;

impl Driver {
    pub(super) fn on_session(&mut self, news: News) {
        match news {
            News::Connected => {
                if let Side::Worker(worker) = &mut self.side {
                    worker.connected = true;
                    worker.alone_since = None;
                }
            }
            News::Disconnected(e) => {
                tracing::info!("session with the hub: {}", e.message);
                if let Side::Worker(worker) = &mut self.side {
                    worker.connected = false;
                    worker.alone_since.get_or_insert_with(Instant::now);
                }
                if e.code == herdsman_wire::Code::Revoked {
                    self.stop_revoked();
                }
            }
            News::Down(down) => self.on_down(down),
        }
    }

    pub(super) fn on_down(&mut self, down: Down) {
        match down {
            Down::Seen => {}
            Down::Crl { number, pem } => {
                if number < self.crl {
                    return;
                }
                match self.store.write_crl(&pem) {
                    Ok(()) => {
                        self.crl = number;
                        self.dask.revoke(revoked_serials(&pem));
                    }
                    Err(e) => tracing::error!("the CRL cannot be written: {e}"),
                }
            }
            Down::Members(members) => {
                let members: BTreeSet<IpAddr> = members.into_iter().collect();
                let gone = self.members.difference(&members).copied().collect();
                self.members = members;
                self.on_members();
                self.cut(gone);
            }
            Down::MembersChanged { joined, left } => {
                self.members.retain(|m| !left.contains(m));
                self.members.extend(joined);
                self.on_members();
                self.cut(left);
            }
            Down::Registered(true) => self.on_registered(),
            Down::Registered(false) => self.on_unregistered(),
            Down::MayLeave => self.on_may_leave(),
            Down::Command { id, command } => self.obey(id, command),
        }
    }

    /// Cuts off who is no member any more.
    fn cut(&self, mut gone: Vec<IpAddr>) {
        // Without the scheduler there is no cluster: whatever a list says, it is
        // never cut off.
        let scheduler = self.identity.as_ref().map(|i| i.issued.scheduler.ip());
        gone.retain(|m| Some(*m) != scheduler);
        crate::firewall::cut(&gone, &Ports::of(&self.spec().dask));
    }

    fn on_registered(&mut self) {
        self.dask.control(Control::Running);
        self.dask_runs();
        if self.phases.done(PhaseName::Dask, Timestamp::now()) {
            tracing::info!("registered at the scheduler");
        }
    }

    fn on_unregistered(&mut self) {
        if self.end.has_begun() {
            return;
        }
        let now = Timestamp::now();
        self.phases
            .start(PhaseName::Dask, now, Some(super::dask_side::DASK_WITHIN));
        self.phases.detail(PhaseName::Dask, "its worker left the scheduler");
    }

    fn obey(&mut self, id: u64, command: Command) {
        match command {
            Command::Stop { why } => {
                self.answer(id, None);
                if why == session::REVOKED {
                    self.stop_revoked();
                } else {
                    self.on_stop(&why);
                }
            }
            Command::RestartDask => {
                tracing::info!("told to start Dask anew");
                self.dask.control(Control::Restart(None));
                self.answer(id, None);
            }
            Command::Renew => {
                self.renew_soon();
                self.answer(id, None);
            }
            Command::Environment { id: environment } => {
                self.change_environment(environment);
                self.answer(id, None);
            }
            Command::Upgrade { sha256 } => self.upgrade(id, sha256),
            // The hub itself keeps time; a node only shows what it is told.
            Command::Limits(_) => self.answer(id, None),
            Command::Stream { token, stream } => {
                let Side::Worker(worker) = &self.side else { return };
                let Some(client) = worker.client() else { return };
                let inputs = self.inputs.clone();
                tokio::spawn(async move {
                    match client.upgrade(&format!("/v1/stream/{token}"), "herdsman-stream").await {
                        Ok(io) => {
                            let _ = inputs.send(Input::Stream(stream, Box::new(io))).await;
                        }
                        Err(e) => tracing::warn!("a stream for the hub: {}", e.message),
                    }
                });
            }
        }
    }

    pub(super) fn answer(&mut self, id: u64, error: Option<ApiError>) {
        match &mut self.side {
            // 0 asks for no answer.
            _ if id == 0 => {}
            Side::Worker(worker) => {
                worker.up(Up::Done { id, error });
            }
            Side::Hub(side) => {
                if let Some(hub) = side.hub() {
                    hub.done(id, error);
                }
            }
        }
    }

    pub(super) fn serve_stream(&self, request: StreamRequest, mut io: Box<dyn Io>) {
        match request {
            StreamRequest::Exec { argv } => {
                let settings = self.dask.exec_settings(&self.join, &self.spec());
                tokio::spawn(async move { stream::exec(io, &argv, &settings).await });
            }
            StreamRequest::Logs(query) => {
                let mut lines = self.logs.follow(&query);
                tokio::spawn(async move {
                    // The reader's end is noticed while there is nothing to write.
                    let mut nothing = [0; 16];
                    loop {
                        let line = tokio::select! {
                            line = lines.recv() => line,
                            n = tokio::io::AsyncReadExt::read(&mut io, &mut nothing) => match n {
                                Ok(0) | Err(_) => return,
                                Ok(_) => continue,
                            },
                        };
                        let Some(line) = line else { break };
                        if write_line(&mut io, &line).await.is_err() {
                            return;
                        }
                    }
                    let _ = io.shutdown().await;
                });
            }
        }
    }
}

/// Serials on all CRLs of a bundle, lower-case hex. What does not parse has no
/// serials: Dask refuses such a bundle by itself.
fn revoked_serials(pem: &str) -> Vec<String> {
    use x509_parser::prelude::{CertificateRevocationList, FromDer, Pem};
    let mut serials = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()).flatten() {
        if let Ok((_, crl)) = CertificateRevocationList::from_der(&block.contents) {
            serials.extend(crl.iter_revoked_certificates().map(|c| {
                c.raw_serial()
                    .iter()
                    .fold(String::new(), |s, b| s + &format!("{b:02x}"))
            }));
        }
    }
    serials.sort();
    serials.dedup();
    serials
}

async fn write_line(io: &mut Box<dyn Io>, line: &herdsman_wire::report::LogLine) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    io.write_all(&text).await?;
    io.flush().await
}
