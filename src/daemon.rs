//! Wiring only: channels, tasks, shutdown order.
//!
//! One bounded channel carries samples from all pollers to the one task that
//! owns the engine. That task publishes a snapshot for whoever reads and the
//! effects for whoever follows. Shutdown goes with the data: pollers first,
//! then the engine, which takes in what was already sent, then the listener.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capture::Recorder;
use crate::config::Config;
use crate::engine::incident::{Effect, Event};
use crate::engine::series::millis;
use crate::engine::{Engine, Snapshot};
use crate::expose::alertmanager::Pushers;
use crate::expose::history::{HAND_OVER_EVERY, History, Keeper, Question, SeriesReader};
use crate::expose::journal::{Journal, JournalWriter};
use crate::expose::metrics::EngineTicks;
use crate::expose::{log, web};
use crate::listen::Doors;
use crate::observe::health::Health;
use crate::observe::otlp::{Listeners, OtlpConfig};
use crate::observe::pgbouncer::{PgbouncerSource, wake_when_wanted};
use crate::observe::poll::{Pace, Poller, unix_now};
use crate::observe::postgres::PostgresSource;
use crate::observe::scrape::{self, ScrapeSource};
use crate::observe::supervise::supervise;
use crate::observe::tls::use_ring;
use crate::sample::Sample;
use crate::telemetry::{Telemetry, source_of};
pub use error::DaemonError;

/// Samples on their way to the engine. Sixty sources at one a second fill it in
/// ten seconds of a stalled engine; then samples are dropped and counted.
const SAMPLE_QUEUE: usize = 600;
/// Effects that a slow follower may lag behind before it loses some.
const EFFECT_QUEUE: usize = 256;
/// Samples taken in before a snapshot is published, so that a backlog is worked
/// off faster than it grows.
const BATCH: usize = 64;
/// Questions about series on their way to the engine; who asks beyond that waits.
const QUESTION_QUEUE: usize = 16;

/// A daemon at work.
#[derive(Debug)]
pub struct RunningDaemon {
    address: SocketAddr,
    otlp: OtlpConfig,
    telemetry: Telemetry,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    effects: broadcast::Sender<Arc<Effect>>,
    pollers: CancellationToken,
    poller_tasks: TaskTracker,
    engine: JoinHandle<()>,
    pushers: Pushers,
    listener: CancellationToken,
    web: JoinHandle<()>,
}

