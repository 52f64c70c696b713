//! Metadata services that answer as their vendors document it, and that can be made
//! to misbehave. A server is a few threads on a real socket; started on a thread that
//! is in a network namespace, it is in that namespace.

mod clouds;
mod http;
mod place;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use herdsman_agent::source::dmi::Cloud;

pub use clouds::base64;
pub use http::{Reply, Request};
pub use place::{Booted, LINK_LOCAL, Place, apart, firmware};

/// How a service misbehaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Answers with a status.
    Status(u16),
    /// Sends elsewhere.
    Redirect(String),
    /// Sends elsewhere, and a path of `/moved` and the old one is the same as the old.
    Moved,
    /// Accepts and says nothing.
    Hang,
    /// Closes the connection.
    Close,
    /// Sends what is no HTTP.
    NoHttp,
    /// Sends two megabytes.
    Huge,
    /// Sends a body without end, a byte at a time.
    Trickle,
    /// Ends the body before its announced length.
    Short,
}

/// What a service knows and does.
#[derive(Debug, Default)]
pub struct Facts {
    /// Answers by path, without a query.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Misbehaves so many times more.
    pub trouble: Option<(Trouble, usize)>,
    /// A token is good for so many requests; EC2 only.
    pub token_uses: Option<usize>,
    /// What was posted.
    pub posted: Vec<String>,
    /// All requests, method and path.
    pub log: Vec<String>,
    /// Who asked for a path.
    pub askers: Vec<(IpAddr, String)>,
    /// Answers to one machine alone, by its address; [`Facts::values`] are for the others.
    pub own: BTreeMap<IpAddr, BTreeMap<String, Vec<u8>>>,
    tokens: BTreeMap<String, usize>,
    version: u64,
}

impl Facts {
    /// The answer to a request.
    fn value(&self, request: &Request) -> Option<&Vec<u8>> {
        match request.peer.and_then(|p| self.own.get(&p)) {
            Some(own) => own.get(request.path()),
            None => self.values.get(request.path()),
        }
    }
}

/// A service that runs until it is dropped.
#[derive(Debug)]
pub struct Service {
    /// Where it is.
    pub address: SocketAddr,
    cloud: Option<Cloud>,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Shared {
    facts: Mutex<Facts>,
    changed: Condvar,
}

impl Shared {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// The service of a cloud on a loopback port; `None` is a plain web server.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(cloud: Option<Cloud>) -> Result<Self> {
        Self::start_at(cloud, "127.0.0.1:0".parse()?)
    }

    /// The same at an address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start_at(cloud: Option<Cloud>, at: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at)?;
        let service = Self {
            address: listener.local_addr()?,
            cloud,
            shared: Arc::default(),
            stop: Arc::default(),
        };
        let (shared, stop) = (service.shared.clone(), service.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    std::thread::spawn(move || serve(&stream, cloud, &shared, &stop));
                }
            }
        });
        Ok(service)
    }

    /// What it knows.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.shared.facts()
    }

    /// Sets an answer; who waits for a change is woken.
    pub fn set(&self, path: &str, value: impl Into<Vec<u8>>) {
        let mut facts = self.facts();
        facts.values.insert(path.to_owned(), value.into());
        facts.version += 1;
        drop(facts);
        self.shared.changed.notify_all();
    }

    /// Sets an answer to whoever asks from this address.
    pub fn set_for(&self, peer: IpAddr, path: &str, value: impl Into<Vec<u8>>) {
        let mut facts = self.facts();
        facts.own.entry(peer).or_default().insert(path.to_owned(), value.into());
        facts.version += 1;
        drop(facts);
        self.shared.changed.notify_all();
    }

    /// Whether a path was asked for from this address.
    #[must_use]
    pub fn was_asked_by(&self, peer: IpAddr, path: &str) -> bool {
        let facts = self.facts();
        facts.askers.iter().any(|(who, what)| *who == peer && what == path)
    }

    /// Sets the machine's user-data, as the cloud hands it out.
    pub fn set_user_data(&self, content: &[u8]) {
        if let Some(cloud) = self.cloud {
            self.set(clouds::user_data_path(cloud), clouds::user_data(cloud, content));
        }
    }

    /// Misbehaves for so many requests.
    pub fn trouble(&self, trouble: Trouble, times: usize) {
        self.facts().trouble = Some((trouble, times));
    }

    /// How many requests had this path.
    #[must_use]
    pub fn asked(&self, path: &str) -> usize {
        self.facts().log.iter().filter(|l| l.contains(path)).count()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn serve(stream: &TcpStream, cloud: Option<Cloud>, shared: &Shared, stop: &AtomicBool) {
    let Ok(Some(mut request)) = http::read(stream) else {
        return;
    };
    request.peer = stream.peer_addr().ok().map(|a| a.ip());
    let trouble = {
        let mut facts = shared.facts();
        if let Some(peer) = request.peer {
            facts.askers.push((peer, request.path().to_owned()));
        }
        facts.log.push(format!("{} {}", request.method, request.target));
        let trouble = facts.trouble.as_mut().filter(|(_, left)| *left > 0);
        trouble.map(|(trouble, left)| {
            *left -= 1;
            trouble.clone()
        })
    };
    let reply = match trouble {
        Some(Trouble::Moved) => match request.target.strip_prefix("/moved") {
            Some(target) => {
                request.target = target.to_owned();
                clouds::answer(cloud, &request, shared, stop)
            }
            None => Reply::Redirect(format!("/moved{}", request.target)),
        },
        Some(trouble) => Reply::from(trouble),
        None => clouds::answer(cloud, &request, shared, stop),
    };
    http::write(stream, &reply, stop);
}
