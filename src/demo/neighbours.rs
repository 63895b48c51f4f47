//! Other applications of the same database, with a few direct sessions each that
//! they keep and hardly use, as there are many in any installation.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Config;

use super::crowd::gather;

/// Their values of `application_name`.
pub(super) const NEIGHBOURS: [&str; 8] = [
    "mirror", "billing", "webhook", "indexer", "mailer", "audit", "quota", "search",
];
/// Sessions of each.
const SESSIONS: u32 = 3;

/// Opens the sessions of all of them. Dropping the set closes them.
pub(super) fn move_in(database: &Config) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    for name in NEIGHBOURS {
        let mut database = database.clone();
        database.application_name(name);
        let statement = || "SELECT 1".to_owned();
        gather(
            &mut sessions,
            database,
            SESSIONS,
            Duration::ZERO,
            false,
            statement,
        );
    }
    sessions
}
