//! A stream of bytes in the binary frames of a WebSocket (RFC 6455, section 5), server's side.
//!
//! Nothing here waits for a whole frame, let alone a message: MQTT finds its packets in the bytes
//! however they are cut [MQTT-6.0.0-2], so they are passed on as they come. A library that hands
//! out messages would give room for as large a frame as anybody announces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
    #[error("MQTT comes in binary frames, not in text")]
    Text,
}

impl Wrong {
    fn status(self) -> u16 {
        if self == Wrong::Text { UNSUPPORTED_DATA } else { PROTOCOL_ERROR }
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

/// Appends the head of a whole frame with a payload of `len` bytes, not masked.
fn write_head(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
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

/// The bytes in the binary frames of a WebSocket.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    /// What has come and was not looked at.
    input: BytesMut,
    /// Bytes that are left of the payload of the frame that is read.
    left: u64,
    mask: [u8; 4],
    /// The message that is read goes on in another frame.
    is_cut: bool,
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
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Frames on `stream`, whose handshake is over.
    pub(super) fn new(stream: S) -> Frames<S> {
        Frames {
            stream,
            input: BytesMut::new(),
            left: 0,
            mask: [0; 4],
            is_cut: false,
            has_ended: false,
            output: Vec::new(),
            written: 0,
            writing: 0,
            control: None,
            has_said_goodbye: false,
        }
    }

    /// Says goodbye, unless that was done.
    fn say_goodbye(&mut self, status: u16) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            let mut frame = Vec::new();
            write_head(&mut frame, 8, 2);
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
            Opcode::Text => return Err(Wrong::Text),
            Opcode::Binary if self.is_cut => return Err(Wrong::Order),
            Opcode::Continuation if !self.is_cut => return Err(Wrong::Order),
            Opcode::Binary | Opcode::Continuation => {
                self.is_cut = !head.is_final;
                self.input.advance(head.bytes);
                (self.left, self.mask) = (head.len, head.mask);
                return Ok(true);
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
                write_head(&mut pong, 10, len);
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

    /// Passes on what there is of the current frame's payload.
    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
        Poll::Ready(Ok(()))
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
            let len = total.min(FRAME_BYTES_MAX);
            if len == 0 {
                return Poll::Ready(Ok(0));
            }
            write_head(&mut self.output, 2, len);
            let end = self.output.len() + len;
            for slice in slices {
                let room = end - self.output.len();
                self.output.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            self.writing = len;
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
                Err(wrong) => {
                    this.say_goodbye(wrong.status());
                    // As far as it goes: nobody waits for it.
                    let _ = this.poll_output(cx)?;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, wrong)));
                }
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
        write_head(&mut out, 0, payload.len());
        out[0] = first;
        out[1] |= 0x80;
        out.extend_from_slice(&mask);
        let at = out.len();
        out.extend_from_slice(payload);
        unmask(&mut out[at..], &mut mask);
        out
    }

    /// Everything that a server reads of `bytes`, and what it has written meanwhile.
    async fn read(bytes: &[u8], cut: usize) -> (io::Result<Vec<u8>>, Vec<u8>) {
        let (mut client, server) = duplex(1 << 20);
        let mut frames = Frames::new(server);
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
        let mut frames = Frames::new(server);
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
}
