//! The accept loop: a bounded number of connections, each with a deadline for
//! its request head, all let finish at shutdown.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::WebState;
use super::desk::handlers;
use super::stalled::Impatient;

/// Connections at one time. An open page takes one for its events and a second
/// for what it asks; beyond this new ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 700;

/// How long a connection may take to send a request head, and how long it may
/// idle before one. Longer than the usual scrape intervals below it, so that a
/// scraper keeps its connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest request head in bytes; the longest honest one is a scraper's with
/// its Accept header, well under one kilobyte.
const HEAD_BYTES: usize = 16 * 1024;

/// How long open connections may take to finish at shutdown. Every answer is
/// made from memory, so a second is plenty.
const GRACE: Duration = Duration::from_secs(3);

/// Pause after a failed accept: out of file descriptors, it fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the token is cancelled, then lets open requests finish.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: CancellationToken) {
    let service = handlers(state, &shutdown);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    http.serve_connection(TokioIo::new(Impatient::new(stream)), service.clone());
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "an http connection ended early");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept an http connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("http connections were still open at shutdown and were dropped");
    }
}
