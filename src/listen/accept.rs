//! The accept loop of every listener: a bounded number of connections, each with
//! a task and deadlines of its own, all let finish at shutdown.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::places::{Place, Places};
use super::sending::Sending;
use super::stalled::Impatient;
use super::visitor::Visitor;
use super::{Door, Origin, Refusal};

/// How long a handshake of TLS may take: some round trips over a bad line.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Longest request head in bytes; the longest honest one is a scraper's with
/// its Accept header and credentials, well under two kilobytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Calls at one time on one gRPC connection; an exporter has one, a collector
/// ten.
const STREAMS: u32 = 32;

/// How often a silent gRPC connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Between two log lines on failed accepts.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Pause after a failed accept: out of file descriptors, it fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2; without TLS from the first byte, as gRPC has it.
    Grpc,
}

/// What a listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub protocol: Protocol,
    /// Connections at one time.
    pub connections: usize,
    /// Of these from one address.
    pub per_address: usize,
    /// How long a new connection may take to send its first request head.
    pub first_head: Duration,
    /// How long a connection of HTTP/1.1 may be without a request, and how long
    /// the head of a later one may take.
    pub idle: Duration,
    /// How long open requests may take at shutdown.
    pub grace: Duration,
}

/// Serves until the token is cancelled, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    rules: Rules,
    door: Door,
    stop: CancellationToken,
) {
    let places = Places::new(rules.connections, rules.per_address);
    let graceful = GracefulShutdown::new();
    let host = Arc::new(Host::new(router, rules, door, stop.clone()));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                host.not_accepted(&error, &places);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let origin = Origin::of(address.ip());
        match places.take(origin) {
            Ok((place, displaced)) => {
                if let Some(displaced) = displaced {
                    host.refused(Refusal::Displaced, displaced);
                }
                let (host, watcher) = (Arc::clone(&host), graceful.watcher());
                tokio::spawn(async move { host.attend(stream, origin, place, watcher).await });
            }
            Err(refusal) => host.refused(refusal, origin),
        }
    }
    drop(listener);
    let listener = host.door.listener.as_str();
    drop(host);
    if timeout(rules.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            listener,
            "connections were still open at shutdown and were dropped"
        );
    }
}

/// A connection with or without TLS.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// What all connections of a listener share.
struct Host {
    router: TowerToHyperService<Router>,
    rules: Rules,
    door: Door,
    stop: CancellationToken,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    not_accepted: Mutex<NotAccepted>,
}

/// How often accepting failed since it was last logged.
#[derive(Debug, Default)]
struct NotAccepted {
    at: Option<Instant>,
    since: u64,
}

impl Host {
    fn new(router: Router, rules: Rules, door: Door, stop: CancellationToken) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(rules.idle)
            .max_buf_size(HEAD_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .keep_alive_interval(PING_EVERY);
        Self {
            router: TowerToHyperService::new(router),
            rules,
            door,
            stop,
            http1,
            http2,
            not_accepted: Mutex::default(),
        }
    }

    fn refused(&self, refusal: Refusal, origin: Origin) {
        self.door
            .tally
            .refused(self.door.listener, refusal, origin, None);
    }

    /// Out of file descriptors, a silent connection has one to give.
    fn not_accepted(&self, error: &std::io::Error, places: &Places) {
        let listener = self.door.listener.as_str();
        let mut told = self
            .not_accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        told.since += 1;
        if told.at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            let times = std::mem::take(&mut told.since);
            told.at = Some(Instant::now());
            tracing::warn!(
                %error,
                listener,
                times,
                "could not accept a connection; it waits, and is tried again ten times a second"
            );
        }
        drop(told);
        if let Some(displaced) = places.make_room() {
            self.refused(Refusal::Displaced, displaced);
        }
    }

    async fn attend(&self, stream: TcpStream, origin: Origin, place: Place, watcher: Watcher) {
        let _open = Open::new(&self.door);
        let Some(socket) = self.secured(stream, origin, &place).await else {
            return;
        };
        let visitor = Visitor {
            router: self.router.clone(),
            place: &place,
            origin,
        };
        let socket = TokioIo::new(Sending::new(socket, place.unsent()));
        let ended = match self.rules.protocol {
            Protocol::Http => {
                let connection = watcher.watch(self.http1.serve_connection(socket, visitor));
                self.watched(connection, origin, &place).await
            }
            Protocol::Grpc => {
                let connection = watcher.watch(self.http2.serve_connection(socket, visitor));
                self.watched(connection, origin, &place).await
            }
        };
        if let Some(Err(error)) = ended {
            let listener = self.door.listener.as_str();
            tracing::debug!(%error, listener, "a connection ended early");
        }
    }

    /// The connection, with TLS where there is some. Each takes the certificate
    /// of the moment, so that a new one is for new connections.
    async fn secured(
        &self,
        stream: TcpStream,
        origin: Origin,
        place: &Place,
    ) -> Option<Box<dyn Socket>> {
        let stream = Impatient::new(stream);
        let Some(tls) = self.door.tls() else {
            return Some(Box::new(stream));
        };
        let acceptor = TlsAcceptor::from(Arc::clone(tls.settings(self.rules.protocol)));
        let handshake = timeout(HANDSHAKE, acceptor.accept(stream));
        let shaken = tokio::select! {
            () = self.stop.cancelled() => return None,
            () = place.displaced() => return None,
            shaken = handshake => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                let listener = self.door.listener;
                let tally = &self.door.tally;
                tally.refused(listener, Refusal::Handshake, origin, Some(&error));
                None
            }
            Err(_) => {
                self.refused(Refusal::SlowHandshake, origin);
                None
            }
        }
    }

    /// Serves until the connection ends, gives way, or sends no request in time.
    async fn watched<T>(
        &self,
        connection: impl Future<Output = T>,
        origin: Origin,
        place: &Place,
    ) -> Option<T> {
        let mut connection = std::pin::pin!(connection);
        let mut first_head = std::pin::pin!(sleep(self.rules.first_head));
        let mut asked = false;
        loop {
            tokio::select! {
                () = place.displaced() => return None,
                ended = &mut connection => return Some(ended),
                () = &mut first_head, if !asked => {
                    asked = place.is_asked();
                    if !asked {
                        self.refused(Refusal::SlowHead, origin);
                        return None;
                    }
                }
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Door);

impl<'a> Open<'a> {
    fn new(door: &'a Door) -> Self {
        door.tally.came(door.listener);
        Self(door)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tally.went(self.0.listener);
    }
}

#[cfg(test)]
mod tests;
