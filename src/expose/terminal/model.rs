//! All that is known and shown: what the API answered, and where somebody looks.
//!
//! Pure: time is given, nothing is asked here. `questions` says what is to be
//! known for the view that is looked at, `take` takes what was answered, `press`
//! a key.
//! Invariant: bounded; what the API answers replaces what it answered before.

mod charts;
mod moves;
mod questions;

use std::collections::BTreeMap;

use super::answers::{
    Advisories, Changes, Incident, Incidents, Locks, Now, Routes, Series, Target,
};
use super::palette::Palette;
use crate::sample::UnixSeconds;
pub(super) use moves::Outcome;
pub(super) use questions::{Fact, Quantity, Question, Slot, first};

/// Values kept of each server for its small chart, one a look.
const RECENT: usize = 900;

/// What the small chart of a server begins with, seconds.
const PAST: f64 = 900.0;

/// From this age on the newest answer is not live, seconds. The page has the same.
const SILENCE: f64 = 12.0;

/// The longest filter.
const FILTER: usize = 200;

/// The views, in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Now,
    Incident,
    Locks,
    Routes,
    History,
}

impl Place {
    pub(super) const ALL: [Self; 5] = [
        Self::Now,
        Self::Incident,
        Self::Locks,
        Self::Routes,
        Self::History,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Now => "Now",
            Self::Incident => "Incident",
            Self::Locks => "Locks",
            Self::Routes => "Routes",
            Self::History => "History",
        }
    }
}

/// What can be pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Incident(String),
    Target(String),
    /// Server, and pid or name of a prepared transaction.
    Root(String, String),
    /// Server, and what tells the lock from others there.
    Advisory(String, String),
    /// Service and route.
    Route(String, String),
}

/// What lies over a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    Help,
    Whole(Subject),
}

/// Whether the daemon answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Link {
    Waiting,
    Live,
    /// Since the last answer, by our own clock; and what is wrong.
    Stale {
        since: UnixSeconds,
        why: String,
    },
}

/// The newest answer to a question, and what went wrong since.
#[derive(Debug, Clone)]
pub(super) struct Known<T> {
    pub data: Option<T>,
    pub error: Option<String>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            data: None,
            error: None,
        }
    }
}

impl<T> Known<T> {
    fn take(&mut self, data: T) {
        self.data = Some(data);
        self.error = None;
    }
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) palette: Palette,
    /// Who is asked, without a secret.
    pub(super) source: String,
    pub(super) place: Place,
    link: Link,
    /// The server's clock minus ours.
    skew: f64,
    heard_at: Option<UnixSeconds>,
    pub(super) now: Option<Now>,
    recent: BTreeMap<String, Vec<(UnixSeconds, f64)>>,
    /// Before we began to look, by quantity.
    before: BTreeMap<Quantity, Series>,
    began: Option<UnixSeconds>,
    /// The incident that was opened; else the one that matters most.
    opened: Option<String>,
    /// The view that it was opened in.
    opened_in: Place,
    pub(super) incident: Known<Incident>,
    /// When it was answered, by our clock.
    incident_at: UnixSeconds,
    pub(super) changes: Known<Changes>,
    charts: BTreeMap<Quantity, Series>,
    pub(super) chart_error: Option<String>,
    pub(super) locks: Known<Locks>,
    pub(super) advisory: Known<Advisories>,
    pub(super) routes: Known<Routes>,
    pub(super) history: Known<Incidents>,
    pub(super) filter: String,
    pub(super) typing: bool,
    /// Which order of the view; 0 is the usual one.
    pub(super) sort: usize,
    /// Since when nothing is asked.
    pub(super) paused: Option<UnixSeconds>,
    pub(super) over: Option<Over>,
    pub(super) pointed: Option<Subject>,
    /// The first line that is shown, by page; of what lies over, the last.
    pub(super) tops: [usize; 3],
}

impl Model {
    /// Nothing is known yet. `source` is shown as it is.
    pub fn new(source: String, palette: Palette) -> Self {
        Self {
            palette,
            source,
            place: Place::Now,
            link: Link::Waiting,
            skew: 0.0,
            heard_at: None,
            now: None,
            recent: BTreeMap::new(),
            before: BTreeMap::new(),
            began: None,
            opened: None,
            opened_in: Place::Now,
            incident: Known::default(),
            incident_at: 0.0,
            changes: Known::default(),
            charts: BTreeMap::new(),
            chart_error: None,
            locks: Known::default(),
            advisory: Known::default(),
            routes: Known::default(),
            history: Known::default(),
            filter: String::new(),
            typing: false,
            sort: 0,
            paused: None,
            over: None,
            pointed: None,
            tops: [0; 3],
        }
    }

