//! The handshake of WebSockets (RFC 6455, section 4), and which protocol is to be spoken in one.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::{Frames, Payload};

/// The largest head of a request, in bytes; hyper takes no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What may be spoken in a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// STOMP 1.2.
    Stomp12,
    /// STOMP 1.1.
    Stomp11,
    /// STOMP 1.0.
    Stomp10,
    /// MQTT of any version [MQTT-6.0.0-3].
    Mqtt,
    /// MQTT, by the name that clients of version 3.1 know.
    Mqtt31,
    /// AMQP 0-9-1.
    Amqp,
}

impl Subprotocol {
    /// All, in the order in which they are told to clients.
    pub const ALL: [Subprotocol; 6] = [
        Subprotocol::Stomp12,
        Subprotocol::Stomp11,
        Subprotocol::Stomp10,
        Subprotocol::Mqtt,
        Subprotocol::Mqtt31,
        Subprotocol::Amqp,
    ];

    /// As clients offer it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Subprotocol::Stomp12 => "v12.stomp",
            Subprotocol::Stomp11 => "v11.stomp",
            Subprotocol::Stomp10 => "v10.stomp",
            Subprotocol::Mqtt => "mqtt",
            Subprotocol::Mqtt31 => "mqttv3.1",
            Subprotocol::Amqp => "amqp",
        }
    }

    /// What its messages hold.
    #[must_use]
    pub fn payload(self) -> Payload {
        match self {
            Subprotocol::Stomp12 | Subprotocol::Stomp11 | Subprotocol::Stomp10 => Payload::Stomp,
            Subprotocol::Mqtt | Subprotocol::Mqtt31 | Subprotocol::Amqp => Payload::Bytes,
        }
    }
}

/// Why a request is refused: its status, and a line of text.
type Refusal = (StatusCode, &'static str);

/// What the answers say that are read by people.
const OFFER: &str = "offer one of the WebSocket subprotocols v12.stomp, v11.stomp, v10.stomp, mqtt, mqttv3.1, amqp\n";

/// The answer to `request`, which may be any; and what is spoken from then on if a WebSocket is let
/// in, whose scripts may come from `origins`. If none is, the answer says why.
pub fn answer<B>(
    request: &Request<B>,
    origins: &[String],
) -> (Response<String>, Option<Subprotocol>) {
    let (subprotocol, key) = match look_at(request, origins) {
        Ok(found) => found,
        Err(refusal) => return (refused(refusal), None),
    };
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol.name()));
    (response, Some(subprotocol))
}

