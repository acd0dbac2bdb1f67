//! Payloads of method frames, and heads of messages with whatever the broker adds to them.

#![no_main]

use isthmus_amqp091::codec::head::Head;
use isthmus_amqp091::codec::{deaths, method, publish};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(method) = method::read(data) {
        let _ = method.arguments();
    }
    let _ = publish::read_arguments(data);
    if let Ok(header) = publish::read_header(data) {
        let known = Head::read(header.head);
        if let Some(rewritten) = deaths::annotated(header.head, None, 1) {
            let known = known.expect("only what can be read is rewritten");
            let again = Head::read(&rewritten).expect("what is written can be read");
            assert_eq!((again.durable, again.priority), (known.durable, known.priority));
            assert_eq!(again.ttl_ms(&rewritten), known.ttl_ms(header.head));
        }
    }
});
