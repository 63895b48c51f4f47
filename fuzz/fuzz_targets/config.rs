//! Any text is a configuration: it is taken, or refused in sentences.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::config::Config;

/// Of the process, for `${NAME}`.
fn environment(name: &str) -> Option<String> {
    (name.len() < 8).then(|| name.to_lowercase())
}

fuzz_target!(|text: &str| {
    // No file that the text happens to name.
    if text.contains("_file") || text.contains("passfile") {
        return;
    }
    if let Err(refusal) = Config::parse(text, "fuzz", environment) {
        assert!(!refusal.to_string().is_empty());
    }
});
