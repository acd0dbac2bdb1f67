//! A stream of bytes in the frames of a WebSocket (RFC 6455, section 5), server's side.
//!
//! Nothing here waits for a whole frame, let alone a message: every protocol finds its own units in
//! the bytes however they are cut [MQTT-6.0.0-2], so they are passed on as they come. A library that
//! hands out messages would give room for as large a frame as anybody announces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::messages::{Cutter, Utf8};

/// Payload of a frame that is written, in bytes, at the most.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Bytes read at a time where frames begin.
const READ_BYTES: usize = 4 * 1024;

/// Payload of a control frame, in bytes, at the most (section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Status codes of section 7.4.1.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_PAYLOAD: u16 = 1007;

/// What is in the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes of a protocol that does not care how they are cut, in binary messages.
    Bytes,
    /// STOMP: from clients in messages of either kind, to them each frame in one of its own.
    Stomp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    is_final: bool,
    opcode: Opcode,
    len: u64,
    mask: [u8; 4],
    /// Bytes that it takes itself.
    bytes: usize,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("a reserved bit is set")]
    Reserved,
    #[error("the opcode is unknown")]
    Opcode,
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("a length is beyond 63 bits")]
    Length,
    #[error("a control frame is cut, or longer than 125 bytes")]
    Control,
    #[error("a message begins within another, or goes on where none has begun")]
    Order,
    #[error("this protocol comes in binary frames, not in text")]
    Text,
    #[error("a message of text is not UTF-8")]
    Utf8,
}

impl Wrong {
    fn status(self) -> u16 {
        match self {
            Wrong::Text => UNSUPPORTED_DATA,
            Wrong::Utf8 => INVALID_PAYLOAD,
            _ => PROTOCOL_ERROR,
        }
    }
}

impl Head {
    /// The head that `bytes` begin with; `None` if more must come.
    fn read(bytes: &[u8]) -> Result<Option<Head>, Wrong> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Wrong::Reserved);
        }
        let opcode = Opcode::of(first & 0x0F).ok_or(Wrong::Opcode)?;
        if second & 0x80 == 0 {
            return Err(Wrong::Unmasked);
        }
        let length_bytes = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, rest)) = rest.split_at_checked(length_bytes) else { return Ok(None) };
        let len = match length {
            [] => u64::from(second & 0x7F),
            bytes => bytes.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        };
        if len >> 63 != 0 {
            return Err(Wrong::Length);
        }
        let is_final = first & 0x80 != 0;
        if opcode.is_control() && (!is_final || len > CONTROL_BYTES_MAX) {
            return Err(Wrong::Control);
        }
        let Some(&mask) = rest.first_chunk() else { return Ok(None) };
        Ok(Some(Head { is_final, opcode, len, mask, bytes: 2 + length_bytes + mask.len() }))
    }
}

