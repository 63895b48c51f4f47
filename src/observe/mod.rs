//! The edges in: each source is looked at by a poller that owns one connection.

use std::future::Future;

use crate::sample::{FailureReason, Report};

/// Something that can be polled. It keeps its connection between polls and
/// opens a new one when it has none.
pub trait Source: Send + 'static {
    /// The label `source`: `postgres` or `pgbouncer`.
    fn kind(&self) -> &'static str;
    /// The label `name`.
    fn name(&self) -> &str;
    /// One look. An error drops the connection when the source cannot be sure
    /// of its state.
    fn poll(&mut self) -> impl Future<Output = Result<Report, PollError>> + Send;
    /// The report that says this poll failed.
    fn failure(&self, reason: FailureReason) -> Report;
}

/// Why a poll failed, and what a person can do about it. The message carries no
/// secret and no query text.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PollError {
    pub reason: FailureReason,
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PollError {
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            source: None,
        }
    }
}
