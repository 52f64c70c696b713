//! The services' errors as ours. Each has a form of its own: Nova
//! `{"badRequest": {"message", "code"}}`, Keystone `{"error": {"title", "message"}}`,
//! Neutron `{"NeutronError": {"type", "message"}}`, Glance a page for people.

use herdsman_wire::Code;
use serde_json::Value;

use super::super::ProviderError;
use super::super::cloud::http::{Call, Reply};
use super::super::cloud::{error, limited};

/// What kind of error an answer says it is, and its words.
pub(super) fn words(reply: &Reply) -> (String, String) {
    let text = String::from_utf8_lossy(&reply.body);
    let Ok(Value::Object(body)) = serde_json::from_str::<Value>(&text) else {
        return (String::new(), limited(&without_tags(&text)));
    };
    let of = |v: &Value, key: &str| v[key].as_str().map(limited);
    if let Some(first) = body.get("errors").and_then(|e| e.get(0)) {
        let kind = of(first, "code").unwrap_or_default();
        return (
            kind,
            of(first, "detail").or_else(|| of(first, "title")).unwrap_or_default(),
        );
    }
    if let Some((name, inner)) = body.iter().next().filter(|(_, v)| v.is_object()) {
        let kind = of(inner, "type").or_else(|| of(inner, "title"));
        return (
            kind.unwrap_or_else(|| name.clone()),
            of(inner, "message").unwrap_or_default(),
        );
    }
    if let Some((name, Value::String(words))) = body.iter().next().filter(|_| body.len() == 1) {
        return (name.clone(), limited(words));
    }
    let body = Value::Object(body);
    let message = of(&body, "message").unwrap_or_default();
    (of(&body, "title").unwrap_or_default(), limited(&without_tags(&message)))
}

