//! What must be said of a staged incident, and whether it was.
//!
//! Kinds and causes are compared by the words of the contract, as an operator
//! reads them. The daemon knows nothing of this.

use crate::engine::incident::{Incident, Kind};

/// The word of the contract for an avalanche's cause that is a route.
const ENDPOINT: &str = "endpoint";
/// The cause of which nothing is claimed.
const UNKNOWN: &str = "unknown";

/// What must be said.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// The right cause of a `connection_avalanche`.
    pub(super) cause: &'static str,
    /// Another kind that tells the same, if there is one.
    pub(super) kind: Option<&'static str>,
    /// Kinds that may be told beside it, because they are true as well.
    pub(super) companions: &'static [&'static str],
    pub(super) culprit: Culprit,
}

/// Who is to blame.
#[derive(Debug, Clone)]
pub(super) enum Culprit {
    /// A route of the application, or several: the first named must be one of
    /// them, and all of them among the first so many.
    Routes(Vec<String>),
    /// An application, by its name.
    Application(&'static str),
    /// The session at the root of a queue.
    Session { pid: i32, application: &'static str },
    /// Nobody: no route may be named.
    Nobody,
}

/// What the open incidents say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Said {
    /// The cause is told, and no other.
    pub(super) cause: bool,
    /// The culprit is named, and nobody else.
    pub(super) name: bool,
    /// A route was named that is none of the culprits.
    pub(super) accused: Option<String>,
    /// What is said: kind, cause and name.
    pub(super) words: String,
}

impl Expected {
    /// The incident tells of what was staged.
    pub(super) fn is_about(&self, incident: &Incident) -> bool {
        incident.kind == Kind::ConnectionAvalanche || self.kind == Some(incident.kind.as_str())
    }

    /// The incident is true as well.
    pub(super) fn allows(&self, incident: &Incident) -> bool {
        self.is_about(incident) || self.companions.contains(&incident.kind.as_str())
    }

    /// Judges the incidents that are open.
    pub(super) fn judge<'a>(&self, open: impl Iterator<Item = &'a Incident>) -> Said {
        let mut said = Said::default();
        let mut other_cause = false;
        for incident in open.filter(|incident| self.is_about(incident)) {
            let cause = incident.cause.map_or("", |cause| cause.as_str());
            let right = match incident.kind {
                Kind::ConnectionAvalanche => cause == self.cause,
                _ => true,
            };
            other_cause |= !right && cause != UNKNOWN;
            said.cause |= right;
            if cause == ENDPOINT && !self.names_a_culprit(incident) {
                said.accused = first_route(incident);
            }
            said.name |= right && self.names(incident);
            if !said.words.is_empty() {
                said.words.push_str("; ");
            }
            said.words.push_str(&words(incident));
        }
        said.cause &= !other_cause;
        said.name &= said.cause && said.accused.is_none();
        said
    }

    fn names_a_culprit(&self, incident: &Incident) -> bool {
        let Culprit::Routes(routes) = &self.culprit else {
            return false;
        };
        first_route(incident).is_some_and(|first| routes.contains(&first))
    }

    fn names(&self, incident: &Incident) -> bool {
        match &self.culprit {
            Culprit::Routes(routes) => {
                let mut first = incident.attribution.iter().take(routes.len());
                first.len() == routes.len()
                    && first.all(|candidate| routes.contains(&candidate.route))
            }
            Culprit::Application(name) => tells(incident, name),
            Culprit::Session { pid, application } => {
                tells(incident, &pid.to_string()) || tells(incident, application)
            }
            Culprit::Nobody => true,
        }
    }
}

/// The summary or the subject has this word.
fn tells(incident: &Incident, word: &str) -> bool {
    let subject = serde_json::Value::Object(incident.subject.clone()).to_string();
    [incident.summary.as_str(), &subject].iter().any(|text| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
            .any(|part| part == word)
    })
}

