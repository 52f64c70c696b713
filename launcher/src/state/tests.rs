use super::*;
use crate::pki;
use herdsman_wire::limits;

fn record(name: &str) -> (Record, UserKeys) {
    let id = pki::new_cluster_id().unwrap();
    let now = Timestamp::now();
    let roots = pki::Roots::generate(&id, now, limits::CLUSTER_LIFE).unwrap();
    let keys = UserKeys {
        operator: roots.operator("me", now, limits::OPERATOR_LIFE).unwrap(),
        client: roots.client("me", now, limits::OPERATOR_LIFE).unwrap(),
    };
    let record = Record {
        cluster: ClusterRef {
            name: name.parse().unwrap(),
            id,
        },
        provider: "local".into(),
        created: now,
        agent: Some("127.0.0.1:8785".parse().unwrap()),
        scheduler: None,
        region: None,
        roots: roots.pems.clone(),
        fingerprint: pki::fingerprint(&roots.pems.control).unwrap(),
        insecure: false,
        own: false,
        tags: Tags::new(),
        stage: Stage::Creating,
    };
    (record, keys)
}

#[test]
fn what_is_saved_is_loaded_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (record, keys) = record("demo");
    let name = record.cluster.name.clone();
    assert_eq!(store.load(&name).unwrap(), None);
    assert!(store.keys(&name).unwrap().is_none());
    store.save(&record).unwrap();
    store.save_keys(&name, &keys).unwrap();
    assert_eq!(store.load(&name).unwrap().as_ref(), Some(&record));
    let back = store.keys(&name).unwrap().unwrap();
    assert_eq!((back.operator, back.client), (keys.operator, keys.client));
    assert_eq!(store.names().unwrap(), std::slice::from_ref(&name));
    #[cfg(unix)]
    for entry in std::fs::read_dir(store.folder_of(&name)).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
    }
    store.remove(&name).unwrap();
    store.remove(&name).unwrap();
    assert!(!store.holds(&name));
}

#[test]
fn damaged_and_newer_records_are_named_and_harm_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for name in ["good", "bad"] {
        let (record, keys) = record(name);
        store.save(&record).unwrap();
        store.save_keys(&record.cluster.name, &keys).unwrap();
    }
    let bad: ClusterName = "bad".parse().unwrap();
    let path = store.folder_of(&bad).join("record.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    for text in ["", "{", &whole[..whole.len() / 2], "[]"] {
        std::fs::write(&path, text).unwrap();
        let e = store.load(&bad).unwrap_err();
        assert_eq!(e.code, Code::Malformed);
        assert!(e.message.contains("bad/record.json"), "{e}");
    }
    std::fs::write(&path, r#"{"version": 7, "future": true}"#).unwrap();
    let e = store.load(&bad).unwrap_err();
    assert_eq!(e.code, Code::Protocol);
    assert!(
        e.message.contains("version 7") && e.message.contains("version 1"),
        "{e}"
    );
    std::fs::write(store.folder_of(&bad).join("client.pem"), "not a certificate").unwrap();
    assert!(store.keys(&bad).unwrap_err().message.contains("client.pem"));
    assert!(store.load(&"good".parse().unwrap()).unwrap().is_some());
}

#[test]
fn a_second_command_is_told_who_has_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name: ClusterName = "demo".parse().unwrap();
    let held = store.lock(&name, "up").unwrap();
    let e = store.lock(&name, "down").unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    assert!(e.message.contains("herdsman up") && e.message.contains("`demo`"), "{e}");
    assert!(store.lock(&"other".parse().unwrap(), "down").is_ok());
    drop(held);
    store.lock(&name, "down").unwrap();
}

#[test]
fn a_lock_that_seems_to_be_our_own_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name = "demo".parse().unwrap();
    let held = store.lock(&name, "up").unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.lock(&name, "down"));
        std::thread::sleep(std::time::Duration::from_millis(100));
        drop(held);
        second.join().unwrap().unwrap();
    });
}
