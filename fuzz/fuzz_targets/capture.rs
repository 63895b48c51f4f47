//! Any bytes are a capture: what can be read of it goes through the engine, the
//! rest is told, and the same comes out each time.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use snowpit::capture::CaptureReader;
use snowpit::engine::Engine;

/// What is said of the capture, and how many lines were left out.
fn say(data: &[u8]) -> Option<(String, usize)> {
    let mut reader = CaptureReader::new(Path::new("fuzz"), data).ok()?;
    let mut engine = Engine::new(reader.header().settings.clone());
    let (mut said, mut left_out) = (String::new(), 0);
    while let Some(next) = reader.next() {
        match next {
            Ok(sample) => {
                for effect in engine.apply(sample) {
                    said.push_str(&format!("{effect:?}"));
                }
            }
            Err(rejected) => {
                assert!(rejected.line >= 2, "the header is no sample");
                assert!(rejected.to_string().len() < 2_000);
                left_out += 1;
            }
        }
    }
    let _ = engine.snapshot();
    Some((said, left_out))
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(say(data), say(data));
});