    /// The time at the server. While it is paused, that of the pause.
    pub(super) fn server_now(&self, now: UnixSeconds) -> UnixSeconds {
        self.paused.unwrap_or(now) + self.skew
    }

    /// Whether the daemon answers: silence is no life, whoever is to blame.
    pub(super) fn link(&self, now: UnixSeconds) -> Link {
        match (&self.link, self.heard_at) {
            (Link::Live, Some(since)) if now - since > SILENCE => Link::Stale {
                since,
                why: format!("no answer for {SILENCE} s"),
            },
            (link, _) => link.clone(),
        }
    }

    /// The time at the server up to which the incident is known: `now`, and once
    /// it is refused that of the last answer.
    pub(super) fn incident_time(&self, now: UnixSeconds) -> UnixSeconds {
        match &self.incident.error {
            Some(_) => now.min(self.incident_at + self.skew),
            None => now,
        }
    }

    /// Whether what is looked at has the words of the filter.
    pub(super) fn passes(&self, texts: &[&str]) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let all = texts.join(" ").to_lowercase();
        let filter = self.filter.to_lowercase();
        filter.split_whitespace().all(|word| all.contains(word))
    }

    /// Takes an answer that came at `now`, by our clock.
    pub(super) fn take(&mut self, fact: Fact, now: UnixSeconds) {
        match fact {
            Fact::Now(answer) => self.take_now(*answer, now),
            Fact::Before(quantity, series) => {
                self.before.insert(quantity, series);
            }
            Fact::Chart(quantity, about, series) => {
                if self.wanted_incident() == Some(&about) {
                    self.chart_error = None;
                    self.charts.insert(quantity, series);
                }
            }
            Fact::Incident(answer) => {
                if self.wanted_incident() == Some(&answer.id) {
                    self.incident.take(*answer);
                    self.incident_at = now;
                }
            }
            Fact::Changes(about, answer) => {
                if self.wanted_incident() == Some(&about) {
                    self.changes.take(answer);
                }
            }
            Fact::Locks(answer) => self.locks.take(answer),
            Fact::Advisory(answer) => self.advisory.take(answer),
            Fact::Routes(answer) => self.routes.take(answer),
            Fact::History(answer) => self.history.take(answer),
            Fact::Failed(slot, why) => self.take_failure(slot, why, now),
        }
    }

    fn take_now(&mut self, answer: Now, now: UnixSeconds) {
        self.link = Link::Live;
        self.heard_at = Some(now);
        self.skew = answer.served_at - now;
        self.began.get_or_insert(answer.at);
        for target in &answer.targets {
            self.remember(target);
        }
        let names: Vec<&String> = answer.targets.iter().map(|target| &target.name).collect();
        self.recent.retain(|name, _| names.contains(&name));
        let wanted = self.wanted_incident().cloned();
        self.now = Some(answer);
        if self.wanted_incident() != wanted.as_ref() {
            self.forget_incident();
        }
    }

    fn remember(&mut self, target: &Target) {
        let (Some(at), Some(value), true) = (target.at, target.watched(), target.fresh) else {
            return;
        };
        let values = self.recent.entry(target.name.clone()).or_default();
        if values.last().is_none_or(|(last, _)| *last < at) {
            values.push((at, value));
        }
        let surplus = values.len().saturating_sub(RECENT);
        values.drain(..surplus);
    }

    fn take_failure(&mut self, slot: Slot, why: String, now: UnixSeconds) {
        match slot {
            Slot::Now => {
                let since = self.heard_at.unwrap_or(now);
                self.link = Link::Stale { since, why };
            }
            Slot::Incident => self.incident.error = Some(why),
            Slot::Changes => self.changes.error = Some(why),
            Slot::Chart(_) => self.chart_error = Some(why),
            Slot::Locks => self.locks.error = Some(why),
            Slot::Advisory => self.advisory.error = Some(why),
            Slot::Routes => self.routes.error = Some(why),
            Slot::History => self.history.error = Some(why),
            // The small charts begin later then.
            Slot::Before(_) => {}
        }
    }

    /// The incident of its view: the one that was opened, else the first of the
    /// open ones.
    pub(super) fn wanted_incident(&self) -> Option<&String> {
        let first = || Some(&self.now.as_ref()?.incidents.first()?.id);
        self.opened.as_ref().or_else(first)
    }

    fn forget_incident(&mut self) {
        self.incident = Known::default();
        self.changes = Known::default();
        self.charts.clear();
        self.chart_error = None;
    }

    /// The target that was pointed at.
    pub(super) fn target(&self, name: &str) -> Option<&Target> {
        let targets = &self.now.as_ref()?.targets;
        targets.iter().find(|target| target.name == name)
    }
}
