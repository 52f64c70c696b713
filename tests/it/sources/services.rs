//! Each cloud's service, well and in every kind of trouble.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use herdsman_agent::source::dmi::Cloud;
use herdsman_agent::source::metadata::Pace;
use herdsman_tests::metadata::{Place, Service, Trouble, base64};
use herdsman_wire::{ApiError, Code};

use super::{PACE, host, join, script};

/// A machine of a cloud and its service.
struct Case {
    cloud: Cloud,
    place: Place,
    service: Service,
}

impl Case {
    fn new(cloud: Cloud) -> Result<Self> {
        Ok(Self {
            cloud,
            place: Place::new(Some(cloud), "0a-1")?,
            service: Service::start(Some(cloud))?,
        })
    }

    /// The name of the node that the machine is to become.
    async fn look(&self, pace: Pace) -> Result<Option<String>, ApiError> {
        let host = host(self.place.path(), self.service.address, pace);
        let found = host.look().await?;
        Ok(found.and_then(|f| f.join.node).map(|n| n.to_string()))
    }

    async fn finds(&self, what: &str) -> Result<()> {
        let found = self.look(PACE).await;
        let name = self.cloud.as_str();
        ensure!(found == Ok(Some("demo-w0".into())), "{name}, {what}: {found:?}");
        Ok(())
    }

    async fn fails(&self, what: &str, code: Code, pace: Pace) -> Result<ApiError> {
        let started = Instant::now();
        let result = self.look(pace).await;
        let name = self.cloud.as_str();
        let Err(e) = result else {
            anyhow::bail!("{name}, {what}: {result:?}");
        };
        ensure!(e.code == code && e.message.contains(name), "{name}, {what}: {e}");
        ensure!(!e.to_string().contains("PRIVATE"), "{e}");
        let took = started.elapsed();
        ensure!(took < pace.overall + pace.request * 2, "{name}, {what}: {took:?}");
        Ok(e)
    }
}

fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(content)?;
    Ok(child.wait_with_output()?.stdout)
}

