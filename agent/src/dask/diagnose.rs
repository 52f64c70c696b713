//! Why Dask ended, from its last words: a pure function. Python tells the root of
//! a chain of exceptions first and what became of it last, so the first one found
//! counts; what nobody foresaw is told as it stands there.

use herdsman_wire::{ApiError, Code, Role};

/// Lines of output in an error.
const LINES: usize = 8;

/// The cause of an end. `how` says how the process ended, `lines` are its last
/// lines, of this life only.
///
/// Codes: [`Code::Environment`] for a module that is not there, [`Code::Port`],
/// [`Code::Disk`], else [`Code::Dask`].
#[must_use]
pub fn diagnose(role: Role, how: &str, lines: &[String]) -> ApiError {
    let command = match role {
        Role::Scheduler => "dask scheduler",
        Role::Worker => "dask worker",
    };
    let found = lines.iter().find_map(|line| cause(line));
    let (code, why, hint) = match found {
        Some(found) => found,
        None => (Code::Dask, root(lines).unwrap_or_default().to_owned(), None),
    };
    let mut message = format!("`{command}` {how}");
    if !why.is_empty() {
        message += &format!(": {why}");
    }
    let shown: Vec<&String> = lines.iter().filter(|l| !l.trim().is_empty()).collect();
    let from = shown.len().saturating_sub(LINES);
    if !shown.is_empty() {
        message += "; its last lines:";
    }
    for line in &shown[from..] {
        message += &format!("\n    {line}");
    }
    let mut e = ApiError::new(code, message);
    e.hint.extend(hint.map(str::to_owned));
    e.with_hint("herdsman logs NAME NODE       shows all of its output")
}

type Cause = (Code, String, Option<&'static str>);

/// The cause that one line names.
fn cause(line: &str) -> Option<Cause> {
    let low = line.to_ascii_lowercase();
    if let Some(at) = line.find("No module named ") {
        let rest = &line[at + "No module named ".len()..];
        let module: String = rest
            .trim_start_matches(['\'', '"'])
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '.' | '_'))
            .collect();
        return Some((
            Code::Environment,
            format!("the node's Python has no module `{module}`"),
            Some("install it into the environment, or name another with `--python`"),
        ));
    }
    if low.contains("address already in use") || low.contains("port is already in use") {
        let which = port(line).map_or_else(|| "a port that Dask needs".to_owned(), |p| format!("port {p}"));
        return Some((
            Code::Port,
            format!("{which} is taken on the node"),
            Some("ss -ltnp                       on the node says who has it"),
        ));
    }
    if low.contains("no space left on device") {
        return Some((
            Code::Disk,
            "no space is left on the node's disk".to_owned(),
            Some("df -h                          on the node says which disk is full"),
        ));
    }
    None
}

/// The last number in a line that can be a port and no errno.
fn port(line: &str) -> Option<u16> {
    line.split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .rfind(|n| *n >= 1024)
}

/// The line that names the first exception of a chain, or a command line's
/// complaint: `ValueError: no`, `Error: No such option`.
fn root(lines: &[String]) -> Option<&str> {
    lines.iter().map(|l| l.trim_end()).find(|line| {
        let Some((name, rest)) = line.split_once(": ") else {
            return false;
        };
        let is_name = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
        let last = name.rsplit('.').next().unwrap_or_default();
        is_name
            && !rest.is_empty()
            && ["Error", "Exception", "Exit", "Interrupt"]
                .iter()
                .any(|e| last.ends_with(e))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> ApiError {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        diagnose(Role::Scheduler, "ended with exit code 1", &lines)
    }

    #[test]
    fn what_is_missing_has_a_name() {
        for text in [
            "/usr/bin/python3: Error while finding module specification for 'distributed.cli.dask_scheduler' \
             (ModuleNotFoundError: No module named 'distributed')",
            "Traceback (most recent call last):\n  File \"x\", line 1\nModuleNotFoundError: No module named 'distributed'",
            "/usr/bin/python3: No module named distributed",
        ] {
            let e = of(text);
            assert_eq!(e.code, Code::Environment, "{e}");
            assert!(e.message.contains("no module `distributed`"), "{e}");
        }
    }

    #[test]
    fn the_root_of_a_chain_is_told_and_not_its_last_link() {
        let e = of("Traceback (most recent call last):\n\
             OSError: [Errno 98] error while attempting to bind on address ('10.88.0.2', 8786): address already in use\n\
             \n\
             The above exception was the direct cause of the following exception:\n\
             RuntimeError: Scheduler failed to start.");
        assert_eq!(e.code, Code::Port);
        assert!(e.message.contains("port 8786 is taken"), "{e}");
        let e = of("  raise X\nmy.BadError: first\nduring that\nRuntimeError: Scheduler failed to start.");
        assert_eq!(e.code, Code::Dask);
        assert!(e.message.contains("exit code 1: my.BadError: first;"), "{e}");
        assert_eq!(of("OSError: [Errno 28] No space left on device").code, Code::Disk);
    }

    #[test]
    fn unknown_ends_show_their_last_lines() {
        let text: String = (0..30).map(|n| format!("line {n}\n")).collect();
        let e = of(&text);
        assert!(e.message.contains("line 29") && !e.message.contains("line 20\n"), "{e}");
        assert_eq!(of("").message, "`dask scheduler` ended with exit code 1");
        // A port is no errno, and an errno no port.
        assert!(
            of("[Errno 98] Address already in use")
                .message
                .contains("a port that Dask needs")
        );
    }
}
