//! The pure core: samples in, effects and a snapshot out.
//!
//! Invariants: no input or output, no clock, no async. The only time here is
//! the time written on a sample, so that a replayed capture says what the live
//! program said. `clippy.toml` and `tests/architecture.rs` hold this up.

pub mod correlate;
pub mod detect;
pub mod incident;
pub mod ledger;
pub mod locks;
pub mod recall;
pub mod reconfigured;
pub mod restored;
pub mod series;
pub mod settings;
pub mod snapshot;
pub mod stats;
mod tables;
mod target;
pub mod traffic;
pub mod words;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use settings::Settings;
pub use snapshot::Snapshot;

use crate::sample::{Report, Sample, TrafficReport, UnixSeconds};
use correlate::attribution::Candidate;
use incident::{Effect, Incident, Kind};
use ledger::Ledger;
use restored::Restored;
use series::{Block, Extract, Millis, Rows, Selector, Store, feed};
use target::{Findings, Target};
use traffic::Traffic;

/// Targets that samples may bring in without being configured, as a replayed
/// capture does. More than anybody watches with one daemon.
const MAX_TARGETS: usize = 1_000;

/// All that the program knows, and the only thing that changes it.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    targets: BTreeMap<String, Target>,
    ledger: Ledger,
    restored: Restored,
    traffic: Traffic,
    /// `None` when no history is kept.
    series: Option<Store>,
    at: UnixSeconds,
}

