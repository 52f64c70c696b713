//! What each vendor's service asks for and answers, as documented; the sources are
//! named in the agent's `source/*.rs` and `notice/*.rs`, from whose text this is kept
//! apart on purpose.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use herdsman_agent::source::dmi::Cloud;

use super::{Facts, Reply, Request, Shared};

pub(super) const fn user_data_path(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::Azure => "/metadata/instance/compute/userData",
        Cloud::DigitalOcean => "/metadata/v1/user-data",
        Cloud::Ec2 => "/latest/user-data",
        Cloud::Gce => "/computeMetadata/v1/instance/attributes/user-data",
        Cloud::Hetzner => "/hetzner/v1/userdata",
        Cloud::OpenStack => "/openstack/latest/user_data",
    }
}

/// Azure hands user data out in base64, the others as it is.
pub(super) fn user_data(cloud: Cloud, content: &[u8]) -> Vec<u8> {
    match cloud {
        Cloud::Azure => base64(content).into_bytes(),
        _ => content.to_vec(),
    }
}

/// RFC 4648, section 4.
#[must_use]
pub fn base64(content: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in content.chunks(3) {
        let mut bits = 0_usize;
        for i in 0..3 {
            bits = bits << 8 | usize::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..4 {
            let letter = ALPHABET[bits >> (18 - 6 * i) & 63];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

pub(super) fn answer(cloud: Option<Cloud>, request: &Request, shared: &Shared, stop: &AtomicBool) -> Reply {
    let mut facts = shared.facts();
    match cloud {
        Some(Cloud::Ec2) => ec2(request, &mut facts),
        Some(Cloud::Gce) => {
            drop(facts);
            gce(request, shared, stop)
        }
        Some(Cloud::Azure) => azure(request, &mut facts),
        _ if request.method != "GET" => status(405),
        _ => value(request, &facts),
    }
}

const fn status(status: u16) -> Reply {
    Reply::Answer(status, Vec::new(), Vec::new())
}

fn value(request: &Request, facts: &Facts) -> Reply {
    match facts.value(request) {
        Some(value) => Reply::Answer(200, Vec::new(), value.clone()),
        None => status(404),
    }
}

fn ec2(request: &Request, facts: &mut Facts) -> Reply {
    // Against proxies that are open by mistake.
    if request.headers.contains_key("x-forwarded-for") {
        return status(403);
    }
    if request.path() == "/latest/api/token" {
        let life = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds");
        return match (request.method.as_str(), life.and_then(|l| l.parse::<u32>().ok())) {
            ("PUT", Some(1..=21600)) => {
                let token = format!("AQAEA{:08}==", facts.log.len());
                facts
                    .tokens
                    .insert(token.clone(), facts.token_uses.unwrap_or(usize::MAX));
                Reply::Answer(200, Vec::new(), token.into_bytes())
            }
            ("PUT", _) => status(400),
            _ => status(405),
        };
    }
    let token = request.headers.get("x-aws-ec2-metadata-token");
    match token.and_then(|t| facts.tokens.get_mut(t)) {
        Some(0) | None => status(401),
        Some(uses) => {
            *uses -= 1;
            value(request, facts)
        }
    }
}

fn gce(request: &Request, shared: &Shared, stop: &AtomicBool) -> Reply {
    let asked = request.headers.get("metadata-flavor").map(String::as_str);
    if asked != Some("Google") || request.headers.contains_key("x-forwarded-for") {
        return status(403);
    }
    let flavor = ("Metadata-Flavor", "Google".to_owned());
    let started = Instant::now();
    let wait = request
        .query("timeout_sec")
        .and_then(|t| t.parse().ok())
        .unwrap_or(3600);
    let mut facts = shared.facts();
    loop {
        let Some(value) = facts.value(request).cloned() else {
            return Reply::Answer(404, vec![flavor], Vec::new());
        };
        let etag = format!(
            "{:016x}",
            value.iter().fold(7_u64, |h, b| h.wrapping_mul(31) + u64::from(*b))
        );
        let waits = request.query("wait_for_change") == Some("true") && request.query("last_etag") == Some(&etag);
        let over = started.elapsed() > Duration::from_secs(wait) || stop.load(Ordering::Relaxed);
        if !waits || over {
            return Reply::Answer(200, vec![flavor, ("ETag", etag)], value);
        }
        let woken = shared.changed.wait_timeout(facts, Duration::from_millis(200));
        facts = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn azure(request: &Request, facts: &mut Facts) -> Reply {
    if request.headers.get("metadata").map(String::as_str) != Some("true") {
        return status(400);
    }
    if request.headers.contains_key("x-forwarded-for") || request.query("api-version").is_none() {
        return status(400);
    }
    match (request.method.as_str(), request.path()) {
        ("POST", "/metadata/scheduledevents") => {
            facts.posted.push(String::from_utf8_lossy(&request.body).into_owned());
            status(200)
        }
        ("GET", "/metadata/scheduledevents") if !facts.values.contains_key(request.path()) => {
            let none = b"{\"DocumentIncarnation\": 1, \"Events\": []}";
            Reply::Answer(200, Vec::new(), none.to_vec())
        }
        ("GET", "/metadata/instance/compute/tagsList") if !facts.values.contains_key(request.path()) => {
            Reply::Answer(200, Vec::new(), b"[]".to_vec())
        }
        // Every machine has these two, be they empty.
        ("GET", "/metadata/instance/compute/userData") if !facts.values.contains_key(request.path()) => status(200),
        ("GET", path) if path.starts_with("/metadata/instance/compute/") => {
            // Leaves are text only where it is asked for, except lists.
            let is_list = path.ends_with("List");
            match request.query("format") {
                Some("text") if !is_list => value(request, facts),
                None | Some("json") if is_list => value(request, facts),
                _ => status(400),
            }
        }
        ("GET", _) => value(request, facts),
        _ => status(405),
    }
}
