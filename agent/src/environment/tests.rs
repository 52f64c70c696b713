use std::sync::atomic::{AtomicUsize, Ordering};

use herdsman_wire::Secret;
use herdsman_wire::environment::{PLATFORM, VERSION, Wheel, id};
use herdsman_wire::report::Versions;

use super::*;

mod fakes;

/// What a launcher would have sent.
struct Bundle {
    id: String,
    blobs: BTreeMap<String, Vec<u8>>,
    fetched: AtomicUsize,
}

impl Bundle {
    fn new(python: &str, index: &str, pins: &[&(String, Vec<u8>)], local: &[(String, Vec<u8>)]) -> Self {
        let lock = pins
            .iter()
            .map(|(file, bytes)| {
                let mut parts = file.split('-');
                let (name, version) = (parts.next().unwrap(), parts.next().unwrap());
                format!("{name}=={version} \\\n    --hash=sha256:{}\n", id(bytes))
            })
            .collect();
        let manifest = Manifest {
            version: VERSION,
            python: python.to_owned(),
            platform: PLATFORM.to_owned(),
            lock,
            wheels: local
                .iter()
                .map(|(file, bytes)| Wheel {
                    file: file.clone(),
                    sha256: id(bytes),
                    size: bytes.len() as u64,
                })
                .collect(),
            indexes: vec![index.to_owned()],
            versions: [("python", python), ("dask", "2026.8.0"), ("distributed", "2026.8.0")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into(),
            setup: Vec::new(),
        };
        Self::of(&manifest, local)
    }

    fn of(manifest: &Manifest, local: &[(String, Vec<u8>)]) -> Self {
        let bytes = manifest.to_bytes().unwrap();
        let mut blobs: BTreeMap<String, Vec<u8>> = local.iter().map(|(_, b)| (id(b), b.clone())).collect();
        blobs.insert(id(&bytes), bytes.clone());
        Self {
            id: id(&bytes),
            blobs,
            fetched: AtomicUsize::new(0),
        }
    }

    fn manifest(&self) -> Manifest {
        Manifest::parse(&self.blobs[&self.id]).unwrap()
    }

    async fn install(&self, root: &Path, uv: &Path, credentials: &[IndexCredential]) -> Result<Installed, ApiError> {
        let request = Install {
            id: &self.id,
            root,
            uv,
            python: None,
            offline: false,
            credentials,
        };
        let fetch = async |sha: &str, to: &Path| {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            std::fs::write(to, &self.blobs[sha]).map_err(|e| ApiError::new(Code::Disk, e.to_string()))
        };
        install(&request, fetch, |_| ()).await
    }
}

fn dask() -> (String, Vec<u8>) {
    fakes::wheel("dask", "2026.8.0", "__version__ = '2026.8.0'\n")
}

fn distributed() -> (String, Vec<u8>) {
    fakes::wheel("distributed", "2026.8.0", "import dask\n__version__ = '2026.8.0'\n")
}

fn run_python(python: &Path, code: &str) -> String {
    let out = std::process::Command::new(python).args(["-c", code]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_environment_is_made_once_and_found_again() {
    let Some(uv) = fakes::uv() else { return };
    let (dask, distributed) = (dask(), distributed());
    let index = fakes::index(&[dask.clone(), distributed.clone()], None).await;
    let local = fakes::wheel("my_lib", "0.1", "answer = 42\n");
    let bundle = Bundle::new(&fakes::python(&uv), &index.url, &[&dask, &distributed], &[local]);
    let dir = tempfile::tempdir().unwrap();
    // A path that needs care in a URL, and a rest of an interrupted attempt.
    let root = dir.path().join("env dir%20");
    std::fs::create_dir_all(root.join(format!("{}.partial/venv/bin", bundle.id))).unwrap();
    std::fs::create_dir_all(root.join(&bundle.id)).unwrap();

    let (a, b) = tokio::join!(bundle.install(&root, &uv, &[]), bundle.install(&root, &uv, &[]));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a, b);
    assert_eq!(bundle.fetched.load(Ordering::SeqCst), 2, "one of the two did the work");
    assert_eq!(a.versions["dask"], "2026.8.0");
    assert_eq!(a.python, root.join(&bundle.id).join("venv/bin/python"));
    assert_eq!(
        run_python(&a.python, "import my_lib, sys; print(my_lib.answer, sys.prefix)"),
        format!("42 {}", root.join(&bundle.id).join("venv").display())
    );
    assert!(!root.join(format!("{}.partial", bundle.id)).exists());

    // A second root user of the same cache, index gone: nothing is asked for.
    let served = index.served.load(Ordering::SeqCst);
    drop(index);
    assert_eq!(bundle.install(&root, &uv, &[]).await.unwrap(), a);
    assert_eq!(bundle.fetched.load(Ordering::SeqCst), 2);
    assert!(served >= 2);

    // Without its interpreter it is not whole any more.
    std::fs::remove_file(&a.python).unwrap();
    assert!(folder::Folders::new(&root, &bundle.id).unwrap().ready().is_none());
}

#[tokio::test]
async fn a_private_index_gets_its_password_and_no_text_shows_it() {
    let Some(uv) = fakes::uv() else { return };
    let (dask, distributed) = (dask(), distributed());
    let password = "hunter2 #\"x";
    let index = fakes::index(&[dask.clone(), distributed.clone()], Some(&format!("bob:{password}"))).await;
    let bundle = Bundle::new(&fakes::python(&uv), &index.url, &[&dask, &distributed], &[]);
    let dir = tempfile::tempdir().unwrap();
    let access = |password: &str| {
        [IndexCredential {
            host: "127.0.0.1".into(),
            user: "bob".into(),
            password: Secret::new(password),
        }]
    };
    let error = bundle
        .install(dir.path(), &uv, &access("wr0ng-pass"))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Environment);
    assert!(!format!("{error:?}").contains("wr0ng-pass"), "{error}");
    assert!(error.hint[0].contains("password"), "{error:?}");
    bundle.install(dir.path(), &uv, &access(password)).await.unwrap();
    // Nothing that stays on the disk holds it.
    let grep = std::process::Command::new("grep")
        .args(["-rlaF", "hunter2"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
}

#[tokio::test]
async fn changed_files_are_refused() {
    let Some(uv) = fakes::uv() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (dask, distributed) = (dask(), distributed());
    let python = fakes::python(&uv);

    // The index serves another file under the same name.
    let evil = (dask.0.clone(), fakes::wheel("dask", "2026.8.0", "evil = 1\n").1);
    let index = fakes::index(&[evil, distributed.clone()], None).await;
    let bundle = Bundle::new(&python, &index.url, &[&dask, &distributed], &[]);
    let error = bundle.install(dir.path(), &uv, &[]).await.unwrap_err();
    assert_eq!(error.code, Code::Environment, "{error}");
    assert!(!dir.path().join(&bundle.id).exists());
    assert!(!dir.path().join(format!("{}.partial", bundle.id)).exists());

    // A blob that is not what its name says.
    let local = fakes::wheel("my_lib", "0.1", "answer = 42\n");
    let mut bundle = Bundle::new(
        &python,
        &index.url,
        &[&dask, &distributed],
        std::slice::from_ref(&local),
    );
    bundle.blobs.insert(id(&local.1), b"other".to_vec());
    assert_eq!(
        bundle.install(dir.path(), &uv, &[]).await.unwrap_err().code,
        Code::Malformed
    );
    // A manifest that is not.
    bundle.blobs.insert(bundle.id.clone(), b"{}".to_vec());
    assert_eq!(
        bundle.install(dir.path(), &uv, &[]).await.unwrap_err().code,
        Code::Malformed
    );
    bundle.id = "../../etc".into();
    assert_eq!(
        bundle.install(dir.path(), &uv, &[]).await.unwrap_err().code,
        Code::Malformed
    );
}

#[tokio::test]
async fn other_versions_and_broken_packages_are_told() {
    let Some(uv) = fakes::uv() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (dask, distributed) = (dask(), distributed());
    let index = fakes::index(&[dask.clone(), distributed.clone()], None).await;
    let mut manifest = Bundle::new(&fakes::python(&uv), &index.url, &[&dask, &distributed], &[]).manifest();
    manifest.versions.insert("dask".into(), "2026.9.0".into());
    manifest.versions.insert("numpy".into(), "2.4.6".into());
    let error = Bundle::of(&manifest, &[])
        .install(dir.path(), &uv, &[])
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Mismatch);
    assert!(
        error.message.contains("dask: 2026.9.0 here, 2026.8.0 on the node"),
        "{error}"
    );
    assert!(
        error.message.contains("numpy: 2.4.6 here, nothing on the node"),
        "{error}"
    );

    let broken = fakes::wheel("distributed", "2026.8.0", "import nowhere\n");
    let index = fakes::index(&[dask.clone(), broken.clone()], None).await;
    let bundle = Bundle::new(&fakes::python(&uv), &index.url, &[&dask, &broken], &[]);
    let error = bundle.install(dir.path(), &uv, &[]).await.unwrap_err();
    assert_eq!(error.code, Code::Environment);
    assert!(error.message.contains("No module named 'nowhere'"), "{error}");
}

#[tokio::test]
async fn a_missing_uv_and_set_up_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = Bundle::new("3.11.7", "http://127.0.0.1:9/simple", &[], &[]).manifest();
    let mark = dir.path().join("mark");
    manifest.setup = vec![format!("touch '{}'", mark.display())];
    let nowhere = dir.path().join("no-uv");
    let error = Bundle::of(&manifest, &[])
        .install(dir.path(), &nowhere, &[])
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Environment);
    assert!(error.message.contains("uv cannot be used"), "{error}");
    assert!(mark.is_file());
    manifest.setup = vec!["exit 7".into()];
    let error = Bundle::of(&manifest, &[])
        .install(dir.path(), &nowhere, &[])
        .await
        .unwrap_err();
    assert!(error.message.contains("exit 7"), "{error}");
}

