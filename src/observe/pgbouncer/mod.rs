//! One PgBouncer process, looked at through its admin console.
//!
//! A poll asks for `LISTS`, `SERVERS`, `POOLS` and `STATS`, which together cost
//! the pooler's one thread about 2 ms with 10,000 clients. `SHOW CLIENTS` costs
//! ten times that, so it is asked only while a lock verdict wants it and the
//! pooler is not too big. `DATABASES`, `STATE` and `CONFIG` change rarely: they
//! are asked rarely and repeated from memory in between.
//!
//! Invariants: one session; `CLIENTS` comes right after `SERVERS`, so that the
//! `link` of one and the `ptr` of the other are as close in time as the console
//! allows; the pseudo-database `pgbouncer` is in no list; a list that lacks
//! something makes the report `truncated`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::config::{Dsn, PgbouncerConfig};
use crate::observe::address::Resolver;
use crate::observe::failure::Expected;
use crate::observe::login::Logins;
use crate::observe::poll::READ_TIMEOUT;
use crate::observe::{PollError, Source};
use crate::sample::{
    ClientSocket, Lists, PgbouncerReport, PoolDatabase, PoolerConfig, Report, ServerSocket,
};

pub mod clients;
pub mod config;
pub mod databases;
pub mod lists;
pub mod pools;
pub mod rows;
pub mod servers;
pub mod session;
pub mod state;
pub mod stats;

use rows::{BadCell, Decoded, Row};
use session::{Session, within};

/// `SHOW CLIENTS` is not asked of a pooler with more clients than this: about
/// 4 MB of answer, and 50 ms in which the pooler serves nobody.
const CLIENT_LIMIT: u32 = 20_000;

/// Polls between two `SHOW DATABASES` and `SHOW STATE` while nothing is paused.
const DATABASES_EVERY: u64 = 5;

/// Between two `SHOW CONFIG`; a person changes it.
const CONFIG_EVERY: Duration = Duration::from_secs(60);

/// The names of the poolers whose clients a lock verdict needs.
pub type WantedClients = watch::Receiver<BTreeSet<String>>;

/// A PgBouncer console as a [`Source`].
pub struct PgbouncerSource {
    config: PgbouncerConfig,
    wanted: WantedClients,
    console: Option<Console>,
    logins: Logins<Session>,
    resolver: Resolver,
}

impl PgbouncerSource {
    /// Connects at the first poll.
    pub fn new(config: &PgbouncerConfig, wanted: WantedClients) -> Self {
        Self {
            config: config.clone(),
            wanted,
            console: None,
            logins: Logins::default(),
            resolver: Resolver::default(),
        }
    }

    /// The version that the console told, for example `1.18.0`; `None` while
    /// there is no session.
    pub fn version(&self) -> Option<&str> {
        self.console.as_ref()?.session.version()
    }
}

impl Source for PgbouncerSource {
    fn kind(&self) -> &'static str {
        "pgbouncer"
    }

    fn name(&self) -> &str {
        &self.config.name
    }

    async fn poll(&mut self) -> Result<Report, PollError> {
        let dsn = &self.config.connection;
        // Taken out, so that a poll that fails or is given up drops a session
        // which may still owe an answer.
        let mut console = match self.console.take() {
            Some(console) => console,
            None => {
                let begin = |addresses| Session::log_in(dsn.clone(), addresses);
                let find = self.resolver.addresses(dsn);
                let next = self.logins.next(dsn, Expected::Pgbouncer, find, begin);
                let session = next.await?;
                Console::new(session, self.config.interval)
            }
        };
        let wants_clients = self.wanted.borrow().contains(&self.config.name);
        let mut report = within(dsn, READ_TIMEOUT, console.look(dsn, wants_clients)).await?;
        report.pooler.clone_from(&self.config.name);
        report.target.clone_from(&self.config.target);
        self.console = Some(console);
        self.logins.seen();
        Ok(Report::Pgbouncer(report))
    }

    fn failure(&self, error: &PollError) -> Report {
        Report::Pgbouncer(PgbouncerReport {
            pooler: self.config.name.clone(),
            target: self.config.target.clone(),
            error: Some(error.reason),
            ..PgbouncerReport::default()
        })
    }
}

