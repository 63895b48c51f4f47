//! Every metric that snowpit exports: name, type, labels, help.
//!
//! `docs/metrics.md` lists the same names; a test compares the two.

use super::page::{Metric, Type};

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub static $constant: Metric = Metric {
                name: $name,
                kind: Type::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// All of them, in the order of the documentation.
        pub static ALL: &[&Metric] = &[$(&$constant),+];
    };
}

metrics! {
    BUILD_INFO = Gauge "snowpit_build_info"
        ["version", "revision"]
        "Always 1; which build this is";
    RELOAD_SUCCESSFUL = Gauge "snowpit_config_last_reload_successful"
        []
        "Whether the newest reading of the configuration brought it into force";
    RELOAD_SUCCESS_AT = Gauge "snowpit_config_last_reload_success_timestamp_seconds"
        []
        "When the configuration in force was read, unix time";
    RELOADS = Counter "snowpit_config_reloads_total"
        ["outcome"]
        "Readings of the configuration after the start: success, failure";
    TASKS = Gauge "snowpit_tasks"
        []
        "Tasks of the program that have not ended";
    SOURCE_UP = Gauge "snowpit_source_up"
        ["source", "name"]
        "Whether the newest poll of the source gave data";
    SOURCE_LAST_SUCCESS = Gauge "snowpit_source_last_success_timestamp_seconds"
        ["source", "name"]
        "When a poll of the source last gave data, unix time";
    POLL_DURATION = Histogram "snowpit_poll_duration_seconds"
        ["source", "name"]
        "Duration of polls, failed ones included";
    POLL_FAILURES = Counter "snowpit_poll_failures_total"
        ["source", "name", "reason"]
        "Polls that gave no data, by reason";
    POLL_INTERVAL = Gauge "snowpit_poll_interval_seconds"
        ["source", "name"]
        "The interval in force, longer than the configured one when polls are slow or fail";
    DROPPED_SAMPLES = Counter "snowpit_dropped_samples_total"
        ["source", "reason"]
        "Samples thrown away before the engine; of sources capture and journal what is missing there";
    REJECTED_POINTS = Counter "snowpit_rejected_points_total"
        ["source", "reason"]
        "Points that were refused: of endpoint traffic, or (source=history) of our own series";
    SERIES = Gauge "snowpit_series"
        []
        "Series that are being fed";
    HISTORY_BYTES = Gauge "snowpit_history_bytes"
        []
        "Size of the history on disk, or in memory where nothing is kept on disk";
    HISTORY_SAMPLES = Counter "snowpit_history_samples_total"
        []
        "Values that the history has taken in";
    HISTORY_FAILURES = Counter "snowpit_history_failures_total"
        ["reason"]
        "What went wrong with the history on disk: write (tried again), read, damaged (file set aside), lost (block given up)";
    ALERTMANAGER_ALERTS = Gauge "snowpit_alertmanager_alerts"
        ["alertmanager"]
        "Alerts that are firing there by direct push";
    ALERTMANAGER_REQUESTS = Counter "snowpit_alertmanager_requests_total"
        ["alertmanager"]
        "Requests with alerts that were accepted";
    ALERTMANAGER_FAILURES = Counter "snowpit_alertmanager_failures_total"
        ["alertmanager", "reason"]
        "Requests with alerts that were not: connect, timeout, tls, rejected, error";
    HTTP_CONNECTIONS = Gauge "snowpit_http_connections"
        ["listener"]
        "Connections to our own listeners: server, otlp_grpc, otlp_http";
    HTTP_CONNECTIONS_REFUSED = Counter "snowpit_http_connections_refused_total"
        ["listener", "reason"]
        "Connections that were not served: full, address (all its places are at work), displaced (gave way to a newer one), slow_head, slow_handshake, handshake";
    HTTP_REQUESTS_REFUSED = Counter "snowpit_http_requests_refused_total"
        ["listener", "reason"]
        "Requests told to come again later: slowed (after a wrong password), login_busy, api_busy";
    AUTH_FAILURES = Counter "snowpit_auth_failures_total"
        ["listener"]
        "Requests with a wrong user, password or token";
    TLS_CERTIFICATE_EXPIRY = Gauge "snowpit_tls_certificate_expiry_timestamp_seconds"
        ["listener"]
        "When the certificate in use is no longer valid, unix time";
    ACCESS_RELOAD_FAILURES = Counter "snowpit_access_reload_failures_total"
        ["listener"]
        "Changed certificates, keys or tokens that could not be taken up; the ones before stay in use";
    ENGINE_TICK = Histogram "snowpit_engine_tick_seconds"
        []
        "Time that the engine takes for one sample";
    CONNECTIONS = Gauge "snowpit_connections"
        ["target", "database", "user", "application", "state"]
        "Client backends; the 100 largest groups, the rest as other";
    CONNECTIONS_LIMIT = Gauge "snowpit_connections_limit"
        ["target"]
        "max_connections of the server";
    CONNECTIONS_RESERVED = Gauge "snowpit_connections_reserved"
        ["target"]
        "Connection slots that ordinary roles cannot have";
    CONNECTIONS_EXPECTED = Gauge "snowpit_connections_expected"
        ["target"]
        "Learnt baseline of sessions in use plus clients waiting for one";
    CONNECTIONS_UPPER = Gauge "snowpit_connections_upper"
        ["target"]
        "Top of the band around the learnt baseline";
    SESSIONS_OPENED = Counter "snowpit_sessions_opened_total"
        ["target"]
        "Sessions that the server has opened, by its own count";
    TRUNCATED_COMMENTS = Counter "snowpit_truncated_comments_total"
        ["target"]
        "Statements seen at work that were cut at track_activity_query_size and show no tag, added up over polls";
    WAITING_BACKENDS = Gauge "snowpit_waiting_backends"
        ["target", "wait_event_type", "wait_event"]
        "Backends that are not idle and wait; the 50 largest groups, the rest as other";
    OLDEST_TRANSACTION = Gauge "snowpit_oldest_transaction_seconds"
        ["target", "state"]
        "Age of the oldest open transaction, by state of its session";
    IN_RECOVERY = Gauge "snowpit_in_recovery"
        ["target"]
        "Whether the server is a standby";
    ROUTE_CONNECTIONS = Gauge "snowpit_route_connections"
        ["target", "service", "route"]
        "Sessions busy for a route, by the tags of their statements; the 100 largest";
    ROUTE_REQUESTS = Counter "snowpit_route_requests_total"
        ["service", "route"]
        "Requests that ended, as the application tells; the 100 largest, the rest as other";
    ROUTE_HOLD = Gauge "snowpit_route_hold_seconds"
        ["target", "service", "route"]
        "Mean duration of the requests of the last minute; the 100 largest";
    LOCKS = Gauge "snowpit_locks"
        ["target", "locktype", "mode", "granted"]
        "Rows of pg_locks";
    LOCK_WAITERS = Gauge "snowpit_lock_waiters"
        ["target", "locktype"]
        "Sessions that wait for a lock";
    LOCK_LONGEST_WAIT = Gauge "snowpit_lock_longest_wait_seconds"
        ["target", "locktype"]
        "The longest wait for a lock that still goes on";
    LOCK_WAIT = Histogram "snowpit_lock_wait_seconds"
        ["target", "locktype"]
        "Waits for a lock that a poll saw and that are over; those shorter than the interval are a sample";
    LOCK_ROOT_BLOCKERS = Gauge "snowpit_lock_root_blockers"
        ["target"]
        "Sessions that block others and wait for nobody";
    LOCK_CHAIN_DEPTH = Gauge "snowpit_lock_chain_depth"
        ["target"]
        "Longest chain of waiters behind a root blocker";
    ROOT_BLOCKER_WAITERS = Gauge "snowpit_root_blocker_waiters"
        ["target", "database", "user", "application", "state"]
        "Sessions that wait behind root blockers, directly or not; the 10 largest groups of root blockers";
    ADVISORY_LOCKS = Gauge "snowpit_advisory_locks"
        ["target", "database", "verdict"]
        "Granted advisory locks, by what is to be thought of their holder";
    ADVISORY_LOCK_AGE = Gauge "snowpit_advisory_lock_age_seconds"
        ["target", "database", "key", "name", "verdict", "pooler"]
        "For how long an advisory lock that is not known to be owned has been held at least; the 100 oldest";
    TRY_LOCK_SPINNERS = Gauge "snowpit_try_lock_spinners"
        ["target", "database", "key"]
        "Clients that tried for this held lock in vain in the last 15 s, behind a pooler an upper bound; the 100 largest";
    POOL_CLIENTS = Gauge "snowpit_pool_clients"
        ["pooler", "database", "user", "state"]
        "Client connections of a pool; the 100 largest pools, the rest as other";
    POOL_SERVERS = Gauge "snowpit_pool_servers"
        ["pooler", "database", "user", "state"]
        "Server connections of a pool; the 100 largest pools, the rest as other";
    POOL_SIZE = Gauge "snowpit_pool_size"
        ["pooler", "database", "user"]
        "Server connections that the pool may have, the reserve not counted";
    POOL_MAX_WAIT = Gauge "snowpit_pool_max_wait_seconds"
        ["pooler", "database", "user"]
        "How long the first client in the queue has waited";
    POOL_PAUSED = Gauge "snowpit_pool_paused"
        ["pooler", "database", "user"]
        "Whether the pool's database is paused";
    POOL_QUERIES = Counter "snowpit_pool_queries_total"
        ["pooler", "database"]
        "Statements that the pooler has passed on";
    POOL_TRANSACTIONS = Counter "snowpit_pool_transactions_total"
        ["pooler", "database"]
        "Transactions that the pooler has passed on";
    POOL_QUERY_SECONDS = Counter "snowpit_pool_query_seconds_total"
        ["pooler", "database"]
        "Time that servers spent on statements";
    POOL_TRANSACTION_SECONDS = Counter "snowpit_pool_transaction_seconds_total"
        ["pooler", "database"]
        "Time that clients held a server in a transaction";
    POOL_WAIT_SECONDS = Counter "snowpit_pool_wait_seconds_total"
        ["pooler", "database"]
        "Time that clients waited for a server; grows when a wait ends";
    POOLER_CLIENTS_LIMIT = Gauge "snowpit_pooler_clients_limit"
        ["pooler"]
        "max_client_conn of the pooler";
    INCIDENT_OPEN = Gauge "snowpit_incident_open"
        ["target", "kind", "severity"]
        "Whether an incident of the kind is open";
    INCIDENTS = Counter "snowpit_incidents_total"
        ["target", "kind"]
        "Incidents opened since the daemon started";
    INCIDENT_ATTRIBUTION = Gauge "snowpit_incident_attribution_ratio"
        ["target", "kind", "service", "route"]
        "Part of an open incident that a route explains; the 5 largest";
}
