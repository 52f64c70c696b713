//! All sources together, over real files.

use std::path::{Path, PathBuf};

use herdsman_wire::Code;

use super::*;
use crate::command::cli::{Global, UpArgs};

struct World {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    up: UpArgs,
    global: Global,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home").display().to_string();
        std::fs::create_dir_all(dir.path().join("work/sub")).unwrap();
        let env = vec![("HOME".into(), home), ("USER".into(), "ann".into())];
        Self {
            dir,
            env,
            up: UpArgs::default(),
            global: Global::default(),
        }
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn project(self, text: &str) -> Self {
        self.file("work/herdsman.toml", text)
    }

    fn user(self, text: &str) -> Self {
        self.file("home/.config/herdsman/config.toml", text)
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn up(mut self, change: impl FnOnce(&mut UpArgs)) -> Self {
        change(&mut self.up);
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        self.load_in("work")
    }

    fn load_in(&self, folder: &str) -> Result<Loaded, ConfigError> {
        let env: Env = self.env.iter().cloned().collect();
        load(&self.up, &self.global, &env, &self.path(folder))
    }

    /// The error with the temporary folder taken out.
    fn error(&self) -> String {
        let e = self.load().unwrap_err().to_string();
        e.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn defaults_need_nothing() {
    let w = World::new();
    let loaded = w.load().unwrap();
    let s = &loaded.settings;
    assert_eq!((s.named, s.name.as_str()), (false, "dask-ann"));
    assert_eq!(s.provider, ProviderName::Local);
    assert_eq!(s.idle.unwrap().as_secs(), 1200);
    assert_eq!((s.no_client, s.lifetime.unwrap().as_secs()), (None, 43_200));
    assert_eq!((s.wait, s.start_timeout.as_secs()), (Wait::All, 300));
    assert!(!s.insecure && s.own.is_none());
    assert_eq!(s.env, EnvSource::Auto);
    assert!(loaded.files.is_empty() && loaded.warnings.is_empty());
    assert_eq!(loaded.entries.get("limits.idle").unwrap().origin, Origin::BuiltIn);
}

#[test]
fn the_strongest_source_wins_and_the_rest_is_remembered() {
    let idle = |w: &World| {
        let loaded = w.load().unwrap();
        let why = loaded.entries.get("limits.idle").unwrap().clone();
        (loaded.settings.idle.unwrap().as_secs() / 60, why)
    };
    let w = World::new().user("default_profile = \"work\"\n[defaults.limits]\nidle = \"1m\"\n");
    let w = w.user("[defaults.limits]\nidle = \"1m\"\n");
    assert_eq!(idle(&w).0, 1);
    let w =
        w.user("default_profile = \"work\"\n[profiles.work.limits]\nidle = \"2m\"\n[defaults.limits]\nidle = \"1m\"\n");
    assert_eq!(idle(&w).0, 2);
    let w = w.project("[limits]\nidle = \"3m\"\n");
    assert_eq!(idle(&w).0, 3);
    let w = w.var("HERDSMAN_IDLE", "4m");
    assert_eq!(idle(&w).0, 4);
    // A file that is named stands above the environment.
    let w = w.file("other.toml", "[limits]\nidle = \"5m\"\n");
    let named = w.path("other.toml");
    let w = w.up(|f| f.file = Some(named));
    assert_eq!(idle(&w).0, 5);
    let w = w.up(|f| f.idle = Some("6m".parse().unwrap()));
    let (minutes, why) = idle(&w);
    assert_eq!(minutes, 6);
    assert_eq!(why.origin.to_string(), "flag --idle");
    let rest: Vec<String> = why.instead_of.iter().map(|(o, v)| format!("{o}: {v}")).collect();
    let dir = format!("{}/", w.dir.path().display());
    insta::assert_snapshot!(rest.join("\n").replace(&dir, ""), @r#"
    other.toml:2: "5m"
    environment variable HERDSMAN_IDLE: "4m"
    home/.config/herdsman/config.toml:3 (profile work): "2m"
    home/.config/herdsman/config.toml:5: "1m"
    built-in default: "20m"
    "#);
}

#[test]
fn tables_are_merged_and_lists_add_up() {
    let w = World::new()
        .user("[defaults.tags]\nteam = \"a\"\nuser = \"ann\"\n[[defaults.workers]]\noptions = [\"--preload\", \"u.py\"]\n")
        .project("[tags]\nteam = \"geo\"\n[[workers]]\ncount = \"2..8\"\noptions = [\"--lifetime=1h\"]\n[workers.resources]\nGPU = 1\n[place]\nallow = [\"203.0.113.0/24\"]\n");
    let s = w.load().unwrap().settings;
    assert_eq!((s.tags["team"].as_str(), s.tags["user"].as_str()), ("geo", "ann"));
    assert_eq!(s.worker_options, ["--preload", "u.py", "--lifetime=1h"]);
    assert_eq!(s.resources["GPU"], 1.0);
    assert!(s.workers.is_adaptive());
    assert_eq!(s.allow.len(), 1, "who says whom to let in says it completely");
}

#[test]
fn errors_name_file_line_and_key() {
    let cases = [
        (
            "[scheduler]\n\nmemmory = \"8GiB\"",
            "herdsman.toml:3: unknown key \"memmory\" (did you mean \"memory\"?)",
        ),
        (
            "[limits]\nidle = 20",
            "herdsman.toml:2: limits.idle: wrong type: integer",
        ),
        ("[limits]\nidle = \"20\"", "no unit"),
        ("name = \"Demo\"", "herdsman.toml:1: cluster name `Demo`"),
        ("version = 2\nnew = 1", "reads version 1"),
        (
            "[[workers]]\ncount = 8\n[limits]\nmax_workers = 4",
            "8 workers are more than the most allowed, 4",
        ),
        ("[[workers]]\n[[workers]]\n", "herdsman.toml:2: one group of workers"),
        ("[workers]\ncount = 4", "[[workers]] with two brackets"),
        (
            "[[workers]]\nworkers_per_node = 60",
            "herdsman.toml:2: workers.workers_per_vm: at most",
        ),
        ("[limits]\nlifetime = \"60d\"", "720h"),
        ("[place]\nallow = [\"none\", \"me\"]", "none stands alone"),
        ("[env]\nmode = \"lock\"", "needs the lock file"),
        ("[env]\nindexes = [\"index.example\"]", "no address of a package index"),
        ("[env]\nsecrets = [\"A\"]\nvariables = { A = \"1\" }", "both a variable"),
        (
            "[[workers]]\noptions = [\"--nthreads=4\"]",
            "argument `--nthreads` for Dask's worker is not allowed",
        ),
        ("[[workers]]\noptions = [\"--preload x.py\"]", "two arguments in one"),
        ("[[workers]]\nclass = \"a b\"", "no class of Python"),
        ("[security]\ninsecure = true\ntls_cert = \"x\"", "exclude each other"),
        ("[security]\ntls_cert = \"x\"", "tls_ca_file"),
        ("[connect]\nproxy_command = 3", "expected a text in quotes or a list"),
        ("[scheduler]\ncpu = 0", "at least one processor"),
        ("[limits]\nmax_cost = -1.0", "more than nothing"),
        ("[place]\nallow = []", "lets nobody in"),
        ("[[workers]]\n[workers.resources]\n\"a b\" = 1", "one word"),
        ("[env.variables]\nHERDSMAN_X = \"1\"", "herdsman sets it"),
        ("[scheduler]\noptions = [\"--jupyter\"]", "a shell to everyone"),
        ("profile = \"work\"", "herdsman.toml:1: there is no profile \"work\""),
        ("x = [", "this is no TOML"),
    ];
    let mut wrong = Vec::new();
    for (text, words) in cases {
        let e = World::new().project(text).error();
        if !(e.contains("herdsman.toml:") && e.contains(words)) {
            wrong.push(format!("{text:?}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn secrets_are_refused_and_never_shown() {
    let secret = "dop_v1_0123456789abcdef0123456789abcdef";
    for text in [
        format!("[digitalocean]\ntoken = \"{secret}\""),
        format!("[env]\nsecrets = [\"{secret}\"]"),
        format!("[env]\nvariables = {{ X = \"{secret}\" }}"),
        format!("[env]\nindexes = [\"https://ann:{secret}@index.example/simple\"]"),
        format!("[[workers]]\noptions = [\"--preload-argv={secret}\"]"),
        format!("unknown = \"{secret}\""),
        format!("name = \"{secret}\""),
    ] {
        let e = World::new().project(&text).load().unwrap_err();
        assert!(e.to_string().contains("looks like"), "{e}");
        assert!(!format!("{e} {e:?}").contains("0123456789abcdef"), "{e:?}");
        assert!(!e.hint.is_empty(), "{e}");
    }
    let e = World::new().var("HERDSMAN_PYTHON", secret).load().unwrap_err();
    assert!(!format!("{e:?}").contains("0123456789abcdef"), "{e:?}");
    let w = World::new().up(|f| f.worker_option = vec![format!("--preload-argv={secret}")]);
    let e = w.load().unwrap_err();
    assert!(!format!("{e} {e:?}").contains("0123456789abcdef"), "{e:?}");
}

#[test]
fn what_has_no_effect_is_said() {
    let w = World::new().project("[place]\nregion = \"nbg1\"\n[scheduler]\ncpu = 2\n[limits]\nmax_cost = 5.0\n");
    let warnings = w.load().unwrap().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].ends_with("work/herdsman.toml:2: place.region has no effect with provider local"));
    let warned = |text: &str| World::new().project(text).load().unwrap().warnings.join("\n");
    assert!(warned("[limits]\nstart_timeout = \"2h\"").contains("gives up after"));
    assert!(warned("[[workers]]\nmemory = \"1GiB\"\nworkers_per_node = 8").contains("128 MiB for each"));
    assert!(warned("[place]\nallow = [\"none\"]").contains("place.allow has no effect"));
    assert!(warned("[env]\nsetup = [\"true\"]").contains("env.setup has no effect"));
    assert_eq!(warned("[env]\nsetup = [\"true\"]\nmode = \"copy\""), "");
}

#[test]
fn the_lock_file_alone_says_enough() {
    let w = World::new().project("[env]\nlock = \"uv.lock\"\n");
    assert_eq!(w.load().unwrap().settings.env, EnvSource::Lock(w.path("work/uv.lock")));
}

#[test]
fn variables_of_both_kinds_are_read() {
    let w = World::new()
        .var("HERDSMAN_WORKERS", "2..8")
        .var("HERDSMAN_ALLOW", "me,203.0.113.7")
        .var("DASK_HERDSMAN__LIMITS__LIFETIME", "8h")
        .var("DASK_HERDSMAN__IDLE_TIMEOUT", "30 minutes")
        .var("DASK_HERDSMAN__ENV__VARIABLES__OMP_NUM_THREADS", "1")
        .var("DASK_HERDSMAN__ASYNCHRONOUS", "true")
        .var("HERDSMAN_IDEL", "1h")
        .var("HERDSMAN_PROXY_COMMAND", "ssh -W %h:%p bastion");
    let loaded = w.load().unwrap();
    let s = loaded.settings;
    assert_eq!((s.workers.max(), s.allow.len()), (8, 2));
    assert_eq!(
        (s.lifetime.unwrap().as_secs(), s.idle.unwrap().as_secs()),
        (28_800, 1_800)
    );
    assert_eq!(s.variables["OMP_NUM_THREADS"].reveal(), "1");
    assert_eq!(s.proxy_command.unwrap(), ["ssh", "-W", "%h:%p", "bastion"]);
    assert!(
        loaded.warnings[1].contains("did you mean HERDSMAN_IDLE"),
        "{:?}",
        loaded.warnings
    );
    let e = World::new().var("HERDSMAN_IDLE", "30").load().unwrap_err().to_string();
    assert!(e.starts_with("environment variable HERDSMAN_IDLE: "), "{e}");
}

#[test]
fn a_projects_file_is_found_inside_its_repository_only() {
    let name = |w: &World, folder: &str| {
        let s = w.load_in(folder).unwrap().settings;
        s.named.then(|| String::from(s.name))
    };
    let w = World::new().project("name = \"up\"");
    assert_eq!(name(&w, "work").as_deref(), Some("up"));
    assert_eq!(
        name(&w, "work/sub"),
        None,
        "a file above is nobody's without a repository"
    );
    let w = w.file("work/.git/HEAD", "ref: refs/heads/main\n");
    assert_eq!(name(&w, "work/sub").as_deref(), Some("up"));
    let w = w.file("work/sub/pyproject.toml", "[project]\nname = \"x\"\n");
    assert_eq!(
        name(&w, "work/sub").as_deref(),
        Some("up"),
        "no table of ours, so it goes on"
    );
    let w = w.file("work/sub/pyproject.toml", "[tool.herdsman]\nname = \"sub-{branch}\"\n");
    assert_eq!(name(&w, "work/sub").as_deref(), Some("sub-main"));
}

#[test]
fn paths_start_where_they_were_written() {
    let w = World::new()
        .user("[defaults.env]\npython = \"venv/bin/python\"\n")
        .project("[env]\nmode = \"lock\"\nlock = \"uv.lock\"\ninclude = [\"x.py\"]\n")
        .file("work/.git/HEAD", "");
    let s = w.load_in("work/sub").unwrap().settings;
    assert_eq!(s.env, EnvSource::Lock(w.path("work/uv.lock")));
    assert_eq!(s.python, Some(w.path("home/.config/herdsman/venv/bin/python")));
    assert_eq!(s.include, [w.path("work/x.py")]);
    let python = |given: &str| {
        let w = World::new().up(|f| f.python = Some(given.into()));
        let found = w.load().unwrap().settings.python.unwrap();
        (found, w.path("work"))
    };
    assert_eq!(python("python3.12").0, Path::new("python3.12"), "a program to be found");
    let (found, folder) = python("bin/python");
    assert_eq!(found, folder.join("bin/python"));
}

#[test]
fn the_state_folder_has_two_names() {
    let dir = |pairs: &[(&str, &str)]| state_dir(&pairs.iter().copied().collect()).unwrap();
    assert_eq!(dir(&[("HOME", "/h")]), Path::new("/h/.local/share/herdsman"));
    assert_eq!(dir(&[("HOME", "/h"), ("HERDSMAN_STATE", "/s")]), Path::new("/s"));
    assert_eq!(
        dir(&[("HERDSMAN_STATE_DIR", "/d"), ("HERDSMAN_STATE", "/s")]),
        Path::new("/d")
    );
}

#[test]
fn files_and_profiles_that_are_named_must_exist() {
    let named = |file: &str| {
        let file = PathBuf::from(file);
        World::new().up(|f| f.file = Some(file))
    };
    for w in [
        named("none.toml"),
        named("pyproject.toml").file("work/pyproject.toml", "[project]\nname = \"x\"\n"),
        World::new().var("HERDSMAN_CONFIG", "/nonexistent/config.toml"),
        World::new().var("HERDSMAN_PROFILE", "work"),
        World::new().user("[profiles.wrok]\n").var("HERDSMAN_PROFILE", "work"),
        World::new().user("default_profile = \"work\"\n"),
    ] {
        assert_eq!(w.load().unwrap_err().code, Code::NotFound);
    }
    let e = World::new()
        .user("[profiles.wrok]\n")
        .var("HERDSMAN_PROFILE", "work")
        .error();
    assert_eq!(
        e,
        "environment variable HERDSMAN_PROFILE: there is no profile \"work\" (did you mean \"wrok\"?)"
    );
}

#[test]
fn the_document_reads_back() {
    let w = World::new().project("[tags]\n\"a.b\" = \"c\"\n[env.variables]\nX_Y = \"1\"\n[[workers]]\ncount = 3\n");
    let entries = w.load().unwrap().entries;
    let text = toml::to_string(&entries.document()).unwrap();
    let file = parse_file(&text, Path::new("herdsman.toml")).unwrap();
    assert_eq!(file.tags["a.b"], "c");
    assert_eq!(file.workers.as_ref().unwrap()[0].count.unwrap().max(), 3);
    for key in ["tags.a.b", "tags.\"a.b\""] {
        let origin = entries.get(key).unwrap().origin.to_string();
        assert!(origin.ends_with("herdsman.toml:2"), "{origin}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_gives_a_value_or_an_error(text in "(?s).{0,200}", name in "(herdsman|pyproject)\\.toml") {
        let _ = parse_file(&text, Path::new(&name));
        let _ = parse_user_file(&text, Path::new("config.toml"));
    }

    #[test]
    fn amounts_read_back_as_they_are_written(ms in 1u64..1 << 40, bytes in 1u64..) {
        let period = Period::new(std::time::Duration::from_millis(ms));
        proptest::prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        let size = Size::new(bytes).unwrap();
        proptest::prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
    }
}

#[test]
fn machines_of_others_have_programs_beside_the_file_and_more_time() {
    let w = World::new().project(
        "provider = \"manual\"\n[manual]\ncreate = \"./make --zone 'a b'\"\ndelete = [\"rm-vm\"]\n\
         scheduler_address = \"10.0.0.5\"\nuser_data_dir = \"out\"\n",
    );
    let w = w.up(|f| f.scheduler_address = Some("10.0.0.9".parse().unwrap()));
    let loaded = w.load().unwrap();
    let s = &loaded.settings;
    let make = w.path("work/./make").display().to_string();
    assert_eq!(s.manual.create, Some(vec![make, "--zone".into(), "a b".into()]));
    assert_eq!(s.manual.delete, Some(vec!["rm-vm".into()]));
    assert_eq!(s.manual.list, None);
    assert_eq!(s.manual.user_data_dir, Some(w.path("work/out")));
    assert_eq!(s.manual.scheduler_address, Some("10.0.0.9".parse().unwrap()));
    // A person has to make machines meanwhile.
    assert_eq!(s.start_timeout.as_secs(), 1200);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let why = loaded.entries.get("manual.scheduler_address").unwrap();
    assert_eq!(why.origin.to_string(), "flag --scheduler-address");
    // Elsewhere the flag has no effect, the table of another provider is fine.
    let w = w.up(|f| f.provider = Some(ProviderName::Local));
    let warnings = w.load().unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("manual.scheduler_address has no effect with provider local"));
}

#[test]
fn virtual_machines_have_an_image_and_sizes() {
    let w = World::new().project(
        "provider = \"qemu\"\n[scheduler]\nmemory = \"1GiB\"\n[[workers]]\ncpu = 3\ndisk = \"40GiB\"\n\
         [qemu]\nimage = \"images/debian.qcow2\"\naccel = \"tcg\"\n",
    );
    let q = w.load().unwrap().settings.qemu;
    assert_eq!(q.image, Some(w.path("work/images/debian.qcow2")));
    assert_eq!((q.accel, q.kernel), (Accel::Tcg, None));
    assert_eq!((q.scheduler.memory, q.scheduler.cpus), (Some(1 << 30), None));
    assert_eq!((q.worker.cpus, q.worker.disk), (Some(3), Some(40 << 30)));
}

#[test]
fn slips_in_tables_of_providers_are_found() {
    for (text, said) in [
        ("[manual]\ncraete = \"x\"\n", "did you mean \"create\"?"),
        ("[manual]\ncreate = \"\"\n", "the program is missing"),
        (
            "[manual]\nscheduler_address = \"example.org\"\n",
            "manual.scheduler_address",
        ),
        ("[manual]\nscheduler_address = \"0.0.0.0\"\n", "is no machine's address"),
        ("[manual]\nform = \"yaml\"\n", "cloud-config"),
        ("[qemu]\naccel = \"hvf\"\n", "tcg"),
        ("[qemu]\nsha256 = \"abc\"\n", "64 hexadecimal digits"),
        ("[env]\nimage_python = \"python3\"\n", "no absolute path"),
    ] {
        let e = World::new().project(text).error();
        assert!(e.contains(said) && e.contains("work/herdsman.toml:2"), "{text}: {e}");
    }
}
