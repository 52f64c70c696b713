//! The one door to stdout and stderr.

use std::io::{IsTerminal as _, Write as _};

use anstyle::{AnsiColor, Style};
use herdsman_wire::Code;
use serde::Serialize;

use super::clean::clean_lines;
use super::error::Error;
use crate::command::cli::{Color, Events, Global, Output};

/// Where and how output goes.
#[derive(Clone, Debug)]
pub struct Printer {
    output: Output,
    events: bool,
    quiet: bool,
    verbose: bool,
    yes: bool,
    may_ask: bool,
    color: bool,
    live: bool,
}

impl Printer {
    /// As the flags say and the terminal allows. `no_input` is the environment's
    /// wish not to be asked.
    #[must_use]
    pub fn new(global: &Global, env: &crate::config::Env) -> Self {
        use crate::config::vars;
        let stderr_is_terminal = std::io::stderr().is_terminal();
        let dumb = env.get(vars::TERM) == Some("dumb");
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                env.is_on(vars::CLICOLOR_FORCE) || (stderr_is_terminal && !dumb && env.get(vars::NO_COLOR).is_none())
            }
        };
        let events = global.events == Some(Events::Jsonl);
        Self {
            output: global.output,
            events,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            yes: global.yes,
            may_ask: !global.no_input
                && !env.is_on(vars::NO_INPUT)
                && std::io::stdin().is_terminal()
                && stderr_is_terminal,
            color,
            live: stderr_is_terminal && !dumb && !events && !global.quiet,
        }
    }

    /// Form of results.
    #[must_use]
    pub const fn output(&self) -> Output {
        self.output
    }

    /// Whether steps are told as JSON lines.
    #[must_use]
    pub const fn events(&self) -> bool {
        self.events
    }

    /// Whether lines may be drawn anew.
    #[must_use]
    pub const fn live(&self) -> bool {
        self.live
    }

    /// Whether only errors are wanted.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether details are wanted.
    #[must_use]
    pub const fn verbose(&self) -> bool {
        self.verbose
    }

    /// Text for people to stdout, cleaned of what a terminal would obey.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn text(&self, text: &str) -> Result<(), Error> {
        self.data(&clean_lines(text))
    }

    /// Text to stdout as it is.
    ///
    /// # Errors
    /// When stdout is closed; see [`Printer::closed`].
    pub fn data(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|e| Self::closed(&e))
    }

    /// A value to stdout as JSON.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
        self.data(&format!("{text}\n"))
    }

    /// A reader that went away wants no more: that is no failure of ours.
    fn closed(e: &std::io::Error) -> Error {
        let error = Error::new(Code::Internal, format!("cannot write to stdout: {e}"));
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            error.with_exit(super::Exit::Done)
        } else {
            error
        }
    }

    /// A line of the story.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.events {
            Self::err(&format!("{}\n", clean_lines(text)));
        }
    }

    /// Something that may be a slip.
    pub fn warn(&self, text: &str) {
        self.event(&serde_json::json!({"warning": text}));
        if !self.quiet && !self.events {
            let label = self.paint("warning:", AnsiColor::Yellow);
            Self::err(&format!("{label} {}\n", clean_lines(text)));
        }
    }

    /// An event as a JSON line on stderr.
    pub fn event(&self, value: &serde_json::Value) {
        if self.events {
            Self::err(&format!("{value}\n"));
        }
    }

    /// The error that ends the command: to stderr, and where JSON is wanted to
    /// stdout as well.
    pub fn error(&self, e: &Error) {
        if e.exit == super::Exit::Done {
            return;
        }
        let e = &e.clone().or_hint();
        if self.output == Output::Json {
            let _ = self.data(&format!("{}\n", e.json()));
        }
        if self.events {
            self.event(&e.json());
        } else if self.output != Output::Json || std::io::stderr().is_terminal() {
            Self::err(&e.text(|t| self.paint(t, AnsiColor::Red)));
        }
    }

    fn err(text: &str) {
        // With stderr closed there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Coloured where colours are wanted.
    #[must_use]
    pub fn paint(&self, text: &str, color: AnsiColor) -> String {
        if self.color {
            let style = Style::new().fg_color(Some(color.into())).bold();
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// Asks; `-y` answers yes.
    ///
    /// # Errors
    /// [`Code::Declined`] when the answer is no, or nobody is there to ask.
    pub fn confirm(&self, question: &str) -> Result<(), Error> {
        if self.yes {
            return Ok(());
        }
        if !self.may_ask {
            return Err(
                Error::new(Code::Declined, format!("nobody is there to answer: {question}"))
                    .with_hint("add -y to answer yes"),
            );
        }
        Self::err(&format!("{} [y/N] ", clean_lines(question)));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
            return Ok(());
        }
        Err(Error::new(Code::Declined, "nothing was done"))
    }
}
