//! A prepared transaction was left behind: its second phase does not come.
//!
//! It belongs to no session, survives restarts, keeps its locks, and holds back
//! vacuum. Told when it is old, or sooner when somebody waits for its locks.
//! Over when it was committed or rolled back.

use serde_json::json;

use super::scene::{Scene, Waiter, fields, longest};
use super::watch::{Account, Stance, Suspicion};
use crate::engine::incident::Kind;
use crate::engine::locks::RootBlocker;
use crate::engine::words;
use crate::sample::PreparedTransaction;

/// The prepared transactions of one look. `piled_up` says whether a root blocker
/// is told as a pile-up.
pub fn check(scene: &Scene<'_>, piled_up: impl Fn(&RootBlocker) -> bool) -> Vec<Suspicion> {
    let settings = &scene.detect.prepared_transaction;
    let rows = scene.report.prepared.iter();
    let found = rows.filter_map(|row| {
        let age = scene.age(row.prepared)?;
        let root = scene
            .roots
            .iter()
            .find(|root| root.pid.is_none() && root.prepared.as_ref() == Some(&row.gid));
        let waiters = root.map_or_else(Vec::new, |root| scene.behind(root));
        let waited = longest(&waiters).min(age);
        let stance = if root.is_some_and(&piled_up) {
            Stance::Yields(Kind::LockPileup)
        } else if age >= settings.after || waited >= settings.waiter_after {
            Stance::Opens
        } else {
            Stance::Keeps
        };
        Some(Suspicion {
            key: format!("{}/{}", row.transaction, row.gid),
            stance,
            onset_at: scene.onset(age),
            account: account(scene, row, &waiters, age),
        })
    });
    found.collect()
}

fn account(
    scene: &Scene<'_>,
    row: &PreparedTransaction,
    waiters: &[Waiter<'_>],
    age: f64,
) -> Account {
    let gid = words::sql_literal(&row.gid);
    let name = words::name(&row.gid);
    let database = words::name(row.database.as_deref().unwrap_or("?"));
    let behind = if waiters.is_empty() {
        String::new()
    } else {
        let waiting = words::plural(waiters.len() as f64, "session");
        format!(", and {waiting} wait for its locks")
    };
    let mut evidence = vec![
        format!(
            "prepared {} ago in database {database} by {}",
            words::duration(age),
            words::name(row.owner.as_deref().unwrap_or("?"))
        ),
        "it keeps its locks through a restart, and holds back vacuum until it ends".to_owned(),
    ];
    if !waiters.is_empty() {
        evidence.push(format!(
            "the longest of those behind it has waited for {}",
            words::duration(longest(waiters))
        ));
    }
    Account {
        severity: Kind::PreparedTransaction.severity(),
        subject: fields(json!({
            "gid": name,
            "transaction": row.transaction,
            "database": row.database,
            "owner": row.owner,
            "age_seconds": (age * 10.0).round() / 10.0,
            "waiters": waiters.len(),
        })),
        summary: format!(
            "prepared transaction '{name}' of {} in database {database} was left {} ago{behind}",
            scene.target,
            words::duration(age),
        ),
        evidence,
        actions: vec![
            format!(
                "COMMIT PREPARED {gid};  -- in database {database}, if its coordinator says that it was committed"
            ),
            format!("ROLLBACK PREPARED {gid};  -- in database {database}, otherwise"),
        ],
    }
}
