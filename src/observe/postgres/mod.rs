//! PostgreSQL, 14 to 18: one persistent session, two round trips a look.
//!
//! The first trip reads the lock table and the facts of the server; the second
//! reads the activity, with single rows for the sessions that the locks name.
//! Neither reads a catalog, so no lock that a session can take stops a look.
//! Names (of databases and roles, and of relations in a wait) are read apart,
//! rarely, and are missing rather than waited for.

pub mod activity;
pub mod database;
pub mod index_builds;
pub mod locks;
pub mod prepared;
pub mod queues;
pub mod relations;
pub mod server;
pub mod session;
pub mod statements;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

use crate::config::{Dsn, PostgresConfig};
use crate::observe::address::Resolver;
use crate::observe::failure::{self, Expected};
use crate::observe::login::Logins;
use crate::observe::poll::READ_TIMEOUT;
use crate::observe::{PollError, Source};
use crate::sample::{Backend, Blocking, PostgresReport, Report, StatementCalls, UnixSeconds};

use activity::Activity;
use database::Names;
use index_builds::Build;
use locks::LockTable;
use relations::Relations;
use session::Session;
use statements::Statements;

/// Names change when somebody creates or renames a database or a role.
const NAMES_EVERY: Duration = Duration::from_secs(60);

/// An oid without a name asks for a new reading, but a dropped role's session
/// must not ask for one every second.
const NAMES_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Before 15 reading statistics makes the collector write a file.
const CHEAP_STATISTICS: u32 = 150_000;

/// Looks between two readings of the statistics where they are dear.
const DEAR_STATISTICS_EVERY: u64 = 10;

/// How long a session that was late is waited for once more, before another is
/// asked for.
const LATE_ANSWER: Duration = Duration::from_secs(1);

/// Longest account of a failure that goes with its sample, in characters.
const MAX_ERROR_TEXT: usize = 500;

/// A PostgreSQL server to be polled.
pub struct PostgresSource {
    name: String,
    dsn: Dsn,
    session: Option<Session>,
    /// One that did not answer in time, until there is another: where nobody else
    /// is let in, it is the only one that there can be.
    late: Option<Session>,
    logins: Logins<Session>,
    resolver: Resolver,
    /// The start of the server that the names below are of.
    postmaster: Option<SystemTime>,
    names: Names,
    names_read: Option<Instant>,
    relations: Relations,
    statements: Statements,
    looks: u64,
}

impl PostgresSource {
    pub fn new(config: &PostgresConfig) -> Self {
        Self {
            name: config.name.clone(),
            dsn: config.connection.clone(),
            session: None,
            late: None,
            logins: Logins::default(),
            resolver: Resolver::default(),
            postmaster: None,
            names: Names::default(),
            names_read: None,
            relations: Relations::new(Instant::now()),
            statements: Statements::default(),
            looks: 0,
        }
    }

