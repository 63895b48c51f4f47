//! What is to be asked for the view that is looked at, and what an answer is.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Model, PAST, Place};
use crate::expose::terminal::answers::{
    Advisories, Changes, Incident, Incidents, Locks, Now, Routes, Series,
};
use crate::sample::UnixSeconds;

/// Shown of an incident before its onset and after its end, seconds.
const BEFORE: f64 = 600.0;
const AFTER: f64 = 300.0;
/// Points of a chart: a wide terminal has as many columns.
const POINTS: f64 = 160.0;
/// Waiters told of one root blocker.
const NODES: usize = 200;

/// Sessions come and go every second; who looks at locks wants to see it.
const OFTEN: Duration = Duration::from_secs(1);
const SOMETIMES: Duration = Duration::from_secs(2);
/// What is behind a chart or a list changes slowly.
const RARELY: Duration = Duration::from_secs(5);
/// The past does not change: asked again only when it was not answered.
const ONCE: Duration = Duration::from_secs(120);

/// What a series is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::expose::terminal) enum Quantity {
    InUse,
    Waiting,
    Upper,
    Locks,
    Routes,
    Untagged,
}

impl Quantity {
    const ALL: [Self; 6] = [
        Self::InUse,
        Self::Waiting,
        Self::Upper,
        Self::Locks,
        Self::Routes,
        Self::Untagged,
    ];

    /// Name of the series, and how values of a step become one.
    fn series(self) -> (&'static str, &'static str) {
        match self {
            Self::InUse => ("snowpit_sessions_in_use", "max"),
            Self::Waiting => ("snowpit_clients_waiting", "max"),
            Self::Upper => ("snowpit_connections_upper", "last"),
            Self::Locks => ("snowpit_sessions_waiting_for_lock", "max"),
            Self::Routes => ("snowpit_route_connections", "mean"),
            Self::Untagged => ("snowpit_untagged_connections", "mean"),
        }
    }
}

/// Which part of the model an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::expose::terminal) enum Slot {
    Now,
    Before(Quantity),
    Incident,
    Changes,
    Chart(Quantity),
    Locks,
    Advisory,
    Routes,
    History,
}

/// Something to be asked now and again.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::expose::terminal) struct Question {
    pub slot: Slot,
    /// The incident that it is about; empty for all others.
    pub about: String,
    pub path: String,
    pub every: Duration,
}

/// An answer that was understood.
#[derive(Debug, Clone)]
pub(in crate::expose::terminal) enum Fact {
    Now(Box<Now>),
    Before(Quantity, Series),
    Incident(Box<Incident>),
    Changes(String, Changes),
    Chart(Quantity, String, Series),
    Locks(Locks),
    Advisory(Advisories),
    Routes(Routes),
    History(Incidents),
    Failed(Slot, String),
}

impl Question {
    fn new(slot: Slot, path: impl Into<String>, every: Duration) -> Self {
        Self {
            slot,
            about: String::new(),
            path: path.into(),
            every,
        }
    }

    /// # Errors
    /// The answer is not JSON, or not such an answer.
    pub(in crate::expose::terminal) fn read(&self, body: &[u8]) -> Result<Fact, serde_json::Error> {
        let about = self.about.clone();
        Ok(match self.slot {
            Slot::Now => {
                let now: Box<Now> = serde_json::from_slice(body)?;
                // Whatever else answers with an object must not look calm.
                if now.version.is_empty() {
                    return Err(serde::de::Error::custom("it has no version"));
                }
                Fact::Now(now)
            }
            Slot::Before(quantity) => Fact::Before(quantity, serde_json::from_slice(body)?),
            Slot::Incident => Fact::Incident(serde_json::from_slice(body)?),
            Slot::Changes => Fact::Changes(about, serde_json::from_slice(body)?),
            Slot::Chart(quantity) => Fact::Chart(quantity, about, serde_json::from_slice(body)?),
            Slot::Locks => Fact::Locks(serde_json::from_slice(body)?),
            Slot::Advisory => Fact::Advisory(serde_json::from_slice(body)?),
            Slot::Routes => Fact::Routes(serde_json::from_slice(body)?),
            Slot::History => Fact::History(serde_json::from_slice(body)?),
        })
    }
}

/// The first question of all: whether somebody answers.
pub(in crate::expose::terminal) fn first() -> Question {
    Question::new(Slot::Now, "/api/v1/now", OFTEN)
}

impl Model {
    /// What is to be known for what is looked at; nothing while it is paused.
    pub(in crate::expose::terminal) fn questions(&self, now: UnixSeconds) -> Vec<Question> {
        if self.paused.is_some() {
            return Vec::new();
        }
        let mut all = vec![first()];
        match self.place {
            Place::Now => all.extend(self.before()),
            Place::Incident => all.extend(self.of_incident(now)),
            Place::Locks => {
                let path = format!("/api/v1/locks?nodes={NODES}");
                all.push(Question::new(Slot::Locks, path, OFTEN));
                all.push(Question::new(
                    Slot::Advisory,
                    "/api/v1/advisory-locks",
                    OFTEN,
                ));
            }
            Place::Routes => all.push(Question::new(Slot::Routes, "/api/v1/routes", SOMETIMES)),
            Place::History => all.push(Question::new(Slot::History, "/api/v1/incidents", RARELY)),
        }
        all
    }

    /// The time before we began to look.
    fn before(&self) -> Vec<Question> {
        let Some(began) = self.began else {
            return Vec::new();
        };
        [Quantity::InUse, Quantity::Waiting]
            .into_iter()
            .filter(|quantity| !self.before.contains_key(quantity))
            .map(|quantity| {
                let (name, _) = quantity.series();
                let (start, end) = ((began - PAST).floor(), began.ceil());
                let path = format!(
                    "/api/v1/series?match={name}&start={start}&end={end}&step=10&aggregate=mean"
                );
                Question::new(Slot::Before(quantity), path, ONCE)
            })
            .collect()
    }

    fn of_incident(&self, now: UnixSeconds) -> Vec<Question> {
        let Some(id) = self.wanted_incident() else {
            return Vec::new();
        };
        let path = format!(
            "/api/v1/incidents/{}",
            utf8_percent_encode(id, NON_ALPHANUMERIC)
        );
        let mut all = vec![
            Question::new(Slot::Incident, &path, OFTEN),
            Question::new(Slot::Changes, format!("{path}/changes"), RARELY),
        ];
        if let Some(one) = &self.incident.data {
            let now = self.server_now(now);
            let end = one.resolved_at.map_or(now, |over| (over + AFTER).min(now));
            let step = ((end - one.onset_at + BEFORE) / POINTS).ceil().max(1.0);
            let start = ((one.onset_at - BEFORE) / step).floor() * step;
            // As a selector has it: a JSON string is one.
            let target = serde_json::Value::from(one.target.as_str()).to_string();
            for quantity in Quantity::ALL {
                let (name, aggregate) = quantity.series();
                let selector = format!("{name}{{target={target}}}");
                let selector = utf8_percent_encode(&selector, NON_ALPHANUMERIC);
                let path = format!(
                    "/api/v1/series?match={selector}&start={start}&end={}&step={step}&aggregate={aggregate}",
                    end.ceil()
                );
                all.push(Question::new(Slot::Chart(quantity), path, RARELY));
            }
        }
        for question in &mut all {
            question.about.clone_from(id);
        }
        all
    }
}
