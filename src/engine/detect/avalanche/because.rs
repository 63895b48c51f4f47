//! Why sessions rose: the cause, with what a sentence about it needs.
//!
//! The order is the one of what a person can act on: an endpoint that the
//! attribution names; a lock; another application; sessions that are opened anew
//! or not given back; what all endpoints share. A lock goes before the
//! application, because who waits for a lock is not at work, whoever it is. What
//! is not clear is unknown, which is an answer.

use crate::engine::correlate::applications::Grown;
use crate::engine::correlate::attribution::{Candidate, Explanation, Verdict};
use crate::engine::correlate::endpoints::Weighing;
use crate::engine::correlate::endpoints::common::Common;
use crate::engine::detect::demand::Demand;
use crate::engine::detect::habits::{Leaking, Reconnecting, Signs};
use crate::engine::incident::{Attribution, Cause};
use crate::engine::locks::RootBlocker;

/// Above this part of the extra sessions in the database, those of another
/// application are the story.
const APPLICATION_PART: f64 = 0.5;

/// Above this part of the rise, what all endpoints share is the story.
const SHARED_PART: f64 = 0.35;

/// More requests for all are the story rather than slower ones from this ratio
/// of their parts on.
const SURGE_OVER_SLOW: f64 = 0.6;

/// What a route has at most, as confidence, beside a cause that is no route.
const BESIDE: f64 = 0.1;

/// A root blocker keeps its place in the account until another has this many
/// times its waiters: the account is not to flap between two.
const REPLACED_BY: u32 = 2;

/// The cause, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Because {
    Endpoint,
    Application(Grown),
    /// Behind the root blocker, where the lock table was read.
    LockPileup(Option<Blocker>),
    ReconnectStorm(Reconnecting),
    Leak(Leaking),
    BroadSurge(Shared),
    SlowQueries(Shared),
    Unknown,
}

impl Because {
    pub fn cause(&self) -> Cause {
        match self {
            Self::Endpoint => Cause::Endpoint,
            Self::Application(_) => Cause::Application,
            Self::LockPileup(_) => Cause::LockPileup,
            Self::ReconnectStorm(_) => Cause::ReconnectStorm,
            Self::Leak(_) => Cause::Leak,
            Self::BroadSurge(_) => Cause::BroadSurge,
            Self::SlowQueries(_) => Cause::SlowQueries,
            Self::Unknown => Cause::Unknown,
        }
    }

    /// The candidates as they are told beside it.
    pub fn attribution(&self, candidates: &[Candidate]) -> Vec<Attribution> {
        let most = match self {
            Self::Endpoint | Self::Unknown => 1.0,
            _ => BESIDE,
        };
        let candidates = candidates.iter().map(|candidate| Attribution {
            confidence: candidate.attribution.confidence.min(most),
            ..candidate.attribution.clone()
        });
        candidates.collect()
    }
}

/// What all endpoints share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    pub common: Common,
    /// The part of the rise that more requests for all explain, and the one of
    /// slower requests; `None` where no application tells of its endpoints.
    pub parts: Option<Parts>,
}

/// Parts of a rise, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    pub surge: f64,
    pub slow: f64,
}

impl Shared {
    /// `None` when nothing was told.
    pub fn of(weighing: &Weighing<'_>) -> Option<Self> {
        (weighing.known > 0).then_some(Self {
            common: weighing.common,
            parts: Some(Parts {
                surge: weighing.surge,
                slow: weighing.slow,
            }),
        })
    }

    /// By the route tags, which say that all grew by `growth`, and the poolers,
    /// which say whether for more transactions.
    fn of_tags(growth: f64, demand: &Demand) -> Option<Because> {
        let shared = |growth, slowdown| Self {
            common: Common {
                growth,
                slowdown,
                ..Common::default()
            },
            parts: None,
        };
        let asked = demand.growth()?;
        if asked - 1.0 >= SURGE_OVER_SLOW * (growth - 1.0) {
            return Some(Because::BroadSurge(shared(asked, 1.0)));
        }
        let is_slow = demand.is_flat() == Some(true) && growth > 1.0;
        is_slow.then(|| Because::SlowQueries(shared(1.0, growth)))
    }
}

