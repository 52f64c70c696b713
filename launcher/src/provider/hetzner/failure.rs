//! The vendor's errors (<https://docs.hetzner.cloud/reference/cloud#errors>) as ours.

use herdsman_wire::Code;

use super::super::ProviderError;
use super::super::cloud::http::{Reply, Verdict};
use super::super::cloud::{error, limited};
use super::answers::{Action, Failure, Refused};

/// The vendor's code and words; empty where the answer has none.
pub(super) fn of(reply: &Reply) -> Failure {
    serde_json::from_slice::<Refused>(&reply.body)
        .map(|r| r.error)
        .unwrap_or_default()
}

/// What codes say about another try, where they say more than the status.
pub(super) fn verdict(code: &str) -> Option<Verdict> {
    Some(match code {
        "conflict" | "locked" => Verdict::Refused(None),
        "service_error" | "server_error" | "timeout" | "bad_gateway" | "maintenance" | "unavailable" => {
            Verdict::Broken(None)
        }
        // These come with 409, 412 and 503, and do not pass by themselves.
        "resource_unavailable" | "placement_error" | "no_space_left_in_location" => Verdict::Failed,
        _ => return None,
    })
}

/// Whether an error is this one of the vendor's.
pub(super) fn is(e: &ProviderError, code: &str) -> bool {
    e.message.contains(&format!(": {code}: "))
}

/// An answer that is no success.
pub(super) fn explain(call: &str, reply: &Reply) -> ProviderError {
    let failure = of(reply);
    if failure.code.is_empty() {
        let text = format!("{call}: status {}: {}", reply.status, reply.text());
        let code = match reply.status {
            401 => Code::Credentials,
            403 => Code::Permission,
            404 => Code::NotFound,
            429 => Code::Rate,
            _ => Code::Provider,
        };
        return error(code, text);
    }
    known(call, &failure)
}

/// An action that failed.
pub(super) fn of_action(action: &Action) -> ProviderError {
    let failure = action.error.clone().unwrap_or_default();
    known(&format!("action {}", action.command), &failure)
}

fn known(call: &str, failure: &Failure) -> ProviderError {
    let text = format!("{call}: {}: {}", failure.code, limited(&failure.message));
    let e = |code| error(code, text.clone());
    match failure.code.as_str() {
        "unauthorized" => e(Code::Credentials)
            .with_hint("herdsman check hetzner                says which token was found")
            .with_hint("export HCLOUD_TOKEN=…                 a token of the project"),
        "forbidden" | "token_readonly" => {
            e(Code::Permission).with_hint("herdsman render iam --provider hetzner    what the token has to be allowed")
        }
        // A network takes 100 machines.
        "no_subnet_available" => e(Code::Quota).with_hint("fewer workers, or --network with a larger one"),
        "resource_limit_exceeded" => e(Code::Quota)
            .with_hint("https://console.hetzner.com           the project's limits: ask for more")
            .with_hint("or fewer or smaller workers"),
        "resource_unavailable" | "placement_error" | "no_space_left_in_location" => e(Code::Capacity)
            .with_hint("give several: --type A --type B --zone fsn1 --zone nbg1    are tried in order")
            .with_hint("herdsman up … --retry-until-up         waits for it"),
        "rate_limit_exceeded" => e(Code::Rate),
        "uniqueness_error" => e(Code::Conflict),
        "not_found" => e(Code::NotFound),
        "invalid_input"
        | "invalid_server_type"
        | "json_error"
        | "unsupported_error"
        | "incompatible_network_type"
        | "networks_overlap"
        | "private_net_only_server" => e(Code::Usage),
        "protected" => e(Code::Forbidden).with_hint("hcloud server disable-protection NAME delete    lets it go"),
        _ => e(Code::Provider),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, code: &str) -> Reply {
        Reply {
            status,
            headers: http::HeaderMap::new(),
            body: format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"wo\\nrds\",\"details\":null}}}}").into(),
        }
    }

    #[test]
    fn each_kind_has_our_code() {
        for (status, vendors, ours) in [
            (401, "unauthorized", Code::Credentials),
            (403, "forbidden", Code::Permission),
            (403, "token_readonly", Code::Permission),
            (403, "resource_limit_exceeded", Code::Quota),
            (412, "resource_unavailable", Code::Capacity),
            (429, "rate_limit_exceeded", Code::Rate),
            (409, "uniqueness_error", Code::Conflict),
            (404, "not_found", Code::NotFound),
            (400, "invalid_input", Code::Usage),
            (500, "strange", Code::Provider),
        ] {
            let e = explain("POST /servers", &reply(status, vendors));
            assert_eq!(e.code, ours, "{vendors}");
            assert!(is(&e, vendors) && !is(&e, "other"), "{}", e.message);
            assert!(!e.message.contains('\n'));
        }
        let page = Reply {
            body: "<html>".into(),
            ..reply(502, "x")
        };
        assert!(explain("GET /servers", &page).message.contains("status 502"));
    }

    #[test]
    fn what_does_not_pass_by_itself_is_not_waited_for() {
        assert_eq!(verdict("resource_unavailable"), Some(Verdict::Failed));
        assert_eq!(verdict("locked"), Some(Verdict::Refused(None)));
        assert_eq!(verdict("invalid_input"), None);
    }
}
