//! The vendor's errors as ours. They come in two forms: of a request
//! (<https://cloud.google.com/apis/design/errors>), and of an operation that went
//! wrong later, whose codes are words of their own.

use std::time::SystemTime;

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::http::{Call, Reply, Verdict, by_status};
use super::super::cloud::{error, limited};
use super::answers::OperationError;

/// Clocks further apart than this make tokens that are not taken.
const SKEW: i64 = 120;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    error: Body,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    message: String,
    status: String,
    errors: Vec<Reason>,
    details: Vec<Detail>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    reason: String,
}

/// What an answer says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// The most telling of the vendor's codes.
    reason: String,
    /// Its words.
    message: String,
}

fn said(reply: &Reply) -> Said {
    let body = serde_json::from_slice::<Answer>(&reply.body).unwrap_or_default().error;
    let telling = body.details.into_iter().map(|d| d.reason).find(|r| !r.is_empty());
    let first = body.errors.into_iter().map(|e| e.reason).find(|r| !r.is_empty());
    // Old services have short reasons, and new ones details; `forbidden` says nothing.
    let reason = match (telling, first) {
        (Some(d), Some(f)) if f == "forbidden" || f == "backendError" => d,
        (_, Some(f)) => f,
        (Some(d), None) => d,
        (None, None) => body.status,
    };
    Said {
        reason,
        message: limited(&body.message),
    }
}

/// What to do with an answer.
pub(super) fn verdict(reply: &Reply) -> Verdict {
    if reply.status < 300 {
        return Verdict::Fine;
    }
    match said(reply).reason.as_str() {
        // Too many calls in a minute, and too many bulk calls at once.
        "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" | "concurrentLimitExceeded" => {
            match by_status(reply) {
                Verdict::Broken(pause) | Verdict::Refused(pause) => Verdict::Refused(pause),
                _ => Verdict::Refused(None),
            }
        }
        // These come with 503, and do not pass by themselves.
        "insufficientCapacity" | "resourcePoolExhausted" => Verdict::Failed,
        _ => by_status(reply),
    }
}

/// Whether an error is this one of the vendor's.
pub(super) fn is(e: &ProviderError, reason: &str) -> bool {
    let rest = e.message.split_once(": ").map(|(_, rest)| rest);
    rest.is_some_and(|r| {
        r.strip_prefix(reason)
            .is_some_and(|r| r.is_empty() || r.starts_with(':'))
    })
}

/// An answer that is no success.
pub(super) fn explain(call: &Call, reply: &Reply) -> ProviderError {
    let Said { reason, message } = said(reply);
    if reason.is_empty() && message.is_empty() {
        let text = format!("{}: status {}: {}", call.name, reply.status, reply.text());
        return error(
            if reply.status == 401 {
                Code::Credentials
            } else {
                Code::Provider
            },
            text,
        );
    }
    let text = format!("{}: {reason}: {message}", call.name);
    if reply.status == 401 {
        return refused(text, reply);
    }
    if is_permission(&reason, reply.status, &message) {
        return permission(text, &reason, &message);
    }
    coded(&reason, text).unwrap_or_else(|text| match reply.status {
        400 | 412 => error(Code::Usage, text),
        404 => error(Code::NotFound, text),
        409 => error(Code::Conflict, text),
        429 => error(Code::Rate, text),
        _ => error(Code::Provider, text),
    })
}

/// An operation that went wrong.
pub(super) fn of_operation(action: &str, e: &OperationError, http: Option<u16>) -> ProviderError {
    let text = format!("{action}: {}: {}", e.code, limited(&e.message));
    if e.code == "PERMISSIONS_ERROR" || e.message.contains("constraints/") {
        return permission(text, &e.code, &e.message);
    }
    coded(&e.code, text).unwrap_or_else(|text| match http {
        Some(400) => error(Code::Usage, text),
        Some(403) => permission(text, &e.code, &e.message),
        Some(404) => error(Code::NotFound, text),
        Some(409) => error(Code::Conflict, text),
        _ => error(Code::Provider, text),
    })
}

