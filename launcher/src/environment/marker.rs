//! Environment markers (PEP 508, PEP 751) as they hold on the nodes: CPython on
//! Linux, x86-64.

use std::cmp::Ordering;

/// Deepest nesting of brackets.
const DEPTH: usize = 20;

/// Whether a marker holds for a Python of this full version. No extras and no
/// dependency groups are chosen.
///
/// # Errors
/// What cannot be understood.
pub(super) fn holds(marker: &str, python: &str) -> Result<bool, String> {
    let tokens = tokens(marker)?;
    let mut parser = Parser {
        tokens: &tokens,
        python,
        depth: 0,
    };
    let result = parser.or()?;
    match parser.tokens {
        [] => Ok(result),
        [rest, ..] => Err(format!("`{}` was not expected", rest.text())),
    }
}

/// Whether a version fulfils all of a list like `>=3.10,<3.13`.
///
/// # Errors
/// What cannot be understood.
pub(super) fn fulfils(version: &str, specifiers: &str) -> Result<bool, String> {
    for part in specifiers.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let at = part
            .find(|c: char| !matches!(c, '<' | '>' | '=' | '!' | '~'))
            .ok_or_else(|| format!("`{part}` names no version"))?;
        let (op, wanted) = part.split_at(at);
        if !versions(version, op, wanted.trim())? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A quoted text.
    Text(String),
    /// A variable, `and`, `or`, `not`, `in`.
    Word(String),
    /// A comparison or a bracket.
    Sign(String),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(t) | Self::Word(t) | Self::Sign(t) => t,
        }
    }
}

fn tokens(marker: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = marker.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => {
                let end = rest[1..].find(first).ok_or("a text is not closed")?;
                (Token::Text(rest[1..=end].to_owned()), end + 2)
            }
            '(' | ')' => (Token::Sign(first.to_string()), 1),
            '<' | '>' | '=' | '!' | '~' => {
                let end = rest.find(|c| !matches!(c, '<' | '>' | '=' | '!' | '~'));
                let end = end.unwrap_or(rest.len());
                (Token::Sign(rest[..end].to_owned()), end)
            }
            c if c.is_ascii_alphabetic() => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
                let end = end.unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            }
            c => return Err(format!("`{c}` was not expected")),
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

struct Parser<'a> {
    tokens: &'a [Token],
    python: &'a str,
    depth: usize,
}

/// A side of a comparison.
struct Side {
    value: String,
    /// Compared as a version, not as a text.
    version: bool,
    /// A set, which is empty here.
    set: bool,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Result<&'a Token, String> {
        let (first, rest) = self.tokens.split_first().ok_or("it ends too early")?;
        self.tokens = rest;
        Ok(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.first(), Some(Token::Word(w)) if w == word);
        if is {
            self.tokens = &self.tokens[1..];
        }
        is
    }

    fn or(&mut self) -> Result<bool, String> {
        let mut result = self.and()?;
        while self.take("or") {
            result |= self.and()?;
        }
        Ok(result)
    }

    fn and(&mut self) -> Result<bool, String> {
        let mut result = self.comparison()?;
        while self.take("and") {
            result &= self.comparison()?;
        }
        Ok(result)
    }

    fn comparison(&mut self) -> Result<bool, String> {
        if self.tokens.first() == Some(&Token::Sign("(".to_owned())) {
            self.depth += 1;
            if self.depth > DEPTH {
                return Err("too many brackets".to_owned());
            }
            self.next()?;
            let result = self.or()?;
            self.depth -= 1;
            return match self.next()?.text() {
                ")" => Ok(result),
                other => Err(format!("`)` is missing before `{other}`")),
            };
        }
        let left = self.side()?;
        let negated = self.take("not");
        let op = match self.next()? {
            Token::Word(w) if w == "in" => "in".to_owned(),
            Token::Sign(s) if !negated && s != "(" && s != ")" => s.clone(),
            other => return Err(format!("`{}` is no comparison", other.text())),
        };
        let right = self.side()?;
        compare(&left, &op, &right).map(|r| r != negated)
    }

    fn side(&mut self) -> Result<Side, String> {
        let plain = |value: &str| Side {
            value: value.to_owned(),
            version: false,
            set: false,
        };
        let version = |value: &str| Side {
            version: true,
            ..plain(value)
        };
        let name = match self.next()? {
            Token::Text(text) => return Ok(plain(text)),
            Token::Word(name) => name,
            Token::Sign(sign) => return Err(format!("`{sign}` was not expected")),
        };
        let minor = || self.python.split('.').take(2).collect::<Vec<_>>().join(".");
        Ok(match name.as_str() {
            "python_version" => version(&minor()),
            "python_full_version" | "implementation_version" => version(self.python),
            "os_name" | "os.name" => plain("posix"),
            "sys_platform" | "sys.platform" => plain("linux"),
            "platform_system" => plain("Linux"),
            "platform_machine" | "platform.machine" => plain("x86_64"),
            "platform_python_implementation" | "platform.python_implementation" => plain("CPython"),
            "implementation_name" => plain("cpython"),
            // Not known before the machine is there; nothing sensible asks.
            "platform_release" | "platform_version" | "platform.version" | "extra" => plain(""),
            "extras" | "dependency_groups" => Side { set: true, ..plain("") },
            other => return Err(format!("`{other}` is not known")),
        })
    }
}

