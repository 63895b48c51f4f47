//! Names of the series that are only in the history. Those that are on the page
//! too have the same names there.

/// Sessions of a target that are not idle.
pub const IN_USE: &str = "snowpit_sessions_in_use";

/// Clients that wait in the poolers of a target, paused pools left out. With
/// [`IN_USE`] this is the quantity that the avalanche detector watches.
pub const CLIENTS_WAITING: &str = "snowpit_clients_waiting";

/// Sessions in use that wait for a heavyweight lock.
pub const LOCK_WAITS: &str = "snowpit_sessions_waiting_for_lock";

/// Sessions in use for a route.
pub const ROUTE: &str = "snowpit_route_connections";

/// Sessions in use without a route tag.
pub const UNTAGGED: &str = "snowpit_untagged_connections";

/// When the server was started, unix time.
pub const STARTED_AT: &str = "snowpit_server_started_timestamp_seconds";
