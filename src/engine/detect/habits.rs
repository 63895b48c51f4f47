//! How the applications use their sessions: how many each holds, how often they
//! open new ones, how long their queries take, and what of that is unusual.
//!
//! The kinds that are read from it, judged together, and the signs by which the
//! cause of an avalanche is told. An avalanche, or a lock, that tells of the
//! same thing goes first: one thing is told once.

mod signs;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::census::Census;
use super::connection_leak::{self, Leaks};
use super::demand::{Demand, Spans};
use super::excessive_latency::{Latency, Slow};
use super::flows::Flows;
use super::holdings::Holdings;
use super::reconnect_storm::{self, Churn, Youth};
use super::scene::fields;
use super::watch::{Account, Looked, Stance, Suspicion, Watch};
use super::watched::{Baselines, Quantity};
use crate::engine::incident::{Cause, Finding, Incident, Kind};
use crate::engine::settings::Settings;
use crate::engine::traffic::Traffic;
use crate::engine::words;
use crate::sample::{PoolStats, PostgresReport, UnixSeconds};

pub use signs::{Leaking, Reconnecting, Signs};

/// Nothing is learnt for this long after a restart of the server was seen, in
/// seconds: the applications need it to come back.
const RESTART_PAUSE: f64 = 120.0;

/// Seconds that a present rate is a mean of.
const NOW: f64 = 30.0;

/// Before an onset: its estimate may be a little late, and this much, in
/// seconds, is a mean.
const MARGIN: f64 = 20.0;
const BEFORE: f64 = 600.0;

/// An application is a database's main one above this part of the sessions that
/// work.
const MAIN_PART: f64 = 0.5;

/// Seconds after a batch job in which slow queries may still be its own: they are
/// counted when they end.
const BATCH_OVER: f64 = 60.0;

/// Wait events told of.
const WAITS: usize = 3;

/// Watches one target.
#[derive(Debug, Clone)]
pub struct Habits {
    target: String,
    settings: Arc<Settings>,
    census: Census,
    flows: Flows,
    baselines: Baselines,
    holdings: Holdings,
    latency: Latency,
    started_at: Option<UnixSeconds>,
    storm: Watch,
    /// Who the storm was when it was last at its work: afterwards nobody's
    /// sessions are young, and the record must not name whoever comes next.
    stormers: Option<Youth>,
    /// When a batch job last took most of the extra time.
    batch_at: Option<UnixSeconds>,
    leaks: Leaks,
    slow: Watch,
}

impl Habits {
    pub fn new(target: &str, settings: &Arc<Settings>) -> Self {
        let detect = &settings.detect;
        let storm = &detect.reconnect_storm;
        let latency = &detect.excessive_latency;
        Self {
            target: target.to_owned(),
            census: Census::default(),
            flows: Flows::default(),
            baselines: Baselines::new(&detect.connection_avalanche),
            holdings: Holdings::new(detect.connection_leak.window),
            latency: Latency::new(latency),
            started_at: None,
            storm: Watch::new(Kind::ReconnectStorm).patient(0.0, storm.resolve_after),
            stormers: None,
            batch_at: None,
            leaks: Leaks::new(&detect.connection_leak),
            slow: Watch::new(Kind::ExcessiveLatency).patient(0.0, latency.resolve_after),
            settings: Arc::clone(settings),
        }
    }

    /// Takes in other thresholds; what was learnt stays. Of a kind that is
    /// switched off nothing is told any more.
    pub fn reconfigure(&mut self, settings: &Arc<Settings>) {
        let before = std::mem::replace(&mut self.settings, Arc::clone(settings));
        let detect = &settings.detect;
        self.baselines.reconfigure(&detect.connection_avalanche);
        // Buckets of another width are no window.
        if detect.connection_leak.window != before.detect.connection_leak.window {
            self.holdings = Holdings::new(detect.connection_leak.window);
        }
        self.leaks.reconfigure(&detect.connection_leak);
        self.latency.reconfigure(&detect.excessive_latency);
        self.storm.retune(0.0, detect.reconnect_storm.resolve_after);
        if !detect.reconnect_storm.enabled {
            self.storm.forget(|_| true);
        }
        self.slow
            .retune(0.0, detect.excessive_latency.resolve_after);
        if !detect.excessive_latency.enabled {
            self.slow.forget(|_| true);
        }
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, at: UnixSeconds, key: &str, incident: &Incident) {
        let detect = &self.settings.detect;
        match incident.kind {
            Kind::ReconnectStorm if detect.reconnect_storm.enabled => {
                self.storm.restore(key, incident);
            }
            Kind::ConnectionLeak => self.leaks.restore(at, key, incident),
            Kind::ExcessiveLatency if detect.excessive_latency.enabled => {
                let fact = |name| incident.subject.get(name).and_then(|value| value.as_f64());
                if let (Some(normal), Some(now)) = (fact("expected_seconds"), fact("query_seconds"))
                {
                    self.latency.resume(at, incident.onset_at, normal, now);
                }
                self.slow.restore(key, incident);
            }
            _ => {}
        }
    }