/// Starts every task of the daemon on the current runtime.
///
/// # Errors
/// When the listening address cannot be had. A source that does not answer is
/// no error: it is polled until it does.
pub async fn start(config: Config) -> Result<RunningDaemon, DaemonError> {
    let listener = listen(config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let (running, ()) = start_before(config, address, |state, stop| {
        (tokio::spawn(web::serve(listener, state, stop)), ())
    })
    .await?;
    Ok(running)
}

/// Starts the daemon without a listener for HTTP: who started it asks at the
/// desk.
///
/// # Errors
/// As for [`start`].
pub async fn start_unheard(config: Config) -> Result<(RunningDaemon, web::Desk), DaemonError> {
    let address = config.listen;
    start_before(config, address, |state, stop| {
        let desk = web::open(state, &stop);
        (tokio::spawn(stop.cancelled_owned()), desk)
    })
    .await
}

/// Starts every task, at last the one that `open` makes of what is to be shown.
async fn start_before<T>(
    config: Config,
    address: SocketAddr,
    open: impl FnOnce(web::WebState, CancellationToken) -> (JoinHandle<()>, T),
) -> Result<(RunningDaemon, T), DaemonError> {
    use_ring();
    let doors = Doors::open(&config.doors)?;
    let otlp = Listeners::bind(config.otlp).await;
    let otlp = otlp.map_err(|(address, cause)| DaemonError::ListenOtlp { address, cause })?;
    let otlp_addresses = otlp.addresses();
    let telemetry = match &config.telemetry_endpoint {
        Some(endpoint) => Telemetry::start(endpoint)?,
        None => Telemetry::default(),
    };
    let health = Health::new().traced(telemetry.clone());
    let ticks = Arc::new(EngineTicks::default());
    // First: it locks the directory that journal and captures are in, too.
    let (mut engine, history, keeper) = start_engine(&config).await?;
    let journal = match &config.history {
        Some(history) => {
            let (writer, journal) = JournalWriter::open(&history.directory, &health).await?;
            restore(&mut engine, &writer, &journal, &config.settings.targets);
            Some(writer)
        }
        None => None,
    };
    let recorder = start_recorder(&config, &health)?;

    let (samples, inbox) = mpsc::channel(SAMPLE_QUEUE);
    let (questions, asked) = mpsc::channel(QUESTION_QUEUE);
    let (publish, snapshot) = watch::channel(Arc::new(engine.snapshot()));
    let (wanted, clients_wanted) = watch::channel(BTreeSet::new());
    let (effects, _) = broadcast::channel(EFFECT_QUEUE);

    let pollers = CancellationToken::new();
    let services = config.settings.services.iter().map(|s| s.name.clone());
    let otlp = otlp.with_doors(doors.clone()).serve(
        services.collect(),
        samples.clone(),
        health.clone(),
        pollers.clone(),
    );
    let poller_tasks = start_pollers(&config, samples, &clients_wanted, &health, &pollers);
    poller_tasks.spawn(otlp);

    let pushers = Pushers::start(&config.alertmanager, &snapshot)?;
    let names = config.settings.targets.clone();
    let reader = SeriesReader::new(questions, history);
    let state = web::WebState::new(snapshot.clone(), health, Arc::clone(&ticks), names)
        .with_series(reader)
        .with_effects(effects.subscribe())
        .with_pushes(pushers.health())
        .with_doors(doors.clone());
    let web_stop = CancellationToken::new();
    tokio::spawn(doors.watch(web_stop.clone()));
    let (web, opened) = open(state, web_stop.clone());

    let core = Core {
        engine,
        keeper,
        publish,
        wanted,
        effects: effects.clone(),
        ticks,
        telemetry: telemetry.clone(),
        recorder,
        journal,
    };
    let engine = tokio::spawn(core.run(inbox, asked));
    let running = RunningDaemon {
        address,
        otlp: otlp_addresses,
        telemetry,
        snapshot,
        effects,
        pollers,
        poller_tasks,
        engine,
        pushers,
        listener: web_stop,
        web,
    };
    Ok((running, opened))
}

/// The engine, with what it remembers when there is a history on disk.
async fn start_engine(
    config: &Config,
) -> Result<(Engine, Option<History>, Option<Keeper>), DaemonError> {
    let engine = Engine::new(config.settings.clone());
    let Some(history) = &config.history else {
        return Ok((engine, None, None));
    };
    let now = millis(unix_now()).unwrap_or(0);
    let directory = history.directory.clone();
    let (keeper, history, engine) =
        Keeper::start(directory, history.retention, now, engine).await?;
    Ok((engine, Some(history), Some(keeper)))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .await
        .map_err(|cause| DaemonError::Listen { address, cause })
}

/// Lets the engine go on with the incidents of the journal. Those of a target
/// that is not watched any more end here: nobody would ever look again.
fn restore(engine: &mut Engine, writer: &JournalWriter, journal: &Journal, targets: &[String]) {
    let now = unix_now();
    let (watched, left): (Vec<_>, Vec<_>) = journal
        .open()
        .partition(|(_, incident)| targets.contains(&incident.target));
    for (_, incident) in &watched {
        tracing::info!(id = incident.id, "incident is still open");
    }
    for (key, mut incident) in left {
        tracing::info!(
            id = incident.id,
            "incident of a target that is not watched any more"
        );
        incident.resolved_at = Some(now);
        writer.offer(&Effect {
            t: now,
            event: Event::Resolved,
            incident,
            key,
        });
    }
    engine.restore(now, watched, journal.resolved());
}

/// The capture, when the configuration asks for one.
fn start_recorder(config: &Config, health: &Health) -> Result<Option<Recorder>, DaemonError> {
    let wanted = config.history.as_ref().filter(|history| history.capture);
    wanted
        .map(|history| {
            Recorder::start(
                &history.directory,
                history.retention,
                &config.settings,
                health,
            )
            .map_err(|cause| DaemonError::Capture {
                directory: history.directory.clone(),
                cause,
            })
        })
        .transpose()
}

fn start_pollers(
    config: &Config,
    samples: mpsc::Sender<Sample>,
    clients_wanted: &watch::Receiver<BTreeSet<String>>,
    health: &Health,
    stop: &CancellationToken,
) -> TaskTracker {
    let tasks = TaskTracker::new();
    for postgres in &config.postgres {
        let pace = Pace::new(postgres.interval, postgres.connection.connect_timeout);
        let (postgres, samples, health) = (postgres.clone(), samples.clone(), health.clone());
        let start = move || {
            let source = PostgresSource::new(&postgres);
            Poller::new(source, pace, samples.clone(), &health)
        };
        tasks.spawn(supervise(start, stop.clone()));
    }
    for pgbouncer in &config.pgbouncer {
        let pace = Pace::new(pgbouncer.interval, pgbouncer.connection.connect_timeout);
        let wake = Arc::new(Notify::new());
        // Ends with the engine's task, which holds the other end.
        tokio::spawn(wake_when_wanted(
            pgbouncer.name.clone(),
            clients_wanted.clone(),
            Arc::clone(&wake),
        ));
        let (pgbouncer, samples, health) = (pgbouncer.clone(), samples.clone(), health.clone());
        let wanted = clients_wanted.clone();
        let start = move || {
            let source = PgbouncerSource::new(&pgbouncer, wanted.clone());
            Poller::new(source, pace, samples.clone(), &health).wake_by(Arc::clone(&wake))
        };
        tasks.spawn(supervise(start, stop.clone()));
    }
    start_scrapes(config, &samples, health, &tasks, stop);
    tasks.close();
    tasks
}

/// A poller for each metrics page. Those of one service share its account.
fn start_scrapes(
    config: &Config,
    samples: &mpsc::Sender<Sample>,
    health: &Health,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut accounts = BTreeMap::new();
    for page in &config.scrape {
        let account = accounts
            .entry(page.service.clone())
            .or_insert_with(|| scrape::account(&page.service));
        let account = Arc::clone(account);
        let pace = Pace {
            interval: page.interval,
            timeout: page.timeout,
        };
        let (page, samples, health) = (page.clone(), samples.clone(), health.clone());
        let start = move || {
            let rejections = health.rejections().clone();
            let source = ScrapeSource::new(&page, Arc::clone(&account), rejections);
            Poller::new(source, pace, samples.clone(), &health)
        };
        tasks.spawn(supervise(start, stop.clone()));
    }
}

/// The task that owns the engine.
struct Core {
    engine: Engine,
    keeper: Option<Keeper>,
    publish: watch::Sender<Arc<Snapshot>>,
    wanted: watch::Sender<BTreeSet<String>>,
    effects: broadcast::Sender<Arc<Effect>>,
    ticks: Arc<EngineTicks>,
    telemetry: Telemetry,
    recorder: Option<Recorder>,
    journal: Option<JournalWriter>,
}

impl Core {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Sample>,
        mut questions: mpsc::Receiver<Question>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut hand_over = tokio::time::interval(HAND_OVER_EVERY);
        loop {
            tokio::select! {
                taken = inbox.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    for sample in batch.drain(..) {
                        self.apply(sample);
                    }
                    self.publish();
                }
                Some(question) = questions.recv() => self.answer(question),
                _ = hand_over.tick() => {
                    if let Some(keeper) = &self.keeper {
                        keeper.hand_over(&mut self.engine);
                    }
                }
            }
        }
        if let Some(recorder) = self.recorder {
            recorder.finish().await;
        }
        if let Some(journal) = self.journal {
            journal.finish().await;
        }
        if let Some(keeper) = self.keeper {
            keeper.finish(&mut self.engine).await;
        }
    }

    fn publish(&self) {
        let snapshot = self.engine.snapshot();
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != snapshot.clients_wanted;
            if changed {
                wanted.clone_from(&snapshot.clients_wanted);
            }
            changed
        });
        self.publish.send_replace(Arc::new(snapshot));
    }

    fn answer(&self, question: Question) {
        let Question {
            selector,
            from,
            to,
            answer,
        } = question;
        // Who asked may have gone.
        let _ = answer.send(self.engine.series(&selector, from, to));
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "measures the engine from outside"
    )]
    fn apply(&mut self, sample: Sample) {
        if let Some(recorder) = &self.recorder {
            recorder.offer(&sample);
        }
        let source = source_of(&sample.report);
        let (at, began) = (unix_now(), std::time::Instant::now());
        let effects = self.engine.apply(sample);
        let took = began.elapsed();
        self.ticks.record(took);
        self.telemetry.tick(source, at, took, &effects);
        for effect in effects {
            log::incident(&effect);
            if let Some(journal) = &self.journal {
                journal.offer(&effect);
            }
            // Nobody following is no error.
            let _ = self.effects.send(Arc::new(effect));
        }
    }
}

