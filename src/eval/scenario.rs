//! A simulated incident and the truth about it.
//!
//! Invariants: a scenario depends on its family and its seed alone; its samples
//! come in the order of `t`; what [`Evidence`] leaves out of them cannot be
//! worked out from the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::simulate::frame::{Frame, Naming};
use crate::engine::Settings;
use crate::engine::traffic::RouteKey;
use crate::sample::{Sample, UnixSeconds};

/// What kind of incident is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// A slow endpoint with at most 3 % of the requests gets more of them.
    RareHeavyEndpoint,
    /// An endpoint with a middling part of the traffic gets more requests.
    MidsizeSurge,
    /// An endpoint's time in the database goes up at an unchanged rate.
    HoldUp,
    /// The same on an endpoint with at most 1 % of the requests.
    RareHoldUp,
    /// Harmless endpoints rise at the same time.
    Confounded,
    /// A whole user journey rises; one step of it holds most of the sessions.
    Flow,
    /// Requests that take 8 to 40 seconds.
    LongHolds,
    /// An endpoint gets slow, and its clients time out and try again.
    RetryStorm,
    /// An endpoint that was never called before.
    NewEndpoint,
    /// The traffic reports come 15 to 45 seconds late.
    LateData,
    /// Two endpoints at once; either may be named first.
    TwoCulprits,
    /// Endpoints that do not use the database get slow at the same time.
    HarmlessSlow,
    /// 0.5 to 0.9 of the base on top.
    WeakSpike,
    /// Sessions wait for a lock of one session.
    LockPileup,
    /// Every statement takes longer.
    SlowDatabase,
    /// Every endpoint gets more requests.
    BroadSurge,
    /// A batch job without routes.
    OtherApplication,
    /// An endpoint that no report and no tag tells of.
    UnreportedEndpoint,
    /// A deployment opens all connections anew, again and again.
    ReconnectStormAfterDeploy,
    /// Sessions are taken and not given back.
    Leak,
    /// Nothing happens but everyday life.
    Quiet,
}

impl Family {
    pub const ALL: [Self; 21] = [
        Self::RareHeavyEndpoint,
        Self::MidsizeSurge,
        Self::HoldUp,
        Self::RareHoldUp,
        Self::Confounded,
        Self::Flow,
        Self::LongHolds,
        Self::RetryStorm,
        Self::NewEndpoint,
        Self::LateData,
        Self::TwoCulprits,
        Self::HarmlessSlow,
        Self::WeakSpike,
        Self::LockPileup,
        Self::SlowDatabase,
        Self::BroadSurge,
        Self::OtherApplication,
        Self::UnreportedEndpoint,
        Self::ReconnectStormAfterDeploy,
        Self::Leak,
        Self::Quiet,
    ];

    /// The word on the command line and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RareHeavyEndpoint => "rare_heavy_endpoint",
            Self::MidsizeSurge => "midsize_surge",
            Self::HoldUp => "hold_up",
            Self::RareHoldUp => "rare_hold_up",
            Self::Confounded => "confounded",
            Self::Flow => "flow",
            Self::LongHolds => "long_holds",
            Self::RetryStorm => "retry_storm",
            Self::NewEndpoint => "new_endpoint",
            Self::LateData => "late_data",
            Self::TwoCulprits => "two_culprits",
            Self::HarmlessSlow => "harmless_slow",
            Self::WeakSpike => "weak_spike",
            Self::LockPileup => "lock_pileup",
            Self::SlowDatabase => "slow_database",
            Self::BroadSurge => "broad_surge",
            Self::OtherApplication => "other_application",
            Self::UnreportedEndpoint => "unreported_endpoint",
            Self::ReconnectStormAfterDeploy => "reconnect_storm_after_deploy",
            Self::Leak => "leak",
            Self::Quiet => "quiet",
        }
    }

    /// An endpoint is to blame, and could be named.
    pub fn has_culprit(self) -> bool {
        !matches!(
            self,
            Self::LockPileup
                | Self::SlowDatabase
                | Self::BroadSurge
                | Self::OtherApplication
                | Self::UnreportedEndpoint
                | Self::ReconnectStormAfterDeploy
                | Self::Leak
                | Self::Quiet
        )
    }

    /// Kinds of incident of which one must be declared; none in quiet times.
    pub fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Quiet => &[],
            Self::LockPileup => &["lock_pileup", "connection_avalanche"],
            Self::SlowDatabase => &["connection_avalanche", "excessive_latency"],
            Self::ReconnectStormAfterDeploy => &["reconnect_storm", "connection_avalanche"],
            Self::Leak => &["connection_leak", "connection_avalanche"],
            _ => &["connection_avalanche"],
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no family {word:?}; the families are: {}", names())]
pub struct NoFamily {
    pub word: String,
}

