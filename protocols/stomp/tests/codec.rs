//! Frames, read at every split and written.

#![allow(clippy::unwrap_used)] // a failed test may panic

use isthmus_stomp::Fault;
use isthmus_stomp::codec::{
    Command, Decoder, Limits, Rules, Version, frame::line_ends, write_frame,
};
use proptest::prelude::*;

use Version::{V1_0, V1_1, V1_2};

/// A frame as a test compares it.
type Told = (Command, Vec<(String, String)>, Vec<u8>);

/// All frames in `parts`, which come one after the other, and the fault that ends them; and what
/// is left.
fn outcome(
    parts: &[&[u8]],
    version: Option<Version>,
    limits: &Limits,
) -> (Vec<Told>, Option<Fault>, Vec<u8>) {
    let (mut buffer, mut decoder, mut told) = (Vec::new(), Decoder::default(), Vec::new());
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            buffer.drain(..line_ends(&buffer));
            let frame = match decoder.next(&buffer, version, limits) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(fault) => return (told, Some(fault), buffer),
            };
            let own = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
                (name.into_owned(), value.into_owned())
            };
            let headers = frame.headers.iter().map(own).collect();
            told.push((frame.command, headers, frame.body.to_vec()));
            let len = frame.wire_len;
            decoder = Decoder::default();
            buffer.drain(..len);
        }
    }
    (told, None, buffer)
}

/// All frames in `parts`, which are whole or wrong.
fn read(parts: &[&[u8]], version: Option<Version>, limits: &Limits) -> Result<Vec<Told>, String> {
    match outcome(parts, version, limits) {
        (_, Some(fault), _) => Err(fault.to_string()),
        (told, None, left) => {
            assert!(left.is_empty(), "{:?} is left", String::from_utf8_lossy(&left));
            Ok(told)
        }
    }
}

