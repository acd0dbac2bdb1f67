//! Deduplication in the log.

use isthmus_model::QueueId;

use super::wire::{DecodeError, Reader, put_bytes, put_uint};
use crate::dedup::WindowOf;

pub(super) fn put_window(out: &mut Vec<u8>, window: &WindowOf) {
    match window {
        WindowOf::Exchange { vhost, name } => {
            out.push(0);
            put_bytes(out, vhost.as_bytes());
            put_bytes(out, name.as_bytes());
        }
        WindowOf::Queue(id) => {
            out.push(1);
            put_uint(out, id.0);
        }
    }
}

pub(super) fn window(r: &mut Reader<'_>) -> Result<WindowOf, DecodeError> {
    Ok(match r.u8()? {
        0 => WindowOf::Exchange { vhost: r.arc_str()?, name: r.arc_str()? },
        1 => WindowOf::Queue(QueueId(r.uint()?)),
        _ => return Err(r.error("an unknown kind of deduplication window")),
    })
}