fn compare(left: &Side, op: &str, right: &Side) -> Result<bool, String> {
    if op == "in" {
        return Ok(!right.set && right.value.contains(&left.value));
    }
    if left.version || right.version {
        return versions(&left.value, op, &right.value);
    }
    let order = left.value.cmp(&right.value);
    Ok(match op {
        "==" | "===" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        _ => return Err(format!("`{op}` is no comparison of texts")),
    })
}

/// Compares releases; what follows the numbers (`rc1`, `+cpu`) does not count.
fn versions(left: &str, op: &str, right: &str) -> Result<bool, String> {
    let numbers = |text: &str| -> Result<Vec<u64>, String> {
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
        let release = text[..end.unwrap_or(text.len())].trim_end_matches('.');
        release
            .split('.')
            .map(|n| n.parse().map_err(|_| format!("`{text}` is no version")))
            .collect()
    };
    let a = numbers(left)?;
    if let Some(prefix) = right.strip_suffix(".*") {
        let b = numbers(prefix)?;
        let same = b.iter().enumerate().all(|(i, n)| a.get(i).unwrap_or(&0) == n);
        return match op {
            "==" => Ok(same),
            "!=" => Ok(!same),
            _ => Err(format!("`{op}{right}` is no comparison")),
        };
    }
    let b = numbers(right)?;
    let order = |a: &[u64], b: &[u64]| {
        (0..a.len().max(b.len()))
            .map(|i| a.get(i).unwrap_or(&0).cmp(b.get(i).unwrap_or(&0)))
            .find(|o| o.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let result = order(&a, &b);
    Ok(match op {
        "==" | "===" => result.is_eq(),
        "!=" => result.is_ne(),
        "<" => result.is_lt(),
        "<=" => result.is_le(),
        ">" => result.is_gt(),
        ">=" => result.is_ge(),
        // `~=3.10.2` is at least that, and 3.10.something.
        "~=" if b.len() > 1 => {
            let front = b.len() - 1;
            result.is_ge() && (0..front).all(|i| a.get(i).unwrap_or(&0) == &b[i])
        }
        _ => return Err(format!("`{op}` is no comparison of versions")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_hold_or_not() {
        for (marker, wanted) in [
            ("sys_platform == 'linux'", true),
            ("sys_platform != \"win32\"", true),
            ("python_version < '3.12'", true),
            ("python_version < '3.9'", false),
            ("python_version >= '3.10' and platform_machine == 'aarch64'", false),
            ("'x86' in platform_machine", true),
            ("platform_machine not in 'arm64 aarch64'", true),
            ("extra == 'test'", false),
            ("'test' in extras or python_full_version == '3.11.*'", true),
            ("'dev' in dependency_groups", false),
            ("'dev' not in dependency_groups", true),
            (
                "(sys_platform == 'win32' or os_name == 'posix') and python_version ~= '3.10'",
                true,
            ),
            ("implementation_name == 'cpython' or (a == 'b')", true),
        ] {
            match holds(marker, "3.11.7") {
                Ok(got) => assert_eq!(got, wanted, "{marker}"),
                Err(e) => assert!(e.contains("`a` is not known"), "{marker}: {e}"),
            }
        }
        for bad in [
            "",
            "x",
            "'a' = 'b'",
            "('a' == 'b'",
            "'a' == 'b' c",
            "'a",
            "a # b",
            "not 'a' == 'b'",
        ] {
            assert!(holds(bad, "3.11.7").is_err(), "{bad}");
        }
        assert!(holds(&"(".repeat(100_000), "3.11.7").is_err());
    }

    #[test]
    fn requirements_of_python() {
        for (text, wanted) in [
            (">=3.10,<3.13", true),
            (">=3.12", false),
            ("==3.11.*", true),
            ("", true),
            ("!=3.11.7", false),
        ] {
            assert_eq!(fulfils("3.11.7", text), Ok(wanted), "{text}");
        }
        assert!(fulfils("3.11.7", ">=three").is_err());
        assert!(fulfils("3.11.7", "~=3").is_err());
    }
}
