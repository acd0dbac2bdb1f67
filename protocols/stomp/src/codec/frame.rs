//! Frames: read where they lie, however they were split on their way (1.2, "STOMP Frames").

use std::fmt;

use memchr::{memchr, memchr2};

use super::header::{Headers, lines, unknown_escape};
use super::version::{Rules, Version};
use crate::fault::Fault;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the command of its name
pub enum Command {
    Connect,
    Stomp,
    Send,
    Subscribe,
    Unsubscribe,
    Ack,
    Nack,
    Begin,
    Commit,
    Abort,
    Disconnect,
    Connected,
    Message,
    Receipt,
    Error,
}

impl Command {
    /// Each, with its name.
    const NAMES: [(Command, &'static str); 15] = [
        (Command::Send, "SEND"),
        (Command::Ack, "ACK"),
        (Command::Message, "MESSAGE"),
        (Command::Receipt, "RECEIPT"),
        (Command::Nack, "NACK"),
        (Command::Begin, "BEGIN"),
        (Command::Commit, "COMMIT"),
        (Command::Abort, "ABORT"),
        (Command::Subscribe, "SUBSCRIBE"),
        (Command::Unsubscribe, "UNSUBSCRIBE"),
        (Command::Connect, "CONNECT"),
        (Command::Stomp, "STOMP"),
        (Command::Disconnect, "DISCONNECT"),
        (Command::Connected, "CONNECTED"),
        (Command::Error, "ERROR"),
    ];

    /// Bytes of the longest name.
    const NAME_MAX: usize = 11;

    fn of(name: &[u8]) -> Option<Command> {
        Command::NAMES.iter().find(|(_, own)| own.as_bytes() == name).map(|(command, _)| *command)
    }

    /// As it stands in a frame.
    pub fn name(self) -> &'static str {
        Command::NAMES.iter().find(|(own, _)| *own == self).map_or("", |(_, name)| name)
    }

    /// Whether such frames may have a body; in 1.0 every frame may (1.2, "Body").
    fn may_have_body(self, version: Option<Version>) -> bool {
        matches!(self, Command::Send | Command::Message | Command::Error)
            || version == Some(Version::V1_0)
    }

