//! Connections run away: sessions in use plus clients waiting in the poolers
//! leave their normal band, and the routes behind it are named where the
//! sessions themselves tell.
//!
//! Judgement is held while the data do not allow one: during the warm-up, when a
//! poll failed, and when the role cannot see the state of other sessions. A
//! restart of the server does not reset the baseline: the second avalanche, the
//! one of everybody coming back, is one too.

mod account;
mod answers;
mod because;
mod condition;
mod past;
mod reconfigured;

use std::collections::BTreeSet;

use serde_json::json;

use answers::Answers;
use because::{Because, Blocker, Clues, Shared};
use past::Past;

use super::habits::{Habits, Signs};
use super::onset::{Alarm, OnsetDetector, State};
use crate::engine::correlate::applications::another;
use crate::engine::correlate::attribution::{Candidate, Explanation, explain};
use crate::engine::correlate::combined::combine;
use crate::engine::correlate::endpoints::weigh;
use crate::engine::correlate::sessions::tells_of_use;
use crate::engine::correlate::window::{History, Means, Since};
use crate::engine::correlate::{Mix, Services};
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::locks::RootBlocker;
use crate::engine::restored;
use crate::engine::settings::Settings;
use crate::engine::snapshot::Band;
use crate::engine::traffic::Traffic;
use crate::engine::words;
use crate::sample::{PostgresReport, UnixSeconds};

/// Nothing is learnt for this long after a restart of the server was seen, in
/// seconds: the applications need it to come back.
const RESTART_PAUSE: f64 = 120.0;

/// A restart this long before an onset is told of, seconds.
const RESTART_NEWS: f64 = 900.0;

/// The peak was reached when this part of the rise to it was.
const PEAK_PART: f64 = 0.9;

/// Reports of traffic come many a second; what they change is looked at this
/// often, in seconds.
const REVISE_EVERY: f64 = 0.5;

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
    /// Who blocks others, where the lock table was read.
    pub roots: &'a [RootBlocker],
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
    history: History,
    past: Past,
    started_at: Option<UnixSeconds>,
    /// When the server was started again while it was watched.
    restarted_at: Option<UnixSeconds>,
    episode: Option<Episode>,
    last: Option<Finding>,
    /// The incident that goes on from an earlier life of the program.
    inherited: Option<Inherited>,
}

/// What was known of an incident before the program was started again.
#[derive(Debug, Clone)]
struct Inherited {
    opened_at: UnixSeconds,
    peak: f64,
    finding: Finding,
}

/// What is kept of an open incident.
#[derive(Debug, Clone)]
struct Episode {
    climb: Climb,
    /// The mix of sessions before the onset; it does not change any more.
    before: Means,
    since: Since,
    /// What the sessions' tags say.
    tags: Explanation,
    /// All evidence together.
    explanation: Explanation,
    /// What all endpoints share, where the applications tell.
    shared: Option<Shared>,
    /// Services that tell of their routes.
    reporting: BTreeSet<String>,
    /// Whom most of those that wait for locks wait for.
    blocker: Option<Blocker>,
    /// What the habits of the applications say.
    signs: Signs,
    answers: Answers,
    alarm: Alarm,
    band: Band,
    /// Sessions in use or waiting at the newest tick.
    sessions: f64,
    /// The newest tick that was not calm.
    until: UnixSeconds,
    /// When the applications' figures were last weighed.
    weighed_at: UnixSeconds,
}

/// What an account of the incident is written from.
#[derive(Debug)]
pub struct Situation<'a> {
    alarm: Alarm,
    band: Band,
    /// Sessions in use or waiting now.
    now: f64,
    climb: &'a Climb,
    explanation: &'a Explanation,
    because: &'a Because,
    signs: &'a Signs,
    answers: &'a Answers,
    t: UnixSeconds,
    /// Seconds from a restart of the server to the onset, when it was just
    /// before.
    restarted: Option<f64>,
}

impl Avalanche {
    pub fn new(target: &str, settings: &Settings) -> Self {
        let tuning = &settings.detect.connection_avalanche;
        Self {
            target: target.to_owned(),
            enabled: tuning.enabled,
            services: Services::at(target, &settings.services),
            detector: OnsetDetector::new(tuning.into()),
            history: History::default(),
            past: Past::default(),
            started_at: None,
            restarted_at: None,
            episode: None,
            last: None,
            inherited: None,
        }
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, at: UnixSeconds, incident: &Incident) {
        let fact = |name: &str| incident.subject.get(name).and_then(|value| value.as_f64());
        let Some(expected) = fact("expected") else {
            return;
        };
        self.detector.resume(incident.onset_at, expected, at);
        let finding = restored::finding("", incident);
        self.last = Some(finding.clone());
        self.inherited = Some(Inherited {
            opened_at: incident.opened_at,
            peak: fact("peak").unwrap_or(expected),
            finding,
        });
    }

