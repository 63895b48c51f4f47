//! Everybody comes: each route gets so many times its requests. No route is to
//! blame, and none may be named.

use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::load::QUIET;
use crate::demo::stage::Stage;

use super::{OF_ANY_AVALANCHE, Staged};

pub(super) fn set_going(stage: &Stage, dice: &mut Dice) -> Staged {
    let factor = dice.between(3.0, 4.0);
    let rates = QUIET.times(factor);
    stage.load.turn(rates);
    let told = format!(
        "every route gets {factor:.1} times its requests, {:.0} a second in all",
        rates.popular
    );
    let expected = Expected {
        cause: "broad_surge",
        kind: None,
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Nobody,
    };
    Staged::new(told, expected)
}
