//! An index is really dropped under load. The route that needs it gets as many
//! requests as before, and each of them reads a whole table.
//!
//! The planner goes over to a sequential scan by itself. What a row costs is the
//! time of a slow disk, slept, so that two cores suffice.

use crate::demo::DemoError;
use crate::demo::dice::Dice;
use crate::demo::expected::{Culprit, Expected};
use crate::demo::load::usual_rate;
use crate::demo::routes::{DISK_SECONDS, INDEXED_ROWS, Indexed, ROUTES, Work, disk};
use crate::demo::servers::ServerError;
use crate::demo::stage::Stage;

use super::{OF_ANY_AVALANCHE, Staged};

/// Sessions that the route is going to have.
const LEAST: f64 = 22.0;
const MOST: f64 = 34.0;

pub(super) async fn set_going(stage: &Stage, dice: &mut Dice) -> Result<Staged, DemoError> {
    let indexed: Vec<(usize, Indexed)> = ROUTES
        .iter()
        .enumerate()
        .filter_map(|(place, route)| match route.work {
            Work::Indexed(indexed) => Some((place, indexed)),
            _ => None,
        })
        .collect();
    let Some((place, Indexed { table, index })) = dice.one_of(&indexed) else {
        return Err(DemoError::NotStaged("no route has an index"));
    };
    let rate = usual_rate(place);
    let hold = dice.between(LEAST, MOST) / rate;
    let eyes = stage.own_eyes().await?;
    let slower = disk(hold / f64::from(INDEXED_ROWS));
    eyes.batch_execute(&format!("{slower};DROP INDEX {index}"))
        .await
        .map_err(ServerError::from)?;
    let route = &ROUTES[place];
    let told = format!(
        "the index of {table} is dropped: {}, {rate:.1} requests/s as before, \
         goes from {DISK_SECONDS} to about {hold:.0} s each",
        route.name()
    );
    let expected = Expected {
        cause: "endpoint",
        kind: None,
        companions: OF_ANY_AVALANCHE,
        culprit: Culprit::Routes(vec![route.name()]),
    };
    Ok(Staged {
        mend: vec![route.work.create_index(), disk(DISK_SECONDS)],
        ..Staged::new(told, expected)
    })
}
