use super::super::testing::{dist, env, folder, program, venv, write};
use super::super::versions::{installed_versions, key_versions};
use super::*;

#[test]
fn order_of_places() {
    let dir = folder();
    let (active, project, conda, bin) = (
        dir.path().join("active"),
        dir.path().join("project"),
        dir.path().join("conda"),
        dir.path().join("bin"),
    );
    venv(&active);
    venv(&project.join(".venv"));
    let sub = project.join("sub");
    std::fs::create_dir_all(&sub).unwrap();
    program(conda.join("bin/python3.11"), "\x7fELF");
    std::os::unix::fs::symlink("python3.11", conda.join("bin/python")).unwrap();
    write(conda.join("lib/python3.11/os.py"), "");
    std::fs::create_dir_all(conda.join("lib/python3.11/site-packages")).unwrap();
    write(conda.join("conda-meta/python-3.11.9-h955ad1f_0.json"), "{}");
    write(conda.join("conda-meta/python-dateutil-2.9.0-py_0.json"), "{}");

    let all = env(&[("VIRTUAL_ENV", &active), ("CONDA_PREFIX", &conda), ("PATH", &bin)]);
    let found = find_interpreter(&sub, &all, None).unwrap();
    assert_eq!((found.reason, found.kind), (Reason::VirtualEnv, Kind::Virtual));
    assert_eq!(found.executable, active.join("bin/python"));
    assert_eq!(
        (found.version.as_str(), found.implementation.as_str()),
        ("3.11.7", "cpython")
    );

    let with_conda = env(&[("CONDA_PREFIX", &conda)]);
    let found = find_interpreter(&sub, &with_conda, None).unwrap();
    assert_eq!((found.reason, found.kind), (Reason::Conda, Kind::Conda));
    assert_eq!(found.version, "3.11.9");

    let base = env(&[("CONDA_PREFIX", &conda), ("CONDA_DEFAULT_ENV", Path::new("base"))]);
    let found = find_interpreter(&sub, &base, None).unwrap();
    assert_eq!(found.reason, Reason::Project(project.clone()));
    let found = find_interpreter(dir.path(), &base, None).unwrap();
    assert_eq!(found.reason, Reason::CondaBase);

    // A stale variable is passed over and mentioned.
    let stale = env(&[("VIRTUAL_ENV", &dir.path().join("gone"))]);
    let found = find_interpreter(&sub, &stale, None).unwrap();
    assert_eq!(found.reason, Reason::Project(project.clone()));
    assert!(found.notes[0].contains("$VIRTUAL_ENV names"), "{:?}", found.notes);

    let found = find_interpreter(&project, &all, Some(".venv")).unwrap();
    assert_eq!(found.reason, Reason::Named(".venv".into()));
    assert_eq!(found.prefix, project.join(".venv"));
    let error = find_interpreter(&project, &all, Some("nope")).unwrap_err();
    assert!(error.to_string().contains("nothing of that name"), "{error}");
    let error = find_interpreter(dir.path(), &Variables::new(), None).unwrap_err();
    assert!(
        matches!(&error, Error::NoInterpreter { looked } if looked.len() == 3),
        "{error}"
    );
}

#[test]
fn a_project_ends_the_search_for_dot_venv() {
    let dir = folder();
    venv(&dir.path().join(".venv"));
    let inner = dir.path().join("inner");
    write(inner.join("pyproject.toml"), "");
    assert!(find_interpreter(&inner, &Variables::new(), None).is_err());
}

#[test]
fn a_virtual_environment_is_not_resolved_away() {
    let dir = folder();
    let base = program(dir.path().join("base/bin/python3.11"), "\x7fELF");
    let root = dir.path().join("v");
    venv(&root);
    std::fs::remove_file(root.join("bin/python")).unwrap();
    std::os::unix::fs::symlink(&base, root.join("bin/python")).unwrap();
    let found = find_interpreter(dir.path(), &Variables::new(), Some("v/bin/python")).unwrap();
    assert_eq!(found.executable, root.join("bin/python"));
    assert_eq!(found.packages, [root.join("lib/python3.11/site-packages")]);
}

