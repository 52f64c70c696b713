//! Changing one default in the user's settings file, leaving the rest as it is.

use std::path::Path;

use toml::{Table, Value};
use toml_edit::{DocumentMut, Item};

use super::error::ConfigError;
use super::file::{File, UserFile};
use super::layer;
use super::parse;

/// Sets a default. Comments, order and layout of the file stay.
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
    let before = user.clone();
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
    let text = change(&text, &before, &user).map_err(|e| failed(&e))?;
    // What was written must be read again.
    parse::parse_user_file(&text, path)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|e| failed(&e))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|e| failed(&e))?;
    file.persist(path).map_err(|e| failed(&e))?;
    Ok(())
}

/// The text with only those values changed that differ between two settings.
fn change(text: &str, before: &UserFile, after: &UserFile) -> Result<String, Box<dyn std::error::Error>> {
    let mut document: DocumentMut = text.parse()?;
    apply(
        document.as_table_mut(),
        &Table::try_from(before)?,
        &Table::try_from(after)?,
    )?;
    Ok(document.to_string())
}

fn apply(
    table: &mut dyn toml_edit::TableLike,
    before: &Table,
    after: &Table,
) -> Result<(), Box<dyn std::error::Error>> {
    for key in before.keys().filter(|k| !after.contains_key(*k)) {
        table.remove(key);
    }
    for (key, new) in after {
        let old = before.get(key);
        if old == Some(new) {
            continue;
        }
        let parts = (old, new, table.get_mut(key));
        match parts {
            (Some(Value::Table(old)), Value::Table(new), Some(item)) if item.is_table_like() => {
                if let Some(inner) = item.as_table_like_mut() {
                    apply(inner, old, new)?;
                }
            }
            // The one group of workers, `[[workers]]`.
            (Some(Value::Array(old)), Value::Array(new), Some(Item::ArrayOfTables(all)))
                if old.len() == new.len() && all.len() == new.len() =>
            {
                for (i, pair) in old.iter().zip(new).enumerate() {
                    if let ((Value::Table(old), Value::Table(new)), Some(inner)) = (pair, all.get_mut(i)) {
                        apply(inner, old, new)?;
                    }
                }
            }
            (_, _, found) => {
                let mut item = item(key, new)?;
                // What is written behind a value is about the key.
                if let (Some(new), Some(old)) = (item.as_value_mut(), found.and_then(|i| i.as_value())) {
                    *new.decor_mut() = old.decor().clone();
                }
                table.insert(key, item);
            }
        }
    }
    Ok(())
}

fn item(key: &str, value: &Value) -> Result<Item, Box<dyn std::error::Error>> {
    let mut one = Table::new();
    one.insert(key.to_owned(), value.clone());
    let mut document: DocumentMut = toml::to_string(&one)?.parse()?;
    Ok(document.remove(key).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("herdsman/config.toml");
        set(&path, "limits.idle", "30m").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "[defaults.limits]\nidle = \"30m\"\n"
        );
        let text = "# mine\n\n[defaults.limits]\nlifetime = \"off\" # never\nidle = \"1200s\"  # two coffees\n\n\
                    # the usual size\n[[defaults.workers]]\ncount = \"4\"\n";
        std::fs::write(&path, text).unwrap();
        set(&path, "limits.idle", "1h").unwrap();
        set(&path, "workers.threads", "2").unwrap();
        set(&path, "tags.team", "a b").unwrap();
        let now = std::fs::read_to_string(&path).unwrap();
        for line in [
            "# mine",
            "lifetime = \"off\" # never",
            "idle = \"1h\"  # two coffees",
            "# the usual size",
            "count = \"4\"",
            "threads = 2",
            "team = \"a b\"",
        ] {
            assert!(now.lines().any(|l| l == line), "{line}\n{now}");
        }
        let e = set(&path, "limits.idel", "1h").unwrap_err();
        assert!(e.to_string().contains("idel"), "{e}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), now, "untouched");
    }
}