/// Takes the mask off `bytes`, and turns it so that it fits those that come behind them.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let mut words = bytes.chunks_exact_mut(4);
    for word in &mut words {
        word.iter_mut().zip(*mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    let rest = words.into_remainder();
    rest.iter_mut().zip(*mask).for_each(|(byte, mask)| *byte ^= mask);
    mask.rotate_left(rest.len());
}

/// The first byte of frames that are messages of their own, or the last of one.
const FINAL: u8 = 0x80;

/// Appends the head of a frame with a payload of `len` bytes, not masked.
fn write_head(out: &mut Vec<u8>, first: u8, len: usize) {
    out.push(first);
    match len {
        0..=125 => out.push(len as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// The bytes in the frames of a WebSocket.
#[derive(Debug)]
pub struct Frames<S> {
    stream: S,
    payload: Payload,
    /// What has come and was not looked at.
    input: BytesMut,
    /// Bytes that are left of the payload of the frame that is read.
    left: u64,
    mask: [u8; 4],
    /// The message that is read goes on in another frame.
    is_cut: bool,
    /// It is text so far, if it is to be text.
    text: Option<Utf8>,
    /// The client has said goodbye.
    has_ended: bool,
    /// Whole frames on their way out, and how much of them is written.
    output: Vec<u8>,
    written: usize,
    /// Bytes of the writer in `output` of which nothing was said yet; 0 if there are none.
    writing: usize,
    /// A control frame to be written between others. A later one takes its place: only the last
    /// ping need be answered (section 5.5.3).
    control: Option<Vec<u8>>,
    has_said_goodbye: bool,
    cutter: Cutter,
    /// Bytes of the message that is written that are in no frame yet.
    message_left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Frames on `stream`, whose handshake is over, and of which `input` was read behind it.
    pub fn new(stream: S, input: BytesMut, payload: Payload) -> Frames<S> {
        Frames {
            stream,
            payload,
            input,
            left: 0,
            mask: [0; 4],
            is_cut: false,
            text: None,
            has_ended: false,
            output: Vec::new(),
            written: 0,
            writing: 0,
            control: None,
            has_said_goodbye: false,
            cutter: Cutter::default(),
            message_left: 0,
        }
    }

    /// What they are on.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Says goodbye, unless that was done.
    fn say_goodbye(&mut self, status: u16) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            let mut frame = Vec::new();
            write_head(&mut frame, FINAL | 8, 2);
            frame.extend_from_slice(&status.to_be_bytes());
            self.control = Some(frame);
        }
    }

    /// Writes what is on its way, and a control frame behind it.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.written < self.output.len() {
                let rest = &self.output[self.written..];
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
            }
            self.written = 0;
            // A quiet connection has no buffer.
            self.output = self.control.take().unwrap_or_default();
            if self.output.is_empty() {
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
        }
    }

    /// Looks at the next frame's beginning; `false` if more must come first.
    fn begin(&mut self) -> Result<bool, Wrong> {
        let Some(head) = Head::read(&self.input)? else { return Ok(false) };
        match head.opcode {
            Opcode::Text if self.payload == Payload::Bytes => return Err(Wrong::Text),
            Opcode::Text | Opcode::Binary if self.is_cut => return Err(Wrong::Order),
            Opcode::Continuation if !self.is_cut => return Err(Wrong::Order),
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                if head.opcode != Opcode::Continuation {
                    self.text = (head.opcode == Opcode::Text).then(Utf8::default);
                }
                self.is_cut = !head.is_final;
                self.input.advance(head.bytes);
                (self.left, self.mask) = (head.len, head.mask);
                return self.check(&[]).map(|()| true);
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        let len = head.len as usize;
        if self.input.len() < head.bytes + len {
            return Ok(false);
        }
        self.input.advance(head.bytes);
        let mut payload = self.input.split_to(len);
        unmask(&mut payload, &mut { head.mask });
        match head.opcode {
            Opcode::Ping if !self.has_said_goodbye => {
                let mut pong = Vec::with_capacity(2 + len);
                write_head(&mut pong, FINAL | 10, len);
                pong.extend_from_slice(&payload);
                self.control = Some(pong);
            }
            Opcode::Close => {
                self.has_ended = true;
                self.say_goodbye(NORMAL);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Looks whether the next bytes of a message of text are that; `left` is without them.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let Some(text) = &mut self.text else { return Ok(()) };
        let is_over = self.left == 0 && !self.is_cut;
        if text.take(bytes) && (text.is_whole() || !is_over) { Ok(()) } else { Err(Wrong::Utf8) }
    }

    /// Tells the client what is wrong, as far as it goes: nobody waits for it.
    fn give_up(&mut self, cx: &mut Context<'_>, wrong: Wrong) -> io::Error {
        self.has_ended = true;
        self.say_goodbye(wrong.status());
        match self.poll_output(cx) {
            Poll::Ready(Err(error)) => error,
            _ => io::Error::new(io::ErrorKind::InvalidData, wrong),
        }
    }

    /// Passes on what there is of the current frame's payload.
    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.remaining());
        let read = if self.input.is_empty() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            unmask(part.filled_mut(), &mut self.mask);
            let read = part.filled().len();
            buf.advance(read);
            read
        } else {
            let mut piece = self.input.split_to(room.min(self.input.len()));
            unmask(&mut piece, &mut self.mask);
            buf.put_slice(&piece);
            piece.len()
        };
        if read == 0 && room > 0 {
            // It ends within a frame.
            self.has_ended = true;
        }
        self.left -= read as u64;
        match self.check(&buf.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(wrong) => {
                // A reader counts on nothing to come with an error.
                buf.set_filled(before);
                Poll::Ready(Err(self.give_up(cx, wrong)))
            }
        }
    }

    /// A frame of the first `len` bytes of `slices`.
    fn frame(&mut self, first: u8, len: usize, slices: &[IoSlice<'_>]) {
        write_head(&mut self.output, first, len);
        let end = self.output.len() + len;
        for slice in slices {
            let room = end - self.output.len();
            self.output.extend_from_slice(&slice[..slice.len().min(room)]);
        }
    }

    /// Frames of the first messages of `slices`, which hold `total` bytes; returns how many bytes
    /// are in them. A message that is longer than a frame goes on in others.
    fn messages(&mut self, slices: &[IoSlice<'_>], total: usize) -> usize {
        let mut rest = slices.to_vec();
        let mut rest = &mut rest[..];
        let mut taken = 0;
        while taken < total.min(FRAME_BYTES_MAX) {
            let mut first = 0;
            if self.message_left == 0 {
                let mut cutter = self.cutter;
                let message = cutter.next(rest);
                if taken > 0 && (!message.is_whole || taken + message.len > FRAME_BYTES_MAX) {
                    // More of it may be there when it is first, or it goes on in fewer frames.
                    break;
                }
                self.cutter = cutter;
                self.message_left = message.len;
                first = if message.is_text { 1 } else { 2 };
            }
            let len = self.message_left.min(FRAME_BYTES_MAX - taken);
            self.message_left -= len;
            if self.message_left == 0 {
                first |= FINAL;
            }
            self.frame(first, len, rest);
            IoSlice::advance_slices(&mut rest, len);
            taken += len;
        }
        taken
    }

    /// Says that bytes are written once their frame has left: so nothing need be polled to get it
    /// out for somebody who has nothing else to write. Until then the caller comes with the same
    /// bytes again, and perhaps with more behind them.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writing == 0 {
            ready!(self.poll_output(cx))?;
            let total: usize = slices.iter().map(|slice| slice.len()).sum();
            if total == 0 {
                return Poll::Ready(Ok(0));
            }
            self.writing = match self.payload {
                Payload::Bytes => {
                    let len = total.min(FRAME_BYTES_MAX);
                    self.frame(FINAL | 2, len, slices);
                    len
                }
                Payload::Stomp => self.messages(slices, total),
            };
        }
        ready!(self.poll_output(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.writing)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        while !this.has_ended && buf.filled().len() == before {
            if this.control.is_some() || !this.output.is_empty() {
                // What does not go now goes at the next look, or with what is written next.
                let _ = this.poll_output(cx)?;
            }
            if this.left > 0 {
                ready!(this.poll_payload(cx, buf))?;
                continue;
            }
            match this.begin() {
                Ok(true) => {}
                Ok(false) => {
                    let mut room = [0; READ_BYTES];
                    let mut part = ReadBuf::new(&mut room);
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    this.has_ended = part.filled().is_empty();
                    this.input.extend_from_slice(part.filled());
                }
                Err(wrong) => return Poll::Ready(Err(this.give_up(cx, wrong))),
            }
        }
        if this.input.is_empty() {
            this.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_output(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.say_goodbye(NORMAL);
        ready!(this.poll_output(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut mask = [7, 0, 250, 3];
        let mut out = Vec::new();
        write_head(&mut out, first, payload.len());
        out[1] |= 0x80;
        out.extend_from_slice(&mask);
        let at = out.len();
        out.extend_from_slice(payload);
        unmask(&mut out[at..], &mut mask);
        out
    }

    /// Everything that a server reads of `bytes`, and what it has written meanwhile.
    async fn read(bytes: &[u8], cut: usize) -> (io::Result<Vec<u8>>, Vec<u8>) {
        read_as(Payload::Bytes, bytes, cut).await
    }

    async fn read_as(payload: Payload, bytes: &[u8], cut: usize) -> (io::Result<Vec<u8>>, Vec<u8>) {
        let (mut client, server) = duplex(1 << 20);
        let mut frames = Frames::new(server, BytesMut::new(), payload);
        let reading = async {
            let mut all = Vec::new();
            let result = frames.read_to_end(&mut all).await.map(|_| all);
            frames.shutdown().await.expect("in memory");
            result
        };
        let writing = async {
            for piece in bytes.chunks(cut) {
                // After the end it hears nothing.
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            client.shutdown().await.expect("in memory");
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.expect("in memory");
            heard
        };
        tokio::join!(reading, writing)
    }

    #[tokio::test]
    async fn bytes_come_out_however_they_are_cut() {
        let long: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
        let sent = [
            frame(0x82, b"one"),
            frame(0x02, b"t"),
            frame(0x89, b"?"),
            frame(0x00, b""),
            frame(0x80, b"wo"),
            frame(0x8A, b"unasked"),
            frame(0x82, &long[..300]),
            frame(0x82, &long),
            frame(0x88, &1000u16.to_be_bytes()),
            frame(0x82, b"after the end"),
        ]
        .concat();
        let expected = [b"onetwo", &long[..300], &long[..]].concat();
        for cut in [1, 2, 3, 5, 100, 4096, 5000, sent.len()] {
            let (bytes, said) = read(&sent, cut).await;
            assert!(bytes.expect("read") == expected, "cut at {cut}");
            assert_eq!(said, b"\x8a\x01?\x88\x02\x03\xe8", "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_ends_it_with_a_status() {
        let unmasked = [0x82, 1, b'x'];
        let too_long = [&[0x82, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        for (sent, status) in [
            (frame(0x81, b"text"), 1003),
            (frame(0xC2, b"x"), 1002),
            (frame(0x83, b"x"), 1002),
            (unmasked.to_vec(), 1002),
            (too_long, 1002),
            (frame(0x09, b"cut"), 1002),
            (frame(0x89, &[0; 126]), 1002),
            (frame(0x80, b"goes on"), 1002),
            ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002),
        ] {
            let (result, said) = read(&sent, sent.len()).await;
            assert_eq!(result.expect_err("wrong").kind(), io::ErrorKind::InvalidData);
            let [high, low] = u16::to_be_bytes(status);
            assert_eq!(said, [0x88, 2, high, low], "{sent:?}");
        }
    }

    #[tokio::test]
    async fn an_announced_length_takes_no_room() {
        let announced = [&[0x82, 0xFF][..], &(1u64 << 62).to_be_bytes(), b"\0\0\0\0abc"].concat();
        let (bytes, _) = read(&announced, announced.len()).await;
        assert_eq!(bytes.expect("all there was"), b"abc");
    }

    /// Reads frames of a server until its goodbye.
    async fn frames_of(client: &mut DuplexStream) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            let (first, len) = (
                client.read_u8().await.expect("a frame"),
                client.read_u8().await.expect("a frame"),
            );
            let len = match len {
                126 => u64::from(client.read_u16().await.expect("a length")),
                127 => client.read_u64().await.expect("a length"),
                len => u64::from(len),
            };
            let mut payload = vec![0; len as usize];
            client.read_exact(&mut payload).await.expect("a payload");
            frames.push((first, payload));
            if first == 0x88 {
                return frames;
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_comes_in_frames_though_little_fits_at_a_time() {
        let (mut client, server) = duplex(100);
        let mut frames = Frames::new(server, BytesMut::new(), Payload::Bytes);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let writing = async {
            frames.write_all(b"short").await.expect("written");
            frames.write_all(&sent).await.expect("written");
            frames.shutdown().await.expect("written");
        };
        let (_, heard) = tokio::join!(writing, frames_of(&mut client));
        let (data, goodbye) = heard.split_at(heard.len() - 1);
        assert!(data.iter().all(|(first, _)| *first == 0x82));
        let bytes: Vec<u8> = data.iter().flat_map(|(_, payload)| payload).copied().collect();
        assert!(bytes == [b"short", &sent[..]].concat());
        assert_eq!(goodbye, [(0x88, 1000u16.to_be_bytes().to_vec())]);
    }

    #[tokio::test]
    async fn stomp_comes_in_text_and_in_binary() {
        let sent = [
            frame(0x01, "SEND \u{20ac}".as_bytes().get(..6).expect("cut")),
            frame(0x80, &"\u{20ac}".as_bytes()[1..]),
            frame(0x82, b"\xff"),
            frame(0x81, b""),
            frame(0x81, b"\n"),
        ]
        .concat();
        for cut in [1, 3, sent.len()] {
            let (bytes, said) = read_as(Payload::Stomp, &sent, cut).await;
            assert_eq!(bytes.expect("read"), b"SEND \xe2\x82\xac\xff\n");
            assert_eq!(said, b"\x88\x02\x03\xe8");
        }
        for wrong in [
            frame(0x81, b"a\xff"),
            frame(0x81, b"a\xe2\x82"),
            [frame(0x01, b"\xe2"), frame(0x80, b"")].concat(),
        ] {
            for cut in [1, 3, wrong.len()] {
                let (result, said) = read_as(Payload::Stomp, &wrong, cut).await;
                assert_eq!(result.expect_err("wrong").kind(), io::ErrorKind::InvalidData);
                assert_eq!(said, b"\x88\x02\x03\xef", "{wrong:?} by {cut}");
            }
        }
    }

    #[tokio::test]
    async fn each_frame_of_stomp_is_a_message() {
        let (mut client, server) = duplex(100);
        let mut frames = Frames::new(server, BytesMut::new(), Payload::Stomp);
        let long = "\u{e4}".repeat(100_000);
        let stomp = |body: &[u8]| {
            let head = format!("MESSAGE\ncontent-length:{}\n\n", body.len());
            [head.as_bytes(), body, b"\0"].concat()
        };
        let sent =
            [stomp(b"a\0b"), stomp(b"\xff"), b"\n".to_vec(), stomp(long.as_bytes()), stomp(b"c")];
        let writing = async {
            let slices: Vec<_> = sent.iter().map(|frame| IoSlice::new(frame)).collect();
            let all = sent.concat();
            let mut written = frames.write_vectored(&slices).await.expect("written");
            while written < all.len() {
                written += frames.write(&all[written..]).await.expect("written");
            }
            frames.shutdown().await.expect("written");
        };
        let (_, heard) = tokio::join!(writing, frames_of(&mut client));
        let mut messages: Vec<(u8, Vec<u8>)> = Vec::new();
        for (first, payload) in heard {
            assert!(payload.len() <= FRAME_BYTES_MAX);
            match messages.last_mut() {
                Some((last, message)) if first & 0x0F == 0 => {
                    assert_eq!(*last & FINAL, 0, "a message goes on that is over");
                    *last |= first;
                    message.extend(payload);
                }
                _ => messages.push((first, payload)),
            }
        }
        let goodbye = messages.pop().expect("said");
        assert_eq!(goodbye, (0x88, 1000u16.to_be_bytes().to_vec()));
        let kinds: Vec<u8> = messages.iter().map(|(first, _)| *first).collect();
        assert_eq!(kinds, [0x81, 0x82, 0x81, 0x81, 0x81]);
        assert!(messages.into_iter().map(|(_, message)| message).eq(sent));
    }
}
