//! MQTT of any version from either side: nothing breaks the reader, what it takes can be written
//! and read again, and how the bytes are split changes nothing.

#![no_main]

use isthmus_mqtt::codec::{Packet, Publish, Sender, Version, frame};
use isthmus_mqtt::convert::properties::to_neutral;
use isthmus_mqtt::convert::stored::{Draft, Head, seal};
use libfuzzer_sys::fuzz_target;

/// What a packet is taken as, and where the next begins.
fn step(bytes: &[u8], version: &mut Version, sender: Sender) -> Option<(String, usize)> {
    let frame = match frame::next(bytes, 4096) {
        Ok(frame) => frame?,
        Err(fault) => return Some((fault.to_string(), usize::MAX)),
    };
    let packet = match Packet::read(&frame, *version, sender) {
        Ok(packet) => packet,
        Err(fault) => return Some((fault.to_string(), usize::MAX)),
    };
    if let Packet::Connect(connect) = &packet {
        *version = connect.version;
    }
    let mut written = Vec::new();
    packet.write(*version, &mut written).expect("it was in a packet before");
    let again = frame::next(&written, 8192).expect("valid").expect("whole");
    assert_eq!(Packet::read(&again, *version, sender), Ok(packet));
    if let Packet::Publish(publish) = &packet {
        store(bytes, publish, *version, sender);
    }
    Some((format!("{packet:?}"), frame.wire_len()))
}

/// Stores the publish that `bytes` begin with, and finds it again.
fn store(bytes: &[u8], publish: &Publish<'_>, version: Version, sender: Sender) {
    if publish.topic.is_empty() {
        return;
    }
    let frame = frame::next(bytes, 4096).expect("valid").expect("whole");
    assert_eq!(Publish::read(&frame, version, sender).as_ref(), Ok(publish));
    let draft = Draft::new(publish, &frame, 0);
    let batch = seal(bytes.to_vec().into(), "amq.topic", vec![draft]);
    let record = &batch.records[0];
    let head = Head::read(batch.head(record)).expect("stored");
    assert_eq!((head.properties, head.qos), (publish.properties, publish.qos));
    assert_eq!(batch.body(record), publish.payload);
    assert_eq!(batch.routing_key(record).len(), publish.topic.len());
    to_neutral(batch.head(record)).expect("stored");
}

fn run(data: &[u8], version: Version, sender: Sender, piece: usize) -> Vec<String> {
    let (mut version, mut at, mut end, mut read) = (version, 0, 0, Vec::new());
    loop {
        while let Some((said, len)) = step(&data[at..end], &mut version, sender) {
            read.push(said);
            if len == usize::MAX {
                return read;
            }
            at += len;
        }
        if end == data.len() {
            return read;
        }
        end = (end + piece).min(data.len());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(([how, piece], data)) = data.split_first_chunk() else { return };
    let version = [Version::V3_1, Version::V3_1_1, Version::V5, Version::V5][usize::from(how & 3)];
    let sender = if how & 4 == 0 { Sender::Client } else { Sender::Server };
    let whole = run(data, version, sender, data.len().max(1));
    let split = run(data, version, sender, usize::from(*piece).max(1));
    assert_eq!(whole, split);
});
