//! The least that the account has to allow, as an IAM policy.

use serde_json::{Value, json};

use super::super::cloud::labels;
use super::settings::Settings;

/// Calls that look; the vendor knows no resources for most of them.
const LOOK: &[&str] = &[
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
];
/// Calls that make; their tags are in them.
const MAKE: &[&str] = &["ec2:CreateSecurityGroup", "ec2:RunInstances"];
/// Calls that change or delete, only what carries our tag.
const OURS: &[&str] = &[
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteVolume",
    "ec2:GetConsoleOutput",
    "ec2:TerminateInstances",
];
/// Calls for prices and quota: all works without them.
const NICE: &[&str] = &[
    "ec2:DescribeSpotPriceHistory",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
    "sts:GetCallerIdentity",
];

pub(super) fn policy(settings: &Settings) -> String {
    let mut statements = vec![
        json!({"Sid": "Look", "Effect": "Allow", "Action": looks(settings), "Resource": "*"}),
        json!({"Sid": "Make", "Effect": "Allow", "Action": MAKE, "Resource": "*"}),
        json!({
            "Sid": "TagWhatIsMade", "Effect": "Allow", "Action": ["ec2:CreateTags"], "Resource": "*",
            "Condition": {"StringEquals": {"ec2:CreateAction": ["CreateSecurityGroup", "RunInstances"]}},
        }),
        json!({
            "Sid": "ChangeAndDeleteOurs", "Effect": "Allow", "Action": OURS, "Resource": "*",
            "Condition": {"StringLike": {(format!("aws:ResourceTag/{}", labels::CLUSTER)): "*"}},
        }),
        json!({"Sid": "PricesAndQuota", "Effect": "Allow", "Action": NICE, "Resource": "*"}),
    ];
    if let Some(role) = &settings.common.role {
        statements.push(json!({
            "Sid": "GiveMachinesTheirRole", "Effect": "Allow", "Action": ["iam:PassRole"],
            "Resource": passed(role),
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        }));
    }
    let document = json!({"Version": "2012-10-17", "Statement": statements});
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn looks(settings: &Settings) -> Value {
    let common = &settings.common;
    let mut all: Vec<&str> = LOOK.to_vec();
    if common.network.as_ref().is_some_and(|n| !n.starts_with("vpc-")) {
        all.push("ec2:DescribeVpcs");
    }
    if common.image.as_ref().is_some_and(|i| i.starts_with("ssm:")) {
        all.push("ssm:GetParameter");
    }
    all.into()
}

/// The profile's role mostly has its name; whose does not edits this line.
fn passed(role: &str) -> String {
    let name = role.rsplit('/').next().unwrap_or(role);
    format!("arn:aws:iam::*:role/{name}")
}
