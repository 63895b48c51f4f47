//! A pool that was paused and not resumed.
//!
//! `PAUSE` makes everybody wait, and is mostly meant: a switchover takes seconds.
//! So it is given six times as long as a pool that is full. After that clients
//! begin to run into their time-outs, whatever it was meant for.

use serde_json::json;

use super::{Account, Stance, Suspicion, database_of, fields, key, queue_wait};
use crate::engine::incident::Kind;
use crate::engine::words;
use crate::sample::{PgbouncerReport, Pool, UnixSeconds};

/// In times of the `hold` of this kind: a minute by default, half of PgBouncer's
/// `query_wait_timeout`. The last of them is the hold itself.
const PATIENCE: f64 = 6.0;

/// A paused pool whose first client has waited for long. `None` while it is not
/// paused or nobody waits.
pub fn check(
    t: UnixSeconds,
    report: &PgbouncerReport,
    pool: &Pool,
    hold: f64,
) -> Option<Suspicion> {
    let database = database_of(report, pool)?;
    if !database.paused || pool.cl_waiting == 0 {
        return None;
    }
    let wait = queue_wait(pool);
    let stance = if wait >= hold * (PATIENCE - 1.0) {
        Stance::Opens
    } else {
        Stance::Keeps
    };
    let clients = words::plural(f64::from(pool.cl_waiting), "client");
    let name = format!(
        "{}/{}",
        words::name(&pool.database),
        words::name(&pool.user)
    );
    let since = words::duration(wait);
    let pooler = &report.pooler;
    let alias = words::name(&database.name);
    Some(Suspicion {
        key: key(report, &pool.database, &pool.user),
        stance,
        onset_at: t - wait,
        account: Account {
            severity: Kind::PoolSaturation.severity(),
            subject: fields(json!({
                "verdict": "paused",
                "pooler": pooler,
                "database": pool.database,
                "user": pool.user,
                "pool_mode": pool.pool_mode,
                "clients_waiting": pool.cl_waiting,
                "max_wait_seconds": (wait * 10.0).round() / 10.0,
            })),
            summary: format!(
                "pool {name} of {pooler} is paused: {clients} in its queue, the first for {since}"
            ),
            evidence: vec![
                format!(
                    "SHOW DATABASES says that {alias} is paused; nobody gets a server until it is resumed"
                ),
                "what waits is thrown out after query_wait_timeout, 120 s by default".to_owned(),
            ],
            actions: vec![format!(
                "RESUME {alias};  on the console of {pooler}, unless the pause is meant to last"
            )],
        },
    })
}
