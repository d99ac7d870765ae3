//! Any bytes as a trace file: no panic, and what can be read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memtrace::trace::{ReadEnd, Reader, Writer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(reader) = Reader::new(bytes) else { return };
    let events: Vec<_> = reader.map_while(Result::ok).collect();
    let mut writer = Writer::new(Vec::new()).expect("a Vec takes everything");
    for event in &events {
        writer.push(event).expect("a Vec takes everything");
    }
    let written = writer.finish().expect("a Vec takes everything");
    let mut reader = Reader::new(written.as_slice()).expect("our own header");
    let again: Vec<_> = reader.by_ref().map(|event| event.expect("our own frame")).collect();
    assert_eq!(again, events);
    assert_eq!(reader.end(), Some(ReadEnd::Complete));
});