    /// One look, as a report of its own type; [`Source::poll`] wraps it.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in time.
    pub async fn look(&mut self) -> Result<PostgresReport, PollError> {
        // Taken out: when this future is dropped halfway, its state is unknown.
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => self.log_in().await?,
        };
        let read = tokio::time::timeout(READ_TIMEOUT, self.read(&session)).await;
        match read {
            Ok(Ok(report)) => {
                self.session = Some(session);
                self.logins.seen();
                Ok(report)
            }
            Ok(Err(error)) => {
                // What a server refuses or cancels leaves the session sound, and
                // in a full server there may be no other.
                if error.is_answer() {
                    self.session = Some(session);
                }
                Err(error)
            }
            Err(_) => {
                self.late = Some(session);
                Err(failure::timed_out(&self.dsn, READ_TIMEOUT.as_secs_f64()))
            }
        }
    }

    /// A session: the late one, or a new one. Oids and counters of another
    /// server, or of an earlier life of this one, mean nothing here.
    async fn log_in(&mut self) -> Result<Session, PollError> {
        if let Some(late) = self.late.take().filter(|late| !late.is_closed()) {
            if late.answers(LATE_ANSWER).await {
                // Who is on the way in is not needed any more.
                self.logins.forget_waiting();
                return Ok(late);
            }
            self.late = Some(late);
        }
        let begin = |addresses| Session::log_in(self.dsn.clone(), addresses);
        let find = self.resolver.addresses(&self.dsn);
        let login = self.logins.next(&self.dsn, Expected::Postgres, find, begin);
        let session = login.await?;
        self.late = None;
        if self.postmaster.replace(session.started_at) != Some(session.started_at) {
            self.names = Names::default();
            self.names_read = None;
            self.relations = Relations::new(Instant::now());
            self.statements = Statements::default();
        }
        Ok(session)
    }

    async fn read(&mut self, session: &Session) -> Result<PostgresReport, PollError> {
        if self.names_read.is_none() {
            self.refresh_names(session).await?;
        }
        let (locks, facts) = self.first_trip(session).await?;
        let (activity, prepared, builds, queues) = self.second_trip(session, &locks).await?;
        let named = activity.named_by(&self.names)
            && locks.databases().all(|oid| self.names.knows(oid, None));
        let age = self.names_read.map_or(NAMES_EVERY, |read| read.elapsed());
        if age >= NAMES_EVERY || (!named && age >= NAMES_AT_MOST_EVERY) {
            self.refresh_names(session).await?;
        }
        let own = self.names.oid_of(&self.dsn.database);
        self.learn_relations(session, &locks, &builds, own).await?;
        let names = &self.names;
        let prepared = prepared::decode(&prepared, names)
            .map_err(self.because("reading pg_prepared_xacts"))?;
        let truncated = locks.truncated || activity.truncated;
        let locks_truncated = locks.truncated;
        let truncated_comments = activity.truncated_comments;
        let lock_counts = locks.counts.clone();
        let (groups, backends) = activity.named(names);
        let statements = self.count_calls(session, &backends).await?;
        let names = &self.names;
        Ok(PostgresReport {
            target: self.name.clone(),
            error: None,
            error_text: None,
            answered: false,
            server: Some(facts.server),
            sessions_opened_total: facts.sessions_opened_total,
            groups,
            truncated_comments,
            backends,
            locks: locks.named(names, &self.relations, own),
            lock_counts,
            truncated,
            locks_truncated,
            blocking: queues,
            prepared,
            index_builds: builds
                .into_iter()
                .map(|build| build.named(names, &self.relations, own))
                .collect(),
            statements,
            databases: names.listed.clone(),
            sees_all_sessions: names.sees_all_sessions,
        })
    }

    /// The lock table and the facts, pipelined.
    async fn first_trip(
        &mut self,
        session: &Session,
    ) -> Result<(LockTable, server::Facts), PollError> {
        let cheap = session.version >= CHEAP_STATISTICS;
        let databases = if cheap || self.looks.is_multiple_of(DEAR_STATISTICS_EVERY) {
            self.names.database_oids()
        } else {
            Vec::new()
        };
        self.looks += 1;
        let because = self.because("reading pg_locks");
        let client = &session.client;
        let parameters: [&(dyn ToSql + Sync); 1] = [&databases];
        let (locks, facts) = tokio::try_join!(
            client.query(&session.locks, &[]),
            client.query_one(&session.facts, &parameters),
        )
        .map_err(&because)?;
        let facts =
            server::decode(&facts, session.version).map_err(self.because("reading settings"))?;
        Ok((LockTable::decode(&locks).map_err(&because)?, facts))
    }

    /// The activity; prepared transactions, index builds and the order of queues
    /// when the locks need them.
    async fn second_trip(
        &self,
        session: &Session,
        locks: &LockTable,
    ) -> Result<(Activity, Vec<Row>, Vec<Build>, Vec<Blocking>), PollError> {
        let because = self.because("reading pg_stat_activity");
        let client = &session.client;
        let pids = locks.pids();
        let parameters: [&(dyn ToSql + Sync); 1] = [&pids];
        let activity = client.query(&session.activity, &parameters);
        let queued = locks.queued();
        let queues = async {
            if queued.is_empty() {
                return Ok(Vec::new());
            }
            let types = [(&queued as &(dyn ToSql + Sync), Type::INT4_ARRAY)];
            client.query_typed(queues::SQL, &types).await
        };
        let prepared = async {
            match locks.has_prepared() {
                true => client.query_typed(prepared::SQL, &[]).await,
                false => Ok(Vec::new()),
            }
        };
        let builds = async {
            match locks.may_wait_for_index_build() {
                true => client.query_typed(index_builds::SQL, &[]).await,
                false => Ok(Vec::new()),
            }
        };
        // The queues are asked for first: what is nearest in time to the lock
        // table fits it best.
        let (queues, activity, prepared, builds) =
            tokio::try_join!(queues, activity, prepared, builds).map_err(&because)?;
        let queues = queues::decode(&queues).map_err(self.because("reading pg_blocking_pids"))?;
        let builds = index_builds::decode(&builds)
            .map_err(self.because("reading pg_stat_progress_create_index"))?;
        let activity = Activity::decode(&activity).map_err(&because)?;
        Ok((activity, prepared, builds, queues))
    }

    /// Reads the names anew. A locked catalog is no failure: the old names
    /// stay, and the next try is some looks away.
    async fn refresh_names(&mut self, session: &Session) -> Result<(), PollError> {
        self.names_read = Some(Instant::now());
        match session.names(&self.dsn).await {
            Ok(names) => self.names = names,
            Err(error) if session.is_closed() => return Err(error),
            Err(error) => {
                tracing::debug!(target = self.name, "names are not read anew: {error}");
            }
        }
        Ok(())
    }

    /// Asks for the names of relations that are waited for; none is no failure.
    async fn learn_relations(
        &mut self,
        session: &Session,
        locks: &LockTable,
        builds: &[Build],
        own: Option<u32>,
    ) -> Result<(), PollError> {
        let built = builds.iter().filter_map(|build| build.relation_of(own));
        let wanted = locks.relations(own).chain(built);
        let learnt = self
            .relations
            .learn(&session.client, wanted, Instant::now())
            .await;
        match learnt {
            Err(error) if session.is_closed() => {
                Err(failure::asking(error, &self.dsn, "reading pg_class"))
            }
            Err(error) => {
                tracing::debug!(
                    target = self.name,
                    "names of relations are not read: {error}"
                );
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// How often lock calls are made; not to know is no failure.
    async fn count_calls(
        &mut self,
        session: &Session,
        backends: &[Backend],
    ) -> Result<Vec<StatementCalls>, PollError> {
        let read = self
            .statements
            .read(&session.client, backends, Instant::now())
            .await;
        match read {
            Err(error) if session.is_closed() => {
                let doing = "reading pg_stat_statements";
                Err(failure::asking(error, &self.dsn, doing))
            }
            Err(error) => {
                tracing::debug!(target = self.name, "calls are not counted: {error}");
                Ok(Vec::new())
            }
            Ok(statements) => Ok(statements),
        }
    }

    fn because(&self, doing: &'static str) -> impl Fn(Error) -> PollError + '_ {
        move |error| failure::asking(error, &self.dsn, doing)
    }
}

impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn poll(&mut self) -> Result<Report, PollError> {
        self.look().await.map(Report::Postgres)
    }

    fn failure(&self, error: &PollError) -> Report {
        Report::Postgres(PostgresReport {
            target: self.name.clone(),
            error: Some(error.reason),
            error_text: Some(error.message.chars().take(MAX_ERROR_TEXT).collect()),
            answered: error.said().is_some(),
            ..PostgresReport::default()
        })
    }
}

/// A `timestamptz` as seconds since the epoch.
fn unix(row: &Row, column: &str) -> Result<Option<UnixSeconds>, Error> {
    let time: Option<SystemTime> = row.try_get(column)?;
    Ok(time.map(|time| match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }))
}
