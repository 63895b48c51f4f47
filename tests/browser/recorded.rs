//! The daemon's HTTP interface over an engine that is fed with captures of real
//! servers, as if they were looked at now.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use snowpit::capture::Captures;
use snowpit::engine::incident::Kind;
use snowpit::engine::settings::Pooler;
use snowpit::engine::{Engine, Settings, Snapshot};
use snowpit::eval::scenario::{Evidence, Family, scenario};
use snowpit::expose::history::{Question, SeriesReader};
use snowpit::expose::metrics::EngineTicks;
use snowpit::expose::web::{WebState, serve};
use snowpit::observe::health::Health;
use snowpit::sample::{Report, Sample};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A capture of `tests/data`, and how much of it is over now.
#[derive(Debug, Clone, Copy)]
pub struct Take {
    pub capture: &'static str,
    /// The name that its server has here.
    pub target: &'static str,
    /// Seconds of it that are the past; what comes after is not shown.
    pub until: f64,
}

enum Order {
    Apply(Vec<Sample>, oneshot::Sender<()>),
    Show(Box<dyn FnOnce(&mut Snapshot) + Send>, oneshot::Sender<()>),
}

/// A page to look at.
pub struct Recorded {
    pub url: String,
    /// Samples of the captures after the moment that is now.
    pub rest: Vec<Sample>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Recorded {
    pub async fn start(takes: &[Take]) -> Self {
        let now = unix_now();
        let mut settings = Settings::default();
        let mut samples = Vec::new();
        let mut rest = Vec::new();
        for take in takes {
            let (own, mut of_it, mut later) = read(take, now);
            rest.append(&mut later);
            settings.poolers_complete = true;
            settings.targets.extend(own.targets);
            settings.poolers.extend(own.poolers);
            settings.services.extend(own.services);
            settings.advisory_locks.extend(own.advisory_locks);
            // Of the captures here it is the avalanche that is told otherwise.
            if take.capture == "avalanche" {
                settings.detect = own.detect;
            }
            samples.append(&mut of_it);
        }
        Self::of(settings, samples, rest).await
    }

    /// One simulated incident beside the captures, a minute after it began: it
    /// has what no capture here has, applications that tell of their routes.
    pub async fn with_traffic(takes: &[Take], family: Family, seed: u64) -> Self {
        let now = unix_now();
        let incident = scenario(family, seed);
        let moment = incident.truth.onset.unwrap_or(incident.truth.until) + 60.0;
        let mut settings = incident.settings.clone();
        let past = Evidence::HalfTags.restrict(&incident);
        let past = past.filter(|sample| sample.t <= moment);
        let mut samples: Vec<Sample> = past.map(|sample| moved(sample, moment, now)).collect();
        for take in takes {
            let (own, mut of_it, _) = read(take, now);
            settings.targets.extend(own.targets);
            settings.poolers.extend(own.poolers);
            settings.services.extend(own.services);
            for lock in own.advisory_locks {
                if !settings.advisory_locks.contains(&lock) {
                    settings.advisory_locks.push(lock);
                }
            }
            samples.append(&mut of_it);
        }
        settings.poolers_complete = true;
        Self::of(settings, samples, Vec::new()).await
    }

    async fn of(settings: Settings, mut samples: Vec<Sample>, mut rest: Vec<Sample>) -> Self {
        samples.sort_by(|a, b| a.t.total_cmp(&b.t));
        rest.sort_by(|a, b| a.t.total_cmp(&b.t));
        let mut site = Self::with(settings).await;
        site.apply(samples).await;
        site.rest = rest;
        site
    }

    /// Without any sample.
    pub async fn with(settings: Settings) -> Self {
        Self::at(settings, 0).await
    }

    /// On a port of its own; 0 is any.
    pub async fn at(settings: Settings, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let targets = settings.targets.clone();
        let engine = Engine::new(settings);
        let (publish, snapshot) = watch::channel(Arc::new(engine.snapshot()));
        let (effects, heard) = broadcast::channel(1024);
        let (questions, asked) = mpsc::channel(16);
        let state = WebState::new(
            snapshot,
            Health::new(),
            Arc::new(EngineTicks::default()),
            targets,
        )
        .with_series(SeriesReader::new(questions, None))
        .with_effects(heard);
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, state, stop.clone()));
        let (orders, inbox) = mpsc::channel(16);
        tokio::spawn(own(engine, inbox, asked, publish, effects));
        Self {
            url,
            rest: Vec::new(),
            orders,
            stop,
        }
    }

    async fn json(&self, path: &str) -> Value {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        answer.json().await.unwrap()
    }

    /// How many incidents are open.
    pub async fn open(&self) -> usize {
        let answer = self.json("/api/v1/incidents?open=true").await;
        answer["incidents"].as_array().unwrap().len()
    }

    pub async fn incident(&self, id: &str) -> Value {
        self.json(&format!("/api/v1/incidents/{id}")).await
    }

    /// The id of the newest of a kind.
    pub async fn first_of(&self, kind: Kind) -> String {
        let path = format!("/api/v1/incidents?kind={}", kind.as_str());
        let answer = self.json(&path).await;
        answer["incidents"][0]["id"].as_str().unwrap().to_owned()
    }

    pub fn port(&self) -> u16 {
        let (_, port) = self.url.rsplit_once(':').unwrap();
        port.parse().unwrap()
    }

    pub async fn apply(&self, samples: Vec<Sample>) {
        let (done, is_done) = oneshot::channel();
        let order = Order::Apply(samples, done);
        self.orders.send(order).await.ok().unwrap();
        is_done.await.unwrap();
    }

    /// Changes what is shown from now on, on top of what the engine knows.
    pub async fn show(&self, change: impl FnOnce(&mut Snapshot) + Send + 'static) {
        let (done, is_done) = oneshot::channel();
        let order = Order::Show(Box::new(change), done);
        self.orders.send(order).await.ok().unwrap();
        is_done.await.unwrap();
    }
}

