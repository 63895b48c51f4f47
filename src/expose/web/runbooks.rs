//! The runbooks, as they were when this was built: whoever is paged has the one
//! that fits this version, also when nothing else can be reached.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

macro_rules! runbooks {
    ($($name:literal),+ $(,)?) => {
        /// Name and text of each, by name.
        pub const ALL: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../../docs/runbooks/", $name, ".md")))),+
        ];
    };
}

runbooks![
    "alertmanager_unreachable",
    "config_reload_failed",
    "connection_avalanche",
    "connection_headroom",
    "connection_leak",
    "excessive_latency",
    "ghost_waiter",
    "hidden_deadlock",
    "history_failing",
    "idle_in_transaction",
    "lock_pileup",
    "migration_blocked",
    "orphaned_advisory_lock",
    "pool_deadlock",
    "pool_saturation",
    "prepared_transaction",
    "primary_unreachable",
    "reconnect_storm",
    "samples_dropped",
    "snowpit_absent",
    "source_down",
    "try_lock_spin",
];

/// `/runbooks/{name}`, with or without the `.md` that they link each other by.
pub(super) async fn one(name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let wanted = name.strip_suffix(".md").unwrap_or(&name);
    let found = ALL.iter().find(|(name, _)| *name == wanted);
    let (_, text) = found.ok_or_else(|| {
        ApiError::not_found(
            "there is no runbook of this name; an incident's field `runbook` has it",
        )
    })?;
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((plain, *text).into_response())
}
