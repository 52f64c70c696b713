//! The region in the vendor's own configuration file. All else of it is read by the
//! vendor's crate; this one value is needed before there is any call.

use std::path::PathBuf;

use crate::config::Env;

pub(super) fn region(env: &Env, profile: Option<&str>) -> Option<String> {
    let named = env.get("AWS_CONFIG_FILE").map(PathBuf::from);
    let path = named.or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".aws/config")))?;
    let text = std::fs::read_to_string(path).ok()?;
    region_in(&text, profile.unwrap_or("default"))
}

fn region_in(text: &str, profile: &str) -> Option<String> {
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            let name = head.trim();
            let name = name.strip_prefix("profile ").map_or(name, str::trim);
            ours = name == profile;
        } else if ours
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "region"
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_has_its_own() {
        let text = "[default]\nregion=eu-west-1\n# x\n[profile work]\noutput = json\nregion = us-east-2\n";
        assert_eq!(region_in(text, "default").as_deref(), Some("eu-west-1"));
        assert_eq!(region_in(text, "work").as_deref(), Some("us-east-2"));
        assert_eq!(region_in(text, "other"), None);
    }
}
