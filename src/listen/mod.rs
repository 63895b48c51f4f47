//! Our own doors: what stands between the network and the three listeners.
//!
//! ```text
//! accept ─► places ─► TLS ─► first head ─► login ─► router
//! ```
//!
//! `accept` is the one accept loop; `places` says how many may come in, and who
//! gives way; `certificates` and `credentials` are what the configuration names,
//! `access` keeps them up to date with their files; `login` and `brakes` decide
//! who is let in, and how often a guess may be made.
//!
//! Invariants: whoever is slow, silent or wrong costs a bounded place and a
//! bounded time, and never the place of somebody who is being answered; what is
//! turned away is counted and logged by one call (`tally`); no password, token
//! or hash is in an error, a log line or a `Debug` text.

mod accept;
mod access;
mod brakes;
mod certificates;
mod credentials;
mod login;
mod origin;
mod places;
mod recent;
mod sending;
mod stalled;
mod tally;
mod visitor;

use std::sync::Arc;

pub use accept::{Protocol, Rules, serve};
pub use access::{Access, AccessConfig, AccessErrors, FileProblem, TlsFiles};
pub use credentials::{BadHash, PasswordHash, WEAK_COST};
pub use login::{Denied, Scheme};
pub use origin::Origin;
pub use tally::{Listener, Refusal, Tally, Turned};

use certificates::Tls;
use places::Guest;
use tokio_util::sync::CancellationToken;

use crate::sample::UnixSeconds;

/// Who may come in at each section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoorsConfig {
    /// `[server]`
    pub server: AccessConfig,
    /// `[otlp]`
    pub otlp: AccessConfig,
    /// The listeners that are on.
    pub listeners: Vec<Listener>,
}

impl Default for DoorsConfig {
    /// Nothing is asked for.
    fn default() -> Self {
        Self {
            server: AccessConfig::default(),
            otlp: AccessConfig::default(),
            listeners: vec![Listener::Server],
        }
    }
}

/// All doors. Clones share them.
#[derive(Debug, Clone)]
pub struct Doors {
    server: Arc<Access>,
    otlp: Arc<Access>,
    listeners: Arc<[Listener]>,
    tally: Tally,
}

/// One listener's door.
#[derive(Debug, Clone)]
pub struct Door {
    access: Arc<Access>,
    tally: Tally,
    listener: Listener,
}

impl Default for Doors {
    /// Without TLS, and open to whoever comes.
    fn default() -> Self {
        Self {
            server: Arc::default(),
            otlp: Arc::default(),
            listeners: Arc::new([Listener::Server]),
            tally: Tally::default(),
        }
    }
}

impl Doors {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// The files that cannot be used, and why.
    pub fn open(config: &DoorsConfig) -> Result<Self, AccessErrors> {
        let server = Access::open("[server]", &config.server);
        let otlp = Access::open("[otlp]", &config.otlp);
        let (server, otlp) = AccessErrors::both(server, otlp)?;
        Ok(Self {
            server: Arc::new(server),
            otlp: Arc::new(otlp),
            listeners: config.listeners.clone().into(),
            tally: Tally::default(),
        })
    }

    /// The door of one listener.
    pub fn door(&self, listener: Listener) -> Door {
        let access = match listener {
            Listener::Server => &self.server,
            Listener::OtlpGrpc | Listener::OtlpHttp => &self.otlp,
        };
        Door {
            access: Arc::clone(access),
            tally: self.tally.clone(),
            listener,
        }
    }

    /// Takes up another configuration of users and files, or the same one with
    /// its files read again, for all given sections or for none; a section that
    /// is not given stays as it is. Open connections stay. Blocks for as long as
    /// reading a few small files takes.
    ///
    /// # Errors
    /// The files that cannot be used; all is then as it was.
    pub fn reload(
        &self,
        server: Option<&AccessConfig>,
        otlp: Option<&AccessConfig>,
    ) -> Result<(), AccessErrors> {
        let server = server.map(|config| Access::open("[server]", config));
        let otlp = otlp.map(|config| Access::open("[otlp]", config));
        let (server, otlp) = AccessErrors::both(server.transpose(), otlp.transpose())?;
        if let Some(server) = server {
            self.server.replace(server);
        }
        if let Some(otlp) = otlp {
            self.otlp.replace(otlp);
        }
        Ok(())
    }

    /// Reads the files again whenever they change, until the token is
    /// cancelled. A bad file changes nothing and is counted.
    pub async fn watch(self, stop: CancellationToken) {
        let mut clock = tokio::time::interval(access::LOOK_EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let doors = self.clone();
            // A panic in it is a fault of ours, and told by the runtime.
            let _ = tokio::task::spawn_blocking(move || doors.look()).await;
        }
    }

    fn look(&self) {
        self.server.look(&self.tally, &[Listener::Server]);
        let otlp = [Listener::OtlpGrpc, Listener::OtlpHttp];
        self.otlp.look(&self.tally, &otlp);
    }

    /// The listeners that are on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// What was counted at all doors.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// When the certificate of a listener is no longer valid; `None` without
    /// TLS.
    pub fn certificate_expiry(&self, listener: Listener) -> Option<UnixSeconds> {
        self.door(listener).access.certificate_expiry()
    }
}

impl Door {
    /// Which listener it belongs to.
    pub fn listener(&self) -> Listener {
        self.listener
    }

    /// Whether who comes in is asked for a password, a token or a certificate.
    pub fn asks(&self) -> bool {
        self.access.asks()
    }

    /// Where what happens here is counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether the health pages are open to everybody.
    pub fn health_is_open(&self) -> bool {
        self.access.health_is_open()
    }

    /// Whether a request with these headers may come in. Its extensions say, at
    /// our own listeners, where it comes from.
    ///
    /// # Errors
    /// Why it may not; counted.
    pub async fn admit(
        &self,
        headers: &axum::http::HeaderMap,
        extensions: &axum::http::Extensions,
    ) -> Result<(), Denied> {
        let origin = extensions.get::<Origin>().copied();
        let denied = match self.access.admit(headers, origin).await {
            Ok(()) => {
                if let Some(guest) = extensions.get::<Guest>() {
                    guest.is_let_in();
                }
                return Ok(());
            }
            Err(denied) => denied,
        };
        match &denied {
            // A browser asks without first, always.
            Denied::Missing(_) => {}
            Denied::Wrong(_) => self.tally.wrong_login(self.listener, origin),
            Denied::Slowed(_) => self.tally.turned(self.listener, Turned::Slowed),
            Denied::Busy => self.tally.turned(self.listener, Turned::LoginBusy),
        }
        Err(denied)
    }

    fn tls(&self) -> Option<Arc<Tls>> {
        self.access.tls()
    }
}
