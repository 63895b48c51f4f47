//! Any text is a statement: its tags are read and its literals leave it without
//! panic, and both results are bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::sql;

fuzz_target!(|text: &str| {
    let redacted = sql::redact(text);
    assert!(redacted.chars().count() <= 1024);
    let _ = sql::route_tag(text);
});