/// The session that most of the waiters wait for.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    pub pid: Option<i32>,
    pub prepared: Option<String>,
    pub application: Option<String>,
    pub state: Option<String>,
    pub transaction_seconds: Option<f64>,
    pub waiters: u32,
    pub action: String,
}

impl Blocker {
    /// The one with most waiters, with some loyalty to the one told so far.
    pub fn of(roots: &[RootBlocker], so_far: Option<&Self>) -> Option<Self> {
        let most = roots.iter().max_by_key(|root| root.waiters)?;
        let same = roots.iter().find(|root| {
            so_far.is_some_and(|told| root.pid == told.pid && root.prepared == told.prepared)
        });
        let root = same
            .filter(|same| same.waiters.saturating_mul(REPLACED_BY) > most.waiters)
            .unwrap_or(most);
        Some(Self {
            pid: root.pid,
            prepared: root.prepared.clone(),
            application: root.application.clone(),
            state: root.state.clone(),
            transaction_seconds: root.transaction_seconds,
            waiters: root.waiters,
            action: root.action.clone(),
        })
    }
}

/// What the cause is read from.
#[derive(Debug, Clone, Copy)]
pub struct Clues<'a> {
    pub explanation: &'a Explanation,
    pub another: Option<&'a Grown>,
    pub shared: Option<Shared>,
    pub blocker: Option<&'a Blocker>,
    pub signs: &'a Signs,
}

