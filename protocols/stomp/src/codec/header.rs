//! Headers: reading them where they lie, and writing them.

use std::borrow::Cow;

use memchr::memchr;

use super::version::Rules;

/// The headers of a frame, as they lie in it. They were looked at when the frame was read: every
/// line has a colon, and every escape sequence is one of its version's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// Whole lines, without the empty one.
    block: &'a str,
    rules: Rules,
}

/// A header, escaped as in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const NONE: Headers<'static> = Headers { block: "", rules: Rules::Verbatim };

    /// The headers in `block`, lines that were read before.
    pub(crate) fn checked(block: &'a str, rules: Rules) -> Headers<'a> {
        Headers { block, rules }
    }

    /// How they are written.
    pub fn rules(self) -> Rules {
        self.rules
    }

    /// The lines that they stand in.
    pub fn block(self) -> &'a str {
        self.block
    }

    /// Every header in order as it lies there, repeated ones too.
    pub fn raw(self) -> impl Iterator<Item = Raw<'a>> {
        let Headers { block, rules } = self;
        lines(block).filter_map(move |line| {
            let colon = memchr(b':', line.as_bytes())?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            let value = if rules == Rules::V1_0 { value.trim_start_matches(' ') } else { value };
            Some(Raw { name, value })
        })
    }

    /// Every header in order, repeated ones too: name and value.
    pub fn iter(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.raw().map(move |raw| (self.unescaped(raw.name), self.unescaped(raw.value)))
    }

    /// The value of the header `name`; of several the first counts (1.2, "Repeated Header
    /// Entries"). No character of `name` is one that is escaped.
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.raw().find(|raw| raw.name == name).map(|raw| self.unescaped(raw.value))
    }

    /// What `text` of these headers stands for.
    pub fn unescaped(self, text: &'a str) -> Cow<'a, str> {
        if !self.rules.escapes() || memchr(b'\\', text.as_bytes()).is_none() {
            return text.into();
        }
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                // What was looked at has no other sequences.
                '\\' => out.extend(
                    chars.next().and_then(|c| self.rules.unescaped(u8::try_from(c).unwrap_or(0))),
                ),
                c => out.push(c),
            }
        }
        out.into()
    }
}

/// The lines of `block` without their ends. There are few bytes in a line and many lines, for which
/// searching bytes is several times faster than searching characters.
pub(super) fn lines(block: &str) -> impl Iterator<Item = &str> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line.strip_suffix('\r').unwrap_or(line))
    })
}

/// The first escape sequence in `text` that `rules` do not know.
pub(crate) fn unknown_escape(text: &str, rules: Rules) -> Option<&str> {
    let mut from = 0;
    while let Some(at) = memchr(b'\\', &text.as_bytes()[from..]) {
        let at = from + at;
        let behind = text[at + 1..].chars().next();
        if behind.and_then(|c| rules.unescaped(u8::try_from(c).ok()?)).is_none() {
            let len = behind.map_or(0, char::len_utf8);
            return text.get(at..at + 1 + len);
        }
        from = at + 2;
    }
    None
}

/// Appends a header with its line's end.
///
/// U+0000, which no version can write, becomes U+FFFD.
///
/// In 1.0, which escapes nothing, a line's end in a value becomes a blank, and a header whose name
/// cannot be written is left out: the others arrive.
pub fn write(out: &mut Vec<u8>, rules: Rules, name: &str, value: &str) {
    if !rules.escapes() && name.contains(['\n', '\r', ':']) {
        return;
    }
    escape(out, rules, name);
    out.push(b':');
    escape(out, rules, value);
    out.push(b'\n');
}

fn escape(out: &mut Vec<u8>, rules: Rules, text: &str) {
    let needs = |b: &u8| matches!(b, b'\0' | b'\n' | b'\r' | b':' | b'\\');
    if !text.as_bytes().iter().any(needs) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match (rules, byte) {
            // It would end the frame.
            (_, 0) => out.extend_from_slice("\u{FFFD}".as_bytes()),
            (Rules::V1_1 | Rules::V1_2, b'\n') => out.extend_from_slice(b"\\n"),
            (Rules::V1_1 | Rules::V1_2, b':') => out.extend_from_slice(b"\\c"),
            (Rules::V1_1 | Rules::V1_2, b'\\') => out.extend_from_slice(b"\\\\"),
            (Rules::V1_2, b'\r') => out.extend_from_slice(b"\\r"),
            // 1.1 has no sequence for it, and readers of any version may take it for a line's end.
            (Rules::V1_0 | Rules::Verbatim, b'\n' | b'\r') | (Rules::V1_1, b'\r') => out.push(b' '),
            _ => out.push(byte),
        }
    }
}
