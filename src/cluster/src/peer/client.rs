//! Clients' connections, passed through from one node to another.

use std::io;

use bytes::{BufMut, Bytes};
use tokio::time::timeout;

use super::{
    begun::Begun,
    conn::{Conn, expect},
    dial::BoxedStream,
    frame::{CLIENT_HEADER_MAX, Kind},
    handshake::Agreed,
    server::Shared,
    wire::{Malformed, Reader, Writer},
};

/// What the node that accepted a client's connection knows of it.
///
/// ```text
/// u16 length, the listener's name; u16 length, the client's address; u16 length, the address it
/// connected to; u32 length, what is known from TLS
/// ```
///
/// More behind it is passed over, for later versions. 64 KiB at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHeader {
    /// The listener's name in the configuration.
    pub listener: String,
    /// The client's address and port.
    pub client: String,
    /// The address and port that the client connected to.
    pub local: String,
    /// What is known from TLS, in an encoding of the embedder's; empty without TLS.
    pub tls: Bytes,
}

impl ClientHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_text(&self.listener);
        out.put_text(&self.client);
        out.put_text(&self.local);
        // Longer than a frame can be otherwise, which the caller checks.
        out.put_u32_le(self.tls.len().try_into().unwrap_or(u32::MAX));
        out.put_slice(&self.tls);
        out
    }

    pub(super) fn decode(body: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        Ok(Self {
            listener: reader.text()?,
            client: reader.text()?,
            local: reader.text()?,
            tls: reader.long()?,
        })
    }
}

/// A client's bytes between two nodes. Shutting it down ends what is sent, as it does for a socket:
/// the other end reads to the end and may go on sending.
pub type ClientStream = Begun<BoxedStream>;

fn begun(conn: Conn) -> ClientStream {
    let (stream, first) = conn.into_parts();
    Begun::new(first, stream)
}

/// Announces a client and waits until it is accepted.
pub(super) async fn open(mut conn: Conn, header: &ClientHeader) -> io::Result<ClientStream> {
    let header = header.encode();
    if header.len() > CLIENT_HEADER_MAX {
        let text = format!(
            "a client's header has {} bytes, {CLIENT_HEADER_MAX} is the limit",
            header.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    conn.ask(Kind::ClientHeader, header.into(), Kind::ClientAccepted).await?;
    Ok(begun(conn))
}

/// Accepts a client, if the embedder does, and hands it over.
pub(super) async fn serve(mut conn: Conn, agreed: &Agreed, shared: &Shared) -> io::Result<()> {
    let frame = timeout(shared.local.options.handshake, conn.frame()).await??;
    let request = frame.request;
    let header = expect(frame, Kind::ClientHeader)?;
    let header = ClientHeader::decode(header).map_err(io::Error::from)?;
    if let Err(reason) = shared.handler.admit(agreed.peer, &header) {
        conn.fail(request, &reason).await;
        return Ok(());
    }
    conn.out.frame(Kind::ClientAccepted, request, Bytes::new());
    conn.flush().await?;
    shared.handler.client(header, begun(conn)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_pass_whole_or_not_at_all() {
        let header = ClientHeader {
            listener: "amqps".to_owned(),
            client: "[2001:db8::1]:40000".to_owned(),
            local: "192.0.2.1:5671".to_owned(),
            tls: Bytes::from_static(b"TLS"),
        };
        let bytes = Bytes::from(header.encode());
        assert_eq!(ClientHeader::decode(bytes.clone()), Ok(header.clone()));
        for end in 0..bytes.len() {
            assert_eq!(ClientHeader::decode(bytes.slice(..end)), Err(Malformed::Short));
        }
        let longer = [&bytes[..], b"more"].concat();
        assert_eq!(ClientHeader::decode(longer.into()), Ok(header));
    }
}
