//! STOMP of any version: nothing breaks the reader, and how the bytes are split changes nothing.

#![no_main]

use isthmus_stomp::codec::{Decoder, Limits, Version, frame::line_ends};
use isthmus_stomp::convert::properties::to_neutral;
use isthmus_stomp::convert::stored::{Draft, Drafts};
use isthmus_stomp::destination::Destination;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits =
    Limits { line_bytes_max: 256, headers_max: 16, head_bytes_max: 1024, body_bytes_max: 1024 };

/// What is read of `data`, which comes in pieces of `piece` bytes.
fn run(data: &[u8], version: Version, piece: usize) -> Vec<String> {
    let (mut at, mut end, mut decoder, mut read) = (0, 0, Decoder::default(), Vec::new());
    while end < data.len() {
        end = (end + piece).min(data.len());
        loop {
            at += line_ends(&data[at..end]);
            match decoder.next(&data[at..end], Some(version), &LIMITS) {
                Ok(None) => break,
                Err(fault) => {
                    read.push(fault.message.into_owned());
                    return read;
                }
                Ok(Some(frame)) => {
                    let headers: Vec<_> = frame.headers.iter().collect();
                    read.push(format!("{} {headers:?} {:?}", frame.command, frame.body));
                    if let Some(destination) = frame.headers.get("destination") {
                        let _ = Destination::parse(&destination);
                    }
                    let mut drafts = Drafts::default();
                    drafts.push(&frame, 0, version, Draft::default(), None);
                    let chunk = data[at..at + frame.wire_len].to_vec().into();
                    let batch = drafts.seal(chunk, version);
                    let record = &batch.records[0];
                    assert_eq!(batch.body(record), frame.body);
                    to_neutral(batch.head(record)).expect("stored");
                    at += frame.wire_len;
                    decoder = Decoder::default();
                }
            }
        }
    }
    read
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let version = Version::ALL[usize::from(first % 3)];
    let whole = run(data, version, data.len().max(1));
    assert_eq!(run(data, version, 1 + usize::from(first / 3) % 7), whole);
});
