//! Another application: a batch job with many sessions of its own, without
//! routes, past the pooler.

use std::time::Duration;

use crate::demo::crowd::gather;
use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::stage::{Stage, USER};

use super::{OF_ANY_AVALANCHE, Staged};

/// Its `application_name`.
const REPORT: &str = "nightly-report";

pub(super) fn set_going(stage: &Stage, dice: &mut Dice) -> Staged {
    let count = dice.whole(20, 36);
    let within = dice.between(1.0, 8.0);
    let (least, most) = (dice.between(1.0, 3.0), dice.between(4.0, 9.0));
    let mut database = stage.directly(USER);
    database.application_name(REPORT);
    let told = format!(
        "{REPORT} opens {count} sessions within {within:.0} s and runs statements \
         of {least:.0} to {most:.0} s in them"
    );
    let expected = Expected {
        cause: "application",
        kind: None,
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Application(REPORT),
    };
    let mut staged = Staged::new(told, expected);
    let gap = Duration::from_secs_f64(within / f64::from(count));
    gather(&mut staged.crowd, database, count, gap, true, move || {
        let seconds = least + (most - least) * fastrand::f64();
        format!("SELECT count(*), max(size) FROM blob, pg_sleep({seconds:.2})")
    });
    staged
}
