//! What STOMP sends, in the messages that its clients expect: each frame is one, of text where it
//! is that.
//!
//! RabbitMQ sends them so, and there are clients who read a message as one frame. A text message
//! that is no UTF-8 would end the connection (RFC 6455, section 8.1), so a frame with a body of
//! other bytes goes in a binary one, which clients take as well.

use std::io::IoSlice;

/// Where in a stream of frames something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before a frame, or among the line ends between two.
    #[default]
    Between,
    /// In the lines before the body; a line is read, and the length is known that it or an earlier
    /// one tells.
    Head { line: Line, content_length: Option<u64> },
    /// In a body of so many more bytes, behind which a zero stands.
    Body(u64),
    /// In a body up to the first zero.
    Open,
}

/// A line of a head, as far as it may tell the length of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Nothing but what the name begins with, of so many bytes.
    Name(usize),
    /// A length so far.
    Length(u64),
    /// Something else.
    Other,
}

const NAME: &[u8] = b"content-length:";

/// Finds where frames end that a server sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cutter(Place);

impl Cutter {
    /// Reads `bytes` up to the end of a frame, or of the line ends before one; returns where that
    /// is, or `None` if it is not among them.
    fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.0 {
                Place::Between if matches!(bytes[at], b'\n' | b'\r') => {
                    let ends = bytes[at..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r'));
                    return Some(at + ends.count());
                }
                // The command is no header, whatever it is.
                Place::Between => {
                    self.0 = Place::Head { line: Line::Other, content_length: None };
                }
                Place::Head { line, content_length } => {
                    let byte = bytes[at];
                    at += 1;
                    if byte != b'\n' {
                        line.read(byte);
                        continue;
                    }
                    match *line {
                        Line::Name(0) => {
                            self.0 = content_length.map_or(Place::Open, Place::Body);
                            continue;
                        }
                        // The first one counts (1.2, "Repeated Header Entries").
                        Line::Length(length) => *content_length = content_length.or(Some(length)),
                        Line::Name(_) | Line::Other => {}
                    }
                    *line = Line::Name(0);
                }
                Place::Body(left) => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= part as u64;
                    at += part;
                    if at < bytes.len() {
                        self.0 = Place::Between;
                        return Some(at + 1);
                    }
                }
                Place::Open => {
                    let end = memchr::memchr(0, &bytes[at..])?;
                    self.0 = Place::Between;
                    return Some(at + end + 1);
                }
            }
        }
        None
    }

    /// The first message of what `slices` hold: its length in bytes, and whether it is text. A frame
    /// that they do not hold as a whole is a message as far as it goes.
    pub(crate) fn next(&mut self, slices: &[IoSlice<'_>]) -> Message {
        let mut message = Message { len: 0, is_text: true, is_whole: false };
        let mut text = Utf8::default();
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            let end = self.cut(slice);
            let part = &slice[..end.unwrap_or(slice.len())];
            message.is_text = message.is_text && text.take(part);
            message.len += part.len();
            if end.is_some() {
                message.is_whole = true;
                break;
            }
        }
        message.is_text &= text.is_whole();
        message
    }
}

/// A message that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) len: usize,
    pub(crate) is_text: bool,
    /// It ends where a frame ends.
    pub(crate) is_whole: bool,
}

impl Line {
    fn read(&mut self, byte: u8) {
        *self = match *self {
            Line::Name(at) if NAME[at] == byte && at + 1 == NAME.len() => Line::Length(0),
            Line::Name(at) if NAME[at] == byte => Line::Name(at + 1),
            Line::Length(length) if byte.is_ascii_digit() => {
                Line::Length(length.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
            }
            // What older versions write before a value, and newer ones before the line's end.
            Line::Length(length) if matches!(byte, b' ' | b'\r') => Line::Length(length),
            Line::Name(0) if byte == b'\r' => Line::Name(0),
            _ => Line::Other,
        };
    }
}

/// Looks whether bytes that come in pieces are UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Utf8 {
    /// A character that is cut by the end of a piece.
    cut: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// Whether `bytes` go on as they should.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> bool {
        while self.len > 0 {
            let Some((&first, rest)) = bytes.split_first() else { return true };
            // No more than four bytes are cut: the fourth makes it whole or wrong.
            self.cut[self.len] = first;
            self.len += 1;
            bytes = rest;
            match std::str::from_utf8(&self.cut[..self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let cut = &bytes[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.len = cut.len();
                true
            }
        }
    }

    /// Whether no character is cut.
    pub(crate) fn is_whole(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages of `bytes` that come in one slice for each piece.
    fn messages(bytes: &[u8], piece: usize) -> Vec<(Vec<u8>, bool)> {
        let (mut cutter, mut at, mut found) = (Cutter::default(), 0, Vec::new());
        while at < bytes.len() {
            let slices: Vec<_> = bytes[at..].chunks(piece).map(IoSlice::new).collect();
            let message = cutter.next(&slices);
            found.push((bytes[at..at + message.len].to_vec(), message.is_text));
            at += message.len;
        }
        found
    }

    #[test]
    fn each_frame_is_a_message_however_its_bytes_lie() {
        let frames = [
            (&b"CONNECTED\nversion:1.2\n\n\0"[..], true),
            (b"\n\n", true),
            ("MESSAGE\nname:\u{e4}\ncontent-length:5\n\na\0b\0c\0".as_bytes(), true),
            (b"MESSAGE\ncontent-length:2\n\n\xff\n\0", false),
            (b"MESSAGE\ncontent-length: 1\ncontent-length:7\n\nx\0", true),
            (b"MESSAGE\nx-content-length:3\ncontent-lengths:3\n\n\0", true),
            (b"MESSAGE\ncontent-length:0\n\n\0", true),
            (b"ERROR\nmessage:no\n\nnothing\n\0", true),
        ];
        let all: Vec<u8> = frames.iter().flat_map(|(frame, _)| *frame).copied().collect();
        let expected: Vec<_> =
            frames.iter().map(|(frame, is_text)| (frame.to_vec(), *is_text)).collect();
        for piece in (3..20).chain([all.len()]) {
            assert_eq!(messages(&all, piece), expected, "by {piece}");
        }
    }

    #[test]
    fn a_frame_that_is_not_there_as_a_whole_goes_on_in_another_message() {
        let mut cutter = Cutter::default();
        let pieces = ["MESSAGE\ncontent-len".as_bytes(), b"gth:4\n\na\0", b"b\xc3", b"\0\n"];
        let cut = pieces.map(|piece| cutter.next(&[IoSlice::new(piece)]));
        let message = |len, is_text, is_whole| Message { len, is_text, is_whole };
        assert_eq!(
            cut,
            [
                message(19, true, false),
                message(9, true, false),
                message(2, false, false),
                message(1, true, true),
            ]
        );
        assert_eq!(cutter.next(&[IoSlice::new(b"\n")]), message(1, true, true));
    }

    proptest! {
        #[test]
        fn text_is_told_however_it_is_cut(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..12),
                any::<String>().prop_map(String::into_bytes),
            ],
            piece in 1..6usize,
        ) {
            let mut utf8 = Utf8::default();
            let is_text = bytes.chunks(piece).all(|piece| utf8.take(piece)) && utf8.is_whole();
            prop_assert_eq!(is_text, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
