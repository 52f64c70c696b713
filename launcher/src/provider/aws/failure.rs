//! The vendor's errors (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>)
//! as ours.

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::http::{Reply, Verdict};
use super::super::cloud::{error, limited};

#[derive(Deserialize)]
struct Response {
    /// EC2 wraps its errors once more than the others.
    #[serde(rename = "Errors")]
    errors: Option<Errors>,
    #[serde(rename = "Error")]
    error: Option<One>,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(rename = "Error")]
    error: One,
}

#[derive(Deserialize)]
struct One {
    #[serde(rename = "Code", default)]
    code: String,
    #[serde(rename = "Message", default)]
    message: String,
}

#[derive(Deserialize)]
struct InJson {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// The vendor's code and words; empty where the answer has none.
pub(super) fn code_of(reply: &Reply) -> (String, String) {
    let text = String::from_utf8_lossy(&reply.body);
    if let Ok(r) = serde_json::from_str::<InJson>(&text) {
        let code = r.kind.rsplit('#').next().unwrap_or_default().to_owned();
        return (code, limited(&r.message));
    }
    let parsed = quick_xml::de::from_str::<Response>(&text).ok();
    let one = parsed.and_then(|r| r.errors.map(|e| e.error).or(r.error));
    one.map_or_else(Default::default, |o| (o.code, limited(&o.message)))
}

/// What codes say about another try, where they say more than the status.
pub(super) fn verdict(code: &str) -> Option<Verdict> {
    Some(match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "EC2ThrottledException"
        | "BandwidthLimitExceeded" => Verdict::Refused(None),
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" | "InternalServerError" => {
            Verdict::Broken(None)
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "UnrecognizedClientException" => {
            Verdict::Credentials
        }
        "RequestExpired" | "SignatureDoesNotMatch" | "AuthFailure" | "RequestTimeTooSkewed" => Verdict::Clock,
        // These come with 500 and 503, and do not pass by themselves.
        "InsufficientInstanceCapacity" | "InsufficientHostCapacity" | "InsufficientCapacity" => Verdict::Failed,
        _ => return None,
    })
}

/// Prefix by which [`is`] finds the vendor's code in an error.
fn head(action: &str, code: &str) -> String {
    format!("{action}: {code}")
}

/// Whether an error is this one of the vendor's.
pub(super) fn is(e: &ProviderError, code: &str) -> bool {
    let rest = e.message.split_once(": ").map(|(_, rest)| rest);
    rest.is_some_and(|r| r.strip_prefix(code).is_some_and(|r| r.is_empty() || r.starts_with(':')))
}

/// An answer that is no success.
pub(super) fn explain(action: &str, region: &str, reply: &Reply) -> ProviderError {
    let (vendors, words) = code_of(reply);
    if vendors.is_empty() {
        let text = format!("{action}: status {}: {}", reply.status, reply.text());
        return error(Code::Provider, text);
    }
    let text = format!("{}: {words}", head(action, &vendors));
    let e = |code| error(code, text.clone());
    match vendors.as_str() {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" | "OptInRequired" | "Blocked" => {
            e(Code::Permission)
                .with_hint(format!(
                    "herdsman render iam --provider aws    the policy that is needed; {action} is in it"
                ))
                .with_hint("herdsman check aws                    looks at all permissions")
        }
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "InvalidAccessKeyId" => e(Code::Credentials)
            .with_hint("aws sts get-caller-identity           shows whether the keys are good at all")
            .with_hint("herdsman check aws                    says which were found"),
        "ExpiredToken" | "ExpiredTokenException" => {
            e(Code::Credentials).with_hint("aws sso login                         or whatever gave them")
        }
        "RequestExpired" | "RequestTimeTooSkewed" => {
            e(Code::Clock).with_hint("timedatectl set-ntp true              sets this computer's clock")
        }
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "TooManyRequestsException" => e(Code::Rate),
        "InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientCapacity"
        | "SpotMaxPriceTooLow"
        | "InsufficientFreeAddressesInSubnet"
        | "Unsupported"
        | "UnfulfillableCapacity" => e(Code::Capacity)
            .with_hint("give several: --type A --type B --zone a --zone b    are tried in order")
            .with_hint("herdsman up … --retry-until-up         waits for it"),
        "VcpuLimitExceeded"
        | "InstanceLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "SecurityGroupLimitExceeded"
        | "RulesPerSecurityGroupLimitExceeded"
        | "AddressLimitExceeded"
        | "NetworkInterfaceLimitExceeded"
        | "PendingVerification" => e(Code::Quota)
            .with_hint(format!(
                "https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas    ask for more"
            ))
            .with_hint("or fewer or smaller workers, or another --region"),
        code if code.ends_with(".NotFound") || code.ends_with(".Malformed") || code.ends_with(".Unknown") => {
            e(Code::NotFound)
        }
        // What another of the vendor's services knows not: a profile.
        "NoSuchEntity" => e(Code::Usage),
        code if code.ends_with(".Duplicate") => e(Code::Conflict),
        code if code.starts_with("Invalid") || code.starts_with("Missing") || code == "VPCIdNotSpecified" => {
            e(Code::Usage)
        }
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

    fn ec2(code: &str) -> Reply {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code>\
             <Message>words &amp; more</Message></Error></Errors><RequestID>x</RequestID></Response>"
        );
        reply(400, &body)
    }

    #[test]
    fn codes_of_all_forms_are_found() {
        assert_eq!(code_of(&ec2("A.B")), ("A.B".into(), "words & more".into()));
        let sts = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                   <Code>ExpiredToken</Code><Message>m</Message></Error></ErrorResponse>";
        assert_eq!(code_of(&reply(403, sts)).0, "ExpiredToken");
        let json = "{\"__type\":\"com.amazon.coral#AccessDeniedException\",\"Message\":\"m\"}";
        assert_eq!(code_of(&reply(400, json)), ("AccessDeniedException".into(), "m".into()));
        assert_eq!(code_of(&reply(502, "<html>")), Default::default());
    }

    #[test]
    fn each_kind_has_our_code() {
        for (vendors, ours) in [
            ("UnauthorizedOperation", Code::Permission),
            ("AuthFailure", Code::Credentials),
            ("ExpiredToken", Code::Credentials),
            ("RequestExpired", Code::Clock),
            ("RequestLimitExceeded", Code::Rate),
            ("InsufficientInstanceCapacity", Code::Capacity),
            ("VcpuLimitExceeded", Code::Quota),
            ("InvalidGroup.Duplicate", Code::Conflict),
            ("InvalidInstanceID.NotFound", Code::NotFound),
            ("InvalidParameterValue", Code::Usage),
            ("Strange", Code::Provider),
        ] {
            let e = explain("RunInstances", "eu-west-1", &ec2(vendors));
            assert_eq!(e.code, ours, "{vendors}");
            assert!(is(&e, vendors) && !is(&e, "Other"), "{}", e.message);
            assert!(
                matches!(
                    ours,
                    Code::Provider | Code::Rate | Code::NotFound | Code::Usage | Code::Conflict
                ) || !e.hint.is_empty()
            );
        }
        assert!(!is(&explain("X", "r", &ec2("InvalidGroup.Duplicate")), "InvalidGroup"));
    }

    #[test]
    fn capacity_is_not_waited_for_but_throttling_is() {
        assert_eq!(verdict("InsufficientInstanceCapacity"), Some(Verdict::Failed));
        assert_eq!(verdict("RequestLimitExceeded"), Some(Verdict::Refused(None)));
        assert_eq!(verdict("Strange"), None);
    }
}
