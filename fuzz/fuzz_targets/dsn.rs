//! Any text is a connection string: it is taken, or refused in a sentence, and
//! neither shows the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::config::Config;

fuzz_target!(|text: &str| {
    if text.contains("passfile") {
        return;
    }
    let none = |_: &str| None;
    if let Ok(config) = Config::from_dsn(text, none) {
        for server in &config.postgres {
            let dsn = &server.connection;
            assert!(!dsn.host.is_empty() && dsn.port > 0);
            // What is shown is read as the same again, without the password.
            let shown = dsn.to_string();
            let again = Config::from_dsn(&shown, none).expect("its own words");
            let again = &again.postgres[0].connection;
            assert_eq!((&again.user, again.port), (&dsn.user, dsn.port), "{shown}");
            assert_eq!(
                (&again.host, &again.database),
                (&dsn.host, &dsn.database),
                "{shown}"
            );
            assert_eq!(again.password, None, "{shown}");
        }
    }
    let uri = format!("postgresql://u:Zq7geheim@h/{text}");
    if let Err(refusal) = Config::from_dsn(&uri, none) {
        assert!(
            text.contains("Zq7") || !refusal.to_string().contains("Zq7"),
            "{refusal}"
        );
    }
});
