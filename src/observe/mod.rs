//! The edges in: each source is looked at by a poller that owns one connection.

pub mod address;
pub mod failure;
pub mod health;
mod lock_call;
pub mod login;
pub mod otlp;
pub mod pace;
pub mod pgbouncer;
pub mod poll;
pub mod postgres;
pub mod rejections;
pub mod scrape;
pub mod sql;
pub mod supervise;
pub mod tls;
pub mod traffic;

use std::future::Future;

use tokio_postgres::error::{DbError, Severity};

use crate::sample::{FailureReason, Report};

/// Something that can be polled. It keeps its connection between polls and
/// opens a new one when it has none.
pub trait Source: Send + 'static {
    /// The label `source`: `postgres`, `pgbouncer` or `scrape`.
    fn kind(&self) -> &'static str;
    /// The label `name`.
    fn name(&self) -> &str;
    /// One look. An error drops the connection when the source cannot be sure
    /// of its state. The future may be dropped at any await, so a source takes
    /// its connection out first and puts it back when it is done.
    fn poll(&mut self) -> impl Future<Output = Result<Report, PollError>> + Send;
    /// Further reports of the look that just gave data, in the order of time.
    fn further(&mut self) -> Vec<Report> {
        Vec::new()
    }
    /// The report that says this poll failed.
    fn failure(&self, error: &PollError) -> Report;
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

    /// The server answered a statement with an error, and the session goes on.
    pub fn is_answer(&self) -> bool {
        let said = self.said();
        said.is_some_and(|said| said.parsed_severity() == Some(Severity::Error))
    }

    /// What the server itself said, to a login or to a statement; `None` when
    /// the failure is on the way or on our side.
    pub fn said(&self) -> Option<&DbError> {
        let cause = self.source.as_ref()?;
        let error = cause.downcast_ref::<tokio_postgres::Error>()?;
        error.as_db_error()
    }
}