fn names() -> String {
    Family::ALL.map(Family::as_str).join(", ")
}

impl FromStr for Family {
    type Err = NoFamily;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|family| family.as_str() == word)
            .ok_or_else(|| NoFamily {
                word: word.to_owned(),
            })
    }
}

/// What the engine should say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    Endpoint,
    /// This `application_name`.
    Application(String),
    LockPileup,
    SlowQueries,
    BroadSurge,
    ReconnectStorm,
    Leak,
    /// There is a rise, and nothing that is reported explains it.
    Unknown,
    /// There is no incident.
    Quiet,
}

/// An endpoint that is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    pub service: String,
    /// As the service itself reports it.
    pub route: String,
}

impl Culprit {
    /// Whether an attribution means this endpoint, in whatever style the route
    /// is written.
    pub fn is(&self, service: &str, route: &str) -> bool {
        self.service == service && RouteKey::of(&self.route).meets(&RouteKey::of(route))
    }
}

/// What really happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// When the disturbance began. `None`: there is none.
    pub onset: Option<UnixSeconds>,
    /// When it was over, or the end of the samples.
    pub until: UnixSeconds,
    /// The sessions stepped up within a few seconds of the onset; such onsets
    /// count for the delay.
    pub step: bool,
    /// Sessions in use and clients waiting before it, the mean.
    pub base: f64,
    /// What came on top of it at the plateau, the mean, as it was measured in
    /// the simulation. Of a reconnect storm and a leak: all client backends.
    pub size: f64,
    /// The endpoints to blame, the heaviest first; empty when none is.
    pub culprits: Vec<Culprit>,
    pub cause: Blame,
}

impl Truth {
    /// Whether naming this route would be right.
    pub fn blames(&self, service: &str, route: &str) -> bool {
        let mut culprits = self.culprits.iter();
        culprits.any(|culprit| culprit.is(service, route))
    }
}

/// A simulated incident.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub family: Family,
    pub seed: u64,
    pub truth: Truth,
    /// What a capture's header says.
    pub settings: Settings,
    pub(super) naming: Naming,
    pub(super) frames: Vec<Frame>,
}

impl Scenario {
    /// Times of the first and the last sample.
    pub fn span(&self) -> (UnixSeconds, UnixSeconds) {
        let first = self.frames.first().map_or(0.0, |frame| frame.t);
        let last = self.frames.last().map_or(first, |frame| frame.t);
        (first, last)
    }

    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// What the applications tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Counts and durations of requests that ended.
    Requests,
    /// The same, and each session's route tag with a chance of a half or more.
    HalfTags,
    /// Counts, durations, and a gauge of running requests.
    Gauge,
    /// Counts, durations, and the route tag of every session.
    AllTags,
}

impl Evidence {
    pub const ALL: [Self; 4] = [Self::Requests, Self::HalfTags, Self::Gauge, Self::AllTags];

    /// The word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::HalfTags => "half_tags",
            Self::Gauge => "gauge",
            Self::AllTags => "all_tags",
        }
    }

    /// The samples with this evidence and no other, in the order of `t`.
    pub fn restrict(self, scenario: &Scenario) -> impl Iterator<Item = Sample> + '_ {
        let frames = scenario.frames.iter();
        frames.map(move |frame| frame.sample(&scenario.naming, self))
    }
}

/// Simulates an incident. The same family and seed give the same scenario.
pub fn scenario(family: Family, seed: u64) -> Scenario {
    super::simulate::simulate(family, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_go_by_their_words() {
        for family in Family::ALL {
            assert_eq!(family.as_str().parse(), Ok(family));
            let json = serde_json::to_string(&family).unwrap();
            assert_eq!(json, format!("\"{family}\""));
        }
        let told = "avalanche".parse::<Family>().unwrap_err().to_string();
        assert!(told.contains("rare_heavy_endpoint"), "{told}");
    }

    #[test]
    fn a_culprit_is_known_in_any_style() {
        let culprit = Culprit {
            service: "shop".into(),
            route: "GET /carts/{id}".into(),
        };
        assert!(culprit.is("shop", "/carts/:cart"));
        assert!(!culprit.is("shop", "POST /carts/{id}"));
        assert!(!culprit.is("billing", "GET /carts/{id}"));
    }
}
