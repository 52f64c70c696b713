//! Changing one default in the user's settings file, leaving the rest as it is.

use std::path::Path;

use super::error::ConfigError;
use super::file::{File, UserFile};
use super::layer;
use super::parse;

/// Sets a default. The file is replaced whole; comments in it are lost, which
/// the caller should say.
///
/// # Errors
/// [`ConfigError`] when key or value are no good, or the file cannot be read or
/// written; it is untouched then.
pub fn set(path: &Path, key: &str, value: &str) -> Result<(), ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(ConfigError::new(format!("cannot be read: {e}")).file(path, None)),
    };
    let mut user: UserFile = parse::parse_user_file(&text, path)?;
    if let Some(kind) = super::secrets::look(key, value) {
        return Err(ConfigError::new(format!("the value looks like {kind}"))
            .key(key)
            .hint(super::secrets::right_place(key)));
    }
    match key {
        "default_provider" | "provider" => {
            let mut file = File::default();
            layer::set(&mut file, "provider", value)?;
            user.default_provider = file.provider;
        }
        "default_profile" => user.default_profile = Some(value.to_owned()),
        "confirm_above" => user.confirm_above = Some(value.to_owned()),
        _ => layer::set(&mut user.defaults, key, value)?,
    }
    let failed = |e: &dyn std::fmt::Display| ConfigError::new(format!("cannot be written: {e}")).file(path, None);
    let text = toml::to_string_pretty(&user).map_err(|e| failed(&e))?;
    // What was written must be read again.
    parse::parse_user_file(&text, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e))?;
    Ok(())
}
