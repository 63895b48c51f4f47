//! What an edge says of a PgBouncer process. Part of the vocabulary, and of the
//! capture format.

use serde::{Deserialize, Serialize};

use super::{FailureReason, null_as_default};

/// One look at a PgBouncer process through its console. The pseudo-database
/// `pgbouncer` is left out of every list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PgbouncerReport {
    pub pooler: String,
    pub target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureReason>,
    /// For example `1.18.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub pools: Vec<Pool>,
    #[serde(deserialize_with = "null_as_default")]
    pub servers: Vec<ServerSocket>,
    /// Read only while a lock verdict needs it; `None` when it was not read,
    /// which is not the same as no client.
    pub clients: Option<Vec<ClientSocket>>,
    #[serde(deserialize_with = "null_as_default")]
    pub stats: Vec<PoolStats>,
    #[serde(deserialize_with = "null_as_default")]
    pub databases: Vec<PoolDatabase>,
    /// `PAUSE` without a database was sent (`SHOW STATE`, 1.19+): every one of
    /// `databases` is then shown as paused. `None` when the console does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_paused: Option<bool>,
    #[serde(deserialize_with = "null_as_default")]
    pub lists: Lists,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PoolerConfig>,
    /// There are more clients than the poller ever reads.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub too_many_clients: bool,
    /// Rows were left out, malformed or beyond the poller's limit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One row of `SHOW POOLS`. Counts of sockets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub database: String,
    pub user: String,
    pub cl_active: u32,
    pub cl_waiting: u32,
    pub cl_cancel_req: u32,
    pub sv_active: u32,
    pub sv_idle: u32,
    pub sv_used: u32,
    pub sv_tested: u32,
    pub sv_login: u32,
    /// `maxwait` and `maxwait_us` joined: microseconds that the first waiter
    /// has waited.
    pub maxwait_us: u64,
    /// `session`, `transaction` or `statement`.
    pub pool_mode: String,
}

/// One row of `SHOW SERVERS`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSocket {
    /// The pooler's alias of the database, not always its real name.
    pub database: String,
    pub user: String,
    pub state: String,
    /// The server's address as the pooler sees it; `unix` over a socket.
    pub addr: String,
    pub port: u16,
    pub remote_pid: i32,
    pub local_addr: String,
    pub local_port: u16,
    /// Reused after the socket is closed.
    pub ptr: String,
    /// The linked client's `ptr`; empty when unlinked.
    pub link: String,
    /// Never reused (1.24+).
    pub id: Option<String>,
    /// Opaque: in the pooler's local zone.
    pub connect_time: String,
    /// When the server last sent something. Opaque, see `connect_time`.
    pub request_time: String,
    /// Seconds since then, as for [`ClientSocket::request_age`]; only known in
    /// a look that read the clients.
    pub request_age: Option<f64>,
    /// Keeps the *last* client's name after unlink (1.18+).
    pub application_name: Option<String>,
}

/// One row of `SHOW CLIENTS`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientSocket {
    pub database: String,
    pub user: String,
    pub state: String,
    pub addr: String,
    pub port: u16,
    pub ptr: String,
    pub link: String,
    pub id: Option<String>,
    pub connect_time: String,
    /// When the client last sent something. Opaque.
    pub request_time: String,
    /// Seconds from that request to this poll, by the pooler's own clock (one
    /// second resolution); absent when it could not be worked out.
    pub request_age: Option<f64>,
    pub application_name: Option<String>,
}

/// One row of `SHOW STATS`: totals since the pooler started. Times in
/// microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStats {
    pub database: String,
    pub total_xact_count: u64,
    pub total_query_count: u64,
    pub total_xact_time: u64,
    pub total_query_time: u64,
    pub total_wait_time: u64,
}

/// One row of `SHOW DATABASES`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolDatabase {
    /// The alias that clients connect to.
    pub name: String,
    /// The real database.
    pub database: String,
    pub host: Option<String>,
    pub port: u16,
    pub force_user: Option<String>,
    pub pool_size: u32,
    pub reserve_pool_size: u32,
    pub pool_mode: Option<String>,
    /// 0 means unlimited.
    pub max_connections: u32,
    pub current_connections: u32,
    pub paused: bool,
    pub disabled: bool,
}

/// The rows of `SHOW LISTS` that matter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lists {
    pub used_clients: u32,
    pub login_clients: u32,
    pub used_servers: u32,
    pub pools: u32,
}

/// The settings of `SHOW CONFIG` that matter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolerConfig {
    pub max_client_conn: u32,
    /// Several processes share one port: a login shows one of them at random,
    /// so this console does not tell of every server connection.
    pub so_reuseport: bool,
    pub server_reset_query_always: bool,
    pub pool_mode: String,
}