fn first_route(incident: &Incident) -> Option<String> {
    let first = incident.attribution.first()?;
    Some(first.route.clone())
}

/// Kind, cause and what is named, for people.
fn words(incident: &Incident) -> String {
    let mut words = incident.kind.as_str().to_owned();
    if let Some(cause) = incident.cause {
        words += &format!(" ({})", cause.as_str());
        if cause.as_str() == ENDPOINT
            && let Some(first) = incident.attribution.first()
        {
            words += &format!(" {}, {:.2}", first.route, first.confidence);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::incident::{Attribution, Cause, Severity};

    fn incident(kind: Kind, cause: Option<Cause>, routes: &[&str], summary: &str) -> Incident {
        let candidate = |route: &&str| Attribution {
            service: "registry".into(),
            route: (*route).into(),
            share: 0.9,
            connections: 20.0,
            rate_change: None,
            hold_change: None,
            rate_part: None,
            hold_part: None,
            confidence: 0.9,
        };
        Incident {
            id: "1".into(),
            target: "main".into(),
            kind,
            severity: Severity::Critical,
            cause,
            onset_at: 0.0,
            opened_at: 0.0,
            resolved_at: None,
            subject: serde_json::Map::new(),
            summary: summary.into(),
            attribution: routes.iter().map(candidate).collect(),
            unexplained_share: None,
            evidence: Vec::new(),
            actions: Vec::new(),
            runbook: kind.as_str().into(),
        }
    }

    fn two_routes() -> Expected {
        Expected {
            cause: ENDPOINT,
            kind: None,
            companions: &[],
            culprit: Culprit::Routes(vec!["GET /a".into(), "GET /b".into()]),
        }
    }

    #[test]
    fn both_culprits_must_be_first() {
        let avalanche = |routes: &[&str]| {
            let said = incident(
                Kind::ConnectionAvalanche,
                Some(Cause::Endpoint),
                routes,
                "connections",
            );
            two_routes().judge([said].iter())
        };
        assert!(avalanche(&["GET /b", "GET /a", "GET /c"]).name);
        let half = avalanche(&["GET /b", "GET /c"]);
        assert!(half.cause && !half.name && half.accused.is_none());
        let wrong = avalanche(&["GET /c", "GET /a"]);
        assert!(!wrong.name);
        assert_eq!(wrong.accused.as_deref(), Some("GET /c"));
    }

    #[test]
    fn a_route_named_where_none_is_to_blame_is_wrong() {
        let expected = Expected {
            cause: "lock_pileup",
            kind: Some("lock_pileup"),
            companions: &["pool_saturation"],
            culprit: Culprit::Session {
                pid: 4711,
                application: "backfill",
            },
        };
        let pileup = incident(Kind::LockPileup, None, &[], "12 wait for pid 4711 (idle)");
        let unsure = incident(
            Kind::ConnectionAvalanche,
            Some(Cause::Unknown),
            &["GET /a"],
            "",
        );
        let accusing = incident(
            Kind::ConnectionAvalanche,
            Some(Cause::Endpoint),
            &["GET /a"],
            "",
        );
        let full = incident(Kind::PoolSaturation, None, &[], "backfill");
        let right = expected.judge([&pileup, &unsure, &full].into_iter());
        assert!(right.cause && right.name, "{right:?}");
        let wrong = expected.judge([&pileup, &accusing].into_iter());
        assert!(!wrong.cause && !wrong.name, "{wrong:?}");
        assert_eq!(wrong.accused.as_deref(), Some("GET /a"));
        assert_eq!(expected.judge([&full].into_iter()), Said::default());
    }

    #[test]
    fn a_word_is_a_whole_word() {
        let said = incident(Kind::LockPileup, None, &[], "pid 471, the backfills");
        assert!(tells(&said, "471") && !tells(&said, "47") && !tells(&said, "backfill"));
    }
}
