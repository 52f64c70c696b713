//! The file of `hcloud`: `active_context`, and an array of contexts.

use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    active_context: Option<String>,
    #[serde(default)]
    contexts: Vec<Context>,
}

#[derive(Deserialize)]
struct Context {
    name: String,
    #[serde(default)]
    token: String,
}

/// A context's token and name.
pub(super) fn token(text: &str, named: Option<&str>) -> Option<(String, String)> {
    let file: File = toml::from_str(text).ok()?;
    let name = named.map(str::to_owned).or(file.active_context)?;
    let found = file.contexts.into_iter().find(|c| c.name == name)?;
    (!found.token.is_empty()).then_some((found.token, name))
}
