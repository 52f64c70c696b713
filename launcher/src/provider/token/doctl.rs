//! The file of `doctl`, YAML written by a program: one level of keys, and one of
//! contexts below `auth-contexts`. The context `default` is the key `access-token`
//! (<https://docs.digitalocean.com/reference/doctl/how-to/install/>).

/// A context's token and name.
pub(super) fn token(text: &str, named: Option<&str>) -> Option<(String, String)> {
    let mut default = None;
    let mut current = None;
    let mut contexts = Vec::new();
    let mut below = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let inner = key.starts_with([' ', '\t']);
        let (key, value) = (plain(key), plain(value));
        match (inner, key) {
            (true, name) if below => contexts.push((name.to_owned(), value.to_owned())),
            (true, _) => {}
            (false, key) => {
                below = key == "auth-contexts";
                match key {
                    "access-token" => default = Some(value.to_owned()),
                    "context" => current = Some(value.to_owned()),
                    _ => {}
                }
            }
        }
    }
    let name = named.map(str::to_owned).or(current).filter(|n| !n.is_empty());
    let name = name.unwrap_or_else(|| "default".to_owned());
    let found = contexts.into_iter().find(|(n, _)| *n == name).map(|(_, t)| t);
    let token = found.or_else(|| default.filter(|_| name == "default"))?;
    (!token.is_empty()).then_some((token, name))
}

fn plain(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}
