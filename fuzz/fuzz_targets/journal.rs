//! Any bytes are a journal: what is whole in it is read, the rest is told, and
//! an engine goes on with it.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use snowpit::engine::Engine;
use snowpit::engine::settings::Settings;
use snowpit::expose::journal::Journal;

fuzz_target!(|data: &[u8]| {
    let journal = Journal::read(Path::new("fuzz"), data).expect("bytes can be read");
    let lines = data.split(|byte| *byte == b'\n').count() as u64;
    assert!(journal.damaged + journal.superseded + journal.entries().len() as u64 <= lines);
    assert!(journal.damage.len() <= 20);
    let mut engine = Engine::new(Settings {
        targets: vec!["main".to_owned()],
        ..Settings::default()
    });
    engine.restore(1_604_902_320.0, journal.open(), journal.resolved());
    let _ = engine.snapshot();
});
