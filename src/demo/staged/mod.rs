//! The incidents, one file each: how the cause is set going with random
//! parameters, who is to blame, and how it is mended.

use tokio::task::JoinSet;

use super::DemoError;
use super::dice::Dice;
use super::expected::Expected;
use super::scenario::Scenario;
use super::stage::Stage;

mod application;
mod avalanche;
mod broad_surge;
mod hold_up;
mod leak;
mod lock_pileup;
mod reconnect_storm;
mod two_culprits;

/// Kinds that are true of any avalanche that is large enough.
const OF_ANY_AVALANCHE: &[&str] = &[
    "pool_saturation",
    "connection_headroom",
    "excessive_latency",
];

/// A cause that is at work.
#[derive(Debug)]
pub(super) struct Staged {
    /// What was done, with its parameters.
    pub(super) told: String,
    pub(super) expected: Expected,
    /// The culprit is rare by requests, and must have been when it is over.
    pub(super) rare: bool,
    /// Sessions that belong to the cause; dropping it ends them.
    pub(super) crowd: JoinSet<()>,
    /// Statements that mend it, as the superuser.
    pub(super) mend: Vec<String>,
}

impl Staged {
    fn new(told: String, expected: Expected) -> Self {
        Self {
            told,
            expected,
            rare: false,
            crowd: JoinSet::new(),
            mend: Vec::new(),
        }
    }
}

/// Sets the cause of this scenario going. `None`: it is not staged this way.
pub(super) async fn set_going(
    scenario: Scenario,
    number: u32,
    stage: &Stage,
    dice: &mut Dice,
) -> Result<Option<Staged>, DemoError> {
    Ok(Some(match scenario {
        Scenario::Orphan => return Ok(None),
        Scenario::Avalanche => avalanche::set_going(stage, dice),
        Scenario::HoldUp => hold_up::set_going(stage, dice).await?,
        Scenario::BroadSurge => broad_surge::set_going(stage, dice),
        Scenario::ReconnectStorm => reconnect_storm::set_going(stage, dice),
        Scenario::Leak => leak::set_going(stage, dice, number),
        Scenario::LockPileup => lock_pileup::set_going(stage, dice).await?,
        Scenario::Application => application::set_going(stage, dice),
        Scenario::TwoCulprits => two_culprits::set_going(stage, dice),
    }))
}
