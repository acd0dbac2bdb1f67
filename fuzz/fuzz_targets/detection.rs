//! What comes before a protocol's own bytes: nothing breaks what reads it, and how the bytes are
//! split changes nothing.

#![no_main]

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use isthmus_front::first::{TELLING, tell};
use isthmus_front::frames::{Frames, Payload};
use isthmus_front::proxy::{Header, Source};
use isthmus_front::upgrade::{Subprotocol, accept};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client that sends `data` in pieces of `piece` bytes and notes what it hears.
struct Client<'a> {
    data: &'a [u8],
    piece: usize,
    heard: Vec<u8>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = self.piece.min(self.data.len()).min(buf.remaining());
        let (piece, rest) = self.data.split_at(len);
        buf.put_slice(piece);
        self.data = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = self.piece.min(bytes.len());
        self.heard.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What comes of `future`, which waits for nothing but its turn.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

/// All that is read, and whether it ended well.
fn read_all<S: AsyncRead + Unpin>(stream: &mut S) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let mut room = [0; 512];
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut *stream).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (all, true),
            Poll::Ready(Ok(())) => all.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return (all, false),
            Poll::Pending => {}
        }
    }
}

fn first(data: &[u8]) {
    let mut decided = None;
    for end in 0..=data.len().min(2 * TELLING) {
        let told = tell(&data[..end]);
        match decided {
            None if told == Ok(None) => assert!(end < TELLING),
            None => decided = Some(told),
            Some(decided) => assert_eq!(told, decided),
        }
    }
}

fn proxy(data: &[u8], piece: usize) -> Option<(Option<Source>, usize)> {
    let (mut header, mut at) = (Header::default(), 0);
    while at < data.len() {
        let end = (at + header.wants().min(piece)).min(data.len());
        let source = header.take(&data[at..end]).ok()?;
        at = end;
        if source.is_some() {
            return Some((source, at));
        }
    }
    Some((None, at))
}

fn websocket(data: &[u8], piece: usize) -> Option<(Subprotocol, Vec<u8>, bool)> {
    let client = Client { data, piece, heard: Vec::new() };
    let (mut frames, subprotocol) = run(accept(client, &[])).ok()?;
    let (bytes, is_well) = read_all(&mut frames);
    Some((subprotocol, bytes, is_well))
}

/// Frames without a handshake, which the fuzzer seldom finds.
fn frames(data: &[u8], payload: Payload, piece: usize) -> (Vec<u8>, bool) {
    let client = Client { data, piece, heard: Vec::new() };
    read_all(&mut Frames::new(client, BytesMut::new(), payload))
}

/// Of two readings of the same bytes one may end sooner than the other, where both end in error.
fn assert_same(one: &(Vec<u8>, bool), other: &(Vec<u8>, bool)) {
    assert_eq!(one.1, other.1);
    if one.1 {
        assert_eq!(one.0, other.0);
    } else {
        assert!(one.0.starts_with(&other.0) || other.0.starts_with(&one.0));
    }
}

/// Writes `data` as a session does, and reads the messages that come of it.
fn written(data: &[u8], piece: usize) {
    let client = Client { data: &[], piece: 64, heard: Vec::new() };
    let mut frames = Frames::new(client, BytesMut::new(), Payload::Stomp);
    let mut cx = Context::from_waker(Waker::noop());
    let mut at = 0;
    while at < data.len() {
        let slices: Vec<_> = data[at..].chunks(piece).map(IoSlice::new).collect();
        match Pin::new(&mut frames).poll_write_vectored(&mut cx, &slices) {
            Poll::Ready(Ok(written)) => at += written,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => {}
        }
    }
    let heard = &frames.get_ref().heard[..];
    let (mut rest, mut all, mut message, mut is_text) = (heard, Vec::new(), Vec::new(), false);
    while let [first, len, behind @ ..] = rest {
        let (len, behind) = match len {
            126 => {
                let (len, behind) = behind.split_first_chunk().expect("a length");
                (usize::from(u16::from_be_bytes(*len)), behind)
            }
            127 => {
                let (len, behind) = behind.split_first_chunk().expect("a length");
                (u64::from_be_bytes(*len) as usize, behind)
            }
            len => (usize::from(*len), behind),
        };
        match first & 0x0F {
            0 => assert!(!message.is_empty()),
            opcode => {
                assert!(message.is_empty());
                is_text = opcode == 1;
            }
        }
        message.extend_from_slice(&behind[..len]);
        if first & 0x80 != 0 {
            assert!(!is_text || std::str::from_utf8(&message).is_ok());
            all.append(&mut message);
        }
        rest = &behind[len..];
    }
    assert_eq!(all, data);
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let piece = 1 + usize::from(choice >> 2) % 23;
    match choice % 4 {
        0 => {
            first(data);
            assert_eq!(proxy(data, piece), proxy(data, usize::MAX));
        }
        1 => {
            let (one, other) = (websocket(data, piece), websocket(data, usize::MAX));
            assert_eq!(one.is_some(), other.is_some());
            if let (Some((spoken, bytes, is_well)), Some(other)) = (one, other) {
                assert_eq!(spoken, other.0);
                assert_same(&(bytes, is_well), &(other.1, other.2));
            }
        }
        2 => {
            let payload = if choice & 4 == 0 { Payload::Bytes } else { Payload::Stomp };
            assert_same(&frames(data, payload, piece), &frames(data, payload, usize::MAX));
        }
        _ => written(data, piece),
    }
});
