//! MQTT over WebSockets (RFC 6455; MQTT 5.0, section 6): a stream of bytes in binary frames.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::AnySettings;

/// The subprotocols that are MQTT [MQTT-6.0.0-3]; the second is that of 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Bytes of a frame that is written, at the most.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the buffer that frames are read into, which each connection has.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Why a request is refused: its status, and a line of text.
type Refusal = (StatusCode, &'static str);

/// Does the handshake of a WebSocket.
///
/// # Errors
/// If it is none, or is not to be let in; the client has been told.
pub(super) async fn accept<S>(stream: S, settings: &AnySettings) -> io::Result<Frames<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        // Each frame is written at once: more of it is not gathered here.
        .write_buffer_size(0)
        .max_message_size(Some(settings.frame_bytes_max))
        .max_frame_size(Some(settings.frame_bytes_max));
    #[allow(clippy::result_large_err)] // the library's type
    let look =
        |request: &Request, mut response: Response| match look_at(request.headers(), settings) {
            Ok(subprotocol) => {
                let subprotocol = HeaderValue::from_static(subprotocol);
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
                Ok(response)
            }
            Err((status, why)) => {
                let mut refused = ErrorResponse::new(Some(why.to_owned()));
                *refused.status_mut() = status;
                Err(refused)
            }
        };
    match accept_hdr_async_with_config(stream, look, Some(config)).await {
        Ok(socket) => Ok(Frames { socket, read: Bytes::new(), writing: 0 }),
        Err(error) => Err(io_error(error)),
    }
}

/// The subprotocol that is spoken with the client that has sent `headers`.
fn look_at(headers: &HeaderMap, settings: &AnySettings) -> Result<&'static str, Refusal> {
    // Whatever runs in a browser says where it comes from; nothing else need.
    let origins = &settings.origins;
    let host = headers.get(HOST);
    let is_welcome = |origin: &HeaderValue| {
        origins.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
            || host.is_some_and(|host| is_own_address(origin, host))
    };
    if !headers.get_all(ORIGIN).iter().all(is_welcome) {
        let why = "scripts of this origin are not let in: see websocket.origins\n";
        return Err((StatusCode::FORBIDDEN, why));
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offered = offered.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    let known = offered.find_map(|word| SUBPROTOCOLS.iter().find(|known| **known == word.trim()));
    known.copied().ok_or((StatusCode::BAD_REQUEST, "offer the WebSocket subprotocol mqtt\n"))
}

/// Whether `origin` is the address that the client has come to, as clients say that run in no
/// browser. A name does not count: whoever owns one can let it stand for this node's address after
/// his page has come from another.
fn is_own_address(origin: &HeaderValue, host: &HeaderValue) -> bool {
    let (Ok(origin), Ok(host)) = (origin.to_str(), host.to_str()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_address = name == "localhost" || address.parse::<IpAddr>().is_ok();
    is_address && origin.split_once("://").is_some_and(|(_, authority)| authority == host)
}

/// The bytes in the binary frames of a WebSocket.
pub(super) struct Frames<S> {
    socket: WebSocketStream<S>,
    /// What is left of the frame that was read last.
    read: Bytes,
    /// Bytes of the frame that is being written, of which nothing was said yet; 0 if none is.
    writing: usize,
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                // [MQTT-6.0.0-1].
                Some(Ok(Message::Text(_))) => {
                    let text = "MQTT comes in binary frames, not in text";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                // A ping is answered by the library.
                Some(Ok(_)) => {}
                None
                | Some(Err(
                    Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let len = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..len]);
        self.read.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Says that bytes are written once their frame has left: then nothing need be polled to get
    /// it out for whom nothing else is to be written. Until then the caller comes with the same
    /// bytes again, and perhaps with more behind them.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        gather: impl FnOnce() -> Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        if self.writing == 0 {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
            let bytes = gather();
            let len = bytes.len();
            let frame = Message::Binary(bytes.into());
            Pin::new(&mut self.socket).start_send(frame).map_err(io_error)?;
            self.writing = len;
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(io_error)?;
        Poll::Ready(Ok(std::mem::take(&mut self.writing)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_frame(cx, || {
            let total: usize = slices.iter().map(|slice| slice.len()).sum();
            let mut frame = Vec::with_capacity(total.min(FRAME_BYTES_MAX));
            for slice in slices {
                let room = FRAME_BYTES_MAX - frame.len();
                frame.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            frame
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.socket).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(error) => return Poll::Ready(Err(io_error(error))),
        }
        Pin::new(self.socket.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(origins: &[&str]) -> AnySettings {
        AnySettings {
            timeout: Duration::from_secs(1),
            frame_bytes_max: 1 << 20,
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        }
    }

    fn asked(headers: &[(&'static str, &'static str)], origins: &[&str]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let answer = look_at(&map, &settings(origins));
        answer.map(str::to_owned).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_spoken() {
        let spoken = |offered| asked(&[("sec-websocket-protocol", offered)], &[]);
        assert_eq!(spoken("mqtt"), Ok("mqtt".to_owned()));
        assert_eq!(spoken("v12.stomp, mqttv3.1,mqtt"), Ok("mqttv3.1".to_owned()));
        assert_eq!(spoken("amqp"), Err(400));
        assert_eq!(asked(&[], &[]), Err(400));
        let twice = [("sec-websocket-protocol", "other"), ("sec-websocket-protocol", "mqtt")];
        assert_eq!(asked(&twice, &[]), Ok("mqtt".to_owned()));
    }

    #[test]
    fn scripts_come_from_where_they_may() {
        let from = |origin, host, origins: &[&str]| {
            let headers = [("sec-websocket-protocol", "mqtt"), ("origin", origin), ("host", host)];
            asked(&headers, origins).is_ok()
        };
        let own = &["https://app.example"];
        assert!(from("https://app.example", "broker.example:61616", own));
        assert!(!from("https://app.example.evil", "broker.example:61616", own));
        assert!(!from("http://app.example", "broker.example:61616", own));
        assert!(!from("https://app.example", "broker.example:61616", &[]));
        assert!(from("https://any.example", "broker.example:61616", &["*"]));
        assert!(from("https://127.0.0.1:61616", "127.0.0.1:61616", &[]));
        assert!(from("http://localhost:61616", "localhost:61616", &[]));
        assert!(from("https://[::1]:61617", "[::1]:61617", &[]));
        assert!(!from("http://127.0.0.1:8000", "127.0.0.1:61616", &[]), "another server's page");
        assert!(!from("http://evil.example:61616", "evil.example:61616", &[]), "a name");
        assert!(!from("null", "127.0.0.1:61616", &[]));
    }
}