impl RunningDaemon {
    /// Where the HTTP interface answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where OTLP is received.
    pub fn otlp(&self) -> OtlpConfig {
        self.otlp
    }

    /// What the engine knows now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Every change of an incident from now on.
    pub fn effects(&self) -> broadcast::Receiver<Arc<Effect>> {
        self.effects.subscribe()
    }

    /// Comes back only when a room without which nothing is true any more has
    /// ended by itself: stale numbers that look alive are worse than none.
    /// (A poller that panics is started again, see [`supervise`].)
    pub async fn failed(&mut self) -> DaemonError {
        let room = tokio::select! {
            _ = &mut self.engine => "engine",
            _ = &mut self.web => "HTTP listener",
        };
        DaemonError::Ended(room)
    }

    /// Stops in the order of the data and waits, at most `grace` for each room.
    pub async fn shutdown(self, grace: Duration) {
        self.pollers.cancel();
        if tokio::time::timeout(grace, self.poller_tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("pollers did not stop in time");
        }
        // The pollers held the only senders: the engine ends when it has read all.
        if !ended_within(grace, self.engine).await {
            tracing::warn!("the engine did not stop in time");
        }
        self.pushers.stop(grace).await;
        self.listener.cancel();
        if !ended_within(grace, self.web).await {
            tracing::warn!("open HTTP connections were cut");
        }
        self.telemetry.shutdown(grace).await;
    }
}

