//! Names of clusters as templates: `{user}` and `{branch}` are filled in.

use std::path::Path;

use herdsman_wire::ClusterName;
use herdsman_wire::name::NameError;

use super::defaults;
use super::error::ConfigError;
use super::vars::Env;

/// Longest name of a cluster.
const MAX: usize = 40;

/// Fills a template in and checks the name. `folder` is where a Git branch is
/// looked for.
pub(super) fn fill(template: &str, env: &Env, folder: &Path) -> Result<ClusterName, ConfigError> {
    let mut name = template.to_owned();
    if name.contains("{user}") {
        let user = env.user().map(fit).filter(|u| !u.is_empty());
        name = match user {
            Some(user) => name.replace("{user}", &user),
            None if template == defaults::NAME => defaults::NAME_WITHOUT_USER.to_owned(),
            None => {
                return Err(ConfigError::new(
                    "{user} is not known here: neither USER nor USERNAME is set",
                ));
            }
        };
    }
    if name.contains("{branch}") {
        let branch = branch(folder)
            .map(|b| fit(&b))
            .filter(|b| !b.is_empty())
            .ok_or_else(|| ConfigError::new("{branch} is not known: this is no Git working tree with a branch"))?;
        name = name.replace("{branch}", &branch);
    }
    if let Some((_, rest)) = name.split_once('{') {
        let word = rest.split('}').next().unwrap_or(rest);
        return Err(ConfigError::new(format!("{{{word}}} is unknown")).hint("{user} and {branch} can be filled in"));
    }
    if template.contains('{') {
        // What was filled in is nobody's slip.
        name.truncate(MAX);
        name.truncate(name.trim_end_matches('-').len());
    }
    name.parse().map_err(|e: NameError| ConfigError::new(e.to_string()))
}

/// A text as part of a name: lower case, and what does not fit becomes `-`.
fn fit(text: &str) -> String {
    // A login may be an address or carry a domain.
    let text = text.rsplit('\\').next().unwrap_or(text);
    let text = text.split('@').next().unwrap_or(text);
    let mut out = String::new();
    for c in text.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ if out.ends_with('-') || out.is_empty() => {}
            _ => out.push('-'),
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// The branch that is checked out, read from the files of Git.
fn branch(folder: &Path) -> Option<String> {
    let git = folder.ancestors().map(|d| d.join(".git")).find(|g| g.exists())?;
    // In a linked working tree `.git` is a file that names the folder.
    let folder = if git.is_file() {
        let text = std::fs::read_to_string(&git).ok()?;
        git.parent()?.join(text.trim().strip_prefix("gitdir: ")?)
    } else {
        git
    };
    let head = std::fs::read_to_string(folder.join("HEAD")).ok()?;
    Some(head.trim().strip_prefix("ref: refs/heads/")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let env: Env = [("USER", "Ann.Lee@example.org")].into_iter().collect();
        let at = |t: &str| fill(t, &env, dir.path()).map(String::from);
        assert_eq!(at("nightly").unwrap(), "nightly");
        assert_eq!(at("dask-{user}").unwrap(), "dask-ann-lee");
        assert!(at("x-{branch}").unwrap_err().to_string().contains("no Git"));
        assert!(at("x-{brunch}").unwrap_err().to_string().contains("{brunch}"));
        assert!(at("No Good").is_err());

        std::fs::create_dir_all(dir.path().join(".git")).unwrap();
        std::fs::write(dir.path().join(".git/HEAD"), "ref: refs/heads/feature/Big_One\n").unwrap();
        assert_eq!(at("x-{branch}").unwrap(), "x-feature-big-one");
        let long = format!("ref: refs/heads/{}-b", "a".repeat(39));
        std::fs::write(dir.path().join(".git/HEAD"), long).unwrap();
        assert_eq!(at("{branch}").unwrap(), "a".repeat(39));
        std::fs::create_dir_all(dir.path().join("linked")).unwrap();
        std::fs::write(dir.path().join("linked/.git"), "gitdir: ../.git\n").unwrap();
        let linked = fill("{branch}", &env, &dir.path().join("linked")).unwrap();
        assert_eq!(linked.as_str(), "a".repeat(39));
    }

    #[test]
    fn there_is_always_a_default() {
        let named = |user: &str| {
            let env = [("USER", user)].into_iter().collect();
            String::from(fill(defaults::NAME, &env, Path::new("")).unwrap())
        };
        assert_eq!(named("ann"), "dask-ann");
        assert_eq!(named(""), "dask");
        assert_eq!(named("日本"), "dask");
        assert_eq!(named("CORP\\Bob"), "dask-bob");
    }
}
