//! Wiring only: channels, tasks, shutdown order.
//!
//! One bounded channel carries samples from all pollers to the one task that
//! owns the engine (`core`). That task publishes a snapshot for whoever reads
//! and the effects for whoever follows. What a reload changes (`sources`, the
//! pushers) belongs to the task in `reload`. Shutdown goes with the data:
//! pollers first, then the engine, which takes in what was already sent, then
//! the listener; all of it within one given time.

mod core;
mod error;
mod reload;
mod sources;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::capture::Recorder;
use crate::config::Config;
use crate::engine::incident::{Effect, Event};
use crate::engine::reconfigured::abandoned;
use crate::engine::series::millis;
use crate::engine::{Engine, Snapshot};
use crate::expose::alertmanager::{Prepared, PushHealth, Pushers};
use crate::expose::history::{History, Keeper, SeriesReader};
use crate::expose::journal::{Journal, JournalWriter};
use crate::expose::metrics::EngineTicks;
use crate::expose::web::{self, ReloadHealth, Reloader};
use crate::listen::Doors;
use crate::observe::health::Health;
use crate::observe::otlp::{Listeners, OtlpConfig};
use crate::observe::poll::unix_now;
use crate::observe::tls::use_ring;
use crate::telemetry::Telemetry;
use core::{Core, Inboxes};
pub use error::DaemonError;
use reload::{Control, names_of_services};
use sources::Sources;

/// Samples on their way to the engine. Sixty sources at one a second fill it in
/// ten seconds of a stalled engine; then samples are dropped and counted.
const SAMPLE_QUEUE: usize = 600;
/// Effects that a slow follower may lag behind before it loses some.
const EFFECT_QUEUE: usize = 256;
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
    /// Ends the engine when somebody still holds the way to it.
    engine_stop: CancellationToken,
    control: JoinHandle<Pushers>,
    reloader: Reloader,
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

    let (pollers, poller_tasks) = (CancellationToken::new(), TaskTracker::new());
    let (services, known_services) = watch::channel(names_of_services(&config));
    let otlp = otlp.with_doors(doors.clone()).serve(
        known_services,
        samples.clone(),
        health.clone(),
        pollers.clone(),
    );
    poller_tasks.spawn(otlp);
    let mut sources = Sources::new(samples, clients_wanted, &health, &pollers, &poller_tasks);

    let pushers = Prepared::new(&config.alertmanager)?.start(&snapshot, PushHealth::default());
    let (targets, known_targets) = watch::channel(config.settings.targets.clone());
    let (reloader, requests) = Reloader::new();
    let reloads = ReloadHealth::default();
    let reader = SeriesReader::new(questions, history);
    let state = web::WebState::new(snapshot.clone(), health, Arc::clone(&ticks), Vec::new())
        .with_series(reader)
        .with_effects(effects.subscribe())
        .with_pushes(pushers.health())
        .with_doors(doors.clone())
        .with_address(address)
        .with_reloads(known_targets, reloader.clone(), reloads.clone());
    let web_stop = CancellationToken::new();
    tokio::spawn(doors.clone().watch(web_stop.clone()));
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
    let (changes, changed) = mpsc::channel(1);
    let engine_stop = CancellationToken::new();
    let engine = tokio::spawn(core.run(Inboxes {
        samples: inbox,
        questions: asked,
        changes: changed,
        stop: engine_stop.clone(),
    }));
    sources.start_missing(&config);
    let control = Control {
        config,
        sources,
        pushers,
        changes,
        snapshot: snapshot.clone(),
        targets,
        services,
        doors,
        health: reloads,
    };
    let control = tokio::spawn(control.run(requests, pollers.clone()));
    let running = RunningDaemon {
        address,
        otlp: otlp_addresses,
        telemetry,
        snapshot,
        effects,
        pollers,
        poller_tasks,
        engine,
        engine_stop,
        control,
        reloader,
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
    for (key, incident) in left {
        tracing::info!(
            id = incident.id,
            "incident of a target that is not watched any more"
        );
        let incident = abandoned(incident, now);
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

    /// Has the configuration read again, see [`Reloader::reload`].
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Stops in the order of the data, and is back within `grace`: who is not
    /// done with its part of that time goes on without being waited for.
    pub async fn shutdown(self, grace: Duration) {
        let began = Instant::now();
        let by = |part: f64| began + grace.mul_f64(part);
        self.pollers.cancel();
        self.poller_tasks.close();
        let sources = timeout_at(by(SOURCES_BY), async {
            self.poller_tasks.wait().await;
            self.control.await
        });
        let pushers = match sources.await {
            Ok(pushers) => pushers.ok(),
            Err(_) => {
                tracing::warn!("pollers did not stop in time");
                None
            }
        };
        // Those that ended held the only ways to it: it reads all and ends.
        // Should one not have ended, the engine ends without it.
        if !self.poller_tasks.is_empty() || pushers.is_none() {
            self.engine_stop.cancel();
        }
        if !ended_by(by(ENGINE_BY), self.engine).await {
            tracing::warn!("the engine did not stop in time: its last changes may not be on disk");
        }
        self.listener.cancel();
        let pushed = async {
            if let Some(pushers) = pushers {
                let left = by(LISTENER_BY).saturating_duration_since(Instant::now());
                pushers.stop(left).await;
            }
        };
        let (served, ()) = tokio::join!(ended_by(by(LISTENER_BY), self.web), pushed);
        if !served {
            tracing::warn!("open HTTP connections were cut");
        }
        let left = by(1.0).saturating_duration_since(Instant::now());
        self.telemetry.shutdown(left).await;
    }
}

/// Parts of the time that a shutdown may take, by which each room is done. The
/// engine gets what the sources leave, because what it has not written is lost.
const SOURCES_BY: f64 = 0.45;
const ENGINE_BY: f64 = 0.75;
const LISTENER_BY: f64 = 0.9;

/// Whether a task is over in time. One that [`RunningDaemon::failed`] has seen
/// end may not be waited for again.
async fn ended_by(end: Instant, task: JoinHandle<()>) -> bool {
    task.is_finished() || timeout_at(end, task).await.is_ok()
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