fn refused((status, why): Refusal) -> Response<String> {
    let mut response = Response::new(why.to_owned());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let said: &[(HeaderName, &'static str)] = match status {
        StatusCode::UPGRADE_REQUIRED => &[
            (UPGRADE, "websocket"),
            (CONNECTION, "Upgrade"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_PROTOCOL, "v12.stomp, v11.stomp, v10.stomp, mqtt, mqttv3.1, amqp"),
        ],
        StatusCode::METHOD_NOT_ALLOWED => &[(ALLOW, "GET")],
        _ => &[],
    };
    for (name, value) in said {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Does the handshake of a WebSocket on `stream`, whose scripts may come from `origins`.
///
/// # Errors
/// If it is none, or is not to be let in; the client has been told.
pub async fn accept<S>(stream: S, origins: &[String]) -> io::Result<(Frames<S>, Subprotocol)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let outcome = Mutex::new(None);
    let service = service_fn(|request| {
        let (response, subprotocol) = answer(&request, origins);
        let why = || format!("{} {}", response.status(), response.body().trim_end());
        let told = subprotocol.ok_or_else(why);
        *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        ready(Ok::<_, Infallible>(response))
    });
    // Whoever waits for this has a limit of time.
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(io::Error::other)?;
    let parts = connection.into_parts();
    let told = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    match told {
        Some(Ok(subprotocol)) => {
            let input = BytesMut::from(parts.read_buf);
            let frames = Frames::new(parts.io.into_inner(), input, subprotocol.payload());
            Ok((frames, subprotocol))
        }
        Some(Err(why)) => {
            let mut stream = parts.io.into_inner();
            poll_fn(|cx| std::pin::Pin::new(&mut stream).poll_shutdown(cx)).await?;
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What is spoken with the client that asks with `request`, and the key that it has sent.
fn look_at<'a, B>(
    request: &'a Request<B>,
    origins: &[String],
) -> Result<(Subprotocol, &'a [u8]), Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET\n"));
    }
    if !names(headers, UPGRADE, "websocket") || !names(headers, CONNECTION, "upgrade") {
        return Err((StatusCode::UPGRADE_REQUIRED, OFFER));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "WebSockets of version 13 are spoken here\n"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    // 16 bytes in base64.
    if key.len() != 24 || !key.ends_with(b"==") {
        return Err((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing or malformed\n"));
    }
    // Whatever runs in a browser says where it comes from; nothing else need.
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
    let known = |word: &str| Subprotocol::ALL.into_iter().find(|known| known.name() == word.trim());
    let subprotocol = offered.find_map(known).ok_or((StatusCode::BAD_REQUEST, OFFER))?;
    Ok((subprotocol, key))
}

/// Whether a header that is a list names `word`, in letters of either case.
fn names(headers: &HeaderMap, header: HeaderName, word: &str) -> bool {
    let values = headers.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|each| each.trim().eq_ignore_ascii_case(word))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const ASKED: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        KEY,
    ];

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/ws");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    fn asked(headers: &[(&str, &str)], origins: &[&str]) -> Result<&'static str, u16> {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let request = request("GET", &[&ASKED[..], headers].concat());
        let (answer, subprotocol) = answer(&request, &origins);
        assert_eq!(subprotocol.is_some(), answer.status() == 101);
        subprotocol.map(Subprotocol::name).ok_or(answer.status().as_u16())
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_spoken() {
        let spoken = |offered| asked(&[("sec-websocket-protocol", offered)], &[]);
        assert_eq!(spoken("mqtt"), Ok("mqtt"));
        assert_eq!(spoken("v13.stomp, v11.stomp,mqtt"), Ok("v11.stomp"));
        assert_eq!(spoken("amqp"), Ok("amqp"));
        assert_eq!(spoken("soap"), Err(400));
        assert_eq!(asked(&[], &[]), Err(400));
        let twice = [("sec-websocket-protocol", "other"), ("sec-websocket-protocol", "mqttv3.1")];
        assert_eq!(asked(&twice, &[]), Ok("mqttv3.1"));
    }

    #[test]
    fn what_is_no_websocket_is_told_what_is_missing() {
        let status = |method, headers: &[(&str, &str)]| {
            answer(&request(method, headers), &[]).0.status().as_u16()
        };
        assert_eq!(status("GET", &[]), 426);
        assert_eq!(status("POST", &ASKED), 405);
        for (missing, header) in ASKED.iter().enumerate() {
            let mut headers = ASKED.to_vec();
            headers.remove(missing);
            let expected = if missing == 3 { 400 } else { 426 };
            assert_eq!(status("GET", &headers), expected, "without {header:?}");
        }
        const MQTT: (&str, &str) = ("sec-websocket-protocol", "mqtt");
        assert_eq!(status("GET", &[&ASKED[..], &[MQTT]].concat()), 101);
        let short = [&ASKED[..3], &[("sec-websocket-key", "dGhlIHNhbXBsZQ=="), MQTT]].concat();
        assert_eq!(status("GET", &short), 400);
        let (refused, _) = answer(&request("GET", &[]), &[]);
        for known in Subprotocol::ALL {
            assert!(refused.body().contains(known.name()));
            assert!(
                refused.headers()["sec-websocket-protocol"]
                    .to_str()
                    .is_ok_and(|all| { all.split(", ").any(|each| each == known.name()) })
            );
        }
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

    #[tokio::test]
    async fn what_comes_behind_the_request_is_the_first_of_the_frames() {
        let (mut client, server) = duplex(1024);
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{}: {}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: amqp\r\n\r\n",
            KEY.0, KEY.1
        );
        let frame = b"\x82\x84\0\0\0\0AMQP";
        client.write_all(&[request.as_bytes(), frame].concat()).await.expect("room");
        let (mut frames, spoken) = accept(server, &[]).await.expect("let in");
        assert_eq!(spoken, Subprotocol::Amqp);
        let mut read = [0; 4];
        frames.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"AMQP");
        let mut answer = vec![0; 500];
        let len = client.read(&mut answer).await.expect("answered");
        let answer = String::from_utf8_lossy(&answer[..len]).to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        assert!(
            answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn who_is_refused_is_answered() {
        let (mut client, server) = duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("room");
        let refused = accept(server, &[]).await.map(|_| ()).expect_err("refused");
        assert!(refused.to_string().starts_with("426"), "{refused}");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 426") && answer.ends_with(OFFER), "{answer}");
    }
}
