//! A program and its arguments as one text, as `ProxyCommand` of OpenSSH has
//! it. It is split here and run without a shell, so that no value in it can
//! become a command of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::value::ValueError;

/// A program and its arguments. In a file either one text, split at spaces
/// outside of quotes, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Vec<String>")]
pub struct ProxyCommand(Vec<String>);

/// The same for programs that a provider runs.
pub type Program = ProxyCommand;

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    List(Vec<String>),
}

impl ProxyCommand {
    /// Program and arguments; at least the program.
    #[must_use]
    pub fn argv(&self) -> &[String] {
        &self.0
    }

    fn new(argv: Vec<String>, text: &str) -> Result<Self, ValueError> {
        match argv.first() {
            Some(program) if !program.is_empty() => Ok(Self(argv)),
            _ => Err(ValueError::new("command", text, "the program is missing")),
        }
    }
}

impl TryFrom<Form> for ProxyCommand {
    type Error = ValueError;
    fn try_from(form: Form) -> Result<Self, ValueError> {
        match form {
            Form::Text(text) => text.parse(),
            Form::List(argv) => Self::new(argv, ""),
        }
    }
}

impl From<ProxyCommand> for Vec<String> {
    fn from(c: ProxyCommand) -> Self {
        c.0
    }
}

impl FromStr for ProxyCommand {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut argv = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for c in text.chars() {
            match (c, quote) {
                (c, Some(q)) if c == q => quote = None,
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (c, None) if c.is_whitespace() => argv.extend(word.take()),
                (c, _) => word.get_or_insert_default().push(c),
            }
        }
        if quote.is_some() {
            return Err(ValueError::new("command", text, "a quote is not closed"));
        }
        argv.extend(word);
        Self::new(argv, text)
    }
}

impl fmt::Display for ProxyCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.0.iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            let odd = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
            match word {
                w if w.is_empty() || (w.contains(odd) && !w.contains('\'')) => write!(f, "{space}'{w}'")?,
                w if w.contains(odd) => write!(f, "{space}\"{w}\"")?,
                w => write!(f, "{space}{w}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_spaces_outside_of_quotes() {
        let c: ProxyCommand = "ssh -W %h:%p 'my bastion' \"\"".parse().unwrap();
        assert_eq!(c.argv(), ["ssh", "-W", "%h:%p", "my bastion", ""]);
        assert_eq!(c.to_string(), "ssh -W %h:%p 'my bastion' ''");
        assert_eq!(c.to_string().parse::<ProxyCommand>().unwrap(), c);
        assert!("".parse::<ProxyCommand>().is_err());
        assert!("  ".parse::<ProxyCommand>().is_err());
        assert!("ssh 'x".parse::<ProxyCommand>().is_err());
    }

    #[test]
    fn a_shell_has_no_part_in_it() {
        let c: ProxyCommand = "nc $(reboot) ; rm".parse().unwrap();
        assert_eq!(c.argv(), ["nc", "$(reboot)", ";", "rm"]);
    }
}