impl Engine {
    pub fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let targets = settings
            .targets
            .iter()
            .map(|name| (name.clone(), Target::new(name, &settings)))
            .collect();
        Self {
            traffic: Traffic::new(&settings.services),
            settings,
            targets,
            ledger: Ledger::default(),
            restored: Restored::default(),
            series: Some(Store::default()),
            at: 0.0,
        }
    }

    /// Keeps no history of series. What is found does not depend on it, and
    /// keeping it is a good part of the work of [`apply`](Self::apply).
    #[must_use]
    pub fn without_history(mut self) -> Self {
        self.series = None;
        self
    }

    /// Takes in one sample and says what changed. A sample without a finite
    /// time, or of a target beyond the limit, changes nothing.
    pub fn apply(&mut self, sample: Sample) -> Vec<Effect> {
        let t = sample.t;
        if !t.is_finite() {
            return Vec::new();
        }
        self.at = self.at.max(t);
        // What was told within a second of the last showing is due by now.
        self.traffic.refresh(t);
        match sample.report {
            Report::Postgres(report) => {
                let name = report.target.clone();
                let open = self.ledger.is_open(&name, Kind::ConnectionAvalanche);
                if self.target(&name).is_none() {
                    return Vec::new();
                }
                let Some(target) = self.targets.get_mut(&name) else {
                    return Vec::new();
                };
                let good = report.error.is_none();
                let findings = target.postgres(t, report, open, &mut self.traffic);
                if let Some(series) = &mut self.series {
                    let mix = target.mix(t);
                    feed::postgres(series, &name, t, target.view(), mix.as_ref());
                }
                self.settle(&name, findings, t, good)
            }
            Report::Pgbouncer(report) => {
                let name = report.target.clone();
                let Some(target) = self.target(&name) else {
                    return Vec::new();
                };
                let pooler = report.pooler.clone();
                let findings = target.pgbouncer(t, report);
                let view = target.poolers().get(&pooler).cloned();
                if let (Some(series), Some(view)) = (&mut self.series, view) {
                    feed::pgbouncer(series, &pooler, t, &view);
                }
                self.settle(&name, findings, t, false)
            }
            Report::Traffic(report) => self.traffic(t, &report),
        }
    }

    fn traffic(&mut self, t: UnixSeconds, report: &TrafficReport) -> Vec<Effect> {
        self.traffic.apply(t, report);
        self.traffic.refresh(t);
        let mut effects = Vec::new();
        for name in self.ledger.targets_with(Kind::ConnectionAvalanche) {
            let Some(target) = self.targets.get_mut(&name) else {
                continue;
            };
            if self.traffic.tie(&report.service, &name).is_none() {
                continue;
            }
            if let Some(Findings { kinds, findings }) = target.traffic(t, &self.traffic) {
                effects.extend(self.ledger.settle(&name, kinds, findings, t));
            }
        }
        effects
    }

    /// `good`: the server itself was seen, not only a pooler of it.
    fn settle(
        &mut self,
        target: &str,
        findings: Findings,
        t: UnixSeconds,
        good: bool,
    ) -> Vec<Effect> {
        let Findings {
            kinds,
            mut findings,
        } = findings;
        self.restored
            .stand_in(target, kinds, &mut findings, t, good);
        self.ledger.settle(target, kinds, findings, t)
    }

    /// Takes in the incidents of an earlier life of the program at `at`: the
    /// open ones under the keys of their findings, the resolved ones newest
    /// first. To be called before the first sample, and after whatever else is
    /// remembered.
    pub fn restore(
        &mut self,
        at: UnixSeconds,
        open: impl IntoIterator<Item = (String, Incident)>,
        resolved: impl IntoIterator<Item = Incident>,
    ) {
        self.ledger.recall(resolved);
        for (key, incident) in open {
            self.restored.add(&key, &incident, &self.settings.detect);
            if let Some(target) = self.target(&incident.target) {
                target.restore(at, &key, &incident);
            }
            self.ledger.reopen(&key, incident);
        }
    }

    fn target(&mut self, name: &str) -> Option<&mut Target> {
        if !self.targets.contains_key(name) {
            if self.targets.len() >= MAX_TARGETS {
                return None;
            }
            let target = Target::new(name, &self.settings);
            self.targets.insert(name.to_owned(), target);
        }
        self.targets.get_mut(name)
    }

    /// Takes in the history of an earlier life since `from`, oldest first: no
    /// target that it tells of warms up again. To be called before the first
    /// sample.
    pub fn remember(&mut self, from: Millis, blocks: impl IntoIterator<Item = Arc<Block>>) {
        let Some(series) = &mut self.series else {
            return;
        };
        series.begins_at(from);
        for block in blocks {
            series.adopt(block);
        }
        for (name, target) in &mut self.targets {
            recall::looks(series, name, |look| target.recall(look));
            let poolers = self.settings.poolers.iter();
            for pooler in poolers.filter(|pooler| pooler.target == *name) {
                recall::totals(series, &pooler.name, |t, stats| {
                    target.recall_pooler(t, &pooler.name, &stats);
                });
            }
        }
    }

    /// From now on sealed blocks are kept for [`take_sealed`](Self::take_sealed),
    /// and only the last `keep` seconds stay in memory.
    pub fn hand_over(&mut self, keep: f64) {
        if let Some(series) = &mut self.series {
            series.hand_over(keep);
        }
    }

    /// Blocks of the history that were sealed since the last call.
    pub fn take_sealed(&mut self) -> Vec<Arc<Block>> {
        let series = self.series.as_mut();
        series.map_or_else(Vec::new, Store::take_sealed)
    }

    /// Copies of the rows of the history since the last call that are in no
    /// sealed block yet.
    pub fn take_unsaved(&mut self) -> Vec<Rows> {
        let series = self.series.as_mut();
        series.map_or_else(Vec::new, Store::take_unsaved)
    }

    /// Seals all that is open: nothing comes any more.
    pub fn seal_history(&mut self) {
        if let Some(series) = &mut self.series {
            series.seal_all();
        }
    }

    /// What the memory has of some series in a window.
    pub fn series(&self, selector: &Selector, from: Millis, to: Millis) -> Extract {
        let series = self.series.as_ref();
        series.map_or_else(Extract::default, |s| s.extract(selector, from, to))
    }

    /// The first candidate of a target's open avalanche, with what its confidence
    /// was worked out of: for the evaluation.
    pub fn leading(&self, target: &str) -> Option<&Candidate> {
        self.targets.get(target)?.leading()
    }

    /// What is known now, for everything that shows it.
    pub fn snapshot(&self) -> Snapshot {
        let targets = self.targets.iter();
        Snapshot {
            at: self.at,
            targets: targets
                .clone()
                .map(|(name, target)| (name.clone(), Arc::clone(target.view())))
                .collect(),
            poolers: targets
                .clone()
                .flat_map(|(_, target)| target.poolers().clone())
                .collect(),
            open: self.ledger.open(),
            resolved: self.ledger.resolved(),
            incidents_total: self.ledger.totals().clone(),
            traffic: self.traffic.shown(self.targets.keys()),
            refused_points: self.traffic.refused().clone(),
            history: self.series.as_ref().map(Store::counts).unwrap_or_default(),
            clients_wanted: targets
                .flat_map(|(_, target)| target.clients_wanted().cloned())
                .collect(),
        }
    }
}
