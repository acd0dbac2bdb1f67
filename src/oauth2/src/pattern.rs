//! Patterns of scopes: percent-encoded text with `*` for any text.

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// What stands between the wildcards; one part is an exact text.
    parts: Vec<Vec<u8>>,
}

impl Pattern {
    /// Parses `text`, or `None` if its percent-encoding is wrong.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts = text.split('*').map(decode).collect::<Option<Vec<_>>>()?;
        Some(Self { parts })
    }

    /// Whether every text matches: there are wildcards and nothing else.
    pub(crate) fn matches_all(&self) -> bool {
        self.parts.len() > 1 && self.parts.iter().all(Vec::is_empty)
    }

    /// Whether the whole of `subject` matches. Takes no more than `subject × pattern` steps.
    pub(crate) fn matches(&self, subject: &str) -> bool {
        let subject = subject.as_bytes();
        let Some((first, rest)) = self.parts.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return subject == first.as_slice() };
        let Some(subject) = subject.strip_prefix(first.as_slice()) else { return false };
        let Some(mut subject) = subject.strip_suffix(last.as_slice()) else { return false };
        // The earliest place leaves most to the parts that follow.
        for part in middle.iter().filter(|part| !part.is_empty()) {
            let Some(at) = subject.windows(part.len()).position(|window| window == part) else {
                return false;
            };
            subject = &subject[at + part.len()..];
        }
        true
    }
}

/// Decodes `%XX`, and `+` as a space, as in forms.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Encodes `text` so that a pattern matches it exactly.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, subject: &str, expected: bool) {
        let matches = Pattern::parse(pattern).is_some_and(|pattern| pattern.matches(subject));
        assert_eq!(matches, expected, "{pattern} against {subject}");
    }

    #[test]
    fn wildcards_stand_for_any_text_and_everything_else_for_itself() {
        check("*", "", true);
        check("*", "anything/at all", true);
        check("", "", true);
        check("", "x", false);
        check("orders", "orders", true);
        check("orders", "orders2", false);
        check("orders*", "orders", true);
        check("orders*", "my-orders", false);
        check("*a", "aba", true);
        check("ab*ba", "aba", false);
        check("a*b*c", "a-b-b-c", true);
        check("a**c", "abc", true);
        check("a*b*c", "a-c-b", false);
        check("*b*", "abc", true);
    }

    #[test]
    fn percent_encoding_hides_separators_and_wildcards() {
        check("%2F", "/", true);
        check("a%2a", "a*", true);
        check("a%2a", "ab", false);
        check("a+b", "a b", true);
        check("%C3%A4", "ä", true);
        check("%2", "%2", false);
        check("%zz", "%zz", false);
    }

    #[test]
    fn encoded_text_matches_itself_alone() {
        for text in ["/", "*", "a/b*c%d+e f", "ä{vhost}"] {
            check(&encode(text), text, true);
            check(&encode(text), "other", false);
        }
    }
}
