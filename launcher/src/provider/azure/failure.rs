//! The vendor's errors
//! (<https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors>)
//! as ours. They come in one form from answers and from operations that went wrong
//! later.

use herdsman_wire::Code;
use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::http::{Call, Reply, Verdict, by_status};
use super::super::cloud::{error, limited};
use super::answers::Failure;

#[derive(Deserialize)]
struct Answer {
    error: Failure,
}

/// What an answer says. The compute service tells more of a failure in a detail.
fn said(reply: &Reply) -> Failure {
    let parsed: Option<Answer> = serde_json::from_slice(&reply.body).ok();
    telling(parsed.map(|a| a.error).unwrap_or_default())
}

fn telling(failure: Failure) -> Failure {
    let says_nothing = matches!(
        failure.code.as_str(),
        "" | "ResourceOperationFailure" | "DeploymentFailed" | "MultipleErrorsOccurred"
    );
    match failure.details.first() {
        Some(inner) if says_nothing && !inner.code.is_empty() => telling(inner.clone()),
        _ => failure,
    }
}

/// What to do with an answer, where its code says more than its status.
pub(super) fn verdict(reply: &Reply) -> Verdict {
    if reply.status < 300 {
        return Verdict::Fine;
    }
    match said(reply).code.as_str() {
        // These come with statuses of their own, and do not pass by themselves.
        code if is_capacity(code) || is_quota(code, "") => Verdict::Failed,
        // Something that is named in the call, or beside it, is still being made.
        "RetryableError"
        | "RetryableErrorDueToAnotherOperation"
        | "AnotherOperationInProgress"
        | "ReferencedResourceNotProvisioned"
        | "TooManyRequests"
        | "OperationPreempted"
        | "SubscriptionRequestsThrottled"
        | "ResourceRequestsThrottled" => match by_status(reply) {
            Verdict::Refused(pause) | Verdict::Broken(pause) => Verdict::Refused(pause),
            _ => Verdict::Refused(None),
        },
        _ => by_status(reply),
    }
}

fn is_capacity(code: &str) -> bool {
    matches!(
        code,
        "SkuNotAvailable"
            | "AllocationFailed"
            | "ZonalAllocationFailed"
            | "OverconstrainedAllocationRequest"
            | "OverconstrainedZonalAllocationRequest"
            | "CapacityNotAvailable"
            | "SpotPriceNotAvailable"
    )
}

fn is_quota(code: &str, message: &str) -> bool {
    let counted =
        code.ends_with("CountLimitReached") || code.ends_with("QuotaExceeded") || code.ends_with("QuotaLimitReached");
    // The oldest quota has a code that says something else.
    counted || code == "OperationNotAllowed" && message.to_ascii_lowercase().contains("quota")
}

/// Whether an error is this one of the vendor's.
pub(super) fn is(e: &ProviderError, code: &str) -> bool {
    code_of(e) == code
}

/// The vendor's code in an error.
pub(super) fn code_of(e: &ProviderError) -> &str {
    let rest = e.message.split_once(": ").map_or("", |(_, rest)| rest);
    rest.split(':').next().unwrap_or_default()
}

/// Whether something cannot go before another has gone.
pub(super) fn is_in_use(e: &ProviderError) -> bool {
    let code = code_of(e);
    code.contains("InUse")
        || code.contains("CannotBeDeleted")
        || code == "NicReservedForAnotherVm"
        || code == "OperationNotAllowed"
}

/// An answer that is no success.
pub(super) fn explain(call: &Call, reply: &Reply) -> ProviderError {
    let failure = said(reply);
    if failure.code.is_empty() {
        let text = format!("{}: status {}: {}", call.name, reply.status, reply.text());
        let code = match reply.status {
            401 => Code::Credentials,
            404 => Code::NotFound,
            429 => Code::Rate,
            _ => Code::Provider,
        };
        return error(code, text);
    }
    coded(&call.name, &failure, reply.status)
}

/// An operation that went wrong after its answer.
pub(super) fn of_operation(action: &str, failure: Option<Failure>) -> ProviderError {
    coded(action, &telling(failure.unwrap_or_default()), 0)
}

