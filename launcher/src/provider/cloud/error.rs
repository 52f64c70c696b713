//! Errors that clouds share. Codes are ours and stable; the vendor's own words
//! stand in the message.

use herdsman_wire::Code;

use super::ProviderError;

/// An error with nothing to try yet. Retryable where its code says so.
#[must_use]
pub fn error(code: Code, message: impl Into<String>) -> ProviderError {
    ProviderError {
        retryable: matches!(
            code,
            Code::Busy | Code::Unreachable | Code::Rate | Code::Capacity | Code::Deadline
        ),
        code,
        message: message.into(),
        hint: Vec::new(),
    }
}

impl ProviderError {
    /// Adds a line of what to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.push(hint.into());
        self
    }

    /// With what was being done in front of the message.
    #[must_use]
    pub fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// A vendor's text, fit for one line of an error: no control characters, and
/// not longer than anybody reads.
#[must_use]
pub fn limited(text: &str) -> String {
    const MOST: usize = 600;
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST)
        .collect();
    if text.chars().count() > MOST {
        out.push('…');
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendors_text_cannot_fill_or_rule_a_terminal() {
        assert_eq!(limited("a\nb\u{1b}[2J"), "a b [2J");
        assert!(limited(&"x".repeat(10_000)).chars().count() < 700);
    }
}
