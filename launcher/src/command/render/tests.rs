use herdsman_wire::limits::{AGENT_PORT, MAX_WORKERS_PER_NODE, NANNY_PORT, SCHEDULER_PORT, WORKER_PORT};

use super::*;

/// Whether quotes, braces and brackets of an HCL text close as they opened, templates
/// in strings included. `packer validate` and `terraform validate` want plug-ins.
fn closes(text: &str) -> Result<(), String> {
    let mut open = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(format!("line {}: {what}: {line}", number + 1));
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            let in_string = open.last() == Some(&'"');
            match c {
                '\\' if in_string => drop(chars.next()),
                '"' if in_string => drop(open.pop()),
                '"' => open.push('"'),
                '$' if in_string && chars.peek() == Some(&'{') => {
                    chars.next();
                    open.push('}');
                }
                _ if in_string => {}
                '#' => break,
                '{' => open.push('}'),
                '[' => open.push(']'),
                '(' => open.push(')'),
                '}' | ']' | ')' if open.pop() != Some(c) => return wrong("closes what is not open"),
                _ => {}
            }
        }
        if open.last() == Some(&'"') {
            return wrong("a string does not end");
        }
    }
    open.is_empty()
        .then_some(())
        .ok_or_else(|| format!("left open: {open:?}"))
}

#[test]
fn templates_close_what_they_open() {
    closes(PACKER).unwrap();
    closes(TERRAFORM).unwrap();
    for wrong in ["a {", "a = \"x", "a = [}", "a = \"${b\"", "}"] {
        closes(wrong).unwrap_err();
    }
}

#[test]
fn the_template_makes_images_for_four_clouds_and_leaves_no_identity() {
    for builder in ["googlecompute", "digitalocean", "amazon-ebs", "azure-arm"] {
        assert!(
            PACKER.contains(&format!("source \"{builder}\" \"debian\"")),
            "{builder}"
        );
        assert!(PACKER.contains(&format!("\"source.{builder}.debian\",")), "{builder}");
    }
    for line in [
        "install --no-start",
        "/var/lib/herdsman -mindepth 1",
        "cloud-init clean",
        "ssh_host_*",
        ": >/etc/machine-id",
    ] {
        assert!(PACKER.contains(line), "{line}");
    }
}

#[test]
fn the_second_wall_has_the_ports_of_the_first() {
    let hub = format!("ports    = [\"{AGENT_PORT}\", \"{SCHEDULER_PORT}\"]");
    let workers = format!(
        "ports    = [\"{WORKER_PORT}-{}\"]",
        NANNY_PORT + MAX_WORKERS_PER_NODE - 1
    );
    assert_eq!(TERRAFORM.matches(&hub).count(), 2);
    assert_eq!(TERRAFORM.matches(&workers).count(), 2);
}
