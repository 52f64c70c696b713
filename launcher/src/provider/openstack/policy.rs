//! The least that the account has to allow, as access rules of an application credential
//! (<https://docs.openstack.org/keystone/latest/user/application_credentials.html>).
//!
//! In a rule's path `*` is one part and `**` any number of them, so that `/**/servers` is
//! good for `/v2.1/servers` and for `/compute/v2.1/servers`.

use serde_json::{Value, json};

use super::answers::Rule;
use super::launch::OURS;
use super::settings::{Floating, Settings};

/// Calls that all settings need.
const ALWAYS: &[(&str, &str, &str)] = &[
    ("compute", "GET", "/**/flavors/detail"),
    ("compute", "GET", "/**/servers/detail"),
    ("compute", "POST", "/**/servers"),
    ("compute", "DELETE", "/**/servers/*"),
    ("compute", "POST", "/**/servers/*/action"),
    ("compute", "GET", "/**/os-server-groups"),
    ("image", "GET", "/**/images"),
    ("network", "GET", "/**/networks"),
    ("network", "GET", "/**/security-groups"),
    ("network", "POST", "/**/security-groups"),
    ("network", "DELETE", "/**/security-groups/*"),
    ("network", "POST", "/**/security-group-rules"),
    ("network", "GET", "/**/floatingips"),
    ("network", "GET", "/**/ports"),
];
/// Calls for floating addresses.
const FLOATING: &[(&str, &str, &str)] = &[
    ("network", "POST", "/**/floatingips"),
    ("network", "DELETE", "/**/floatingips/*"),
];
/// Calls for certain parts of a network.
const SUBNETS: &[(&str, &str, &str)] = &[
    ("network", "GET", "/**/subnets"),
    ("network", "POST", "/**/ports"),
    ("network", "DELETE", "/**/ports/*"),
];
/// Calls for server groups of ours.
const GROUPS: &[(&str, &str, &str)] = &[
    ("compute", "POST", "/**/os-server-groups"),
    ("compute", "DELETE", "/**/os-server-groups/*"),
];
/// Calls by which `check` sees quota, zones and keys: all else works without them.
const NICE: &[(&str, &str, &str)] = &[
    ("compute", "GET", "/**/limits"),
    ("compute", "GET", "/**/os-availability-zone"),
    ("compute", "GET", "/**/os-keypairs/*"),
    ("network", "GET", "/**/quotas/*/details"),
];

/// Rules that settings need, without those that are only nice to have.
pub(super) fn needed(settings: &Settings) -> Vec<Rule> {
    let mut all = ALWAYS.to_vec();
    if settings.floating != Floating::None {
        all.extend(FLOATING);
    }
    if !settings.common.subnets.is_empty() {
        all.extend(SUBNETS);
    }
    if settings.own.server_group.is_some() {
        all.extend(GROUPS);
    }
    all.into_iter().map(rule).collect()
}

fn rule((service, method, path): (&str, &str, &str)) -> Rule {
    Rule {
        service: service.into(),
        method: method.into(),
        path: path.into(),
    }
}

pub(super) fn policy(settings: &Settings) -> String {
    let all = needed(settings).into_iter().chain(NICE.iter().map(|r| rule(*r)));
    let all: Vec<Value> = all
        .map(|r| json!({"service": r.service, "method": r.method, "path": r.path}))
        .collect();
    serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
}

/// Rules of `needed` that no rule of `allowed` covers: by what they would be in a call.
pub(super) fn lacking<'n>(needed: &'n [Rule], allowed: &[Rule]) -> Vec<&'n Rule> {
    let path = |r: &Rule| r.path.replace("**", "v2.1").replace('*', OURS);
    let covers = |a: &Rule, n: &Rule| {
        a.service == n.service && a.method == n.method && {
            let asked = path(n);
            // The version that the service has.
            let asked = match n.service.as_str() {
                "network" => asked.replace("v2.1", "v2.0"),
                "image" => asked.replace("v2.1", "v2"),
                _ => asked,
            };
            matches(&a.path, &asked)
        }
    };
    needed
        .iter()
        .filter(|n| !allowed.iter().any(|a| covers(a, n)))
        .collect()
}

/// Whether a path is as a rule's pattern: `**` is anything, `*` and `{name}` one part.
fn matches(pattern: &str, path: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**") {
        return (0..=path.len()).any(|i| path.is_char_boundary(i) && matches(rest, &path[i..]));
    }
    let rest = pattern
        .strip_prefix('*')
        .or_else(|| pattern.strip_prefix('{')?.split_once('}').map(|(_, rest)| rest));
    if let Some(rest) = rest {
        let end = path.find('/').unwrap_or(path.len());
        return (1..=end).any(|i| path.is_char_boundary(i) && matches(rest, &path[i..]));
    }
    match (pattern.chars().next(), path.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => matches(&pattern[a.len_utf8()..], &path[b.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_keystone() {
        for (pattern, path, fits) in [
            ("/**/servers", "/v2.1/servers", true),
            ("/**/servers", "/compute/v2.1/servers", true),
            ("/**/servers", "/v2.1/servers/detail", false),
            ("/v2.1/servers/*", "/v2.1/servers/abc", true),
            ("/v2.1/servers/*", "/v2.1/servers/abc/action", false),
            ("/v2.1/servers/{id}/action", "/v2.1/servers/abc/action", true),
            ("/v2.1/**", "/v2.1/servers/abc/action", true),
            ("/v2.1/servers", "/v2.1/serverss", false),
        ] {
            assert_eq!(matches(pattern, path), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_found() {
        let needed = [
            rule(("compute", "POST", "/**/servers")),
            rule(("network", "DELETE", "/**/ports/*")),
        ];
        assert_eq!(lacking(&needed, &[]).len(), 2);
        let allowed = [
            rule(("compute", "POST", "/v2.1/servers")),
            rule(("network", "DELETE", "/v2.0/**")),
        ];
        assert!(lacking(&needed, &allowed).is_empty());
        assert_eq!(lacking(&needed, &allowed[..1]), [&needed[1]]);
    }
}
