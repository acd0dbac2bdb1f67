//! Frames of STOMP, for both ends of a connection.

pub mod frame;
pub mod header;
mod version;

pub use frame::{Command, Decoder, Frame, Limits};
pub use header::Headers;
pub use version::{Rules, Version};

/// Appends a whole frame. Its body is told by `content-length` if it has one or is not empty.
pub fn write_frame(
    out: &mut Vec<u8>,
    command: Command,
    rules: Rules,
    headers: &[(&str, &str)],
    body: &[u8],
) {
    out.extend_from_slice(command.name().as_bytes());
    out.push(b'\n');
    for (name, value) in headers {
        header::write(out, rules, name, value);
    }
    if !body.is_empty() {
        header::write(out, rules, "content-length", &body.len().to_string());
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}