/// Whether a task is over in time. One that [`RunningDaemon::failed`] has seen
/// end may not be waited for again.
async fn ended_within(grace: Duration, task: JoinHandle<()>) -> bool {
    task.is_finished() || tokio::time::timeout(grace, task).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_listener_the_desk_answers() {
        let text = "[[postgres]]\nname = \"main\"\n\
                    dsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n";
        let config = Config::parse(text, "the test", |_| None).unwrap();
        let (running, desk) = start_unheard(config).await.unwrap();
        let answer = desk.get("/api/v1/now", 65536).await.unwrap();
        let now: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(now["targets"][0]["name"], "main", "{now}");
        let missing = desk.get("/api/v1/nothing", 65536).await.unwrap();
        assert_eq!(missing.status, 404);
        assert!(desk.get("/api/v1/now", 10).await.is_none(), "too long");
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, running.shutdown(limit))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn the_end_of_the_engine_is_the_end_of_the_daemon() {
        let text = "[server]\nlisten = \"127.0.0.1:0\"\n[[postgres]]\nname = \"main\"\n\
                    dsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n";
        let config = Config::parse(text, "the test", |_| None).unwrap();
        let mut running = start(config).await.unwrap();
        let limit = Duration::from_secs(5);
        let quiet = tokio::time::timeout(Duration::from_millis(200), running.failed()).await;
        assert!(quiet.is_err(), "all is well: {quiet:?}");
        running.engine.abort();
        let failure = tokio::time::timeout(limit, running.failed()).await.unwrap();
        assert!(matches!(failure, DaemonError::Ended("engine")));
        tokio::time::timeout(limit, running.shutdown(limit))
            .await
            .unwrap();
    }
}