/// An error by the vendor's code, or the text back where that says nothing.
fn coded(reason: &str, text: String) -> Result<ProviderError, String> {
    // With or without `_WITH_DETAILS`.
    let is_pool = reason.contains("RESOURCE_POOL_EXHAUSTED");
    Ok(match reason {
        _ if is_pool => capacity(text),
        "insufficientCapacity"
        | "resourcePoolExhausted"
        | "VM_MIN_COUNT_NOT_REACHED"
        | "STOCKOUT"
        | "IP_SPACE_EXHAUSTED"
        | "UNSUPPORTED_MACHINE_TYPE_IN_ZONE" => capacity(text),
        "quotaExceeded"
        | "QUOTA_EXCEEDED"
        | "limitExceeded"
        | "LIMIT_EXCEEDED"
        | "RESOURCE_QUOTA_EXCEEDED"
        | "QUOTA_FOR_INSTANCES_EXCEEDED" => error(Code::Quota, text)
            .with_hint("https://console.cloud.google.com/iam-admin/quotas      ask for more (usually minutes)")
            .with_hint("or fewer or smaller workers, or another --region"),
        "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" | "concurrentLimitExceeded" => {
            error(Code::Rate, text)
        }
        "alreadyExists" | "RESOURCE_ALREADY_EXISTS" => error(Code::Conflict, text),
        "notFound" | "RESOURCE_NOT_FOUND" => error(Code::NotFound, text),
        "INVALID_FIELD_VALUE" | "INVALID_USAGE" | "UNSUPPORTED_OPERATION" | "invalid" | "required" => {
            error(Code::Usage, text)
        }
        _ => return Err(text),
    })
}

fn capacity(text: String) -> ProviderError {
    error(Code::Capacity, text)
        .with_hint("give several: --type A --type B --zone a --zone b    are tried in order")
        .with_hint("herdsman up … --retry-until-up         waits for it")
}

fn is_permission(reason: &str, status: u16, message: &str) -> bool {
    // A rule of the organization comes as a condition that is not met.
    if status == 412 && message.contains("constraints/") {
        return true;
    }
    status == 403
        && !matches!(
            reason,
            "quotaExceeded" | "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" | "limitExceeded"
        )
}

fn permission(text: String, reason: &str, message: &str) -> ProviderError {
    let e = error(Code::Permission, text);
    let service = message
        .split([' ', '/', '?', '\'', '"'])
        .find(|w| w.ends_with(".googleapis.com"))
        .unwrap_or("compute.googleapis.com");
    match reason {
        "accessNotConfigured" | "SERVICE_DISABLED" => e.with_hint(format!(
            "gcloud services enable {service}      turns the API on (some minutes)"
        )),
        "BILLING_DISABLED" | "billingNotEnabled" => {
            e.with_hint("https://console.cloud.google.com/billing/linkedaccount      links an account to the project")
        }
        _ if message.contains("compute.vmExternalIpAccess") => {
            e.with_hint("herdsman up … --private                machines without public addresses")
        }
        _ => {
            let name = permission_in(message).map_or_else(String::new, |p| format!("; {p} is in it"));
            e.with_hint(format!(
                "herdsman render iam --provider gcp    the role that is needed{name}"
            ))
            .with_hint("herdsman check gcp                    looks at all permissions")
        }
    }
}

/// `Required 'compute.instances.create' permission for …`
fn permission_in(message: &str) -> Option<&str> {
    let inside = message.split(['\'', '"']).nth(1)?;
    (inside.split('.').count() == 3 && !inside.contains([' ', '/'])).then_some(inside)
}

fn refused(text: String, reply: &Reply) -> ProviderError {
    let apart = reply.header("date").and_then(seconds_of).map_or(0, |theirs| {
        let ours = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        theirs - i64::try_from(ours.as_secs()).unwrap_or(i64::MAX)
    });
    if apart.abs() > SKEW {
        return error(
            Code::Clock,
            format!(
                "{text} (this computer's clock is {}s off, so its tokens are not taken)",
                apart.abs()
            ),
        )
        .with_hint("timedatectl set-ntp true              sets this computer's clock");
    }
    error(Code::Credentials, text)
        .with_hint("gcloud auth application-default login             makes new ones")
        .with_hint("herdsman check gcp                                says which were found")
}