/// Notifies `wake` each time that the clients of `pooler` begin to be wanted,
/// so that a verdict does not wait for the next tick. Ends with the sender.
pub async fn wake_when_wanted(pooler: String, mut wanted: WantedClients, wake: Arc<Notify>) {
    let mut before = false;
    loop {
        let now = wanted.borrow_and_update().contains(&pooler);
        if now && !before {
            wake.notify_one();
        }
        before = now;
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// A session and what it remembers. A new session forgets: the pooler may have
/// been restarted with another configuration.
struct Console {
    session: Session,
    polls: u64,
    config_every: u64,
    databases: Decoded<PoolDatabase>,
    /// Whether it answers `SHOW STATE`.
    tells_state: bool,
    all_paused: Option<bool>,
    config: Option<PoolerConfig>,
    warned: bool,
}

impl Console {
    fn new(session: Session, interval: Duration) -> Self {
        let polls = CONFIG_EVERY.as_secs_f64() / interval.as_secs_f64().max(0.001);
        Self {
            tells_state: state::is_known(session.version()),
            session,
            polls: 0,
            config_every: (polls.round() as u64).max(1),
            databases: Decoded::default(),
            all_paused: None,
            config: None,
            warned: false,
        }
    }

    async fn look(&mut self, dsn: &Dsn, wants: bool) -> Result<PgbouncerReport, PollError> {
        let mut gaps = Gaps::default();
        // First, as it bounds the question for the clients.
        let lists = self.lists(dsn, &mut gaps).await?;
        let mut servers = self.rows(dsn, servers::STATEMENT, servers::decode).await?;
        let too_many_clients = lists.used_clients > CLIENT_LIMIT;
        let clients = match wants && !too_many_clients {
            true => Some(self.clients(dsn, &mut servers.rows, &mut gaps).await?),
            false => None,
        };
        let pools = self.rows(dsn, pools::STATEMENT, pools::decode).await?;
        let stats = self.rows(dsn, stats::STATEMENT, stats::decode).await?;
        let waiting = pools.rows.iter().any(|pool| pool.cl_waiting > 0);
        self.remember(dsn, waiting, &mut gaps).await?;
        self.polls += 1;
        gaps.add(&servers);
        gaps.add(&pools);
        gaps.add(&stats);
        gaps.add(&self.databases);
        self.warn(&gaps, dsn);
        Ok(PgbouncerReport {
            version: self.session.version().map(str::to_owned),
            pools: pools.rows,
            servers: servers.rows,
            clients,
            stats: stats.rows,
            databases: self.databases(),
            all_paused: self.all_paused,
            lists,
            config: self.config.clone(),
            too_many_clients,
            truncated: gaps.any,
            ..PgbouncerReport::default()
        })
    }

    /// Refreshes what changes rarely. A pause inflates every wait, so while
    /// somebody waits, or something is paused, it must be known at once.
    async fn remember(
        &mut self,
        dsn: &Dsn,
        waiting: bool,
        gaps: &mut Gaps,
    ) -> Result<(), PollError> {
        let all_paused = self.all_paused == Some(true);
        let paused = all_paused || self.databases.rows.iter().any(|database| database.paused);
        if waiting || paused || self.polls.is_multiple_of(DATABASES_EVERY) {
            let statement = databases::STATEMENT;
            self.databases = self.rows(dsn, statement, databases::decode).await?;
            self.all_paused = self.state(dsn).await?;
        }
        if self.polls.is_multiple_of(self.config_every) {
            let answer = self.session.ask(dsn, config::STATEMENT).await?;
            let (config, rejected) = config::decode(answer.iter());
            gaps.reject(rejected);
            self.config = Some(config);
        }
        Ok(())
    }

    /// Whether it is paused as a whole. Who does not know the question is not
    /// asked again.
    async fn state(&mut self, dsn: &Dsn) -> Result<Option<bool>, PollError> {
        if !self.tells_state {
            return Ok(None);
        }
        let answer = self.session.ask_if_known(dsn, state::STATEMENT).await?;
        self.tells_state = answer.is_some();
        Ok(answer.and_then(|answer| state::decode(answer.iter())))
    }

    /// The databases, all of them paused while the pooler is.
    fn databases(&self) -> Vec<PoolDatabase> {
        let mut databases = self.databases.rows.clone();
        if self.all_paused == Some(true) {
            databases
                .iter_mut()
                .for_each(|database| database.paused = true);
        }
        databases
    }

    async fn lists(&self, dsn: &Dsn, gaps: &mut Gaps) -> Result<Lists, PollError> {
        let answer = self.session.ask(dsn, lists::STATEMENT).await?;
        let (lists, rejected) = lists::decode(answer.iter());
        gaps.reject(rejected);
        Ok(lists)
    }

    /// The clients, and the ages of `servers` that only they can tell.
    async fn clients(
        &self,
        dsn: &Dsn,
        servers: &mut [ServerSocket],
        gaps: &mut Gaps,
    ) -> Result<Vec<ClientSocket>, PollError> {
        let decoded = self.rows(dsn, clients::STATEMENT, clients::decode).await?;
        let decoded = clients::with_ages(decoded, servers);
        gaps.add(&decoded);
        Ok(decoded.rows)
    }

    async fn rows<T>(
        &self,
        dsn: &Dsn,
        statement: &str,
        decode: impl Fn(&Row<'_>) -> Result<Option<T>, BadCell>,
    ) -> Result<Decoded<T>, PollError> {
        let answer = self.session.ask(dsn, statement).await?;
        Ok(answer.decode(decode))
    }

    /// Once a session: a column that cannot be read cannot be read every second.
    fn warn(&mut self, gaps: &Gaps, dsn: &Dsn) {
        if gaps.rejected > 0 && !self.warned {
            self.warned = true;
            tracing::warn!(
                console = %dsn,
                rows = gaps.rejected,
                version = self.session.version(),
                "rows of the console could not be read and are left out"
            );
        }
    }
}

/// What a report lacks.
#[derive(Default)]
struct Gaps {
    any: bool,
    rejected: u64,
}

impl Gaps {
    fn add<T>(&mut self, decoded: &Decoded<T>) {
        self.any |= decoded.cut;
        self.reject(decoded.rejected);
    }

    fn reject(&mut self, rows: u64) {
        self.any |= rows > 0;
        self.rejected += rows;
    }
}