    /// How the headers of such a frame are written in `version`, which is not known before the
    /// conversation has begun.
    fn rules(self, version: Option<Version>) -> Rules {
        match (self, version) {
            (Command::Connect | Command::Stomp | Command::Connected, _) | (_, None) => {
                Rules::Verbatim
            }
            (_, Some(version)) => Rules::of(version),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of a frame is taken (1.2, "Size Limits").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a line at the most, its end included.
    pub line_bytes_max: usize,
    /// Headers at the most.
    pub headers_max: usize,
    /// Bytes of all headers at the most.
    pub head_bytes_max: usize,
    /// Bytes of the body at the most.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            line_bytes_max: 16 * 1024,
            headers_max: 1_000,
            head_bytes_max: 64 * 1024,
            body_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub command: Command,
    /// Its headers.
    pub headers: Headers<'a>,
    /// Its body.
    pub body: &'a [u8],
    /// Whether `content-length` says how long the body is.
    pub has_content_length: bool,
    /// The offset of the first header in the frame.
    pub headers_at: usize,
    /// The offset of the body in the frame.
    pub body_at: usize,
    /// How many bytes the frame takes, with the NUL at its end.
    pub wire_len: usize,
}

/// Finds the end of one frame after the other, and looks at no byte twice for it, however they
/// come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    /// Offset of the first line that has not been found to be whole.
    line_at: usize,
    /// Offset up to which that line has been looked at.
    scanned: usize,
    /// Whole lines so far.
    lines: usize,
    /// What is known once the headers are whole.
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    command: Command,
    headers_at: usize,
    headers_end: usize,
    body_at: usize,
    content_length: Option<usize>,
}

/// Bytes of line ends that `bytes` begin with: heart-beats, and what may stand behind a frame.
pub fn line_ends(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &bytes[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

impl Decoder {
    /// The frame that `bytes` begin with; `None` if it is not whole. Until there is one, each call
    /// gives the same bytes and what has come since. The next frame begins behind this one with
    /// [`Decoder::default`].
    ///
    /// `version` is the one that was agreed on, `None` before.
    ///
    /// # Errors
    /// If it is not a frame, or larger than `limits`.
    pub fn next<'a>(
        &mut self,
        bytes: &'a [u8],
        version: Option<Version>,
        limits: &Limits,
    ) -> Result<Option<Frame<'a>>, Fault> {
        let (head, headers) = match self.head {
            Some(head) => {
                // Looked at when the head was.
                let block = std::str::from_utf8(&bytes[head.headers_at..head.headers_end]);
                let rules = head.command.rules(version);
                (head, Headers::checked(block.unwrap_or_default(), rules))
            }
            None => {
                let Some(found) = self.head(bytes, version, limits)? else { return Ok(None) };
                self.scanned = found.0.body_at;
                self.head = Some(found.0);
                found
            }
        };
        let Some(body_end) = self.body_end(&head, bytes, limits)? else { return Ok(None) };
        let body = &bytes[head.body_at..body_end];
        if !body.is_empty() && !head.command.may_have_body(version) {
            let detail = format!(
                "a {} frame has a body of {} bytes, and only SEND frames may have one",
                head.command,
                body.len()
            );
            return Err(Fault::malformed(detail).with_receipt(headers.get("receipt").as_deref()));
        }
        Ok(Some(Frame {
            command: head.command,
            headers,
            body,
            has_content_length: head.content_length.is_some(),
            headers_at: head.headers_at,
            body_at: head.body_at,
            wire_len: body_end + 1,
        }))
    }

    /// Finds the empty line behind the headers, and looks at all before it.
    fn head<'a>(
        &mut self,
        bytes: &'a [u8],
        version: Option<Version>,
        limits: &Limits,
    ) -> Result<Option<(Head, Headers<'a>)>, Fault> {
        if bytes == b"\r" {
            // Half of a line's end before the frame, most likely, which is passed over.
            return Ok(None);
        }
        loop {
            let found = memchr2(b'\n', 0, &bytes[self.scanned..]).map(|at| self.scanned + at);
            let Some(end) = found.filter(|at| bytes[*at] == b'\n') else {
                let has_nul = found.is_some();
                self.scanned = bytes.len();
                let partial = &bytes[self.line_at..];
                if self.lines == 0 {
                    check_begun(partial)?;
                }
                self.check_line(partial.len() + 1, limits)?;
                return if has_nul { Err(self.nul()) } else { Ok(None) };
            };
            let line = without_cr(&bytes[self.line_at..end]);
            if self.lines == 0 {
                check_begun(&bytes[self.line_at..end])?;
            }
            self.check_line(end + 1 - self.line_at, limits)?;
            let begin = self.line_at;
            (self.line_at, self.scanned) = (end + 1, end + 1);
            self.lines += 1;
            if self.line_at > limits.head_bytes_max {
                return Err(Fault::malformed(format!(
                    "the headers are longer than {} bytes together: send fewer or shorter ones",
                    limits.head_bytes_max
                )));
            }
            if line.is_empty() {
                return read_head(bytes, begin, end + 1, version, limits).map(Some);
            }
            if self.lines > limits.headers_max + 1 {
                return Err(Fault::malformed(format!(
                    "the frame has more than {} headers: send fewer",
                    limits.headers_max
                )));
            }
        }
    }

    fn check_line(&self, len: usize, limits: &Limits) -> Result<(), Fault> {
        if len <= limits.line_bytes_max {
            return Ok(());
        }
        Err(Fault::malformed(format!(
            "line {} of the frame is longer than {} bytes: put long values into the body",
            self.lines + 1,
            limits.line_bytes_max
        )))
    }

    /// A frame that ends before its empty line would be waited for, and its client with it.
    fn nul(&self) -> Fault {
        Fault::malformed(format!(
            "line {} of the frame has a NUL in it: an empty line stands between headers and body, \
             also where there is no body",
            self.lines + 1
        ))
    }

    /// Where the NUL is that ends the frame.
    fn body_end(
        &mut self,
        head: &Head,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        if let Some(len) = head.content_length {
            return match bytes.get(head.body_at + len) {
                None => Ok(None),
                Some(0) => Ok(Some(head.body_at + len)),
                Some(other) => Err(Fault::malformed(format!(
                    "behind the {len} bytes that 'content-length' says the body has stands the \
                     byte 0x{other:02x} and not NUL: 'content-length' counts the body's bytes, \
                     without the NUL"
                ))
                .with_receipt(receipt_in(&bytes[head.headers_at..head.headers_end]))),
            };
        }
        let found = memchr(0, &bytes[self.scanned..]).map(|at| self.scanned + at);
        let len = found.unwrap_or(bytes.len()) - head.body_at;
        if len > limits.body_bytes_max {
            let receipt = receipt_in(&bytes[head.headers_at..head.headers_end]);
            return Err(too_large(format!("more than {}", limits.body_bytes_max), limits)
                .with_receipt(receipt));
        }
        // The frame may be asked for again.
        self.scanned = found.unwrap_or(bytes.len());
        Ok(found)
    }
}

