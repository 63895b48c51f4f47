//! Two slow routes get more requests at the same time, one more than the other.

use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::load::QUIET;
use crate::demo::routes::{SLOW, SLOW_SECONDS};
use crate::demo::stage::Stage;

use super::{OF_ANY_AVALANCHE, Staged};

pub(super) fn set_going(stage: &Stage, dice: &mut Dice) -> Staged {
    let first = dice.whole(0, SLOW.len() as u32 - 1) as usize;
    let second = (first + dice.whole(1, SLOW.len() as u32 - 1) as usize) % SLOW.len();
    let all = dice.between(2.4, 3.0);
    let larger = dice.between(0.55, 0.7);
    let mut rates = QUIET;
    rates.slow[first] = all * larger;
    rates.slow[second] = all * (1.0 - larger);
    stage.load.turn(rates);
    let told = format!(
        "{} and {} get {:.1} and {:.1} requests/s, at about {SLOW_SECONDS:.0} s each",
        SLOW[first].name(),
        SLOW[second].name(),
        rates.slow[first],
        rates.slow[second]
    );
    let expected = Expected {
        cause: "endpoint",
        kind: None,
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Routes(vec![SLOW[first].name(), SLOW[second].name()]),
    };
    Staged::new(told, expected)
}
