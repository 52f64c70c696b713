use std::collections::BTreeSet;
use std::process::Command;

use super::super::interpreter::find_interpreter;
use super::super::testing::index::{Index, index, real_venv, uv, wheel};
use super::super::testing::{dist, folder, write};
use super::*;
use herdsman_wire::environment::id;

const PURE: &str = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
const MAC: &str = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-macosx_11_0_arm64\n";

/// A laptop: an environment, a project, a cache, an index.
struct Laptop {
    uv: PathBuf,
    dir: tempfile::TempDir,
    packages: PathBuf,
    index: Index,
    settings: EnvRequest,
}

impl Laptop {
    async fn new(wheels: &[(String, Vec<u8>)], access: Option<&str>) -> Option<Self> {
        let uv = uv()?;
        let dir = folder();
        let packages = real_venv(&uv, &dir.path().join("venv"));
        let index = index(wheels, access).await;
        let mut variables: Variables = ["PATH", "HOME"]
            .into_iter()
            .filter_map(|n| Some((n.to_owned(), std::env::var_os(n)?)))
            .collect();
        variables.insert("HERDSMAN_UV".into(), uv.clone().into());
        variables.insert("UV_CACHE_DIR".into(), dir.path().join("uv-cache").into());
        variables.insert("UV_DEFAULT_INDEX".into(), index.url.clone().into());
        // Nodes cannot reach it, so it must not count.
        variables.insert("UV_FIND_LINKS".into(), dir.path().into());
        variables.insert("NETRC".into(), dir.path().join("netrc").into());
        let settings = EnvRequest {
            cache: dir.path().join("cache"),
            variables,
            ..EnvRequest::default()
        };
        let laptop = Self {
            uv,
            dir,
            packages,
            index,
            settings,
        };
        laptop.install("dask", "2026.8.0", PURE);
        laptop.install("distributed", "2026.8.0", PURE);
        Some(laptop)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn install(&self, name: &str, version: &str, wheel: &str) {
        let module = name.replace('-', "_");
        write(
            self.packages.join(format!("{module}/__init__.py")),
            &format!("__version__ = '{version}'\n"),
        );
        let record = format!("{module}/__init__.py,,\n{module}-{version}.dist-info/METADATA,,\n");
        dist(
            &self.packages,
            name,
            version,
            &[("WHEEL", wheel), ("RECORD", &record), ("INSTALLER", "uv")],
        );
    }

    async fn prepare(&self) -> Result<Copy, Error> {
        let python = find_interpreter(
            self.dir.path(),
            &Variables::new(),
            Some(&self.at("venv").to_string_lossy()),
        )
        .unwrap();
        prepare(&self.settings, &python, |_| ()).await
    }

    /// Installs a copy the way a node does, and runs code in it.
    async fn run(&self, copy: &Copy, code: &str) -> String {
        let node = self.at("node");
        std::fs::create_dir_all(&node).unwrap();
        real_venv(&self.uv, &node.join("venv"));
        let mut requirements = copy.manifest.lock.clone();
        for w in &copy.manifest.wheels {
            let blob = copy.blobs.iter().find(|b| b.sha256 == w.sha256).unwrap();
            let bytes = match &blob.content {
                Content::Path(p) => std::fs::read(p).unwrap(),
                Content::Bytes(b) => b.clone(),
            };
            assert_eq!((id(&bytes), bytes.len() as u64), (w.sha256.clone(), w.size));
            std::fs::write(node.join(&w.file), bytes).unwrap();
            requirements.push_str(&format!(
                "file://{} --hash=sha256:{}\n",
                node.join(&w.file).display(),
                w.sha256
            ));
        }
        let file = write(node.join("requirements.txt"), &requirements);
        let out = tokio::process::Command::new(&self.uv)
            .args([
                "pip",
                "install",
                "-q",
                "--no-config",
                "--no-deps",
                "--require-hashes",
                "--no-build",
                "--default-index",
            ])
            .args([&self.index.url, "--python"])
            .arg(node.join("venv"))
            .arg("-r")
            .arg(&file)
            .env_remove("UV_FIND_LINKS")
            .output()
            .await
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let out = Command::new(node.join("venv/bin/python"))
            .args(["-c", code])
            .current_dir("/")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

fn any(name: &str, version: &str) -> (String, Vec<u8>) {
    wheel(name, version, "py3-none-any")
}

fn row<'a>(copy: &'a Copy, name: &str) -> &'a Row {
    copy.rows.iter().find(|r| r.name == name).unwrap()
}

#[tokio::test]
async fn every_kind_of_package_gets_there_or_says_why_not() {
    let mac = "cp39-abi3-macosx_11_0_arm64";
    let wheels = [
        any("dask", "2026.8.0"),
        any("distributed", "2026.8.0"),
        any("typer", "1.0"),
        wheel("metal", "1.0", mac),
        wheel("patchy", "1.2.0", mac),
        any("patchy", "1.2.7"),
        any("patchy", "1.3.0"),
    ];
    let Some(mut laptop) = Laptop::new(&wheels, None).await else {
        return;
    };
    laptop.install("typer", "1.0", PURE);
    laptop.install("metal", "1.0", MAC);
    laptop.install("patchy", "1.2.0", MAC);
    laptop.install("only-here", "0.1", PURE);
    laptop.install("ruff", "1.0", PURE);
    laptop.install("herdsman", "0.1.0", PURE);
    // Somebody needs patchy on Linux.
    let needs = laptop.packages.join("typer-1.0.dist-info/METADATA");
    write(
        needs,
        "Metadata-Version: 2.1\nName: typer\nVersion: 1.0\nRequires-Dist: patchy\n",
    );
    dist(
        &laptop.packages,
        "from-git",
        "2.0",
        &[
            ("WHEEL", PURE),
            (
                "RECORD",
                "from_git.py,,\nfrom_git-2.0.dist-info/METADATA,,\n../../../bin/tool,,\n",
            ),
            (
                "direct_url.json",
                r#"{"url":"https://h/r.git","vcs_info":{"vcs":"git","commit_id":"abc"}}"#,
            ),
        ],
    );
    write(laptop.packages.join("from_git.py"), "x = 'git'\n");
    write(laptop.at("project/helpers.py"), "y = 'loose'\n");
    // As on the laptop, the project's modules come before installed ones.
    write(laptop.at("project/typer.py"), "__version__ = 'mine'\n");
    laptop.settings.project = Some(laptop.at("project"));

    let copy = laptop.prepare().await.unwrap();
    let actions: Vec<(&str, &str, Action)> = copy
        .rows
        .iter()
        .map(|r| (r.name.as_str(), r.version.as_str(), r.action))
        .collect();
    assert_eq!(
        actions,
        [
            ("dask", "2026.8.0", Action::Exact),
            ("distributed", "2026.8.0", Action::Exact),
            ("from-git", "2.0", Action::Packed),
            ("herdsman", "0.1.0", Action::LeftOut),
            ("herdsman-project", "0", Action::Packed),
            ("metal", "1.0", Action::LeftOut),
            ("only-here", "0.1", Action::Packed),
            ("patchy", "1.2.7", Action::Changed),
            ("ruff", "1.0", Action::LeftOut),
            ("typer", "1.0", Action::Exact),
        ]
    );
    let summary = copy.summary();
    for part in [
        " + 4 packages, 1 changed, 3 local: from-git (repository), the project's modules (2 files), only-here (",
        ", 3 left out; ",
    ] {
        assert!(summary.contains(part), "{summary}");
    }
    assert_eq!(row(&copy, "from-git").class, "repository");
    assert_eq!(
        copy.manifest
            .versions
            .keys()
            .map(String::as_str)
            .collect::<BTreeSet<_>>(),
        ["dask", "distributed", "python"].into()
    );
    assert_eq!(copy.manifest.indexes, [laptop.index.url.clone()]);
    let again = laptop.prepare().await.unwrap();
    assert_eq!(again.id, copy.id, "the same environment has the same id");
    // No path of the laptop travels.
    let text = String::from_utf8(copy.manifest.to_bytes().unwrap()).unwrap();
    assert!(!text.contains(&*laptop.dir.path().to_string_lossy()));

    let code = "import from_git, helpers, typer, patchy, only_here; print(from_git.x, helpers.y, typer.__version__, patchy.__version__)";
    assert_eq!(laptop.run(&copy, code).await, "git loose mine 1.2.7");
}

#[tokio::test]
async fn what_cannot_get_to_linux_stops_with_ways_out() {
    let mac = "cp39-abi3-macosx_11_0_arm64";
    let wheels = [
        any("dask", "2026.8.0"),
        any("distributed", "2026.8.0"),
        wheel("metal", "1.0", mac),
    ];
    let Some(mut laptop) = Laptop::new(&wheels, None).await else {
        return;
    };
    laptop.install("metal", "1.0", MAC);
    laptop.install("user", "1.0", PURE);
    write(
        laptop.packages.join("user-1.0.dist-info/METADATA"),
        "Metadata-Version: 2.1\nName: user\nVersion: 1.0\nRequires-Dist: metal\n",
    );
    let error = herdsman_wire::ApiError::from(laptop.prepare().await.unwrap_err());
    assert!(
        error.message.contains("metal 1.0") && error.message.contains("user needs it"),
        "{error}"
    );
    assert_eq!(error.hint.len(), 3);
    laptop.settings.ignore = vec!["Metal".into()];
    assert_eq!(
        row(&laptop.prepare().await.unwrap(), "metal").reason,
        "named in env.ignore"
    );
    laptop.settings.ignore.push("dask".into());
    assert!(
        laptop
            .prepare()
            .await
            .unwrap_err()
            .to_string()
            .contains("dask is left out")
    );
}

#[tokio::test]
async fn dask_is_never_changed_unless_allowed() {
    let wheels = [any("dask", "2026.8.1"), any("distributed", "2026.8.0")];
    let Some(mut laptop) = Laptop::new(&wheels, None).await else {
        return;
    };
    laptop.install("dask", "2026.8.0", MAC);
    let error = laptop.prepare().await.unwrap_err();
    assert!(error.to_string().contains("dask 2026.8.0"), "{error}");
    laptop.settings.allow_skew = true;
    let copy = laptop.prepare().await.unwrap();
    assert_eq!(copy.manifest.versions["dask"], "2026.8.1");
}

#[tokio::test]
async fn a_private_index_is_asked_with_its_password_which_stays_out_of_everything() {
    let wheels = [any("dask", "2026.8.0"), any("distributed", "2026.8.0")];
    let Some(mut laptop) = Laptop::new(&wheels, Some("bob:hunter2 x")).await else {
        return;
    };
    let error = laptop.prepare().await.unwrap_err();
    let error = herdsman_wire::ApiError::from(error);
    assert!(error.hint[0].contains("netrc"), "{error:?}");

    let host = laptop.index.url.trim_start_matches("http://").to_owned();
    laptop.settings.variables.insert(
        "UV_DEFAULT_INDEX".into(),
        format!("http://bob:hunter2%20x@{host}").into(),
    );
    let copy = laptop.prepare().await.unwrap();
    assert_eq!(copy.credentials[0].password.reveal(), "hunter2 x");
    assert!(!format!("{copy:?}").contains("hunter2"));
    assert!(
        !String::from_utf8(copy.manifest.to_bytes().unwrap())
            .unwrap()
            .contains("hunter2")
    );

    laptop
        .settings
        .variables
        .insert("UV_DEFAULT_INDEX".into(), laptop.index.url.clone().into());
    write(
        laptop.at("netrc"),
        "machine 127.0.0.1 login bob password \"hunter2 x\"\n",
    );
    assert_eq!(laptop.prepare().await.unwrap().credentials.len(), 1);
    write(laptop.at("netrc"), "machine 127.0.0.1 login bob password wr0ng\n");
    let error = laptop.prepare().await.unwrap_err();
    assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
}

/// A build back-end in the folder itself, so that no index is needed.
const BACKEND: &str = r#"
import os, zipfile
def build_wheel(out, settings=None, meta=None):
    name = "mine-0.5-py3-none-any.whl"
    info = "mine-0.5.dist-info"
    with zipfile.ZipFile(os.path.join(out, name), "w") as z:
        z.write("src/mine.py", "mine.py")
        z.writestr(info + "/METADATA", "Metadata-Version: 2.1\nName: mine\nVersion: 0.5\n")
        z.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "/RECORD", "mine.py,,\n%s/METADATA,,\n%s/WHEEL,,\n%s/RECORD,,\n" % (info, info, info))
    with open(os.environ["COUNT"], "a") as f:
        f.write("x")
    return name