/// The line without the carriage return before its end (1.2, "Augmented BNF"). Earlier versions
/// know none, and clients that write one mean the same.
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Refuses what begins like no frame, before all of its first line is there; with its carriage
/// return, if it has come.
fn check_begun(line: &[u8]) -> Result<(), Fault> {
    let name = without_cr(line);
    if name.len() <= Command::NAME_MAX && name.iter().all(u8::is_ascii_uppercase) {
        return Ok(());
    }
    Err(unknown_command(name))
}

fn unknown_command(line: &[u8]) -> Fault {
    let shown = line.get(..32).unwrap_or(line).escape_ascii();
    let detail = format!(
        "a frame begins with '{shown}', which is no command of STOMP: a command stands alone on \
         the first line of a frame, in capitals, and each frame ends with a NUL"
    );
    Fault::new("Unknown command", detail)
}

fn too_large(len: impl fmt::Display, limits: &Limits) -> Fault {
    let detail = format!(
        "the body has {len} bytes, and {} are taken at the most: send it in parts",
        limits.body_bytes_max
    );
    Fault::new("Message too large", detail)
}

/// The receipt that a head asks for which may be wrong elsewhere.
fn receipt_in(block: &[u8]) -> Option<&str> {
    let mut lines = block.split(|b| *b == b'\n');
    let value = lines.find_map(|line| without_cr(line).strip_prefix(b"receipt:"))?;
    std::str::from_utf8(value).ok()
}

/// Looks at a head whose empty line is `bytes[empty_at..body_at]`.
fn read_head<'a>(
    bytes: &'a [u8],
    empty_at: usize,
    body_at: usize,
    version: Option<Version>,
    limits: &Limits,
) -> Result<(Head, Headers<'a>), Fault> {
    let first = memchr(b'\n', bytes).unwrap_or(empty_at);
    let name = without_cr(&bytes[..first]);
    let command = Command::of(name).ok_or_else(|| unknown_command(name))?;
    let headers_at = (first + 1).min(empty_at);
    let block = &bytes[headers_at..empty_at];
    check_block(block, command, command.rules(version))
        .and_then(|headers| {
            let content_length = content_length(headers, limits)?;
            let headers_end = empty_at;
            Ok((Head { command, headers_at, headers_end, body_at, content_length }, headers))
        })
        .map_err(|fault| fault.with_receipt(receipt_in(block)))
}

fn check_block(block: &[u8], command: Command, rules: Rules) -> Result<Headers<'_>, Fault> {
    let block = std::str::from_utf8(block).map_err(|error| {
        let line = 2 + block[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Fault::malformed(format!(
            "line {line} of the {command} frame is not UTF-8: headers are text in UTF-8, anything \
             else belongs into the body"
        ))
    })?;
    let has_escapes = rules.escapes() && memchr(b'\\', block.as_bytes()).is_some();
    for (at, line) in lines(block).enumerate() {
        let number = at + 2;
        let Some(colon) = memchr(b':', line.as_bytes()) else {
            return Err(Fault::malformed(format!(
                "line {number} of the {command} frame, '{}', has no colon: a header is written \
                 NAME:VALUE, and an empty line stands between headers and body",
                shown(line)
            )));
        };
        if colon == 0 {
            return Err(Fault::malformed(format!(
                "line {number} of the {command} frame begins with a colon: a header has a name"
            )));
        }
        if let Some(unknown) = has_escapes.then(|| unknown_escape(line, rules)).flatten() {
            let known =
                if rules == Rules::V1_2 { "\\r, \\n, \\c and \\\\" } else { "\\n, \\c and \\\\" };
            return Err(Fault::malformed(format!(
                "line {number} of the {command} frame has the escape sequence '{unknown}', and \
                 there are only {known}: write a backslash as \\\\"
            )));
        }
        if rules == Rules::V1_2 && memchr(b'\r', line.as_bytes()).is_some() {
            return Err(Fault::malformed(format!(
                "line {number} of the {command} frame has a carriage return in it: write it as \\r"
            )));
        }
    }
    Ok(Headers::checked(block, rules))
}

/// The beginning of a line, for a person.
fn shown(line: &str) -> String {
    line.chars().take(40).flat_map(char::escape_debug).collect()
}

fn content_length(headers: Headers<'_>, limits: &Limits) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get("content-length") else { return Ok(None) };
    let digits = value.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        let detail = format!("'{}' is no number: it is how many bytes the body has", shown(&value));
        return Err(Fault::header("content-length", detail));
    }
    match digits.parse::<usize>() {
        Ok(len) if len <= limits.body_bytes_max => Ok(Some(len)),
        // Told before the body has come.
        _ => Err(too_large(digits, limits)),
    }
}
