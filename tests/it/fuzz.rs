//! Every parser of bytes from outside, fed with broken versions of good input.
//!
//! Seeds lie in `tests/fuzz/seeds/<parser>/`. Each run takes them through the
//! same mutations (the generator has a fixed start), for as long as
//! `HERDSMAN_FUZZ_SECONDS` says, two seconds each by default; longer runs go on
//! from there. A parser may refuse what it likes, in words without secrets; it
//! may not panic, hang, or take what it should refuse.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_wire::{ClusterId, Identity, Kind, Role, Timestamp, api, join::JoinConfig, pki, session};

/// What no error may hold.
const SECRET: &str = "KEY-MATERIAL";
/// What stands before it in the seeds.
const HOLDERS: [&str; 2] = ["\"key\": \"", "\"A\": \""];
/// Begins the text of a check that found something taken wrongly.
const WRONG: &str = "taken wrongly: ";
/// Longest input, bytes.
const LONGEST: usize = 128 * 1024;

/// A generator of George Marsaglia's xorshift kind: small, and the same
/// everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides.max(1)).unwrap_or(1)).unwrap_or(0)
    }
}

/// Pieces that parsers trip over.
const NASTY: &[&[u8]] = &[
    b"\0",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"\"",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"null",
    b"NaN",
    b"\\u0000",
    b"\\ud800",
    b"=",
    b"\n",
    b"'''",
    b"-----BEGIN ",
    b"-----END ",
    b"../../..",
    b"\r\n\r\n",
];

fn mutate(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            2 => {
                let piece = NASTY[dice.roll(NASTY.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            3 => {
                let to = at + dice.roll(bytes.len() - at + 1);
                bytes.drain(at..to);
            }
            4 => {
                let to = at + dice.roll(bytes.len() - at + 1);
                let copy = bytes[at..to].to_vec();
                for _ in 0..=dice.roll(20) {
                    bytes.splice(at..at, copy.iter().copied());
                    if bytes.len() > LONGEST {
                        break;
                    }
                }
            }
            5 => {
                let other = &seeds[dice.roll(seeds.len())];
                let from = dice.roll(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let random = u8::try_from(dice.roll(256)).unwrap_or(0);
                bytes.insert(at, random);
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

/// Feeds a parser; it answers with the error's text, if it refused.
fn fuzz(parser: &str, check: impl Fn(&[u8]) -> Option<String>) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(parser);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|e| e.path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    ensure!(!seeds.is_empty(), "no seeds in {}", folder.display());
    let seconds = std::env::var("HERDSMAN_FUZZ_SECONDS").unwrap_or_else(|_| "2".into());
    let time = Duration::from_secs(seconds.parse().context("HERDSMAN_FUZZ_SECONDS")?);
    let started = Instant::now();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut runs, mut refused) = (0_u64, 0_u64);
    // A few rounds even on a machine that is too busy to give any time.
    while runs < 500 || started.elapsed() < time {
        let input = mutate(&mut dice, &seeds);
        runs += 1;
        if let Some(text) = check(&input) {
            refused += 1;
            // Where a mutation moved the secret to another place, that place's
            // parser may quote it.
            let content = String::from_utf8_lossy(&input);
            let in_place = content.matches(SECRET).count() == 1
                && HOLDERS.iter().any(|h| content.contains(&format!("{h}{SECRET}")));
            ensure!(!in_place || !text.contains(SECRET), "a secret in an error: {text}");
            ensure!(!text.contains(WRONG), "{text}");
            ensure!(text.len() < 4096, "an error of {} bytes", text.len());
        }
    }
    ensure!(refused > 0, "{parser} took everything of {runs} broken inputs");
    Ok(())
}

fn text<T>(result: Result<T, impl std::fmt::Display>) -> Option<String> {
    result.err().map(|e| e.to_string())
}

#[test]
fn join_configuration() -> Result<()> {
    fuzz("join", |b| text(JoinConfig::parse(b)))
}

#[test]
fn messages_of_sessions() -> Result<()> {
    fuzz("session", |b| {
        let head = [b.first(), b.get(1), b.get(2), b.get(3)].map(|x| x.copied().unwrap_or(0));
        let _ = session::frame_length(head);
        let results = [
            text(session::decode::<session::Up>(b)),
            text(session::decode::<session::Down>(b)),
            text(session::decode::<session::ExecFrame>(b)),
        ];
        results.into_iter().flatten().next()
    })
}

#[test]
fn bodies_of_requests() -> Result<()> {
    fuzz("api", |b| {
        let results = [
            text(serde_json::from_slice::<api::Enrol>(b)),
            text(serde_json::from_slice::<api::Install>(b)),
            text(serde_json::from_slice::<api::Invite>(b)),
            text(serde_json::from_slice::<api::Retire>(b)),
            text(serde_json::from_slice::<api::LimitsChange>(b)),
        ];
        results.into_iter().flatten().next()
    })
}

#[test]
fn certificate_requests() -> Result<()> {
    let cluster: ClusterId = "aaaaaaaaaa".parse()?;
    let now = Timestamp::now();
    let life = Duration::from_secs(3600);
    let (root, _) = pki::new_root(&cluster, pki::Authority::Control, now, now.plus(life))?;
    let identity = Identity {
        cluster,
        kind: Kind::Agent {
            role: Role::Worker,
            generation: 1,
        },
    };
    fuzz("csr", |b| {
        let what = pki::SignRequest {
            identity: &identity,
            node: Some("demo-w0"),
            now,
            not_after: now.plus(life),
        };
        let csr = String::from_utf8_lossy(b);
        if let Err(e) = pki::public_key_hash(&csr) {
            return Some(e.to_string());
        }
        match pki::leaf_from_csr(&csr, &what, &root) {
            // Whatever it asked for, it got its own name and nothing else.
            Ok(chain) => match pki::facts_of_pem(&chain.certificate) {
                Ok(facts) if facts.identity == identity && facts.label.as_deref() == Some("demo-w0") => None,
                other => Some(format!("{WRONG}signed {other:?}")),
            },
            Err(e) => Some(e.to_string()),
        }
    })
}

#[test]
fn settings_files() -> Result<()> {
    fuzz("toml", |b| {
        let content = String::from_utf8_lossy(b);
        let results = [
            text(herdsman::config::parse_file(&content, Path::new("herdsman.toml"))),
            text(herdsman::config::parse_file(&content, Path::new("pyproject.toml"))),
            text(herdsman::config::parse_user_file(&content, Path::new("config.toml"))),
        ];
        results.into_iter().flatten().next()
    })
}

#[test]
fn manifests_of_environments() -> Result<()> {
    fuzz("manifest", |b| text(herdsman_wire::environment::Manifest::parse(b)))
}

#[test]
fn lines_of_the_guard() -> Result<()> {
    use herdsman_agent::dask::guard_message::{PeerKind, parse};
    fuzz("guard", |b| {
        let _ = text(parse(b, Some(PeerKind::Worker)));
        text(parse(b, Some(PeerKind::Scheduler))).or_else(|| text(parse(b, None)))
    })
}

#[test]
fn user_data() -> Result<()> {
    use herdsman_agent::source::extract;
    fuzz("userdata", |b| text(extract::join(b, "user-data")))
}