#[test]
fn pyenv_shims_are_looked_through() {
    let dir = folder();
    let pyenv = dir.path().join("pyenv");
    let shims = pyenv.join("shims");
    program(shims.join("python3"), "#!/usr/bin/env bash\nexit 1\n");
    for version in ["3.11.7", "3.12.1", "3.12.10"] {
        let root = pyenv.join("versions").join(version);
        let short = &version[..4];
        program(root.join(format!("bin/python{short}")), "\x7fELF");
        std::os::unix::fs::symlink(format!("python{short}"), root.join("bin/python3")).unwrap();
        write(root.join(format!("lib/python{short}/os.py")), "");
        std::fs::create_dir_all(root.join(format!("lib/python{short}/site-packages"))).unwrap();
        write(
            root.join(format!("include/python{short}/patchlevel.h")),
            &format!("#define PY_VERSION              \"{version}\"\n"),
        );
    }
    write(pyenv.join("version"), "3.11.7\n");
    let path = env(&[("PATH", &shims)]);
    let found = find_interpreter(dir.path(), &path, None).unwrap();
    assert_eq!(found.version, "3.11.7");
    assert_eq!(found.executable, pyenv.join("versions/3.11.7/bin/python3"));

    let project = dir.path().join("project/deep");
    std::fs::create_dir_all(&project).unwrap();
    write(dir.path().join("project/.python-version"), "3.12\n");
    assert_eq!(find_interpreter(&project, &path, None).unwrap().version, "3.12.10");

    // What pyenv itself would refuse is asked, and answers with its own words.
    let odd = env(&[("PATH", &shims), ("PYENV_VERSION", Path::new("system"))]);
    let error = find_interpreter(dir.path(), &odd, None).unwrap_err();
    assert!(matches!(error, Error::NotPython { .. }), "{error}");
}

#[test]
fn unknown_layouts_are_asked() {
    let dir = folder();
    let site = dir.path().join("lib/site-packages");
    std::fs::create_dir_all(&site).unwrap();
    dist(&site, "dask", "2026.8.0", &[]);
    let answer = format!(
        r#"{{"executable":"{0}/real","version":"3.13.1","implementation":"cpython","prefix":"{0}","venv":false,"free_threaded":true,"path":["{0}/lib/site-packages","relative","/nowhere"]}}"#,
        dir.path().display()
    );
    program(
        dir.path().join("odd"),
        &format!("#!/bin/sh\necho noise\necho '{answer}'\n"),
    );
    let found = find_interpreter(dir.path(), &Variables::new(), Some("./odd")).unwrap();
    assert_eq!(found.executable, dir.path().join("real"));
    assert_eq!(found.packages, std::slice::from_ref(&site));
    assert!(found.free_threaded);
    let error = installed_versions(&found).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("distributed is not installed in {}/real", dir.path().display())
    );
    let error = herdsman_wire::ApiError::from(error);
    assert_eq!(error.code, herdsman_wire::Code::Environment);
    assert!(error.hint[0].starts_with("uv pip install --python"), "{error:?}");

    program(dir.path().join("bad"), "#!/bin/sh\necho 'cannot do' >&2\nexit 3\n");
    let error = find_interpreter(dir.path(), &Variables::new(), Some("./bad")).unwrap_err();
    assert!(error.to_string().contains("cannot do"), "{error}");
}

#[test]
fn versions_come_from_folder_names_and_the_first_folder_wins() {
    let dir = folder();
    let packages = venv(&dir.path().join(".venv"));
    let extra = dir.path().join("extra");
    dist(&packages, "dask", "2026.8.0", &[]);
    dist(&packages, "distributed", "2026.8.0", &[]);
    dist(&packages, "msgpack", "1.2.4", &[]);
    dist(&extra, "dask", "2026.7.1", &[]);
    let found = find_interpreter(dir.path(), &env(&[("PYTHONPATH", &extra)]), None).unwrap();
    let versions = installed_versions(&found).unwrap();
    assert_eq!(
        (versions.python.as_str(), versions.dask.as_str()),
        ("3.11.7", "2026.7.1")
    );
    assert_eq!(key_versions(&found).get("msgpack").map(String::as_str), Some("1.2.4"));
}