    /// Takes in a look at the server, of now or of the past. `waiting` are the
    /// clients in the poolers' queues.
    pub fn take(
        &mut self,
        t: UnixSeconds,
        started_at: Option<UnixSeconds>,
        census: Census,
        opened_total: Option<f64>,
        waiting: f64,
    ) {
        self.notice_restart(started_at);
        let opened = opened_total.and_then(|total| self.flows.sessions(t, total));
        let total = census.total;
        self.flows.levels(t, total.all, total.idle_in_transaction);
        self.baselines.take(t, &census, waiting, opened);
        self.holdings.take(t, &census);
        self.census = census;
    }

    /// Takes in the totals of a pooler, of now or of the past.
    pub fn pooler(&mut self, t: UnixSeconds, pooler: &str, stats: &[PoolStats]) {
        self.flows.pooler(t, pooler, stats);
        self.latency.observe(t, &self.flows);
    }

    fn notice_restart(&mut self, started_at: Option<UnixSeconds>) {
        let Some(started_at) = started_at.filter(|t| t.is_finite()) else {
            return;
        };
        let known = self.started_at.replace(started_at);
        if known.is_some_and(|known| (known - started_at).abs() >= 1.0) {
            self.flows.restarted();
            self.baselines.hold_learning(RESTART_PAUSE);
        }
    }

    /// Judges the newest look. `told` is what is told of it already.
    pub fn judge(
        &mut self,
        t: UnixSeconds,
        report: &PostgresReport,
        traffic: &Traffic,
        told: &[Finding],
    ) {
        let settings = Arc::clone(&self.settings);
        let detect = &settings.detect;
        let avalanche = told.iter().find(|f| f.kind == Kind::ConnectionAvalanche);
        let cause = avalanche.and_then(|finding| finding.cause);
        let is = |wanted| (cause == Some(wanted)).then_some(Kind::ConnectionAvalanche);
        if detect.reconnect_storm.enabled {
            let churn = self.churn(t, traffic);
            self.remember_youth(churn.as_ref());
            let suspicion = churn.map(|churn| {
                let elsewhere = is(Cause::ReconnectStorm);
                reconnect_storm::check(&self.target, t, &churn, &detect.reconnect_storm, elsewhere)
            });
            let known = report.sessions_opened_total.is_some();
            self.storm
                .settle(Looked::server(t), suspicion.into_iter().collect(), |_| {
                    known
                });
        }
        self.leaks.observe(&connection_leak::Input {
            t,
            target: &self.target,
            census: &self.census,
            holdings: &self.holdings,
            flows: &self.flows,
            traffic,
            elsewhere: is(Cause::Leak),
        });
        if detect.excessive_latency.enabled {
            let suspicion = self.slow(t, report, traffic, told);
            self.slow
                .settle(Looked::server(t), suspicion.into_iter().collect(), |_| true);
        }
    }

