//! What has been told as the cause, so that the record can say when later
//! evidence changed the answer.

use super::because::Because;
use crate::engine::correlate::attribution::{Basis, Explanation};
use crate::engine::correlate::endpoints::Evidence;
use crate::engine::incident::{Cause, Finding};
use crate::engine::words;
use crate::sample::UnixSeconds;

/// The first answer and the newest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    first: Option<String>,
    newest: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    since: UnixSeconds,
    told: String,
    /// What made the difference, where that is known.
    when: Option<&'static str>,
}

impl Answers {
    /// Goes on with what was told in an earlier life of the program.
    pub fn resume(finding: &Finding) -> Self {
        let route = finding.attribution.first();
        let told = match (finding.cause, route) {
            (Some(Cause::Endpoint), Some(first)) => words::name(&first.route),
            (Some(cause), _) => cause.as_str().to_owned(),
            (None, _) => return Self::default(),
        };
        Self {
            first: Some(told),
            newest: None,
        }
    }

    /// Takes in what is told at `t`.
    pub fn note(&mut self, t: UnixSeconds, because: &Because, explanation: &Explanation) {
        let first = explanation.candidates.first();
        let told = match (because, first) {
            (Because::Endpoint, Some(first)) => words::name(&first.attribution.route),
            (Because::Application(grown), _) => {
                format!("application {}", words::name(&grown.application))
            }
            _ => because.cause().as_str().to_owned(),
        };
        if self.first.is_none() {
            self.first = Some(told);
            return;
        }
        let current = self.newest.as_ref().map(|newest| &newest.told);
        if current.or(self.first.as_ref()) == Some(&told) {
            return;
        }
        let basis = first.map(|first| first.basis);
        let when = match (because, basis) {
            (Because::Endpoint, Some(Basis::Tags)) => Some("route tags showed it"),
            (Because::Endpoint, Some(Basis::Requests(evidence))) => Some(match evidence {
                Evidence::DatabaseTime => "traces came in",
                Evidence::InFlight => "the gauge of running requests came in",
                Evidence::Completed => "request counts came in",
            }),
            _ => None,
        };
        self.newest = Some(Answer {
            since: t,
            told,
            when,
        });
    }

    /// `first told as unknown; GET /x since 06:12:33 UTC, when request counts
    /// came in`; `None` while the first answer stands.
    pub fn sentence(&self) -> Option<String> {
        let (first, newest) = (self.first.as_ref()?, self.newest.as_ref()?);
        let when = newest
            .when
            .map_or_else(String::new, |when| format!(", when {when}"));
        let since = words::utc(newest.since, "%H:%M:%S UTC");
        Some(format!(
            "first told as {first}; {} since {since}{when}",
            newest.told
        ))
    }
}
