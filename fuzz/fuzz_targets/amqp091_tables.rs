//! Field tables: the two readers agree, and what is read can be written and read again.

#![no_main]

use isthmus_amqp091::codec::table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let read = table::read(data);
    assert_eq!(table::validate(data).is_ok(), read.is_ok());
    if let Ok(read) = read {
        let mut written = Vec::new();
        table::write(&mut written, &read);
        // Names may have grown by replacement characters and been cut; the rest is the same.
        let again = table::read(&written[4..]).expect("what is written can be read");
        assert_eq!(again.0.len(), read.0.len());
    }
});
