//! Connections are taken and not given back: idle in a transaction by a job of
//! the application behind the pooler, or idle by one of the others, directly.

use std::time::Duration;

use crate::demo::crowd::gather;
use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::neighbours::NEIGHBOURS;
use crate::demo::routes::APPLICATION;
use crate::demo::stage::{Stage, USER};

use super::{OF_ANY_AVALANCHE, Staged};

/// More than are taken before it is over.
const COUNT: u32 = 90;

pub(super) fn set_going(stage: &Stage, dice: &mut Dice, number: u32) -> Staged {
    // Below the size of the pool, or past it.
    let in_transaction = dice.coin();
    let (application, mut database, statement, state, rate) = if in_transaction {
        let work = "BEGIN; SELECT name FROM account WHERE id = 1";
        let rate = dice.between(1.0, 1.6);
        (
            APPLICATION,
            stage.database(USER),
            work,
            "idle in transaction",
            rate,
        )
    } else {
        let work = "SELECT name FROM account WHERE id = 1";
        let rate = dice.between(1.8, 2.4);
        // Another each time: who comes back to a number that it has had before
        // does not leak.
        let name = NEIGHBOURS[number as usize % NEIGHBOURS.len()];
        (name, stage.directly(USER), work, "idle", rate)
    };
    database.application_name(application);
    let told = format!("{application} takes {rate:.1} connections/s and leaves them {state}");
    let expected = Expected {
        cause: "leak",
        kind: Some("connection_leak"),
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Application(application),
    };
    let mut staged = Staged::new(told, expected);
    let gap = Duration::from_secs_f64(1.0 / rate);
    gather(&mut staged.crowd, database, COUNT, gap, false, || {
        statement.to_owned()
    });
    staged
}
