use super::*;

fn bearer(vendor: Vendor, home: &Path, vars: &[(&str, &str)], context: Option<&str>, file: Option<&str>) -> Bearer {
    let home = home.to_str().unwrap();
    let all = vars.iter().copied().chain([("HOME", home)]);
    let common = Common {
        env: all.collect(),
        ..Common::default()
    };
    Bearer::new(vendor, &common, context, file)
}

fn from(b: &Bearer) -> Result<String, String> {
    b.token()
        .map(|t| format!("{} …{}", t.from, t.end()))
        .map_err(|e| e.message)
}

#[test]
fn a_token_is_found_wherever_the_vendors_tools_have_it() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let none = from(&bearer(HETZNER, home.path(), &[], None, None)).unwrap_err();
    assert!(none.contains("HCLOUD_TOKEN") && none.contains("cli.toml"), "{none}");
    write(
        ".config/hcloud/cli.toml",
        "active_context = \"b\"\n[[contexts]]\nname = \"a\"\ntoken = \"tokenaaaa\"\n[[contexts]]\nname = \"b\"\ntoken = \"tokenbbbb\"\n",
    );
    write(
        ".config/doctl/config.yaml",
        "access-token: dop_v1_dddd\nauth-contexts:\n  work: dop_v1_wwww\ncontext: default\noutput: text\n",
    );
    let hz = |vars: &[(&str, &str)], context| from(&bearer(HETZNER, home.path(), vars, context, None));
    let dx = |vars: &[(&str, &str)], context| from(&bearer(DIGITALOCEAN, home.path(), vars, context, None));
    assert_eq!(hz(&[], None).unwrap(), "hcloud context b …bbbb");
    assert_eq!(hz(&[], Some("a")).unwrap(), "hcloud context a …aaaa");
    assert_eq!(hz(&[("HCLOUD_CONTEXT", "a")], None).unwrap(), "hcloud context a …aaaa");
    assert_eq!(
        hz(&[("HCLOUD_TOKEN", "variable1")], None).unwrap(),
        "HCLOUD_TOKEN …ble1"
    );
    // Who names a context means it.
    assert_eq!(
        hz(&[("HCLOUD_TOKEN", "variable1")], Some("a")).unwrap(),
        "hcloud context a …aaaa"
    );
    assert!(hz(&[], Some("c")).unwrap_err().contains("context c"));
    assert_eq!(dx(&[], None).unwrap(), "doctl context default …dddd");
    assert_eq!(dx(&[], Some("work")).unwrap(), "doctl context work …wwww");
    assert_eq!(
        dx(&[("DIGITALOCEAN_ACCESS_TOKEN", "variable2")], None).unwrap(),
        "DIGITALOCEAN_ACCESS_TOKEN …ble2"
    );
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("token");
    std::fs::write(&path, "abcdefgh\n").unwrap();
    let look = || {
        from(&bearer(
            HETZNER,
            home.path(),
            &[("HCLOUD_TOKEN", "x")],
            None,
            Some("~/token"),
        ))
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(look().unwrap_err().contains("others may read"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(look().unwrap().ends_with("…efgh"));
}

#[test]
fn a_token_is_in_the_request_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let b = bearer(
        HETZNER,
        home.path(),
        &[("HCLOUD_TOKEN", "very-secret-token")],
        None,
        None,
    );
    let mut request = Request::new(Bytes::new());
    b.authorize(&mut request).unwrap();
    assert_eq!(request.headers()["authorization"], "Bearer very-secret-token");
    assert!(!format!("{request:?}").contains("very-secret"));
    let token = b.token().unwrap();
    assert!(!format!("{token:?}").contains("secret"));
    let odd = bearer(HETZNER, home.path(), &[("HCLOUD_TOKEN", "a\u{1}b")], None, None);
    let e = odd.authorize(&mut request).unwrap_err();
    assert!(e.code == Code::Credentials && !e.message.contains('\u{1}'));
}