/// A failure by the vendor's code and words.
pub(super) fn coded(action: &str, failure: &Failure, status: u16) -> ProviderError {
    let (code, message) = (failure.code.as_str(), failure.message.as_str());
    let text = format!("{action}: {code}: {}", limited(message));
    if is_capacity(code) {
        return error(Code::Capacity, text)
            .with_hint("herdsman up … --type T --type U    tries one after the other")
            .with_hint(
                "herdsman up … --region R           another region; --spot prefer takes others where spot has none",
            );
    }
    if is_quota(code, message) {
        return error(Code::Quota, text)
            .with_hint("az vm list-usage --location REGION --output table     shows what is used")
            .with_hint(
                "https://portal.azure.com/#view/Microsoft_Azure_Capacity/QuotaMenuBlade/~/myQuotas     asks for more",
            );
    }
    match code {
        "AuthorizationFailed" | "LinkedAuthorizationFailed" | "AuthorizationFailedForLinkedResource" => {
            error(Code::Permission, text).with_hint("herdsman render iam --provider azure     the role that is needed")
        }
        "RequestDisallowedByPolicy" | "DisallowedOperation" | "ScopeLocked" => error(Code::Permission, text)
            .with_hint("a policy or a lock of the subscription forbids this; its owner may make an exception"),
        "MissingSubscriptionRegistration" | "SubscriptionNotRegistered" => error(Code::Permission, text)
            .with_hint("az provider register --namespace Microsoft.Compute")
            .with_hint("az provider register --namespace Microsoft.Network"),
        "ExpiredAuthenticationToken"
        | "AuthenticationFailed"
        | "InvalidAuthenticationToken"
        | "InvalidAuthenticationTokenTenant"
        | "InvalidAuthenticationTokenAudience" => error(Code::Credentials, text)
            .with_hint("az login                              logs in again")
            .with_hint("herdsman check azure                  says which credentials were found"),
        "SubscriptionNotFound" | "InvalidSubscriptionId" => error(Code::Credentials, text)
            .with_hint("az account list --output table        shows subscriptions of these credentials")
            .with_hint("herdsman up … --set azure.subscription=ID"),
        "ReadOnlyDisabledSubscription" | "DisabledSubscription" => error(Code::Permission, text).with_hint(
            "https://portal.azure.com/#view/Microsoft_Azure_Billing/SubscriptionsBlade     switches it on again",
        ),
        "ResourceGroupNotFound" => error(Code::NotFound, text).with_hint(
            "az group create --name … --location …     makes it; without `resource_group` each cluster has its own",
        ),
        "PlatformImageNotFound" | "ImageNotFound" | "GalleryImageNotFound" | "InvalidImageReference" => {
            error(Code::NotFound, text)
                .with_hint("az vm image list --all --publisher Debian --output table     shows images")
        }
        "MarketplacePurchaseEligibilityFailed" | "ResourcePurchaseValidationFailed" | "VMMarketplaceInvalidInput" => {
            error(Code::Usage, text)
                .with_hint("az vm image terms accept --urn PUBLISHER:OFFER:SKU:VERSION")
                .with_hint("marketplace_plan = { name = …, publisher = …, product = … }     in [azure]")
        }
        _ => match status {
            400 | 422 => error(Code::Usage, text)
                .with_hint("herdsman config get …                 shows what is set, and by whom"),
            401 => error(Code::Credentials, text).with_hint("az login"),
            403 => error(Code::Permission, text)
                .with_hint("herdsman render iam --provider azure     the role that is needed"),
            404 => error(Code::NotFound, text),
            409 => error(Code::Conflict, text),
            429 => error(Code::Rate, text).with_hint("wait some minutes, or make fewer machines at once"),
            _ => {
                error(Code::Provider, text).with_hint("https://azure.status.microsoft     shows the vendor's troubles")
            }
        },
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

    fn explained(status: u16, code: &str, message: &str) -> ProviderError {
        let body = serde_json::json!({"error": {"code": code, "message": message}}).to_string();
        explain(
            &Call::get("VirtualMachines_CreateOrUpdate", "https://x/"),
            &reply(status, &body),
        )
    }

    #[test]
    fn codes_count_more_than_statuses() {
        for (status, code, message, wanted) in [
            (
                409,
                "SkuNotAvailable",
                "The requested VM size is not available",
                Code::Capacity,
            ),
            (
                409,
                "OperationNotAllowed",
                "Operation could not be completed as it results in exceeding approved standardDSv5Family Cores quota.",
                Code::Quota,
            ),
            (409, "OperationNotAllowed", "The disk is attached", Code::Conflict),
            (
                400,
                "PublicIPCountLimitReached",
                "Cannot create more than 10 public IP addresses",
                Code::Quota,
            ),
            (
                403,
                "AuthorizationFailed",
                "The client 'x' does not have authorization",
                Code::Permission,
            ),
            (
                409,
                "MissingSubscriptionRegistration",
                "not registered",
                Code::Permission,
            ),
            (
                401,
                "ExpiredAuthenticationToken",
                "The access token expiry is in the past",
                Code::Credentials,
            ),
            (404, "SubscriptionNotFound", "could not be found", Code::Credentials),
            (404, "ResourceNotFound", "was not found", Code::NotFound),
            (400, "InvalidParameter", "The value is invalid", Code::Usage),
            (429, "TooManyRequests", "slower", Code::Rate),
        ] {
            let e = explained(status, code, message);
            assert_eq!(e.code, wanted, "{code}");
            assert!(is(&e, code) && e.message.contains(message), "{}", e.message);
        }
        assert!(is_in_use(&explained(400, "InUseSubnetCannotBeDeleted", "m")));
        assert!(is_in_use(&explained(400, "NetworkSecurityGroupInUse", "m")));
        assert!(!is_in_use(&explained(403, "AuthorizationFailed", "m")));
    }

    #[test]
    fn what_passes_is_tried_again_and_nothing_else() {
        let with = |status, code: &str| verdict(&reply(status, &format!("{{\"error\": {{\"code\": \"{code}\"}}}}")));
        assert_eq!(with(409, "SkuNotAvailable"), Verdict::Failed);
        assert_eq!(with(429, "RetryableError"), Verdict::Refused(None));
        assert_eq!(with(409, "AnotherOperationInProgress"), Verdict::Refused(None));
        assert_eq!(with(500, "InternalServerError"), Verdict::Broken(None));
        assert_eq!(with(401, "ExpiredAuthenticationToken"), Verdict::Credentials);
        assert_eq!(with(403, "AuthorizationFailed"), Verdict::Failed);
        assert_eq!(verdict(&reply(202, "")), Verdict::Fine);
        assert_eq!(verdict(&reply(503, "<html>")), Verdict::Broken(None));
    }

    #[test]
    fn a_detail_says_what_its_frame_does_not() {
        let failure = Failure {
            code: "ResourceOperationFailure".into(),
            message: "The resource operation completed with terminal provisioning state 'Failed'.".into(),
            details: vec![Failure {
                code: "ZonalAllocationFailed".into(),
                message: "We do not have sufficient capacity".into(),
                details: Vec::new(),
            }],
        };
        let e = of_operation("demo-w1", Some(failure));
        assert_eq!(e.code, Code::Capacity);
        assert_eq!(code_of(&e), "ZonalAllocationFailed");
        assert_eq!(of_operation("x", None).code, Code::Provider);
    }
}
