//! The decoders, for the fuzzer: any bytes as anything that a peer may send.

use bytes::Bytes;

use super::{
    client::ClientHeader,
    frame::{Frame, Inbox, Kind, Outbox},
    preface::{HEAD, Message, head},
    rpc,
    wire::Malformed,
};

/// `bytes` as a message of the handshake. What is taken is the same when it was written and read
/// again.
pub fn preface(bytes: &[u8]) {
    let Some((head_bytes, body)) = bytes.split_first_chunk::<HEAD>() else { return };
    let Ok((kind, len)) = head(*head_bytes) else { return };
    let Some(body) = body.get(..len) else { return };
    if let Ok(message) = Message::decode(kind, Bytes::copy_from_slice(body)) {
        // Codes that are not known, and flags, do not come back as they were.
        let again = read(&message.encode());
        assert_eq!(again, Ok(message));
    }
}

fn read(bytes: &[u8]) -> Result<Message, Malformed> {
    let (head_bytes, body) = bytes.split_first_chunk().ok_or(Malformed::Short)?;
    let (kind, _) = head(*head_bytes)?;
    Message::decode(kind, Bytes::copy_from_slice(body))
}

/// `bytes` as frames that come in pieces of `piece` bytes. The pieces change nothing, and neither
/// does writing and reading again what is taken.
///
/// # Panics
/// If they do.
pub fn frames(bytes: &[u8], piece: usize) {
    let whole = taken(bytes, bytes.len().max(1));
    assert_eq!(whole, taken(bytes, piece.max(1)));
}

fn taken(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let (mut inbox, mut frames) = (Inbox::default(), Vec::new());
    for part in bytes.chunks(piece) {
        inbox.space().extend_from_slice(part);
        loop {
            match inbox.next() {
                Err(_) => return frames,
                Ok(None) => break,
                Ok(Some(frame)) => {
                    body(frame.clone());
                    frames.push(frame);
                }
            }
        }
    }
    frames
}

/// Decodes a body, and encodes it again.
fn body(Frame { kind, request, body }: Frame) {
    let same = |again: Bytes| assert_eq!(again, body);
    match kind {
        Kind::Append => {
            if let Ok((append, begins)) = rpc::append(body.clone()) {
                let mut out = Outbox::default();
                let len = rpc::put_append(&mut out, request, &append, begins);
                // A membership may come back in another order, and nothing else may.
                assert_eq!(len, Ok(body.len()));
            }
        }
        Kind::Appended => drop(rpc::appended(body.clone()).map(|a| same(rpc::put_appended(&a)))),
        Kind::Vote | Kind::PreVote => {
            drop(rpc::vote_request(body.clone()).map(|r| same(rpc::put_vote_request(&r))));
        }
        Kind::Voted | Kind::PreVoted => {
            drop(rpc::vote_response(body.clone()).map(|r| same(rpc::put_vote_response(&r))));
        }
        Kind::Transfer => drop(rpc::transfer(body.clone()).map(|r| same(rpc::put_transfer(&r)))),
        Kind::Transferred => {
            drop(rpc::transferred(body.clone()).map(|r| same(rpc::put_transferred(&r))));
        }
        Kind::SnapshotBegin => drop(rpc::snapshot(body.clone()).map(|(vote, meta)| {
            let again = rpc::put_snapshot(&vote, &meta);
            assert_eq!(rpc::snapshot(again), Ok((vote, meta)));
        })),
        Kind::SnapshotInstalled => drop(rpc::vote(body.clone()).map(|v| same(rpc::put_vote(&v)))),
        Kind::ClientHeader => {
            if let Ok(header) = ClientHeader::decode(body.clone()) {
                assert_eq!(header.encode(), body[..header.encode().len()]);
            }
        }
        Kind::SnapshotData
        | Kind::SnapshotEnd
        | Kind::SnapshotAbort
        | Kind::AtWork
        | Kind::ControlRequest
        | Kind::ControlAnswer
        | Kind::ClientAccepted
        | Kind::Failed => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            kind in 0..21u8,
            body in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..200),
            piece in 0..50usize,
        ) {
            super::preface(&body);
            super::frames(&body, piece);
            let mut frame = (9 + body.len() as u32).to_le_bytes().to_vec();
            frame.push(kind);
            frame.extend_from_slice(&[1; 8]);
            frame.extend_from_slice(&body);
            super::frames(&frame, piece);
            let mut message = b"ISTHPEER".to_vec();
            message.extend_from_slice(&[kind % 7, body.len() as u8, 0]);
            message.extend_from_slice(&body);
            super::preface(&message);
        }
    }
}
