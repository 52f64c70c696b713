//! Other sizes, and `up` on what there is.

use anyhow::{Result, ensure};
use herdsman_tests::home::Home;
use serde_json::{Value, json};

use super::{Held, computes};

fn names(home: &Home) -> Result<Vec<String>> {
    let status = home.json(&["status"])?;
    let nodes = status["status"]["nodes"].as_array().cloned().unwrap_or_default();
    let text = |n: &Value| n["name"].as_str().unwrap_or_default().to_owned();
    Ok(nodes.iter().map(text).collect())
}

#[test]
fn nodes_are_given_up_by_name_and_up_converges() -> Result<()> {
    let home = Home::new()?;
    let first = home.json(&["up", "demo", "--workers", "2"])?;
    let held = Held::start(&home)?;
    // There is only one cluster: nobody has to name it.
    let scaled = home.json(&["scale", "--without", "demo-w0"])?;
    ensure!(
        scaled["removed"] == json!(["demo-w0"]) && scaled["ready"] == 1 && scaled["name"] == "demo",
        "{scaled}"
    );
    ensure!(names(&home)? == ["demo-scheduler", "demo-w1"], "{:?}", names(&home)?);
    held.finish(&home)?;
    let again = home.json(&["scale", "1"])?;
    ensure!(again["added"] == json!([]) && again["removed"] == json!([]), "{again}");
    let scaled = home.json(&["scale", "2"])?;
    ensure!(
        scaled["added"] == json!(["demo-w2"]) && scaled["ready"] == 2,
        "{scaled}"
    );

    let same = home.json(&["up", "demo", "--workers", "2"])?;
    ensure!(same["existed"] == true && same["id"] == first["id"], "{same}");
    let same = home.ok(&["up", "demo", "--workers", "2"])?;
    ensure!(same.err.contains("demo is up: 2 workers ready"), "{same:?}");
    ensure!(names(&home)?.len() == 3);
    let more = home.ok(&["up", "demo", "--workers", "3"])?;
    ensure!(
        more.err.contains("`demo` is up with 2 workers; bringing it to 3"),
        "{more:?}"
    );
    ensure!(more.err.contains("demo is up: 3 workers ready"), "{more:?}");
    let other = home.run(&["up", "demo", "--workers", "3", "--insecure"])?;
    ensure!(
        other.code == 8 && other.err.contains("secure") && other.err.contains("try: "),
        "{other:?}"
    );
    computes(&home, "demo")?;

    let cases: [(&[&str], i32, &str); 7] = [
        (&["scale", "--without", "demo-w9"], 3, "demo-w9"),
        (&["scale", "--without", "demo-scheduler"], 2, "demo-scheduler"),
        // One name is good; nothing must come of it.
        (&["scale", "--without", "demo-w1", "--without", "demo-w9"], 3, "demo-w9"),
        (&["scale", "lots"], 2, "lots"),
        (&["scale", "-n"], 2, "-n"),
        (&["scale"], 2, "NAME"),
        (&["scale", "demo", "1", "--without", "demo-w1"], 2, "--without"),
    ];
    for (args, code, word) in cases {
        let ran = home.run(args)?;
        ensure!(ran.code == code && ran.err.contains(word), "{args:?}: {ran:?}");
    }
    let status = home.ok(&["status"])?.out;
    ensure!(!status.contains("draining"), "{status}");
    let none = home.json(&["scale", "0"])?;
    ensure!(
        none["ready"] == 0 && none["removed"].as_array().is_some_and(|r| r.len() == 3),
        "{none}"
    );
    ensure!(home.json(&["scale", "1"])?["ready"] == 1);
    computes(&home, "demo")?;
    home.ok(&["down"])?;
    home.assert_clean()
}