    /// Every finding of the kinds that this tells of.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.storm.findings();
        findings.extend(self.leaks.findings());
        findings.extend(self.slow.findings());
        findings
    }

    /// Sessions opened, while more are than normal.
    fn churn(&self, t: UnixSeconds, traffic: &Traffic) -> Option<Churn> {
        let departure = self.baselines.departure(&Quantity::Opened)?;
        let onset_at = departure.onset_at;
        let seconds = t - onset_at;
        let opened = self.flows.opened.sum(onset_at, t) - departure.expected * seconds;
        let backends = &self.flows.backends;
        let standing = backends.mean(&[(onset_at - BEFORE, onset_at)])?;
        let growth = (self.census.total.all - standing).max(0.0);
        Some(Churn {
            onset_at,
            expected: departure.expected,
            now: self.flows.opened.rate(onset_at.max(t - NOW), t)?,
            replaced: (opened - growth).max(0.0),
            standing,
            demand: self.demand(traffic, onset_at, (t - NOW * 2.0).max(onset_at), t),
            youth: self.stormers.clone().or_else(|| self.youth()),
        })
    }

    fn remember_youth(&mut self, churn: Option<&Churn>) {
        let youth = self.youth().filter(Youth::is_everybody);
        if churn.is_none() {
            self.stormers = None;
        } else if youth.is_some() {
            self.stormers = youth;
        }
    }

    /// The application with most sessions that have just begun.
    fn youth(&self) -> Option<Youth> {
        let young = self.census.young.iter();
        let (application, most) = young.max_by(|a, b| a.1.young.total_cmp(&b.1.young))?;
        Some(Youth {
            application: application.clone(),
            young: most.young,
            of: most.of,
        })
    }

    /// What was asked for before an onset, and from then on.
    fn demand(&self, traffic: &Traffic, onset: f64, from: f64, to: f64) -> Demand {
        let spans = Spans {
            before: (onset - MARGIN - BEFORE, onset - MARGIN),
            now: (from, to),
        };
        Demand::of(traffic, &self.target, &self.flows, &spans)
    }

    fn slow(
        &mut self,
        t: UnixSeconds,
        report: &PostgresReport,
        traffic: &Traffic,
        told: &[Finding],
    ) -> Option<Suspicion> {
        let slow = *self.latency.slow(t)?;
        if self.batch(&slow).is_some() {
            self.batch_at = Some(t);
        }
        let elsewhere = told.iter().map(|finding| finding.kind).find(|kind| {
            matches!(
                kind,
                Kind::ConnectionAvalanche
                    | Kind::OrphanedAdvisoryLock
                    | Kind::PoolDeadlock
                    | Kind::HiddenDeadlock
                    | Kind::MigrationBlocked
                    | Kind::LockPileup
            )
        });
        let stance = match elsewhere {
            Some(kind) => Stance::Yields(kind),
            None if slow.lasting && self.batch_at.is_none_or(|at| t - at > BATCH_OVER) => {
                Stance::Opens
            }
            None => Stance::Keeps,
        };
        Some(Suspicion {
            key: String::new(),
            stance,
            onset_at: slow.since,
            account: self.latency_account(t, &slow, report, traffic),
        })
    }

    /// An application beside the main one that most of the extra time is of.
    fn batch(&self, slow: &Slow) -> Option<&str> {
        let working = |name: &str| {
            let quantity = Quantity::Application(name.to_owned());
            self.baselines.expected(&quantity).unwrap_or(0.0)
        };
        let all: f64 = self
            .census
            .applications
            .keys()
            .map(|name| working(name))
            .sum();
        let mut applications = self.census.applications.iter();
        applications.find_map(|(name, held)| {
            let normal = working(name);
            let extra = held.working - normal;
            (normal <= MAIN_PART * all && extra >= 0.5 * slow.extra() && extra >= 1.0)
                .then_some(name.as_str())
        })
    }

    fn latency_account(
        &self,
        t: UnixSeconds,
        slow: &Slow,
        report: &PostgresReport,
        traffic: &Traffic,
    ) -> Account {
        let (now, normal) = (seconds(slow.now), seconds(slow.normal));
        let factor = slow.now / slow.normal;
        let mut evidence = vec![format!(
            "mean query time at the poolers {normal} → {now}, at {} queries a second, for {}",
            words::mean(slow.rate),
            words::duration(t - slow.since),
        )];
        evidence.push(
            self.demand(traffic, slow.since, (t - NOW * 2.0).max(slow.since), t)
                .sentence(),
        );
        evidence.extend(waits(report));
        Account {
            severity: Kind::ExcessiveLatency.severity(),
            subject: fields(json!({
                "query_seconds": (slow.now * 1e6).round() / 1e6,
                "expected_seconds": (slow.normal * 1e6).round() / 1e6,
            })),
            summary: format!(
                "{}: queries take {now} on average where {normal} is normal ({factor:.1} times as long)",
                self.target,
            ),
            evidence,
            actions: vec![
                "SELECT wait_event_type, wait_event, count(*), max(now() - query_start) AS longest, \
                 left(min(query), 80) AS example FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND state = 'active' \
                 GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20;"
                    .to_owned(),
            ],
        }
    }
}

/// What the statements at work wait for, most first.
fn waits(report: &PostgresReport) -> Option<String> {
    let mut counts: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    let mut active = 0.0;
    for group in &report.groups {
        if group.state.as_deref() == Some("active") {
            let count = f64::from(group.count);
            active += count;
            if let Some(kind) = group.wait_event_type.as_deref() {
                let event = group.wait_event.as_deref().unwrap_or("?");
                *counts.entry((kind, event)).or_default() += count;
            }
        }
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let list: Vec<String> = sorted
        .iter()
        .take(WAITS)
        .map(|((kind, event), count)| {
            let (kind, event) = (words::name(kind), words::name(event));
            format!("{} on {kind}/{event}", words::count(*count))
        })
        .collect();
    (!list.is_empty()).then(|| {
        format!(
            "of {} at work, {} wait: the rest are on a processor",
            words::plural(active, "statement"),
            list.join(", "),
        )
    })
}

/// Seconds or milliseconds.
fn seconds(value: f64) -> String {
    if value < 1.0 {
        format!("{} ms", words::mean(value * 1e3))
    } else {
        words::duration(value)
    }
}

#[cfg(test)]
mod tests;