    /// The first candidate of the open incident, with what its confidence was
    /// worked out of.
    pub fn leading(&self) -> Option<&Candidate> {
        self.episode.as_ref()?.explanation.candidates.first()
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
        let server = input.report.server.as_ref();
        self.notice_restart(server.and_then(|server| server.started_at));
        let mix = Mix::of(
            input.report,
            input.clients_waiting,
            &self.target,
            &self.services,
        );
        self.take(input.t, mix, input.roots);
        self.last.clone()
    }

    /// Takes in a look of the past, out of the history: the baseline, and an
    /// incident that ran then, are as if it had been watched.
    pub fn recall(&mut self, t: UnixSeconds, started_at: Option<UnixSeconds>, mix: Mix) {
        if self.enabled {
            self.notice_restart(started_at);
            self.take(t, mix, &[]);
        }
    }

    fn take(&mut self, t: UnixSeconds, mix: Mix, roots: &[RootBlocker]) {
        let y = mix.watched();
        let Some(reading) = self.detector.push(t, y) else {
            return;
        };
        self.history.record(t, mix);
        self.past.sessions.push(t, y);
        self.last = match (reading.state, reading.band) {
            (State::Alarm(alarm), Some(band)) => Some(self.follow(t, y, roots, alarm, band)),
            _ => {
                self.inherited = None;
                if let Some(episode) = self.episode.take() {
                    self.past.set_apart(episode.alarm.onset_at, t);
                }
                None
            }
        };
    }

    fn notice_restart(&mut self, started_at: Option<UnixSeconds>) {
        let Some(started_at) = started_at.filter(|t| t.is_finite()) else {
            return;
        };
        if self
            .started_at
            .is_some_and(|known| (known - started_at).abs() >= 1.0)
        {
            self.detector.hold_learning(RESTART_PAUSE);
            self.restarted_at = Some(started_at);
        }
        self.started_at = Some(started_at);
    }

    fn follow(
        &mut self,
        t: UnixSeconds,
        y: f64,
        roots: &[RootBlocker],
        alarm: Alarm,
        band: Band,
    ) -> Finding {
        let mut episode = self
            .episode
            .take()
            .unwrap_or_else(|| Episode::open(&self.history, alarm, band, self.inherited.as_ref()));
        if !alarm.calm {
            episode.extend(&self.history);
            self.history.set_apart(alarm.onset_at);
            episode.until = t;
        }
        if let Some(blocker) = Blocker::of(roots, episode.blocker.as_ref()) {
            episode.blocker = Some(blocker);
        }
        episode.climb.record(t, y);
        (episode.alarm, episode.band, episode.sessions) = (alarm, band, y);
        let finding = self.finding(t, &mut episode);
        self.episode = Some(episode);
        finding
    }

    /// Weighs what the applications tell of their requests, which may have come
    /// late. The finding as it is then; `None` without an incident, or when it
    /// was weighed at this moment already.
    pub fn revise(
        &mut self,
        t: UnixSeconds,
        traffic: &Traffic,
        habits: &Habits,
    ) -> Option<Finding> {
        self.last.as_ref()?;
        let mut episode = self.episode.take()?;
        if t - episode.weighed_at >= REVISE_EVERY {
            episode.weighed_at = t;
            let now = if episode.alarm.calm { episode.until } else { t };
            let onset = episode.alarm.onset_at;
            let windows = self.past.windows(episode.alarm.onset_at, now);
            // When the baseline is forgotten the last word stays.
            if !windows.baseline.is_empty() {
                let weighing = weigh(traffic, &self.target, &self.past.sessions, &windows);
                episode.shared = Shared::of(&weighing);
                let services = traffic.of_target(&self.target);
                episode.reporting = services.map(|(service, _)| service.to_owned()).collect();
                episode.explanation = combine(
                    episode.tags.clone(),
                    &self.history,
                    &episode.before,
                    &episode.since.means(),
                    &weighing,
                );
            }
            let (rise, extra) = (episode.explanation.rise, episode.explanation.extra);
            // Once it is calm nothing new is learnt of it.
            if !episode.alarm.calm {
                let signs = habits.signs(t, traffic, onset, rise, extra);
                episode.signs =
                    signs.after(&episode.signs, episode.sessions / episode.climb.peak());
            }
        }
        let finding = self.finding(t, &mut episode);
        self.episode = Some(episode);
        self.last = Some(finding.clone());
        Some(finding)
    }

