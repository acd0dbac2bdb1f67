//! What a peer may send, before and after the handshake: nothing breaks the decoders, how the bytes
//! are split changes nothing, and what is taken is the same when it was written and read again.
#![no_main]

use isthmus_cluster::peer::fuzzing::{frames, preface};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    preface(data);
    let Some((piece, data)) = data.split_first() else { return };
    frames(data, usize::from(*piece));
    // Bytes that are a frame in every case: its kind, and a body of the right length.
    let Some((kind, body)) = data.split_first() else { return };
    let mut frame = (9 + body.len() as u32).to_le_bytes().to_vec();
    frame.push(kind % 20);
    frame.extend_from_slice(&[1; 8]);
    frame.extend_from_slice(body);
    frames(&frame, usize::from(*piece));
});