def get_requires_for_build_wheel(settings=None):
    return []
"#;

#[tokio::test]
async fn editable_code_is_built_once_for_each_content() {
    let wheels = [any("dask", "2026.8.0"), any("distributed", "2026.8.0")];
    let Some(mut laptop) = Laptop::new(&wheels, None).await else {
        return;
    };
    let count = laptop.at("count");
    laptop.settings.variables.insert("COUNT".into(), count.clone().into());
    write(
        laptop.at("mine/pyproject.toml"),
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"mine\"\nversion = \"0.5\"\n",
    );
    write(laptop.at("mine/backend.py"), BACKEND);
    write(laptop.at("mine/src/mine.py"), "z = 1\n");
    let direct = format!(
        r#"{{"url":"file://{}","dir_info":{{"editable":true}}}}"#,
        laptop.at("mine").display()
    );
    dist(&laptop.packages, "mine", "0.4.dev1", &[("direct_url.json", &direct)]);

    let first = laptop.prepare().await.unwrap();
    assert_eq!(
        (row(&first, "mine").version.as_str(), row(&first, "mine").action),
        ("0.5", Action::Packed)
    );
    assert_eq!(laptop.prepare().await.unwrap().id, first.id);
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x");
    assert_eq!(laptop.run(&first, "import mine; print(mine.z)").await, "1");

    write(laptop.at("mine/src/mine.py"), "z = 2\n");
    assert_ne!(laptop.prepare().await.unwrap().id, first.id);
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "xx");

    write(laptop.at("mine/backend.py"), "raise SystemExit('no way')\n");
    let error = herdsman_wire::ApiError::from(laptop.prepare().await.unwrap_err());
    assert!(
        error.message.contains("building mine") && error.hint[1].contains("env.ignore"),
        "{error:?}"
    );
}

