//! The avalanche: a rarely used route with a slow statement gets more requests
//! than usual, and few as they are, their sessions pile up.
//!
//! Little's law: 2 requests/s of 12 s each hold 24 sessions, while 80 fast
//! requests/s hold five or six. By requests the route stays under 3 %, so a graph
//! of the traffic shows nothing.

use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::load::QUIET;
use crate::demo::routes::{SLOW, SLOW_SECONDS};
use crate::demo::stage::Stage;

use super::{OF_ANY_AVALANCHE, Staged};

/// Requests/s of the route; the most that keeps it rare.
const LEAST: f64 = 1.7;
const MOST: f64 = 2.2;

pub(super) fn set_going(stage: &Stage, dice: &mut Dice) -> Staged {
    let rate = dice.between(LEAST, MOST);
    let mut rates = QUIET;
    let usual = std::mem::replace(&mut rates.slow[0], rate);
    stage.load.turn(rates);
    let route = SLOW[0].name();
    let told = format!(
        "{route} goes from {usual} to {rate:.1} requests/s, at about {SLOW_SECONDS:.0} s each"
    );
    let expected = Expected {
        cause: "endpoint",
        kind: None,
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Routes(vec![route]),
    };
    Staged {
        rare: true,
        ..Staged::new(told, expected)
    }
}