fn one(version: Version, bytes: &[u8]) -> Told {
    let mut frames = read(&[bytes], Some(version), &Limits::default()).unwrap();
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

fn headers(version: Version, lines: &str) -> Vec<(String, String)> {
    one(version, format!("SEND\n{lines}\n\n\0").as_bytes()).1
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn headers_are_escaped_as_the_version_has_it() {
    assert_eq!(headers(V1_2, r"a\cb:\n\r\\x"), pairs(&[("a:b", "\n\r\\x")]));
    assert_eq!(headers(V1_1, r"a\cb:\n\\x"), pairs(&[("a:b", "\n\\x")]));
    assert_eq!(headers(V1_0, r"a\cb:\n\\t"), pairs(&[(r"a\cb", r"\n\\t")]));
}

#[test]
fn blanks_belong_to_a_value_from_1_1_on() {
    for version in [V1_1, V1_2] {
        assert_eq!(headers(version, "a :  b "), pairs(&[("a ", "  b ")]));
    }
    assert_eq!(headers(V1_0, "a:  b "), pairs(&[("a", "b ")]));
}

#[test]
fn of_repeated_headers_the_first_counts_and_all_are_there() {
    let bytes = b"SEND\nfoo:World\nfoo:Hello\n\n\0";
    assert_eq!(one(V1_2, bytes).1, pairs(&[("foo", "World"), ("foo", "Hello")]));
    let mut decoder = Decoder::default();
    let frame = decoder.next(bytes, Some(V1_2), &Limits::default()).unwrap().unwrap();
    assert_eq!(frame.headers.get("foo").as_deref(), Some("World"));
    assert_eq!(frame.headers.get("bar"), None);
}

#[test]
fn connect_and_connected_are_not_escaped() {
    for command in ["CONNECT", "STOMP", "CONNECTED"] {
        let bytes = format!("{command}\nlogin:a\\b\\c:d\n\n\0");
        let mut decoder = Decoder::default();
        let frame = decoder.next(bytes.as_bytes(), None, &Limits::default()).unwrap().unwrap();
        assert_eq!(frame.headers.get("login").as_deref(), Some("a\\b\\c:d"));
    }
}

#[test]
fn lines_may_end_with_carriage_return_and_line_feed() {
    for version in Version::ALL {
        let told = one(version, b"SEND\r\ndestination:/queue/a\r\n\r\nb\r\n\0");
        assert_eq!(told.1, pairs(&[("destination", "/queue/a")]));
        assert_eq!(told.2, b"b\r\n");
    }
}

#[test]
fn content_length_counts_the_body_with_whatever_is_in_it() {
    assert_eq!(one(V1_2, b"SEND\ncontent-length:3\n\na\0b\0").2, b"a\0b");
    assert_eq!(one(V1_2, b"SEND\ncontent-length:0\n\n\0").2, b"");
    assert_eq!(one(V1_0, b"SEND\ncontent-length: 1\n\nx\0").2, b"x");
    assert_eq!(one(V1_2, b"SEND\ncontent-length:1\ncontent-length:9\n\nx\0").2, b"x");
    assert_eq!(one(V1_2, b"SEND\n\nup to the end\0").2, b"up to the end");
}

#[test]
fn line_ends_between_frames_are_heart_beats() {
    assert_eq!(line_ends(b"\n\r\n\nSEND"), 4);
    assert_eq!(line_ends(b"\r"), 0, "half a line's end");
    let frames =
        read(&[b"\n\r", b"\nACK\n\n\0\n\n", b"\nNACK\n\n\0"], Some(V1_2), &Limits::default());
    let commands: Vec<Command> = frames.unwrap().into_iter().map(|told| told.0).collect();
    assert_eq!(commands, [Command::Ack, Command::Nack]);
}

#[test]
fn in_1_0_any_frame_has_a_body() {
    assert_eq!(one(V1_0, b"SUBSCRIBE\ndestination:a\n\nx\0").2, b"x");
}

#[test]
fn what_is_no_frame_is_refused_with_what_and_where() {
    for (version, bytes, said) in [
        (V1_2, &b"GET / HTTP/1.1\r\n"[..], "'GET / HTTP/1.1', which is no command"),
        (V1_2, b"\x16\x03\x01\x02\x00\x01", "which is no command of STOMP"),
        (V1_2, b"send\n", "which is no command of STOMP"),
        (V1_2, b"NONSENSE\n\n\0", "'NONSENSE', which is no command"),
        (V1_2, b"AAAAAAAAAAAAAAAAAAAA", "which is no command"),
        (V1_2, b"SEND\nno colon\n\n\0", "line 2 of the SEND frame, 'no colon', has no colon"),
        (V1_2, b"SEND\na:b\n:x\n\n\0", "line 3 of the SEND frame begins with a colon"),
        (V1_2, b"SEND\na:\\t\n\n\0", "escape sequence '\\t'"),
        (V1_1, b"SEND\na:\\r\n\n\0", "escape sequence '\\r'"),
        (V1_2, b"SEND\na:b\\\n\n\0", "escape sequence '\\'"),
        (V1_2, b"SEND\na:b\rc\n\n\0", "carriage return"),
        (V1_2, b"SEND\na:\xff\n\n\0", "line 2 of the SEND frame is not UTF-8"),
        (V1_2, b"SEND\na:b\0", "line 2 of the frame has a NUL in it"),
        (V1_2, b"SEND\na:b\0\n", "line 2 of the frame has a NUL in it"),
        (V1_2, b"SEND\ncontent-length:x\n\n\0", "header 'content-length': 'x' is no number"),
        (V1_2, b"SEND\ncontent-length:-1\n\n\0", "'-1' is no number"),
        (V1_2, b"SEND\ncontent-length:+1\n\nx\0", "'+1' is no number"),
        (V1_2, b"SEND\ncontent-length:2\n\nabcd", "byte 0x63 and not NUL"),
        (V1_2, b"SEND\ncontent-length:99999999999999999999\n\n", "are taken at the most"),
        (V1_2, b"SEND\ncontent-length:16777217\n\n", "16777217 bytes, and 16777216 are taken"),
        (V1_2, b"BEGIN\ntransaction:t\n\nbody\0", "a BEGIN frame has a body of 4 bytes"),
        (V1_1, b"ACK\n\nx\0", "only SEND frames may have one"),
    ] {
        let error = read(&[bytes], Some(version), &Limits::default()).unwrap_err();
        assert!(error.contains(said), "{:?}: {error}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn frames_above_a_limit_are_refused_before_they_are_whole() {
    let limits =
        Limits { line_bytes_max: 20, headers_max: 3, head_bytes_max: 60, body_bytes_max: 8 };
    let ok = b"SEND\na:b\nc:d\ne:f\n\n12345678\0";
    assert!(read(&[ok], Some(V1_2), &limits).is_ok());
    for (bytes, said) in [
        (&b"SEND\naaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..], "line 2 of the frame is longer than 20 bytes"),
        (b"SEND\na:b\nc:d\ne:f\ng:h\n", "more than 3 headers"),
        (
            b"SEND\na:bbbbbbbbbbbbbbb\nc:dddddddddddddddd\ne:ffffffffffffffff\n",
            "longer than 60 bytes together",
        ),
        (b"SEND\n\n123456789", "more than 8 bytes"),
        (b"SEND\ncontent-length:9\n\n", "9 bytes, and 8 are taken"),
    ] {
        let error = read(&[bytes], Some(V1_2), &limits).unwrap_err();
        assert!(error.contains(said), "{:?}: {error}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn the_receipt_of_a_frame_that_is_wrong_is_known() {
    let mut decoder = Decoder::default();
    let bytes = b"SEND\nreceipt:r-1\na:\\t\n\n\0";
    let fault = decoder.next(bytes, Some(V1_2), &Limits::default()).unwrap_err();
    assert_eq!(fault.receipt.as_deref(), Some("r-1"));
}

#[test]
fn versions_are_agreed_on() {
    for (accepted, agreed) in [
        (None, Some(V1_0)),
        (Some("1.0,1.1,1.2"), Some(V1_2)),
        (Some("1.1, 1.0"), Some(V1_1)),
        (Some("1.0"), Some(V1_0)),
        (Some("2.0"), None),
        (Some(""), None),
        (Some("1.20"), None),
    ] {
        assert_eq!(Version::negotiate(accepted, &Version::ALL), agreed, "{accepted:?}");
    }
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(V1_0), Just(V1_1), Just(V1_2)]
}

/// Names and values that the version can write: before 1.2 no carriage return, in 1.0 nothing that
/// would end a name or a line, and no blank at the beginning of a value.
fn written(version: Version) -> impl Strategy<Value = Vec<(String, String)>> {
    let (name, value) = match version {
        V1_0 => ("[a-z\\\\]{1,8}", "([a-z:\\\\ä][a-z:\\\\ ]{0,8})?"),
        V1_1 => ("[a-z:\\\\\n]{1,8}", "[ a-z:\\\\\nä]{0,8}"),
        V1_2 => ("[a-z:\\\\\n\r]{1,8}", "[ a-z:\\\\\n\rä]{0,8}"),
    };
    proptest::collection::vec((name, value), 0..5)
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same_at_every_split(
        (version, frames) in version().prop_flat_map(|version| {
            let frame = (written(version), proptest::collection::vec(any::<u8>(), 0..20));
            (Just(version), proptest::collection::vec(frame, 1..4))
        }),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (headers, body) in &frames {
            let pairs: Vec<(&str, &str)> =
                headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            write_frame(&mut bytes, Command::Send, Rules::of(version), &pairs, body);
            bytes.extend_from_slice(b"\n\r\n");
            let mut headers = headers.clone();
            if !body.is_empty() {
                headers.push(("content-length".to_owned(), body.len().to_string()));
            }
            expected.push((Command::Send, headers, body.clone()));
        }
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for end in ends {
            parts.push(&bytes[from..end]);
            from = end;
        }
        prop_assert_eq!(read(&parts, Some(version), &Limits::default()).unwrap(), expected.clone());
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read(&single, Some(version), &Limits::default()).unwrap(), expected);
    }

    #[test]
    fn right_or_wrong_it_is_the_same_at_every_split(
        words in proptest::collection::vec(
            prop_oneof![
                Just("SEND\n"), Just("SEND\n"), Just("ACK\r\n"), Just("\n"), Just("\n\n"),
                Just("\r\n"), Just("\r"), Just("\0"), Just("\n\0"), Just("a:b"), Just("xy"),
                Just("content-length:2\n"), Just("destination:/queue/a\n"), Just("\\c"),
                Just("\\t"), Just(":"), Just("receipt:1\n"), Just("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            ],
            0..16,
        ),
        version in version(),
        step in 1usize..9,
    ) {
        let limits =
            Limits { line_bytes_max: 40, headers_max: 4, head_bytes_max: 90, body_bytes_max: 20 };
        let bytes = words.concat().into_bytes();
        let parts: Vec<&[u8]> = bytes.chunks(step).collect();
        let (whole, split) =
            (outcome(&[&bytes], Some(version), &limits), outcome(&parts, Some(version), &limits));
        prop_assert_eq!(&split.0, &whole.0);
        let message = |fault: Option<Fault>| fault.map(|fault| fault.message);
        prop_assert_eq!(message(split.1), message(whole.1));
    }

    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut begun = b"SEND\n".to_vec();
        begun.extend_from_slice(&bytes);
        for bytes in [bytes, begun] {
            for version in Version::ALL {
                let _ = Decoder::default().next(&bytes, Some(version), &Limits::default());
            }
        }
    }
}