#[tokio::test]
async fn every_cloud_hands_out_every_form_of_user_data() -> Result<()> {
    let join = join("demo-w0")?;
    let script = script(&join);
    let indented: String = script.lines().map(|l| format!("    {l}\n")).collect();
    let message = format!(
        "Content-Type: multipart/mixed; boundary=\"===x==\"\nMIME-Version: 1.0\n\n--===x==\n\
         Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n{}\n--===x==--\n",
        base64(script.as_bytes())
    );
    let forms = [
        ("a script", script.clone().into_bytes()),
        (
            "a cloud-config",
            format!("#cloud-config\nruncmd:\n  - |\n{indented}").into_bytes(),
        ),
        ("a message", message.into_bytes()),
        ("bare JSON", join.clone().into_bytes()),
        ("gzip", gzip(script.as_bytes())?),
        ("base64 of gzip", base64(&gzip(script.as_bytes())?).into_bytes()),
    ];
    for cloud in Cloud::ALL {
        let case = Case::new(cloud)?;
        for (what, content) in &forms {
            case.service.set_user_data(content);
            case.finds(what).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_no_failure() -> Result<()> {
    for cloud in Cloud::ALL {
        let case = Case::new(cloud)?;
        let nothing = case.look(PACE).await;
        ensure!(nothing == Ok(None), "{}: {nothing:?}", cloud.as_str());
        for content in [
            &b""[..],
            b"#!/bin/sh\necho hello\n",
            b"#cloud-config\n",
            &[0xff, 0, 0x80, 0x1f],
        ] {
            case.service.set_user_data(content);
            let nothing = case.look(PACE).await;
            ensure!(nothing == Ok(None), "{}: {nothing:?}", cloud.as_str());
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_passes_is_waited_for() -> Result<()> {
    let text = script(&join("demo-w0")?);
    for cloud in Cloud::ALL {
        let case = Case::new(cloud)?;
        case.service.set_user_data(text.as_bytes());
        for (trouble, times) in [
            (Trouble::Status(503), 3),
            (Trouble::Status(500), 1),
            (Trouble::Status(429), 2),
            (Trouble::Close, 2),
            (Trouble::Short, 1),
        ] {
            case.service.trouble(trouble.clone(), times);
            case.finds(&format!("{trouble:?}")).await?;
            ensure!(case.service.facts().trouble == Some((trouble, 0)));
        }
        let quick = Pace {
            request: Duration::from_millis(700),
            ..PACE
        };
        case.service.trouble(Trouble::Hang, 1);
        let found = case.look(quick).await;
        ensure!(found == Ok(Some("demo-w0".into())), "{}: {found:?}", cloud.as_str());
        // EC2 begins with a PUT, which is never sent elsewhere.
        if cloud != Cloud::Ec2 {
            case.service.trouble(Trouble::Moved, 2);
            case.finds("moved").await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_does_not_pass_is_told_in_time() -> Result<()> {
    let text = script(&join("demo-w0")?);
    let short = Pace {
        request: Duration::from_millis(300),
        overall: Duration::from_secs(1),
        ..PACE
    };
    let elsewhere = Service::start(None)?;
    for cloud in Cloud::ALL {
        let case = Case::new(cloud)?;
        case.service.set_user_data(text.as_bytes());
        let other = format!("http://{}/latest/user-data", elsewhere.address);
        for (trouble, code) in [
            (Trouble::Status(503), Code::Provider),
            (Trouble::Status(418), Code::Provider),
            (Trouble::Hang, Code::Unreachable),
            (Trouble::Trickle, Code::Unreachable),
            (Trouble::Close, Code::Unreachable),
            (Trouble::NoHttp, Code::Malformed),
            (Trouble::Redirect(other), Code::Provider),
            (Trouble::Redirect("https://127.0.0.1/".into()), Code::Provider),
        ] {
            case.service.trouble(trouble.clone(), usize::MAX);
            case.fails(&format!("{trouble:?}"), code, short).await?;
        }
        case.service.trouble(Trouble::Moved, 0);
        // Without end on its own service.
        case.service.trouble(Trouble::Redirect("/latest".into()), usize::MAX);
        case.fails("a circle", Code::Provider, short).await?;
        case.service.trouble(Trouble::Huge, usize::MAX);
        // On EC2 it is the token that is huge.
        case.fails("huge", Code::TooLarge, PACE).await?;
    }
    ensure!(elsewhere.facts().log.is_empty(), "{:?}", elsewhere.facts().log);
    Ok(())
}

#[tokio::test]
async fn a_service_that_is_not_there() -> Result<()> {
    let short = Pace {
        overall: Duration::from_secs(1),
        ..PACE
    };
    for cloud in Cloud::ALL {
        let place = Place::new(Some(cloud), "0a-1")?;
        let gone = Service::start(Some(cloud))?.address;
        let result = host(place.path(), gone, short).look().await;
        let e = result.err().context("an error")?;
        ensure!(e.code == Code::Unreachable && e.retryable, "{e}");
        ensure!(e.message.contains(cloud.as_str()), "{e}");
    }
    Ok(())
}

#[tokio::test]
async fn damage_is_told_by_its_place_and_no_key_is_echoed() -> Result<()> {
    let join = join("demo-w0")?;
    let text = script(&join);
    let broken = [
        (
            "cut off",
            text.split("#HERDSMAN-JOIN-END").next().unwrap_or_default().to_owned(),
        ),
        ("`hub`", script(&join.replace("127.0.0.1:1\"", "example.org\""))),
        ("version 7", script(&join.replace("\"version\":1", "\"version\":7"))),
        ("bootstrap.key", script(&join.replace("MIG", "XXX"))),
        ("line 1 column", script(&join.replace("\"role\":", "\"role\""))),
    ];
    for cloud in Cloud::ALL {
        let case = Case::new(cloud)?;
        for (word, content) in &broken {
            case.service.set_user_data(content.as_bytes());
            let Err(e) = case.look(PACE).await else {
                anyhow::bail!("{word} was taken");
            };
            let told = matches!(e.code, Code::Malformed | Code::Protocol);
            let located = e.message.contains(word) || (*word == "`hub`" && e.message.contains("column"));
            ensure!(told && located && e.message.contains(cloud.as_str()), "{word}: {e}");
            let line = join.lines().next().unwrap_or_default();
            let key = line.split("PRIVATE KEY-----\\n").nth(1).context("no key in it")?;
            ensure!(!e.to_string().contains(key.get(..20).context("key")?), "{e}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_their_headers_services_refuse() -> Result<()> {
    // That the agent is answered shows its headers only if others are refused.
    use herdsman_agent::source::metadata::Metadata;
    for (cloud, path, status) in [
        (Cloud::Ec2, "/latest/user-data", 401),
        (Cloud::Gce, "/computeMetadata/v1/instance/attributes/user-data", 403),
        (
            Cloud::Azure,
            "/metadata/instance/compute/userData?api-version=2021-01-01&format=text",
            400,
        ),
    ] {
        let service = Service::start(Some(cloud))?;
        service.set_user_data(b"#!/bin/sh\n");
        let answer = Metadata::new(vec![service.address], PACE).get(path, &[]).await?;
        ensure!(answer.status == status, "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn tokens_of_ec2_expire_and_the_service_may_be_off() -> Result<()> {
    let case = Case::new(Cloud::Ec2)?;
    case.service.set_user_data(b"#!/bin/sh\n");
    case.service.facts().token_uses = Some(1);
    ensure!(case.look(PACE).await == Ok(None));
    // Two questions, the second with a token that had expired.
    ensure!(
        case.service.asked("PUT /latest/api/token") == 2,
        "{:?}",
        case.service.facts().log
    );
    case.service.facts().token_uses = Some(0);
    let e = case.fails("useless tokens", Code::Provider, PACE).await?;
    ensure!(e.message.contains("401"), "{e}");
    case.service.trouble(Trouble::Status(403), usize::MAX);
    let e = case.fails("switched off", Code::Provider, PACE).await?;
    ensure!(e.message.contains("switched off") && !e.retryable, "{e}");
    Ok(())
}

#[tokio::test]
async fn google_is_known_by_its_flavor() -> Result<()> {
    let place = Place::new(Some(Cloud::Gce), "0a-1")?;
    let impostor = Service::start(None)?;
    impostor.set(
        "/computeMetadata/v1/instance/attributes/user-data",
        script(&join("demo-w0")?),
    );
    let result = host(place.path(), impostor.address, PACE).look().await;
    let e = result.err().context("an impostor was believed")?;
    ensure!(e.code == Code::Malformed && e.message.contains("GCE"), "{e}");
    Ok(())
}

#[tokio::test]
async fn tags_and_attributes_that_can_be_set_on_a_running_machine() -> Result<()> {
    let join = join("demo-w0")?;
    let pieces: Vec<&str> = join
        .as_bytes()
        .chunks(250)
        .map(|c| std::str::from_utf8(c).unwrap_or_default())
        .collect();
    let names: Vec<String> = (0..pieces.len()).map(|n| format!("herdsman-join-{n:02}")).collect();
    ensure!(pieces.len() > 10, "{}", pieces.len());

    let case = Case::new(Cloud::Ec2)?;
    case.service.set_user_data(b"#!/bin/sh\n");
    let list = "/latest/meta-data/tags/instance";
    case.service.set(list, format!("Name\n{}", names.join("\n")));
    for (name, piece) in names.iter().zip(&pieces) {
        case.service.set(&format!("{list}/{name}"), *piece);
    }
    case.finds("tags").await?;

    let tags: Vec<_> = names
        .iter()
        .zip(&pieces)
        .map(|(n, p)| serde_json::json!({"name": n, "value": p}))
        .collect();
    let case = Case::new(Cloud::Azure)?;
    let list = "/metadata/instance/compute/tagsList";
    case.service.set(list, serde_json::to_vec(&tags)?);
    case.finds("tags").await?;
    case.service.set(list, "{");
    case.fails("no list", Code::Malformed, PACE).await?;

    let meta: serde_json::Map<_, _> = names
        .iter()
        .zip(&pieces)
        .map(|(n, p)| (n.clone(), (*p).into()))
        .collect();
    let case = Case::new(Cloud::OpenStack)?;
    let data = "/openstack/latest/meta_data.json";
    case.service
        .set(data, serde_json::json!({"uuid": "x", "meta": meta}).to_string());
    case.finds("metadata").await?;
    case.service.set(data, "{\"meta\": 1}");
    case.fails("no meta_data", Code::Malformed, PACE).await?;

    let case = Case::new(Cloud::Gce)?;
    case.service
        .set("/computeMetadata/v1/instance/attributes/herdsman-join", join.as_bytes());
    case.service.set_user_data(b"#!/bin/sh\n");
    case.finds("an attribute").await?;
    Ok(())
}

#[tokio::test]
async fn a_machine_of_no_cloud_asks_nobody() -> Result<()> {
    let place = Place::new(None, "0a-1")?;
    let service = Service::start(Some(Cloud::Ec2))?;
    service.set_user_data(script(&join("demo-w0")?).as_bytes());
    ensure!(host(place.path(), service.address, PACE).look().await?.is_none());
    ensure!(service.facts().log.is_empty(), "{:?}", service.facts().log);
    Ok(())
}
