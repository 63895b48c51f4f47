//! Why the daemon could not start, or not go on.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::expose::history::DirectoryError;
use crate::expose::journal::JournalError;
use crate::listen::AccessErrors;
use crate::observe::PollError;
use crate::telemetry::TelemetryError;

/// Why the daemon could not start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot listen on {address}: {cause}; choose another address under [server] listen")]
    Listen {
        address: SocketAddr,
        // In the sentence already: not `source`, or it is told twice.
        cause: std::io::Error,
    },
    #[error("nobody can be let in: {0}")]
    Access(#[from] AccessErrors),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("cannot listen on {address}: {cause}; choose another address under [otlp]")]
    ListenOtlp {
        address: SocketAddr,
        cause: std::io::Error,
    },
    #[error(
        "cannot keep a capture below {}: {cause}; make the directory writable for this user, or \
         choose another under [history] directory", .directory.display()
    )]
    Capture {
        directory: PathBuf,
        cause: std::io::Error,
    },
    #[error(transparent)]
    History(#[from] DirectoryError),
    #[error("alerts cannot be pushed: {0}; mend [alertmanager] ca_file")]
    Push(#[from] PollError),
    #[error(
        "the {0} ended by a fault of snowpit's own; start it again, and report what is logged above"
    )]
    Ended(&'static str),
}
