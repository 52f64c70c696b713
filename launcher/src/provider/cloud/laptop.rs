//! This computer as machines of a cloud see it, for firewalls that let only it in.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use herdsman_wire::Code;
use ipnet::IpNet;

use super::{Common, ProviderError, error};

use crate::config::vars::MY_ADDRESS as VARIABLE;

/// Services that answer with the caller's address and nothing else. The first that
/// answers is believed; a wrong answer opens our ports to one wrong address, which
/// has no certificate.
const SERVICES: [&str; 3] = [
    "https://checkip.amazonaws.com",
    "https://api.ipify.org",
    "https://ipv4.icanhazip.com",
];
/// Longest wait for one of them.
const SOON: Duration = Duration::from_secs(8);

/// Who is let in, found out once.
#[derive(Debug, Default)]
pub struct Laptop(Mutex<Option<IpAddr>>);

impl Laptop {
    /// What was found out so far.
    pub fn known(&self) -> Option<IpAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Networks that a firewall is to let in: those of the settings, and this
    /// computer where it is to be.
    ///
    /// # Errors
    /// `E-UNREACHABLE` when nobody says which address this computer has.
    pub async fn allowed(&self, common: &Common) -> Result<Vec<IpNet>, ProviderError> {
        let mut all = common.allow.clone();
        if common.allow_me {
            let me = match self.known() {
                Some(me) => me,
                None => find(common).await?,
            };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(me);
            all.push(me.into());
        }
        all.sort();
        all.dedup();
        Ok(all)
    }
}

async fn find(common: &Common) -> Result<IpAddr, ProviderError> {
    if let Some(named) = common.env.get(VARIABLE) {
        return named
            .parse()
            .map_err(|_| error(Code::Usage, format!("{VARIABLE} names {named:?}, which is no address")));
    }
    if common.private {
        // Inside of the network nobody translates addresses.
        if let Some(own) = super::super::towards(None) {
            return Ok(own);
        }
    }
    ask(&SERVICES).await.ok_or_else(|| {
        error(
            Code::Unreachable,
            "no service says with which address this computer is seen, so the firewall cannot be closed to all others",
        )
        .with_hint("name the network yourself: --allow 203.0.113.7/32")
        .with_hint(format!("or the address: export {VARIABLE}=203.0.113.7"))
    })
}

/// The first service's answer that is an address.
async fn ask(services: &[&str]) -> Option<IpAddr> {
    let client = super::http::plain().ok()?;
    let asked = services.iter().map(|service| {
        let request = client.get(*service).timeout(SOON).send();
        async move { request.await.ok()?.text().await.ok()?.trim().parse().ok() }
    });
    let answers = futures_util::stream::iter(asked).buffer_unordered(SERVICES.len());
    let mut answers = std::pin::pin!(answers.filter_map(std::future::ready));
    answers.next().await
}
