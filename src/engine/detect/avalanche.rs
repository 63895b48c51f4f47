//! Connections run away: sessions in use plus clients waiting in the poolers
//! leave their normal band, and the routes behind it are named where the
//! sessions themselves tell.
//!
//! Judgement is held while the data do not allow one: during the warm-up, when a
//! poll failed, and when the role cannot see the state of other sessions. A
//! restart of the server does not reset the baseline: the second avalanche, the
//! one of everybody coming back, is one too.

use serde_json::json;

use super::onset::{Alarm, OnsetDetector, State};
use super::words;
use crate::engine::correlate::Services;
use crate::engine::correlate::sessions::{in_use, tells_of_use};
use crate::engine::incident::{Cause, Finding, Kind};
use crate::engine::settings::Settings;
use crate::engine::snapshot::Band;
use crate::sample::{PostgresReport, UnixSeconds};

/// Nothing is learnt for this long after a restart of the server was seen, in
/// seconds: the applications need it to come back.
const RESTART_PAUSE: f64 = 120.0;

/// The peak was reached when this part of the rise to it was.
const PEAK_PART: f64 = 0.9;

/// New peaks kept; each is at least 2 % above the last, so 200 of them are a
/// rise by a factor of fifty.
const PEAK_LIMIT: usize = 200;

/// What the detector looks at in one tick.
#[derive(Debug, Clone, Copy)]
pub struct AvalancheInput<'a> {
    pub t: UnixSeconds,
    pub report: &'a PostgresReport,
    /// Clients waiting in fresh poolers, paused pools left out.
    pub clients_waiting: u32,
    /// The incident is open: without a usable report the last finding is
    /// repeated then, because nobody can say that it is over.
    pub open: bool,
}

/// Watches one target.
#[derive(Debug, Clone)]
pub struct Avalanche {
    target: String,
    enabled: bool,
    services: Services,
    detector: OnsetDetector,
    started_at: Option<UnixSeconds>,
    climb: Option<Climb>,
    last: Option<Finding>,
}

impl Avalanche {
    pub fn new(target: &str, settings: &Settings) -> Self {
        let tuning = &settings.detect.connection_avalanche;
        Self {
            target: target.to_owned(),
            enabled: tuning.enabled,
            services: Services::new(&settings.services),
            detector: OnsetDetector::new(tuning.into()),
            started_at: None,
            climb: None,
            last: None,
        }
    }

    /// The learnt band of sessions in use plus waiting; `None` while warming up.
    pub fn band(&self) -> Option<Band> {
        self.detector.band()
    }

    /// Takes in one report. A finding as long as the incident lasts.
    pub fn observe(&mut self, input: &AvalancheInput<'_>) -> Option<Finding> {
        if !self.enabled {
            return None;
        }
        if !tells_of_use(input.report) {
            return self.last.clone().filter(|_| input.open);
        }
        self.notice_restart(input.report);
        let sessions: f64 = in_use(input.report)
            .map(|group| f64::from(group.count))
            .sum();
        let y = sessions + f64::from(input.clients_waiting);
        let Some(reading) = self.detector.push(input.t, y) else {
            return self.last.clone();
        };
        self.last = match (reading.state, reading.band) {
            (State::Alarm(alarm), Some(band)) => Some(self.finding(input.t, y, alarm, band)),
            _ => {
                self.climb = None;
                None
            }
        };
        self.last.clone()
    }

    fn notice_restart(&mut self, report: &PostgresReport) {
        let started_at = report.server.as_ref().and_then(|server| server.started_at);
        if started_at.is_none() {
            return;
        }
        if self.started_at.is_some() && self.started_at != started_at {
            self.detector.hold_learning(RESTART_PAUSE);
        }
        self.started_at = started_at;
    }

    fn finding(&mut self, t: UnixSeconds, y: f64, alarm: Alarm, band: Band) -> Finding {
        let climb = self
            .climb
            .get_or_insert_with(|| Climb::new(alarm.onset_at, band.expected));
        climb.record(t, y);
        let mut subject = serde_json::Map::new();
        subject.insert("sessions".to_owned(), json!(y));
        Finding {
            kind: Kind::ConnectionAvalanche,
            key: String::new(),
            severity: Kind::ConnectionAvalanche.severity(),
            cause: Some(Cause::Unknown),
            onset_at: alarm.onset_at,
            subject,
            summary: format!("{} {}", self.target, climb.sentence()),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: Vec::new(),
            actions: Vec::new(),
        }
    }
}

/// The way from the normal level to the peak.
#[derive(Debug, Clone)]
struct Climb {
    onset_at: UnixSeconds,
    from: f64,
    /// Every new peak with its time.
    peaks: Vec<(UnixSeconds, f64)>,
}

impl Climb {
    fn new(onset_at: UnixSeconds, from: f64) -> Self {
        Self {
            onset_at,
            from,
            peaks: Vec::new(),
        }
    }

    fn record(&mut self, t: UnixSeconds, y: f64) {
        let higher = self.peaks.last().is_none_or(|&(_, peak)| y > peak * 1.02);
        if higher && self.peaks.len() < PEAK_LIMIT {
            self.peaks.push((t, y));
        }
    }

    fn peak(&self) -> f64 {
        self.peaks.last().map_or(self.from, |&(_, peak)| peak)
    }

    /// Seconds from the onset to most of the peak.
    fn seconds(&self) -> f64 {
        let mark = self.from + PEAK_PART * (self.peak() - self.from);
        let reached = self.peaks.iter().find(|&&(_, y)| y >= mark);
        reached.map_or(0.0, |&(t, _)| t - self.onset_at)
    }

    fn sentence(&self) -> String {
        format!(
            "went from {} to {} sessions in use or waiting in {}",
            words::mean(self.from),
            words::count(self.peak()),
            words::duration(self.seconds().max(1.0)),
        )
    }
}