impl Clues<'_> {
    /// The first cause that the clues allow.
    pub fn because(&self) -> Because {
        match self.explanation.verdict {
            Verdict::Endpoint => return Because::Endpoint,
            // Whatever all share now, there is nothing to hold it against.
            Verdict::NoBaseline => return Because::Unknown,
            Verdict::LockWaits => return Because::LockPileup(self.blocker.cloned()),
            _ => {}
        }
        let extra = self.explanation.extra;
        if let Some(grown) = self.another
            && grown.own > APPLICATION_PART * extra
        {
            return Because::Application(grown.clone());
        }
        if let Some(reconnecting) = &self.signs.reconnecting {
            return Because::ReconnectStorm(reconnecting.clone());
        }
        if let Some(leaking) = &self.signs.leaking {
            return Because::Leak(leaking.clone());
        }
        self.shared_by_all().unwrap_or(Because::Unknown)
    }

    fn shared_by_all(&self) -> Option<Because> {
        let Some((shared, parts)) = self.shared.and_then(|s| Some((s, s.parts?))) else {
            let tags_say_so = self.explanation.verdict == Verdict::BroadGrowth;
            let growth = self.explanation.growth;
            return tags_say_so
                .then(|| Shared::of_tags(growth, &self.signs.demand))
                .flatten();
        };
        if parts.surge >= SHARED_PART && parts.surge >= SURGE_OVER_SLOW * parts.slow {
            Some(Because::BroadSurge(shared))
        } else {
            (parts.slow >= SHARED_PART).then_some(Because::SlowQueries(shared))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::correlate::attribution::{Basis, Standing};
    use crate::engine::correlate::confidence;

    fn root(pid: i32, waiters: u32) -> RootBlocker {
        RootBlocker {
            pid: Some(pid),
            waiters,
            ..RootBlocker::default()
        }
    }

    #[test]
    fn the_blocker_does_not_flap_between_two_alike() {
        let roots = [root(1, 5), root(2, 6)];
        let first = Blocker::of(&roots, None).unwrap();
        assert_eq!(first.pid, Some(2));
        let second = Blocker::of(&[root(1, 7), root(2, 6)], Some(&first)).unwrap();
        assert_eq!(second.pid, Some(2));
        let third = Blocker::of(&[root(1, 12), root(2, 6)], Some(&second)).unwrap();
        assert_eq!(third.pid, Some(1));
        assert_eq!(Blocker::of(&[], Some(&third)), None);
    }

    fn explanation(verdict: Verdict, growth: f64) -> Explanation {
        Explanation {
            verdict,
            candidates: Vec::new(),
            extra: 40.0,
            rise: 40.0,
            waiting: 0.0,
            lock_waits: 0.0,
            untagged: 0.0,
            growth,
            unexplained_share: None,
        }
    }

    #[test]
    fn a_route_has_little_confidence_beside_another_cause() {
        let candidate = Candidate {
            attribution: Attribution {
                service: "registry".to_owned(),
                route: "GET /x".to_owned(),
                share: 0.4,
                connections: 16.0,
                rate_change: None,
                hold_change: None,
                rate_part: None,
                hold_part: None,
                confidence: 0.7,
            },
            before: 0.0,
            now: 16.0,
            basis: Basis::Tags,
            flow: None,
            standing: Standing::Tags(confidence::Standing {
                share: 0.4,
                margin: 1.0,
                z: 9.0,
                untagged: 0.0,
                surge: 0.0,
                lock_waits: 0.9,
            }),
        };
        let told = |because: Because| because.attribution(std::slice::from_ref(&candidate));
        assert_eq!(told(Because::LockPileup(None))[0].confidence, BESIDE);
        assert_eq!(told(Because::Unknown)[0].confidence, 0.7);
    }

    fn verdict(surge: f64, slow: f64) -> Cause {
        let explanation = explanation(Verdict::NoClearLead, 1.0);
        let shared = Shared {
            common: Common::default(),
            parts: Some(Parts { surge, slow }),
        };
        let signs = Signs::default();
        let clues = Clues {
            signs: &signs,
            explanation: &explanation,
            another: None,
            shared: Some(shared),
            blocker: None,
        };
        clues.because().cause()
    }

    #[test]
    fn what_all_share_is_told_apart() {
        assert_eq!(verdict(0.5, 0.5), Cause::BroadSurge);
        assert_eq!(verdict(0.4, 0.9), Cause::SlowQueries);
        assert_eq!(verdict(0.0, 0.9), Cause::SlowQueries);
        assert_eq!(verdict(0.3, 0.3), Cause::Unknown);
        assert_eq!(verdict(f64::NAN, f64::NAN), Cause::Unknown);
    }

    fn by_signs(verdict: Verdict, signs: &Signs) -> Cause {
        let explanation = explanation(verdict, 3.0);
        let clues = Clues {
            explanation: &explanation,
            another: None,
            shared: None,
            blocker: None,
            signs,
        };
        clues.because().cause()
    }

    fn demand(now: f64) -> Demand {
        Demand::Known {
            before: 100.0,
            now,
            seconds: 30.0,
            what: "transactions at the poolers",
        }
    }

    #[test]
    fn tags_that_rise_together_need_to_be_told_what_for() {
        let by = |now| {
            let demand = demand(now);
            let signs = Signs {
                demand,
                ..Signs::default()
            };
            by_signs(Verdict::BroadGrowth, &signs)
        };
        assert_eq!(by(300.0), Cause::BroadSurge);
        assert_eq!(by(100.0), Cause::SlowQueries);
        let unknown = by_signs(Verdict::BroadGrowth, &Signs::default());
        assert_eq!(unknown, Cause::Unknown);
    }

    #[test]
    fn sessions_opened_anew_go_before_those_that_are_kept_and_after_a_name() {
        let leaking = Some(Leaking {
            application: "a".to_owned(),
            before: 1.0,
            now: 40.0,
        });
        let reconnecting = Some(Reconnecting {
            application: None,
            opened: 300.0,
            seconds: 60.0,
            usual: 1.0,
            standing: 200.0,
        });
        let both = Signs {
            reconnecting,
            leaking: leaking.clone(),
            ..Signs::default()
        };
        let leak = Signs {
            leaking,
            ..Signs::default()
        };
        let of = |verdict, signs| by_signs(verdict, signs);
        assert_eq!(of(Verdict::NoClearLead, &both), Cause::ReconnectStorm);
        assert_eq!(of(Verdict::NoClearLead, &leak), Cause::Leak);
        assert_eq!(of(Verdict::Endpoint, &both), Cause::Endpoint);
        assert_eq!(of(Verdict::LockWaits, &both), Cause::LockPileup);
        assert_eq!(of(Verdict::NoBaseline, &both), Cause::Unknown);
    }
}
