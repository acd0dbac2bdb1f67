//! Every property of class basic (specification section 1.8), read where it lies and written anew.

use super::head::flag;
use super::reader::{Malformed, Reader};
use super::table;

/// A property list; short strings and the entries of the headers table are without their lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// The body's media type.
    pub content_type: Option<&'a [u8]>,
    /// What the body is compressed with.
    pub content_encoding: Option<&'a [u8]>,
    /// The headers table.
    pub headers: Option<&'a [u8]>,
    /// 1, or 2 for persistent.
    pub delivery_mode: Option<u8>,
    /// The priority.
    pub priority: Option<u8>,
    /// What it answers.
    pub correlation_id: Option<&'a [u8]>,
    /// Where answers go.
    pub reply_to: Option<&'a [u8]>,
    /// Milliseconds that it lives, as text.
    pub expiration: Option<&'a [u8]>,
    /// The message's id.
    pub message_id: Option<&'a [u8]>,
    /// When it was made, in seconds since 1970.
    pub timestamp_s: Option<u64>,
    /// Its type.
    pub kind: Option<&'a [u8]>,
    /// Who sent it.
    pub user_id: Option<&'a [u8]>,
    /// What sent it.
    pub app_id: Option<&'a [u8]>,
    /// Of no use any more.
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Reads the flags and the list in `head`.
    ///
    /// # Errors
    /// If the list does not match the flags.
    pub fn read(head: &'a [u8]) -> Result<Fields<'a>, Malformed> {
        let mut r = Reader::new(head);
        let flags = r.u16()?;
        let mut fields = Fields::default();
        for (bit, _) in flag::NAMES.into_iter().filter(|(bit, _)| flags & bit != 0) {
            match bit {
                flag::HEADERS => fields.headers = Some(r.long_string()?),
                flag::DELIVERY_MODE => fields.delivery_mode = Some(r.u8()?),
                flag::PRIORITY => fields.priority = Some(r.u8()?),
                flag::TIMESTAMP => fields.timestamp_s = Some(r.u64()?),
                _ => {
                    let text = r.short_string()?;
                    if let Some(field) = fields.text(bit) {
                        *field = Some(text);
                    }
                }
            }
        }
        Ok(fields)
    }

    /// The field of a property that is a short string.
    fn text(&mut self, bit: u16) -> Option<&mut Option<&'a [u8]>> {
        Some(match bit {
            flag::CONTENT_TYPE => &mut self.content_type,
            flag::CONTENT_ENCODING => &mut self.content_encoding,
            flag::CORRELATION_ID => &mut self.correlation_id,
            flag::REPLY_TO => &mut self.reply_to,
            flag::EXPIRATION => &mut self.expiration,
            flag::MESSAGE_ID => &mut self.message_id,
            flag::TYPE => &mut self.kind,
            flag::USER_ID => &mut self.user_id,
            flag::APP_ID => &mut self.app_id,
            flag::CLUSTER_ID => &mut self.cluster_id,
            _ => return None,
        })
    }

    /// Flags and list. A short string of more than 255 bytes is cut.
    pub fn write(mut self) -> Vec<u8> {
        let mut out = vec![0; 2];
        let mut flags = 0;
        for (bit, _) in flag::NAMES {
            let before = out.len();
            match bit {
                flag::HEADERS => {
                    if let Some(headers) = self.headers {
                        table::with_length(&mut out, |out| out.extend_from_slice(headers));
                    }
                }
                flag::DELIVERY_MODE => out.extend(self.delivery_mode),
                flag::PRIORITY => out.extend(self.priority),
                flag::TIMESTAMP => {
                    out.extend(self.timestamp_s.into_iter().flat_map(u64::to_be_bytes))
                }
                _ => {
                    if let Some(text) = self.text(bit).and_then(|field| *field) {
                        table::write_short_string(&mut out, text);
                    }
                }
            }
            if out.len() > before {
                flags |= bit;
            }
        }
        out[..2].copy_from_slice(&flags.to_be_bytes());
        out
    }
}
