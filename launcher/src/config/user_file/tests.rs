use super::*;

fn set_in(old: &str, key: &str, value: &str) -> Result<String, ConfigError> {
    changed(old, Path::new("config.toml"), key, value)
}

#[test]
fn keys_are_added_and_replaced_and_the_rest_stays() {
    let mut text = "# my own settings\n".to_owned();
    for (key, value) in [
        ("limits.idle", "30m"),
        ("default_provider", "local"),
        ("workers.count", "2..8"),
        ("workers.threads", "4"),
        ("limits.idle", "off"),
        ("place.allow", "me,203.0.113.0/24"),
        ("env.variables.OMP_NUM_THREADS", "1"),
        ("profiles.work.limits.lifetime", "8h"),
        ("profiles.\"a.b\".workers.resources.GPU", "1"),
        ("tags.team.sub", "geo"),
        ("tags.\"team.sub\"", "ocean"),
        ("limits.max_workers", "20"),
        ("workers.workers_per_node", "2"),
        ("confirm_above", "1.00 USD/h"),
    ] {
        text = set_in(&text, key, value).unwrap();
    }
    insta::assert_snapshot!(text, @r#"
    # my own settings

    default_provider = "local"
    confirm_above = "1.00 USD/h"

    [defaults.limits]
    idle = "off"
    max_workers = 20

    [[defaults.workers]]
    count = "2..8"
    threads = 4
    workers_per_vm = 2

    [defaults.place]
    allow = ["me", "203.0.113.0/24"]

    [defaults.env.variables]
    OMP_NUM_THREADS = "1"

    [profiles.work.limits]
    lifetime = "8h"

    [[profiles."a.b".workers]]

    [profiles."a.b".workers.resources]
    GPU = 1.0

    [defaults.tags]
    "team.sub" = "ocean"
    "#);
}

#[test]
fn comments_and_order_stay() {
    let old = "# mine\n[defaults.limits] # when\nlifetime = \"2h\"\nidle = \"1h\" # long\n\n# tags of the team\n[defaults.tags]\nteam = \"geo\"\n";
    let new = set_in(old, "limits.idle", "20m").unwrap();
    assert_eq!(new, old.replace("\"1h\"", "\"20m\""));
    let new = set_in(old, "limits.no_client", "1h").unwrap();
    assert_eq!(new, old.replace("# long\n", "# long\nno_client = \"1h\"\n"));
    let inline = "defaults.limits = { idle = \"1h\" } # short\n";
    let new = set_in(inline, "limits.idle", "2h").unwrap();
    assert_eq!(new, inline.replace("1h", "2h"));
    let dotted = "[defaults]\nlimits.idle = \"1h\"\n";
    let new = set_in(dotted, "tags.x", "y").unwrap();
    assert_eq!(new, format!("{dotted}\n[defaults.tags]\nx = \"y\"\n"));
}

#[test]
fn what_does_not_fit_is_refused() {
    for (old, key, value, words) in [
        ("", "limits.idel", "30m", "did you mean \"idle\""),
        ("", "limits.idle", "30", "no unit"),
        ("", "digitalocean.token", "abc", "looks like a secret"),
        ("", "provider", "mars", "unknown choice"),
        ("", "profiles.work", "x", "unknown key"),
        ("", "", "x", "unknown key"),
        (
            "defaults = { limits = { idle = \"1h\" } }",
            "limits.lifetime",
            "8h",
            "a form to which",
        ),
        ("x", "limits.idle", "30m", "this is no TOML"),
        ("unknown = 1", "limits.idle", "30m", "unknown key"),
    ] {
        let e = set_in(old, key, value).unwrap_err().to_string();
        assert!(e.contains(words), "{key}={value}: {e}");
    }
}

#[test]
fn a_missing_file_and_folder_are_made_for_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/config.toml");
    set(&path, "limits.idle", "30m").unwrap();
    set(&path, "limits.idle", "40m").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "[defaults.limits]\nidle = \"40m\"\n");
    let around = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(around, 1, "nothing temporary is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        set(&path, "limits.idle", "50m").unwrap();
        assert_eq!(mode(&path), 0o644);
    }
}

#[test]
#[cfg(unix)]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (link, real) = (dir.path().join("config.toml"), dir.path().join("dotfiles.toml"));
    std::fs::write(&real, "# mine\n").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    set(&link, "limits.idle", "30m").unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(std::fs::read_to_string(&real).unwrap().contains("30m"));
}

#[test]
fn a_file_that_is_refused_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, "[defaults.limits]\nidel = \"1h\"\n").unwrap();
    set(&path, "limits.idle", "30m").unwrap_err();
    assert!(std::fs::read_to_string(&path).unwrap().contains("idel"));
}

#[test]
fn what_people_wrote_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("herdsman/config.toml");
    set(&path, "limits.idle", "30m").unwrap();
    let text = "# mine\n\n[defaults.limits]\nlifetime = \"off\" # never\nidle = \"1200s\"  # two coffees\n\n\
                # the usual size\n[[defaults.workers]]\ncount = \"4\"\nworkers_per_node = 2 # not vm\n";
    std::fs::write(&path, text).unwrap();
    for (key, value) in [
        ("limits.idle", "1h"),
        ("workers.threads", "2"),
        ("workers.workers_per_vm", "3"),
        ("tags.team", "a b"),
    ] {
        set(&path, key, value).unwrap();
    }
    let now = std::fs::read_to_string(&path).unwrap();
    for line in [
        "# mine",
        "lifetime = \"off\" # never",
        "idle = \"1h\"  # two coffees",
        "# the usual size",
        "count = \"4\"",
        "workers_per_node = 3 # not vm",
        "threads = 2",
        "team = \"a b\"",
    ] {
        assert!(now.lines().any(|l| l == line), "{line}\n{now}");
    }
    assert!(now.starts_with("# mine\n"), "{now}");
}
