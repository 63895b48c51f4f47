//! The accept loops of the two listeners: a bounded number of connections, each
//! with deadlines, all let finish at shutdown.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at one time to one listener: an exporter in each of a few
/// hundred processes keeps one.
const MAX_CONNECTIONS: usize = 512;

/// How long a connection may take to send a request head, and may idle before
/// one. Longer than the usual export intervals, a minute at most.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Longest request head in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Calls at one time on one gRPC connection; an exporter has one, a collector
/// ten.
const STREAMS: u32 = 32;

/// How often a silent gRPC connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long open connections may take to finish at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// Pause after a failed accept: out of file descriptors, it fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without negotiation, as gRPC has it without TLS.
    Grpc,
}

/// Serves until the token is cancelled, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    protocol: Protocol,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let (http1, http2) = (http1_builder(), http2_builder());
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => TokioIo::new(stream),
            Err(error) => {
                tracing::warn!(%error, "could not accept an otlp connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match protocol {
            Protocol::Http => {
                let connection = http1.serve_connection(stream, service.clone());
                let connection = graceful.watch(connection);
                tokio::spawn(async move { ended(connection.await, slot) });
            }
            Protocol::Grpc => {
                let connection = http2.serve_connection(stream, service.clone());
                let connection = graceful.watch(connection);
                tokio::spawn(async move { ended(connection.await, slot) });
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("otlp connections were still open at shutdown and were dropped");
    }
}

fn ended<S>(result: hyper::Result<()>, slot: S) {
    if let Err(error) = result {
        tracing::debug!(%error, "an otlp connection ended early");
    }
    drop(slot);
}

fn http1_builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES);
    http
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .keep_alive_interval(PING_EVERY);
    http
}
