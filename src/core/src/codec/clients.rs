//! Lasting sessions in the log.

use std::sync::Arc;

use isthmus_model::{Note, QueueId, Time, Will};

use super::message::{put_records, records};
use super::wire::{DecodeError, Reader, put_bytes, put_uint};
use crate::clients::{ClientChange, ClientKey};

pub(super) fn put_client(out: &mut Vec<u8>, key: &ClientKey, change: &ClientChange) {
    put_bytes(out, key.vhost.as_bytes());
    put_bytes(out, key.client.as_bytes());
    match change {
        ClientChange::Opened { user, expiry_ms, will } => {
            out.push(0);
            put_bytes(out, user.as_bytes());
            put_uint(out, *expiry_ms);
            out.push(u8::from(will.is_some()));
            if let Some(Will { batch, delay_ms }) = will {
                put_records(out, batch, &[(0, batch.records.len() as u32)]);
                put_uint(out, *delay_ms);
            }
        }
        ClientChange::Closed { at, lost, expiry_ms, keeps_will } => {
            out.extend([1, u8::from(*lost), u8::from(*keeps_will)]);
            put_uint(out, at.0);
            put_uint(out, *expiry_ms);
        }
        ClientChange::Ended => out.push(2),
        ClientChange::Noted(notes) => {
            out.push(3);
            put_uint(out, notes.len() as u64);
            for Note { key, value } in notes {
                put_bytes(out, key);
                out.push(u8::from(value.is_some()));
                if let Some(value) = value {
                    put_bytes(out, value);
                }
            }
        }
        ClientChange::Held(queue) => {
            out.push(4);
            put_uint(out, queue.0);
        }
        ClientChange::Released(queue) => {
            out.push(5);
            put_uint(out, queue.0);
        }
    }
}

pub(super) fn client(r: &mut Reader<'_>) -> Result<(ClientKey, ClientChange), DecodeError> {
    let key = ClientKey { vhost: r.arc_str()?, client: r.arc_str()? };
    let change = match r.u8()? {
        0 => ClientChange::Opened {
            user: r.arc_str()?,
            expiry_ms: r.uint()?,
            will: if r.bool()? { Some(will(r)?) } else { None },
        },
        1 => {
            let (lost, keeps_will) = (r.bool()?, r.bool()?);
            ClientChange::Closed { at: Time(r.uint()?), lost, expiry_ms: r.uint()?, keeps_will }
        }
        2 => ClientChange::Ended,
        3 => ClientChange::Noted(r.list(note)?),
        4 => ClientChange::Held(QueueId(r.uint()?)),
        5 => ClientChange::Released(QueueId(r.uint()?)),
        _ => return Err(r.error("an unknown change of a session: a newer Isthmus wrote it")),
    };
    Ok((key, change))
}

fn will(r: &mut Reader<'_>) -> Result<Will, DecodeError> {
    let batch = records(r)?;
    if batch.records.len() != 1 {
        return Err(r.error("a will that is not one message"));
    }
    Ok(Will { batch, delay_ms: r.uint()? })
}

fn note(r: &mut Reader<'_>) -> Result<Note, DecodeError> {
    let key: Arc<[u8]> = r.bytes()?.into();
    let value = if r.bool()? { Some(r.bytes()?.into()) } else { None };
    Ok(Note { key, value })
}
