//! The vendor's errors as ours. It has few codes, each little more than the status,
//! so that its words decide as well; where they are not known, the status does.

use herdsman_wire::Code;

use super::super::ProviderError;
use super::super::cloud::http::{Reply, Verdict};
use super::super::cloud::{error, limited};
use super::answers::Failure;

/// What the vendor calls it, and its words.
pub(super) fn of(reply: &Reply) -> (String, String) {
    let failure: Failure = serde_json::from_slice(&reply.body).unwrap_or_default();
    let words = if failure.message.is_empty() {
        &failure.error
    } else {
        &failure.message
    };
    (failure.id, limited(words))
}

/// What words say about another try, where they say more than the status.
pub(super) fn verdict(status: u16, words: &str) -> Option<Verdict> {
    let words = words.to_ascii_lowercase();
    // A droplet does one thing at a time.
    let busy = status == 422 && (words.contains("pending event") || words.contains("currently locked"));
    busy.then_some(Verdict::Refused(None))
}

/// Whether it speaks of too many droplets.
fn is_limit(words: &str) -> bool {
    words.contains("limit") && (words.contains("droplet") || words.contains("exceed") || words.contains("firewall"))
}

/// Whether it speaks of a place that is full.
fn is_full(words: &str) -> bool {
    [
        "capacity",
        "sold out",
        "currently unavailable",
        "not available in",
        "unavailable in",
        "currently restricted",
    ]
    .iter()
    .any(|w| words.contains(w))
}

/// An answer that is no success.
pub(super) fn explain(call: &str, reply: &Reply) -> ProviderError {
    let (id, words) = of(reply);
    let text = if id.is_empty() && words.is_empty() {
        format!("{call}: status {}: {}", reply.status, reply.text())
    } else {
        format!("{call}: {id}: {words}")
    };
    let e = |code| error(code, text.clone());
    let words = words.to_ascii_lowercase();
    match reply.status {
        401 => e(Code::Credentials)
            .with_hint("herdsman check digitalocean           says which token was found")
            .with_hint("https://cloud.digitalocean.com/account/api/tokens    makes another"),
        403 | 422 if is_limit(&words) => e(Code::Quota)
            .with_hint("https://cloud.digitalocean.com/account/team/droplet_limit_increase    ask for more")
            .with_hint("or fewer workers"),
        403 => e(Code::Permission)
            .with_hint("herdsman render iam --provider digitalocean    the scopes that are needed")
            .with_hint("herdsman check digitalocean           looks at all of them"),
        404 => e(Code::NotFound),
        409 => e(Code::Conflict),
        429 => e(Code::Rate),
        _ if is_full(&words) => e(Code::Capacity)
            .with_hint("give several: --type A --type B    are tried in order; or another --region")
            .with_hint("herdsman up … --retry-until-up         waits for it"),
        400 | 422 => e(Code::Usage),
        _ => e(Code::Provider),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            status,
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn each_kind_has_our_code() {
        for (status, id, words, ours) in [
            (401, "unauthorized", "Unable to authenticate you", Code::Credentials),
            (
                403,
                "forbidden",
                "You do not have access for the attempted action.",
                Code::Permission,
            ),
            (
                422,
                "unprocessable_entity",
                "creating this/these droplet(s) will exceed your droplet limit",
                Code::Quota,
            ),
            (
                422,
                "unprocessable_entity",
                "Size is not available in this region.",
                Code::Capacity,
            ),
            (
                422,
                "unprocessable_entity",
                "You specified an invalid image for Droplet creation.",
                Code::Usage,
            ),
            (
                404,
                "not_found",
                "The resource you were accessing could not be found.",
                Code::NotFound,
            ),
            (409, "conflict", "duplicate name", Code::Conflict),
            (429, "too_many_requests", "API Rate limit exceeded.", Code::Rate),
            (500, "server_error", "Unexpected server-side error", Code::Provider),
        ] {
            let e = explain(
                "POST /v2/droplets",
                &reply(status, &format!("{{\"id\":\"{id}\",\"message\":\"{words}\"}}")),
            );
            assert_eq!(e.code, ours, "{words}");
            assert!(e.message.contains(words));
        }
        assert!(explain("x", &reply(502, "<html>")).message.contains("status 502"));
        let other = reply(400, "{\"error\":\"invalid request\",\"root_causes\":[]}");
        assert!(explain("x", &other).message.contains("invalid request"));
    }

    #[test]
    fn a_droplet_that_is_busy_is_waited_for() {
        let busy = verdict(422, "Droplet already has a pending event.");
        assert_eq!(busy, Some(Verdict::Refused(None)));
        assert_eq!(verdict(422, "You specified an invalid image"), None);
        assert_eq!(verdict(404, "pending event"), None);
    }
}
