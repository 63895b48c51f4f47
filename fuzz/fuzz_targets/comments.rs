//! Any text is a tag of a comment: the route in it is read without panic, and
//! fits to be a label value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::sql;

fuzz_target!(|text: &str| {
    if let Some(route) = sql::route_tag(text) {
        assert!(!route.is_empty() && route.chars().count() <= 200);
        assert!(!route.contains(char::is_control), "{route:?}");
    }
});
