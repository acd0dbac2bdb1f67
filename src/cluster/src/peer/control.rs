//! Requests that the embedder understands.

use std::io;

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    conn::{Conn, unexpected},
    frame::{CONTROL_MAX, Kind},
    handshake::Agreed,
    server::Shared,
};

/// Sends a request and returns the answer.
pub(super) async fn request(mut conn: Conn, request: Bytes) -> io::Result<Bytes> {
    if request.len() > CONTROL_MAX {
        let text =
            format!("a control request has {} bytes, {CONTROL_MAX} is the limit", request.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    conn.ask(Kind::ControlRequest, request, Kind::ControlAnswer).await
}

/// Answers requests, one after the other, until the other end has no more.
pub(super) async fn serve(mut conn: Conn, agreed: &Agreed, shared: &Shared) -> io::Result<()> {
    loop {
        let frame = match timeout(shared.local.options.idle, conn.frame()).await {
            Ok(Ok(frame)) => frame,
            Err(_) => return Ok(()),
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(e)) => return Err(e),
        };
        if frame.kind != Kind::ControlRequest {
            return Err(unexpected(&frame));
        }
        let answer = shared.handler.control(agreed.peer, frame.body).await;
        if answer.len() > CONTROL_MAX {
            let text = format!("the answer has {} bytes, {CONTROL_MAX} is the limit", answer.len());
            conn.fail(frame.request, &text).await;
            return Err(io::Error::other(text));
        }
        conn.out.frame(Kind::ControlAnswer, frame.request, answer);
        timeout(shared.local.options.idle, conn.flush()).await??;
    }
}
