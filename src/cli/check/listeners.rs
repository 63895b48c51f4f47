//! Whether the addresses to listen at can be had.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::{Finding, Level};
use crate::config::Config;

/// Tries the listeners of `[otlp]`, and gives them back at once.
pub fn otlp(config: &Config) -> Vec<Finding> {
    let listeners = [
        ("grpc_listen", config.otlp.grpc_listen),
        ("http_listen", config.otlp.http_listen),
    ];
    listeners
        .into_iter()
        .filter_map(|(key, address)| tried(key, address?))
        .collect()
}

fn tried(key: &str, address: SocketAddr) -> Option<Finding> {
    let error = TcpListener::bind(address).err()?;
    // A daemon that runs with this file is the best reason for that.
    let level = match error.kind() {
        ErrorKind::AddrInUse => Level::Note,
        _ => Level::Missing,
    };
    Some(Finding::new(
        level,
        "[otlp]",
        &format!("{key} = \"{address}\" cannot be had now: {error}"),
        "unless it is snowpit itself that listens there, it will not start",
        "stop what listens there, or choose another address",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_a_note_and_one_that_is_not_ours_is_missing() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let finding = tried("grpc_listen", address).unwrap();
        assert_eq!(finding.level, Level::Note);
        assert!(finding.what.contains(&address.to_string()), "{finding:?}");
        drop(taken);
        assert_eq!(tried("grpc_listen", address), None);
        // TEST-NET-1 of RFC 5737 is nobody's.
        let foreign = tried("http_listen", "192.0.2.1:4318".parse().unwrap()).unwrap();
        assert_eq!(foreign.level, Level::Missing);
    }
}
