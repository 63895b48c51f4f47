//! An application is in a crash loop: all of its direct sessions close, reopen
//! at once, and live for a few seconds.

use std::time::Duration;

use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::fleet::{SCANNER, SCANNERS};
use crate::demo::stage::Stage;

use super::{OF_ANY_AVALANCHE, Staged};

pub(super) fn set_going(stage: &Stage, dice: &mut Dice) -> Staged {
    let life = dice.between(1.0, 2.5);
    stage.fleet.set_life(Some(Duration::from_secs_f64(life)));
    let told = format!(
        "the {SCANNERS} processes of {SCANNER} crash and start again every {life:.1} s, \
         a session each"
    );
    let expected = Expected {
        cause: "reconnect_storm",
        kind: Some("reconnect_storm"),
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Application(SCANNER),
    };
    Staged::new(told, expected)
}
