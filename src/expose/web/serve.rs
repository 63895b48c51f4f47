//! The listener of the HTTP interface, at work.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::WebState;
use super::desk::followed;
use crate::listen::{self, Listener, Protocol, Rules};

/// An open page takes one connection for its events and a second for what it
/// asks. Behind a proxy everybody comes from one address, so that has most of
/// the places. The first head is short and comes at once; a connection may idle
/// for longer than the usual scrape intervals, so that a scraper keeps its own.
/// Every answer is made from memory, so three seconds are plenty at shutdown.
const RULES: Rules = Rules {
    protocol: Protocol::Http,
    connections: 700,
    per_address: 520,
    first_head: Duration::from_secs(10),
    idle: Duration::from_secs(30),
    grace: Duration::from_secs(3),
};

/// Serves until the token is cancelled, then lets open requests finish.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: CancellationToken) {
    let door = state.doors.door(Listener::Server);
    let router = followed(state, &shutdown);
    listen::serve(listener, router, RULES, door, shutdown).await;
}
