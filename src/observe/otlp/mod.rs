//! OTLP in: metrics and traces over gRPC and HTTP, made into reports of endpoint
//! traffic.
//!
//! ```text
//! grpc ─┐  bounded                  protobuf ─┐          spans ─► join ─┐
//!       ├─► queue ─► worker ─► receiver        ├─► record                ├─► accounts ─► TrafficReport
//! http ─┘                           json ─────┘          points ────────┘
//! ```
//!
//! Transport is in `grpc`, `http` and `worker`, behind the doors of
//! [`crate::listen`]; all the rest is pure.
//! Invariants: what comes in is bounded by size, number and rate, before and
//! after it is unpacked; what is refused is counted by reason and told to the
//! sender; a fault in one span or point costs that one only.

mod accounts;
mod answer;
mod distribution;
mod grpc;
mod http;
mod join;
mod json;
mod names;
mod outcome;
mod points;
mod protobuf;
mod receiver;
mod record;
mod spans;
mod times;
mod wire;
mod worker;

pub use outcome::Outcome;
pub use receiver::{BadBody, Encoding, Receiver, Signal};

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::{self, Doors, Listener, Protocol, Rules};
use crate::observe::health::Health;
use crate::sample::Sample;

/// An exporter in each of a few hundred processes keeps a connection, and those
/// of one machine come from one address. It may idle for longer than the usual
/// export intervals, a minute at most.
const RULES: Rules = Rules {
    protocol: Protocol::Http,
    connections: 512,
    per_address: 400,
    first_head: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    grace: Duration::from_millis(1_500),
};

/// An exporter may open its connection long before its first call.
const GRPC_RULES: Rules = Rules {
    protocol: Protocol::Grpc,
    first_head: Duration::from_secs(75),
    ..RULES
};

/// Addresses to listen at; `None` where a listener is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OtlpConfig {
    pub grpc_listen: Option<SocketAddr>,
    pub http_listen: Option<SocketAddr>,
}

/// The listeners, bound and not yet served.
#[derive(Debug, Default)]
pub struct Listeners {
    grpc: Option<TcpListener>,
    http: Option<TcpListener>,
    doors: Doors,
}

impl Listeners {
    /// Binds what is configured.
    ///
    /// # Errors
    /// The address that cannot be had, and why.
    pub async fn bind(config: OtlpConfig) -> Result<Self, (SocketAddr, io::Error)> {
        let bind = async |address: Option<SocketAddr>| match address {
            None => Ok(None),
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => Ok(Some(listener)),
                Err(cause) => Err((address, cause)),
            },
        };
        Ok(Self {
            grpc: bind(config.grpc_listen).await?,
            http: bind(config.http_listen).await?,
            doors: Doors::default(),
        })
    }

    /// Who may come in; without, everybody.
    #[must_use]
    pub fn with_doors(mut self, doors: Doors) -> Self {
        self.doors = doors;
        self
    }

    /// Where they are, the ports chosen by the system included.
    pub fn addresses(&self) -> OtlpConfig {
        let address = |listener: &Option<TcpListener>| listener.as_ref()?.local_addr().ok();
        OtlpConfig {
            grpc_listen: address(&self.grpc),
            http_listen: address(&self.http),
        }
    }

    /// Serves them until `stop` is cancelled; ends when open requests were
    /// answered and their reports handed on. Without a listener it ends at once.
    /// `services` are the names of the services in the configuration, as they are
    /// now.
    pub async fn serve(
        self,
        services: watch::Receiver<Vec<String>>,
        samples: mpsc::Sender<Sample>,
        health: Health,
        stop: CancellationToken,
    ) {
        if self.grpc.is_none() && self.http.is_none() {
            return;
        }
        let (intake, worker) = worker::start(services, samples, &health);
        let tasks = TaskTracker::new();
        if let Some(listener) = self.grpc {
            let door = self.doors.door(Listener::OtlpGrpc);
            let router = grpc::router(intake.clone(), door.clone());
            let stop = stop.clone();
            tasks.spawn(listen::serve(listener, router, GRPC_RULES, door, stop));
        }
        if let Some(listener) = self.http {
            let door = self.doors.door(Listener::OtlpHttp);
            let router = http::router(intake.clone(), door.clone());
            tasks.spawn(listen::serve(listener, router, RULES, door, stop));
        }
        tasks.close();
        tasks.wait().await;
        intake.stop().await;
        if worker.await.is_err() {
            tracing::error!("the otlp worker ended by a fault of snowpit's own");
        }
    }
}
