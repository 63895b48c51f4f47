//! A PgBouncer that takes no more clients: `max_client_conn` is reached.
//!
//! It then refuses every login but those to its console, so that applications
//! fail while the pools, and the server behind them, may be at rest.

use std::cmp::Reverse;

use serde_json::json;

use super::{Account, Stance, Suspicion, fields, key};
use crate::engine::incident::Kind;
use crate::engine::words;
use crate::sample::{PgbouncerReport, UnixSeconds};

/// Pools named, those with most clients.
const POOLS: usize = 5;

/// A pooler with as many clients as it may have. The console's own sessions are
/// among them, as they are when PgBouncer compares.
pub fn check(t: UnixSeconds, report: &PgbouncerReport) -> Option<Suspicion> {
    let limit = report.config.as_ref()?.max_client_conn;
    let used = report.lists.used_clients;
    if limit == 0 || used < limit {
        return None;
    }
    let pooler = &report.pooler;
    let clients = |pool: &crate::sample::Pool| pool.cl_active.saturating_add(pool.cl_waiting);
    let mut pools: Vec<_> = report.pools.iter().collect();
    pools.sort_by_key(|pool| Reverse(clients(pool)));
    let most: Vec<String> = pools
        .into_iter()
        .take(POOLS)
        .map(|pool| {
            let count = words::count(f64::from(clients(pool)));
            let (database, user) = (words::name(&pool.database), words::name(&pool.user));
            format!("{database}/{user} {count}")
        })
        .collect();
    let mut evidence = vec![format!(
        "{} of {} clients, the console's own among them; any other login is refused: no more \
         connections allowed (max_client_conn)",
        words::count(f64::from(used)),
        words::count(f64::from(limit)),
    )];
    if !most.is_empty() {
        evidence.push(format!("most clients are in the pools {}", most.join(", ")));
    }
    Some(Suspicion {
        key: key(report, "", ""),
        stance: Stance::Opens,
        onset_at: t,
        account: Account {
            severity: Kind::PoolSaturation.severity(),
            subject: fields(json!({
                "verdict": "client_limit",
                "pooler": pooler,
                "clients": used,
                "max_client_conn": limit,
            })),
            summary: format!(
                "{pooler} takes no more clients: all {} of max_client_conn are taken",
                words::count(f64::from(limit)),
            ),
            evidence,
            actions: vec![
                format!(
                    "SHOW CLIENTS;  on the console of {pooler}: whose are they, and do they work"
                ),
                format!(
                    "SET max_client_conn = {};  there and in pgbouncer.ini, when its file descriptors allow it",
                    limit.saturating_mul(2)
                ),
            ],
        },
    })
}