/// The task that owns the engine.
async fn own(
    mut engine: Engine,
    mut inbox: mpsc::Receiver<Order>,
    mut asked: mpsc::Receiver<Question>,
    publish: watch::Sender<Arc<Snapshot>>,
    effects: broadcast::Sender<Arc<snowpit::engine::incident::Effect>>,
) {
    loop {
        tokio::select! {
            Some(question) = asked.recv() => {
                let found = engine.series(&question.selector, question.from, question.to);
                let _ = question.answer.send(found);
            }
            order = inbox.recv() => match order {
                Some(Order::Apply(samples, done)) => {
                    for sample in samples {
                        for effect in engine.apply(sample) {
                            let _ = effects.send(Arc::new(effect));
                        }
                    }
                    publish.send_replace(Arc::new(engine.snapshot()));
                    let _ = done.send(());
                }
                Some(Order::Show(change, done)) => {
                    let mut snapshot = Snapshot::clone(&publish.borrow());
                    change(&mut snapshot);
                    publish.send_replace(Arc::new(snapshot));
                    let _ = done.send(());
                }
                None => break,
            },
        }
    }
}

fn unix_now() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "the captures are moved to now")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The samples of a capture up to a moment, that moment being `now`, and those
/// after it.
fn read(take: &Take, now: f64) -> (Settings, Vec<Sample>, Vec<Sample>) {
    let file = format!("tests/data/{}.jsonl.zst", take.capture);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let mut captures = Captures::open(&[path]).unwrap();
    let mut settings = captures.settings();
    settings.targets = vec![take.target.to_owned()];
    settings.poolers = vec![Pooler {
        name: pooler(take),
        target: take.target.to_owned(),
    }];
    for service in &mut settings.services {
        service.targets = vec![take.target.to_owned()];
    }
    let samples: Vec<Sample> = std::iter::from_fn(|| captures.next())
        .map(Result::unwrap)
        .collect();
    let moment = samples[0].t + take.until;
    let all = samples.into_iter().map(|sample| {
        let mut sample = moved(sample, moment, now);
        match &mut sample.report {
            Report::Postgres(report) => report.target = take.target.to_owned(),
            Report::Pgbouncer(report) => {
                report.target = take.target.to_owned();
                report.pooler = pooler(take);
            }
            Report::Traffic(_) => {}
        }
        sample
    });
    let (past, later) = all.partition(|sample| sample.t <= now);
    (settings, past, later)
}

/// As if `moment` were `now`.
fn moved(sample: Sample, moment: f64, now: f64) -> Sample {
    let mut value = serde_json::to_value(sample).unwrap();
    shift(&mut value, moment, now - moment);
    serde_json::from_value(value).unwrap()
}

fn pooler(take: &Take) -> String {
    format!("{}-pooler", take.target)
}

/// Moves every moment of the capture's day.
fn shift(value: &mut Value, around: f64, by: f64) {
    match value {
        Value::Number(number) => {
            if let Some(t) = number.as_f64().filter(|t| (t - around).abs() < 86_400.0) {
                *value = (t + by).into();
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| shift(one, around, by)),
        Value::Object(all) => all.values_mut().for_each(|one| shift(one, around, by)),
        _ => {}
    }
}
