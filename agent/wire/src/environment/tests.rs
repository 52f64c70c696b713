use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn sample() -> Value {
    json!({
        "version": 1, "python": "3.11.7", "platform": PLATFORM,
        "lock": format!("dask==2026.8.0 \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{HASH}\n# why\nnumpy==2.4.6 \\\n    --hash=sha256:{HASH}\n"),
        "wheels": [{"file": "my_lib-0.1+x-py3-none-any.whl", "sha256": HASH, "size": 12}],
        "indexes": ["https://example.org/simple"],
        "versions": {"python": "3.11.7", "dask": "2026.8.0"},
        "setup": ["apt-get install -y libgdal32"],
    })
}

fn parse(value: &Value) -> Result<Manifest, ApiError> {
    Manifest::parse(value.to_string().as_bytes())
}

#[test]
fn a_manifest_survives_its_bytes_and_has_one_id() {
    let manifest = parse(&sample()).unwrap();
    assert_eq!(manifest.minor(), "3.11");
    let bytes = manifest.to_bytes().unwrap();
    assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
    assert_eq!(id(&bytes), id(&manifest.to_bytes().unwrap()));
    assert!(is_sha256(&id(&bytes)));
    assert_eq!(id(b"hello"), HASH);
    let pins = parse_lock(&manifest.lock).unwrap();
    assert_eq!((pins[0].name.as_str(), pins[0].hashes.len()), ("dask", 2));
    assert_eq!((pins[1].version.as_str(), pins[1].hashes.len()), ("2.4.6", 1));
}

#[test]
fn bad_fields_are_refused_by_name() {
    let wheel = |file: &str, sha: &str, size: u64| json!([{"file": file, "sha256": sha, "size": size}]);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("python", json!("3.11"), "python"),
        ("python", json!("3.11.7; rm"), "python"),
        ("python", json!("--help.1.2"), "python"),
        ("platform", json!("--index-url"), "platform"),
        ("lock", json!("dask==1\n"), "without a hash"),
        ("lock", json!("--index-url http://evil\n"), "name==version"),
        ("lock", json!("-e /etc\n"), "name==version"),
        (
            "lock",
            json!(format!("x @ http://evil/x.whl \\\n --hash=sha256:{HASH}")),
            "name==version",
        ),
        (
            "lock",
            json!(format!("x==1 ; extra \\\n --hash=sha256:{HASH}")),
            "exact version",
        ),
        (
            "lock",
            json!(format!("x==1 \\\n --hash=sha256:{HASH} \\\n")),
            "not finished",
        ),
        ("lock", json!("x==1 \\\n --hash=md5:00"), "SHA-256"),
        (
            "lock",
            json!(format!(
                "x==1 \\\n --hash=sha256:{HASH}\nX==2 \\\n --hash=sha256:{HASH}"
            )),
            "before",
        ),
        ("lock", json!("x==1\u{2028} \\\n"), "plain text"),
        ("wheels", wheel("../x-1-py3-none-any.whl", HASH, 1), "wheel's file name"),
        ("wheels", wheel("x-1-py3-none.whl", HASH, 1), "wheel's file name"),
        ("wheels", wheel("x-1-py3-none-any.whl", "00", 1), "SHA-256"),
        ("wheels", wheel("x-1-py3-none-any.whl", HASH, u64::MAX), "limit"),
        ("wheels", wheel("Dask-1-py3-none-any.whl", HASH, 1), "twice"),
        ("indexes", json!(["ftp://x/"]), "http"),
        ("indexes", json!(["https://"]), "http"),
        ("indexes", json!(["https://u:hunter2@x/simple"]), "credentials"),
        ("versions", json!({"dask": "1 2"}), "version"),
        ("setup", json!([""]), "setup"),
        ("setup", json!(["a\nb"]), "setup"),
        ("surprise", json!(1), "surprise"),
    ];
    for (field, value, expected) in cases {
        let mut bad = sample();
        bad[field] = value.clone();
        let error = parse(&bad).unwrap_err();
        assert_eq!(error.code, Code::Malformed, "{field} {value}");
        assert!(error.message.contains(expected), "{field} {value}: {}", error.message);
        assert!(!error.message.contains("hunter2"));
    }
}

#[test]
fn another_version_and_too_many_bytes_have_codes_of_their_own() {
    let mut newer = sample();
    newer["version"] = json!(2);
    newer["surprise"] = json!(1);
    assert_eq!(parse(&newer).unwrap_err().code, Code::Protocol);
    assert_eq!(
        Manifest::parse(&vec![b' '; MAX_MANIFEST + 1]).unwrap_err().code,
        Code::TooLarge
    );
}

#[test]
fn hosts_of_indexes() {
    for (url, host) in [
        ("https://Example.org/simple", Some("example.org")),
        ("http://u:p@h.example:8080/x", Some("h.example")),
        ("http://[::1]:80/", Some("::1")),
        ("https://", None),
        ("nothing", None),
    ] {
        assert_eq!(index_host(url).as_deref(), host, "{url}");
    }
}

#[test]
fn differences_are_named() {
    let v = |python: &str, dask: &str| Versions {
        python: python.into(),
        dask: dask.into(),
        distributed: dask.into(),
    };
    assert!(differences(&v("3.11.7", "1"), &v("3.11.9", "1")).is_empty());
    assert!(differences(&v("3.11.7", "1"), &v("", "1")).is_empty());
    assert_eq!(
        differences(&v("3.11.7", "1"), &v("3.12.0", "2")),
        [
            "python: 3.11.7 here, 3.12.0 on the node",
            "dask: 1 here, 2 on the node",
            "distributed: 1 here, 2 on the node"
        ]
    );
}

proptest! {
    #[test]
    fn no_text_breaks_the_parsers(text in ".{0,200}") {
        let _ = parse_lock(&text);
        let _ = Manifest::parse(text.as_bytes());
        let _ = index_host(&text);
    }

    /// Nothing that an installer would take for an option gets through.
    #[test]
    fn no_line_of_a_good_lock_is_an_option(lines in prop::collection::vec("[-a-z=@:/ .0-9]{0,20}", 0..5)) {
        let text = lines.join("\n");
        if parse_lock(&text).is_ok() {
            prop_assert!(text.lines().all(|l| !l.trim_start().starts_with('-') || l.contains("--hash=sha256:")));
        }
    }
}