    fn because(&self, episode: &Episode) -> Because {
        let another = another(
            &self.history,
            &episode.before,
            &episode.since.means(),
            &episode.reporting,
            episode.explanation.growth,
        );
        let clues = Clues {
            explanation: &episode.explanation,
            another: another.as_ref(),
            shared: episode.shared,
            blocker: episode.blocker.as_ref(),
            signs: &episode.signs,
        };
        clues.because()
    }

    fn finding(&self, t: UnixSeconds, episode: &mut Episode) -> Finding {
        let onset_at = episode.alarm.onset_at;
        let restarted = self
            .restarted_at
            .map(|restarted_at| onset_at - restarted_at)
            .filter(|seconds| (0.0..RESTART_NEWS).contains(seconds));
        let because = self.because(episode);
        episode.answers.note(t, &because, &episode.explanation);
        let situation = Situation {
            because: &because,
            signs: &episode.signs,
            answers: &episode.answers,
            t,
            alarm: episode.alarm,
            band: episode.band,
            now: episode.sessions,
            climb: &episode.climb,
            explanation: &episode.explanation,
            restarted,
        };
        let mut finding = finding(&self.target, &situation);
        if let Some(inherited) = &self.inherited
            && episode.before.ticks == 0.0
        {
            // What is seen now has nothing to be measured against.
            let figures = std::mem::take(&mut finding.subject);
            finding = inherited.finding.clone();
            for name in ["sessions", "peak"] {
                if let Some(figure) = figures.get(name) {
                    finding.subject.insert(name.to_owned(), figure.clone());
                }
            }
        }
        finding
    }
}

impl Episode {
    fn open(history: &History, alarm: Alarm, band: Band, inherited: Option<&Inherited>) -> Self {
        let before = history.before(alarm.onset_at);
        let since = history.since(alarm.onset_at);
        let mut climb = Climb::new(alarm.onset_at, band.expected);
        if let Some(inherited) = inherited {
            climb.record(inherited.opened_at, inherited.peak);
        }
        let tags = explain(history, &before, &since.means());
        Self {
            climb,
            explanation: tags.clone(),
            shared: None,
            reporting: BTreeSet::new(),
            blocker: None,
            signs: Signs::default(),
            answers: inherited
                .map_or_else(Answers::default, |known| Answers::resume(&known.finding)),
            tags,
            before,
            since,
            alarm,
            band,
            sessions: 0.0,
            until: alarm.onset_at,
            weighed_at: f64::NEG_INFINITY,
        }
    }

    fn extend(&mut self, history: &History) {
        history.extend(&mut self.since);
        self.tags = explain(history, &self.before, &self.since.means());
        if self.weighed_at == f64::NEG_INFINITY {
            self.explanation = self.tags.clone();
        }
    }
}

fn finding(target: &str, situation: &Situation<'_>) -> Finding {
    let explanation = situation.explanation;
    let mut subject = serde_json::Map::new();
    let mut fact = |name: &str, value: f64| {
        subject.insert(name.to_owned(), json!((value * 10.0).round() / 10.0 + 0.0));
    };
    fact("sessions", situation.now);
    fact("expected", situation.band.expected);
    fact("upper", situation.band.upper);
    fact("peak", situation.climb.peak());
    fact("extra_in_database", explanation.extra);
    fact("extra_waiting_in_poolers", explanation.waiting);
    fact("extra_waiting_for_locks", explanation.lock_waits);
    fact("extra_untagged", explanation.untagged);
    subject.extend(account::subject(situation.because));
    Finding {
        kind: Kind::ConnectionAvalanche,
        key: String::new(),
        severity: Kind::ConnectionAvalanche.severity(),
        cause: Some(situation.because.cause()),
        onset_at: situation.alarm.onset_at,
        subject,
        summary: account::summary(target, situation),
        attribution: situation.because.attribution(&explanation.candidates),
        unexplained_share: explanation.unexplained_share,
        evidence: account::evidence(situation),
        actions: account::actions(situation),
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

#[cfg(test)]
mod tests;
