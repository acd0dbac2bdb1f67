//! The handshake of WebSockets that carry MQTT (RFC 6455, section 4; MQTT 5.0, section 6).

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode};

use super::AnySettings;
use super::frames::Frames;

/// The subprotocols that are MQTT [MQTT-6.0.0-3]; the second is that of 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

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
    match accept_hdr_async(stream, look).await {
        // A client that has sent more than its request by now was refused: nothing is lost.
        Ok(socket) => Ok(Frames::new(socket.into_inner())),
        Err(Error::Io(error)) => Err(error),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(origins: &[&str]) -> AnySettings {
        AnySettings {
            timeout: Duration::from_secs(1),
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
