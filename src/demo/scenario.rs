//! What can be staged, by name.

use super::outcome::Outcome;

/// An incident that can be staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    Orphan,
    Avalanche,
    HoldUp,
    BroadSurge,
    ReconnectStorm,
    Leak,
    LockPileup,
    Application,
    TwoCulprits,
}

impl Scenario {
    /// Every scenario. The orphan comes first: it needs no baseline, and is
    /// played while the daemon learns what is normal.
    pub const ALL: [Self; 9] = [
        Self::Orphan,
        Self::Avalanche,
        Self::HoldUp,
        Self::BroadSurge,
        Self::ReconnectStorm,
        Self::Leak,
        Self::LockPileup,
        Self::Application,
        Self::TwoCulprits,
    ];

    /// What is staged when nothing is asked for: the two that this program
    /// exists for.
    pub const SHORT: [Self; 2] = [Self::Orphan, Self::Avalanche];

    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::Avalanche => "avalanche",
            Self::HoldUp => "hold_up",
            Self::BroadSurge => "broad_surge",
            Self::ReconnectStorm => "reconnect_storm",
            Self::Leak => "leak",
            Self::LockPileup => "lock_pileup",
            Self::Application => "application",
            Self::TwoCulprits => "two_culprits",
        }
    }

    /// What is staged, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Self::Orphan => {
                "24 workers race for an advisory lock through a transaction pool; \
                 the winner dies and the pool keeps the lock"
            }
            Self::Avalanche => {
                "a slow, rarely used route, under 3 % of the requests, \
                 takes the sessions in use from about 8 to over 30"
            }
            Self::HoldUp => {
                "an index is dropped under load: one route gets as many requests as before, \
                 and each scans a table"
            }
            Self::BroadSurge => {
                "every route gets three to four times the requests; none is to blame"
            }
            Self::ReconnectStorm => {
                "an application with direct sessions is in a crash loop: \
                 all of them close and reopen every few seconds"
            }
            Self::Leak => "an application takes connections and gives none back",
            Self::LockPileup => {
                "one session changes rows and does not commit; requests queue behind it"
            }
            Self::Application => "a batch job of another application, with sessions of its own",
            Self::TwoCulprits => "two slow routes get more requests at the same time",
        }
    }

    pub(super) fn outcome(self, number: u32, staged_at: f64) -> Outcome {
        Outcome::new(self.name(), number, staged_at)
    }
}
