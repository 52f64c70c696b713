//! An installed distribution as a wheel again: exactly what the laptop runs,
//! for code that no index has in a form that fits.

use std::path::{Component, Path};

use herdsman_wire::limits;

use super::archive::{Files, pack, wheel_file};
use super::metadata::wheel_tags;
use super::scan::Dist;

/// A wheel made from installed files.
#[derive(Debug)]
pub(super) struct Repacked {
    pub(super) file: String,
    pub(super) bytes: Vec<u8>,
    /// Files outside of the packages' folder, which a wheel cannot name.
    pub(super) dropped: usize,
}

/// Whether the distribution has no compiled parts.
pub(super) fn is_pure(dist: &Dist) -> bool {
    tags(dist).is_some_and(|(pure, tags)| pure && tags.iter().all(|t| t.ends_with("-none-any")))
}

/// Whether its compiled parts run on x86-64 Linux.
pub(super) fn runs_on_linux(dist: &Dist) -> bool {
    tags(dist).is_some_and(|(_, tags)| {
        tags.iter().all(|t| {
            let platform = t.rsplit('-').next().unwrap_or_default();
            platform.contains("linux") && !platform.contains("musl") && platform.ends_with("x86_64")
        })
    })
}

fn tags(dist: &Dist) -> Option<(bool, Vec<String>)> {
    wheel_tags(&fs_err::read_to_string(dist.info.join("WHEEL")).ok()?)
}

/// Packs what `RECORD` lists; the error is a reason for people.
pub(super) fn repack(dist: &Dist) -> Result<Repacked, String> {
    let (pure, tags) = tags(dist).ok_or("it was not installed from a wheel")?;
    let packages = dist.info.parent().ok_or("its metadata have no folder")?;
    let record = fs_err::read_to_string(dist.info.join("RECORD")).map_err(|_| "its RECORD is missing")?;
    let escaped = |text: &str| text.replace('-', "_");
    let info = format!("{}-{}.dist-info", escaped(&dist.name), escaped(&dist.version));
    let own = dist.info.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut files = Files::new();
    let mut dropped = 0;
    let mut total = 0;
    for path in record.lines().map(first_field) {
        let inside = Path::new(&path).components().all(|c| matches!(c, Component::Normal(_)));
        if path.is_empty() || path.contains("__pycache__/") || path.ends_with(".pyc") {
            continue;
        }
        if !inside {
            // Scripts of entry points are written anew by the installer.
            dropped += usize::from(!is_script(&path));
            continue;
        }
        let Some(path_inside) = path.strip_prefix(&format!("{own}/")).map_or_else(
            || Some(path.clone()),
            |file| {
                let installers = [
                    "RECORD",
                    "INSTALLER",
                    "REQUESTED",
                    "WHEEL",
                    "direct_url.json",
                    "uv_cache.json",
                ];
                (!installers.contains(&file)).then(|| format!("{info}/{file}"))
            },
        ) else {
            continue;
        };
        let content = fs_err::read(packages.join(&path)).map_err(|e| format!("a file of it is missing: {e}"))?;
        total += content.len() as u64;
        if total > limits::BLOB / 2 || files.len() > 60_000 {
            return Err("it is too large to be carried".to_owned());
        }
        files.insert(path_inside, content);
    }
    files.insert(format!("{info}/WHEEL"), wheel_file(pure, &tags));
    Ok(Repacked {
        file: format!(
            "{}-{}-{}.whl",
            escaped(&dist.name),
            escaped(&dist.version),
            compressed(&tags)
        ),
        bytes: pack(files, &info),
        dropped,
    })
}

fn is_script(path: &str) -> bool {
    let mut parts = path.rsplit('/').skip(1);
    parts.next().is_some_and(|p| p == "bin" || p == "Scripts")
}

/// Tags as a file name has them: `py2.py3-none-any`.
fn compressed(tags: &[String]) -> String {
    let part = |i: usize| {
        let mut seen: Vec<&str> = Vec::new();
        for p in tags.iter().filter_map(|t| t.split('-').nth(i)) {
            if !seen.contains(&p) {
                seen.push(p);
            }
        }
        seen.join(".")
    };
    format!("{}-{}-{}", part(0), part(1), part(2))
}

/// The path of a line of `RECORD`.
fn first_field(line: &str) -> String {
    match line.strip_prefix('"') {
        Some(rest) => rest
            .replace("\"\"", "\u{1}")
            .split('"')
            .next()
            .unwrap_or_default()
            .replace('\u{1}', "\""),
        None => line.split(',').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::Class;
    use super::super::testing::{dist, folder, write};
    use super::*;

    fn installed(packages: &Path, wheel: &str, record: &str) -> Dist {
        dist(
            packages,
            "my-lib",
            "1.0",
            &[("WHEEL", wheel), ("RECORD", record), ("INSTALLER", "pip")],
        );
        Dist {
            name: "my-lib".into(),
            version: "1.0".into(),
            class: Class::Index,
            requires: Vec::new(),
            info: packages.join("my_lib-1.0.dist-info"),
        }
    }

    #[test]
    fn what_is_recorded_is_packed() {
        let dir = folder();
        write(dir.path().join("my_lib/__init__.py"), "x = 1");
        let record = "../../../bin/mine,,\n../../../share/doc,,\nmy_lib/__init__.py,,\nmy_lib/__pycache__/a.pyc,,\nmy_lib-1.0.dist-info/METADATA,,\nmy_lib-1.0.dist-info/INSTALLER,,\n";
        let d = installed(
            dir.path(),
            "Root-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n",
            record,
        );
        assert!(is_pure(&d));
        let wheel = repack(&d).unwrap();
        assert_eq!(wheel.file, "my_lib-1.0-py2.py3-none-any.whl");
        assert_eq!(wheel.dropped, 1);
        let text = String::from_utf8_lossy(&wheel.bytes);
        assert!(text.contains("my_lib/__init__.py") && text.contains("METADATA"));
        assert!(!text.contains("INSTALLER") && !text.contains("pyc"));
    }

    #[test]
    fn reasons_not_to() {
        let dir = folder();
        let d = installed(
            dir.path(),
            "Root-Is-Purelib: false\nTag: cp311-cp311-macosx_11_0_arm64\n",
            "gone.py,,\n",
        );
        assert!(!is_pure(&d) && !runs_on_linux(&d));
        assert!(repack(&d).unwrap_err().contains("missing"));
        let d = installed(dir.path(), "", "");
        assert!(repack(&d).unwrap_err().contains("wheel"));
        let d = installed(
            dir.path(),
            "Root-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n",
            "",
        );
        assert!(runs_on_linux(&d));
    }
}