#[tokio::test]
async fn trouble_with_the_index_is_no_missing_package() {
    let Some(mut laptop) = Laptop::new(&[], None).await else {
        return;
    };
    laptop
        .settings
        .variables
        .insert("UV_DEFAULT_INDEX".into(), "http://127.0.0.1:9/simple".into());
    laptop.settings.variables.insert("UV_HTTP_RETRIES".into(), "0".into());
    let error = herdsman_wire::ApiError::from(laptop.prepare().await.unwrap_err());
    assert!(error.message.starts_with("locking the packages failed"), "{error}");
    assert!(error.hint[0].contains("reached"), "{error:?}");
}

#[tokio::test]
async fn a_lock_file_decides_what_comes_from_indexes() {
    let wheels = [
        any("dask", "2026.8.0"),
        any("distributed", "2026.8.0"),
        any("typer", "2.0"),
    ];
    let Some(mut laptop) = Laptop::new(&wheels, None).await else {
        return;
    };
    laptop.install("typer", "1.0", PURE);
    laptop.install("not-locked", "1.0", PURE);
    laptop.install("only-here", "0.1", PURE);
    let hash = |file: &str| id(&wheels.iter().find(|(f, _)| f.starts_with(file)).unwrap().1);
    let pin = |name: &str, version: &str| format!("{name}=={version} --hash=sha256:{}\n", hash(name));
    let good = [
        pin("dask", "2026.8.0"),
        pin("distributed", "2026.8.0"),
        pin("typer", "2.0"),
        "# as installed: only-here\n".to_owned(),
    ]
    .concat();
    laptop.settings.lock = Some(write(laptop.at("r.lock"), &good));
    let copy = laptop.prepare().await.unwrap();
    let action = |name: &str| row(&copy, name).action;
    assert_eq!(action("dask"), Action::Exact);
    assert_eq!(
        (action("typer"), &*row(&copy, "typer").version),
        (Action::Changed, "2.0")
    );
    assert_eq!(action("not-locked"), Action::LeftOut);
    assert_eq!(action("only-here"), Action::Packed);
    assert_eq!(
        laptop
            .run(&copy, "import typer, only_here; print(typer.__version__)")
            .await,
        "2.0"
    );

    let other = good.replace("distributed==2026.8.0", "distributed==2026.7.0");
    laptop.settings.lock = Some(write(laptop.at("other.lock"), &other));
    let error = herdsman_wire::ApiError::from(laptop.prepare().await.unwrap_err());
    assert_eq!(error.code, herdsman_wire::Code::Mismatch);
    assert!(
        error
            .message
            .contains("distributed: 2026.8.0 here, 2026.7.0 in the lock file"),
        "{error}"
    );
    laptop.settings.lock = Some(write(laptop.at("none.lock"), &pin("dask", "2026.8.0")));
    let error = laptop.prepare().await.unwrap_err().to_string();
    assert!(error.contains("missing in the lock file"), "{error}");
}