#[tokio::test]
async fn images_are_asked_once() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("asked");
    let python = dir.path().join("python");
    let script = format!(
        "#!/bin/sh\necho x >> '{}'\necho '{{\"python\": \"3.11.7\", \"dask\": \"1\", \"distributed\": \"1\"}}'\n",
        asked.display()
    );
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let expected = |dask: &str| Versions {
        python: "3.11.9".into(),
        dask: dask.into(),
        distributed: "1".into(),
    };
    assert_eq!(check_image(&python, &expected("1")).await.unwrap().python, "3.11.7");
    let error = check_image(&python, &expected("2")).await.unwrap_err();
    assert_eq!(error.code, Code::Mismatch);
    assert!(error.message.ends_with("dask: 2 here, 1 on the node"), "{error}");
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "x\n");

    let error = check_image(&dir.path().join("none"), &expected("1")).await.unwrap_err();
    assert_eq!(error.code, Code::Environment);
    // A Python without dask.
    let bare = dir.path().join("bare");
    std::fs::write(
        &bare,
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'dask'\" >&2\nexit 1\n",
    )
    .unwrap();
    std::fs::set_permissions(&bare, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = check_image(&bare, &expected("1")).await.unwrap_err();
    assert!(
        error.message.contains("has no dask") && error.hint[0].contains("pip install"),
        "{error:?}"
    );
}