/// A page's text.
fn without_tags(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match c {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                out.push(' ');
            }
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether an error is of this kind by the vendor's own name.
pub(super) fn is(e: &ProviderError, kind: &str) -> bool {
    e.message.contains(&format!(": {kind}: "))
}

/// The newest version that a service has, where it refused a newer one.
pub(super) fn newest_version(e: &ProviderError) -> Option<u32> {
    let rest = e.message.split("maximum is 2.").nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Whether nobody knows if the call was carried out.
pub(super) fn is_lost(e: &ProviderError) -> bool {
    e.retryable && matches!(e.code, Code::Provider | Code::Unreachable | Code::Deadline)
}

/// What a machine in error, or an answer, says of room: ours to try elsewhere.
fn no_room(words: &str) -> bool {
    [
        "No valid host",
        "Exhausted all hosts",
        "not enough hosts",
        "No more IP addresses",
        "Insufficient compute resources",
        "No available host",
    ]
    .iter()
    .any(|w| words.contains(w))
}

fn over_quota(kind: &str, words: &str) -> bool {
    kind == "OverQuota"
        || ["Quota exceeded", "quota exceeded", "exceeds quota", "exceeds allowed"]
            .iter()
            .any(|w| words.contains(w))
        || (words.contains("Maximum number of") && words.contains("exceeded"))
}

fn quota(text: String) -> ProviderError {
    error(Code::Quota, text)
        .with_hint("openstack limits show --absolute      shows what the project may have and has")
        .with_hint("fewer or smaller machines: --workers, --type")
}

/// What a machine that went into error says.
pub(super) fn of_machine(node: &str, words: &str) -> ProviderError {
    let words = limited(words);
    let text = format!("{node} was not made: {words}");
    if over_quota("", &words) {
        quota(text)
    } else if no_room(&words) {
        capacity(text)
    } else {
        error(Code::Provider, text)
    }
}

fn capacity(text: String) -> ProviderError {
    error(Code::Capacity, text)
        .with_hint("herdsman up … --zone A --zone B       tries zones in order")
        .with_hint("herdsman up … --type T1 --type T2     tries types in order")
}

/// An answer that is no success. `restricted` is whose credential it is, where that may
/// make only some calls: such a call is answered as if the token were wrong.
pub(super) fn explain(call: &Call, reply: &Reply, restricted: Option<&str>) -> ProviderError {
    let (kind, words) = words(reply);
    let kind = if kind.is_empty() {
        format!("status {}", reply.status)
    } else {
        kind
    };
    let text = format!("{}: {kind}: {words}", call.name);
    let policy = || {
        let path = call
            .url
            .split("://")
            .nth(1)
            .and_then(|u| u.split_once('/'))
            .map_or("", |(_, p)| p);
        let path = path.split('?').next().unwrap_or_default();
        let who = restricted.map(|r| format!("; {r}")).unwrap_or_default();
        error(Code::Permission, format!("{text} ({} /{path}{who})", call.method))
            .with_hint("herdsman render iam --provider openstack    the calls that are needed, as access rules")
            .with_hint("herdsman check openstack              looks at all of them")
    };
    match reply.status {
        401 if restricted.is_some() => policy(),
        401 => error(Code::Credentials, text)
            .with_hint("openstack token issue                 shows whether the credentials are good at all")
            .with_hint("herdsman check openstack              says which were found"),
        403 | 409 | 413 if over_quota(&kind, &words) => quota(text),
        _ if no_room(&words) => capacity(text),
        403 if words.contains("zero disk") => {
            error(Code::Usage, text).with_hint("herdsman up … --set openstack.boot_from_volume=true")
        }
        403 if words.contains("external network") => error(Code::Usage, text)
            .with_hint("herdsman up … --network N             names a network that machines may be on")
            .with_hint("openstack network list --internal     shows them"),
        403 => policy(),
        404 if kind == "ExternalGatewayForFloatingIPNotFound" => error(Code::Usage, text)
            .with_hint("openstack router add subnet R S       joins the subnet to a router with a gateway")
            .with_hint("herdsman up … --set openstack.floating_ip=none    where this computer reaches the subnet"),
        404 => error(Code::NotFound, text),
        409 => error(Code::Conflict, text),
        413 | 429 => error(Code::Rate, text),
        400..=499 => usage(&words, text),
        _ => ProviderError {
            retryable: true,
            ..error(Code::Provider, text)
        },
    }
}

fn usage(words: &str, text: String) -> ProviderError {
    let e = error(Code::Usage, text);
    if words.contains("key_name") || words.contains("keypair") || words.contains("Keypair") {
        return e.with_hint("openstack keypair list                shows the keys that there are");
    }
    if words.contains("availability zone") {
        return e.with_hint("openstack availability zone list      shows the zones that there are");
    }
    if words.contains("too small") {
        return e.with_hint("herdsman sizes openstack              shows larger types");
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> ProviderError {
        let reply = Reply {
            status,
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::copy_from_slice(body.as_bytes()),
        };
        explain(
            &Call::get("create server", "https://c.example/v2.1/servers?x=y"),
            &reply,
            None,
        )
    }

    #[test]
    fn each_service_is_understood() {
        for (status, body, code, words) in [
            (
                403,
                r#"{"forbidden": {"code": 403, "message": "Quota exceeded for cores: Requested 4, but already used 18 of 20 cores"}}"#,
                Code::Quota,
                "18 of 20",
            ),
            (
                409,
                r#"{"NeutronError": {"type": "OverQuota", "message": "Quota exceeded for resources: ['security_group'].", "detail": ""}}"#,
                Code::Quota,
                "security_group",
            ),
            (
                409,
                r#"{"NeutronError": {"type": "IpAddressGenerationFailure", "message": "No more IP addresses available on network x.", "detail": ""}}"#,
                Code::Capacity,
                "No more",
            ),
            (
                403,
                r#"{"forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api:servers:create to be performed."}}"#,
                Code::Permission,
                "(GET /v2.1/servers)",
            ),
            (
                401,
                r#"{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}"#,
                Code::Credentials,
                "Unauthorized",
            ),
            (
                400,
                r#"{"badRequest": {"code": 400, "message": "Invalid key_name provided."}}"#,
                Code::Usage,
                "key_name",
            ),
            (
                404,
                "<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1>No image found</body></html>",
                Code::NotFound,
                "No image found",
            ),
            (503, "", Code::Provider, "status 503"),
        ] {
            let e = told(status, body);
            assert_eq!(e.code, code, "{body}");
            assert!(e.message.contains(words), "{}", e.message);
        }
        assert!(is_lost(&told(502, "")) && !is_lost(&told(404, "{}")));
    }

    #[test]
    fn a_version_that_is_too_new_says_which_is_not() {
        let e = told(
            406,
            r#"{"computeFault": {"code": 406, "message": "Version 2.67 is not supported by the API. Minimum is 2.1 and maximum is 2.38."}}"#,
        );
        assert_eq!(newest_version(&e), Some(38));
        assert_eq!(newest_version(&told(400, "{}")), None);
    }

    #[test]
    fn a_machine_in_error_says_why() {
        let e = of_machine(
            "demo-w1",
            "No valid host was found. There are not enough hosts available.",
        );
        assert_eq!(e.code, Code::Capacity);
        let e = of_machine(
            "demo-w1",
            "Build of instance x aborted: Maximum number of ports exceeded",
        );
        assert_eq!(e.code, Code::Quota);
        assert_eq!(of_machine("demo-w1", "Image is broken").code, Code::Provider);
    }
}