fn seconds_of(date: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let parsed = parser.parse_timestamp(date.replace("GMT", "+0000")).ok()?;
    Some(parsed.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, reason: &str, message: &str) -> Reply {
        let body = serde_json::json!({"error": {
            "code": status, "message": message,
            "errors": [{"message": message, "domain": "global", "reason": reason}],
        }});
        raw(status, &body.to_string())
    }

    fn raw(status: u16, body: &str) -> Reply {
        Reply {
            status,
            headers: http::HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    fn explained(reply: &Reply) -> ProviderError {
        explain(&Call::get("instances.insert", "https://x"), reply)
    }

    #[test]
    fn each_kind_of_answer_has_our_code() {
        for (status, reason, ours) in [
            (400, "invalid", Code::Usage),
            (401, "authError", Code::Credentials),
            (403, "forbidden", Code::Permission),
            (403, "quotaExceeded", Code::Quota),
            (403, "rateLimitExceeded", Code::Rate),
            (404, "notFound", Code::NotFound),
            (409, "alreadyExists", Code::Conflict),
            (503, "insufficientCapacity", Code::Capacity),
            (500, "backendError", Code::Provider),
        ] {
            let e = explained(&reply(status, reason, "words"));
            assert_eq!(e.code, ours, "{reason}");
            assert!(is(&e, reason) && !is(&e, "other"), "{}", e.message);
        }
        assert_eq!(explained(&raw(502, "<html>")).code, Code::Provider);
        assert_eq!(explained(&raw(401, "")).code, Code::Credentials);
    }

    #[test]
    fn what_is_missing_is_named() {
        let words = "Required 'compute.firewalls.create' permission for 'projects/p/global/firewalls/f'";
        let e = explained(&reply(403, "forbidden", words));
        assert!(e.hint[0].contains("compute.firewalls.create is in it"), "{:?}", e.hint);
        let off = r#"{"error": {"code": 403, "status": "PERMISSION_DENIED",
            "message": "Compute Engine API has not been used in project 1 before or it is disabled. Enable it by visiting https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project=1 then retry.",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"}]}}"#;
        let e = explained(&raw(403, off));
        assert_eq!(e.code, Code::Permission);
        assert!(
            e.hint[0].contains("gcloud services enable compute.googleapis.com"),
            "{:?}",
            e.hint
        );
        let rule = "Constraint constraints/compute.vmExternalIpAccess violated for project 1.";
        let e = explained(&reply(412, "conditionNotMet", rule));
        assert!(e.code == Code::Permission && e.hint[0].contains("--private"), "{e:?}");
    }

    #[test]
    fn each_kind_of_operation_has_our_code() {
        for (code, http, ours) in [
            ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, Code::Capacity),
            ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 503, Code::Capacity),
            ("VM_MIN_COUNT_NOT_REACHED", 400, Code::Capacity),
            ("QUOTA_EXCEEDED", 403, Code::Quota),
            ("RESOURCE_ALREADY_EXISTS", 409, Code::Conflict),
            ("PERMISSIONS_ERROR", 403, Code::Permission),
            ("STRANGE", 500, Code::Provider),
        ] {
            let e = OperationError {
                code: code.into(),
                message: "m".into(),
            };
            assert_eq!(of_operation("instances.insert", &e, Some(http)).code, ours, "{code}");
        }
    }

    #[test]
    fn limits_are_waited_for_and_capacity_is_not() {
        assert_eq!(verdict(&reply(403, "rateLimitExceeded", "")), Verdict::Refused(None));
        assert_eq!(verdict(&reply(503, "insufficientCapacity", "")), Verdict::Failed);
        assert_eq!(verdict(&reply(503, "backendError", "")), Verdict::Broken(None));
        assert_eq!(verdict(&reply(403, "forbidden", "")), Verdict::Failed);
    }

    #[test]
    fn a_wrong_clock_is_told_from_wrong_credentials() {
        let mut r = reply(401, "authError", "Invalid Credentials");
        r.headers
            .insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        assert_eq!(explained(&r).code, Code::Clock);
    }
}
