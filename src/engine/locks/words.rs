//! What a person is told about an advisory lock: what it is, what was seen of
//! it, and the exact command that frees it.

use crate::engine::words::plural;
use serde_json::{Map, Value, json};

use super::prepared;
use super::view::{AdvisoryLock, Verdict};

/// The one command or statement that frees the lock; empty when nothing is
/// wrong with it, or nothing is known.
pub(super) fn action(view: &AdvisoryLock) -> String {
    match view.verdict {
        Verdict::Owned | Verdict::Unknown => String::new(),
        Verdict::Prepared => prepared::rollback(view.prepared.as_deref().unwrap_or_default()),
        Verdict::Suspect => view.pid.map_or_else(String::new, terminate),
        Verdict::Orphaned | Verdict::Stranded | Verdict::Carried => {
            match (&view.pool, &view.pooler) {
                (Some(pool), Some(pooler)) => format!(
                    "RECONNECT {};  on the console of {pooler}",
                    console_name(&pool.database)
                ),
                _ => view.pid.map_or_else(String::new, terminate),
            }
        }
    }
}

/// The gentlest command first, then the one that always works.
pub(super) fn actions(view: &AdvisoryLock) -> Vec<String> {
    let mut actions = vec![action(view)];
    let terminate = view.pid.map(terminate).unwrap_or_default();
    if actions[0] != terminate {
        actions.push(terminate);
    }
    actions.retain(|action| !action.is_empty());
    actions
}

fn terminate(pid: i32) -> String {
    format!("SELECT pg_terminate_backend({pid});")
}

/// A database name as the console reads it: quoted unless it is a plain word.
fn console_name(database: &str) -> String {
    let plain = database
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && !database.is_empty() {
        database.to_owned()
    } else {
        format!("\"{}\"", database.replace('"', "\"\""))
    }
}

/// What the incident is about, field by field.
pub(super) fn subject(view: &AdvisoryLock) -> Map<String, Value> {
    let Value::Object(subject) = json!({
        "database": view.database,
        "key": view.key,
        "names": view.names,
        "mode": view.mode,
        "pid": view.pid,
        "verdict": view.verdict,
        "pooler": view.pooler,
        "pool": view.pool,
        "last_application": view.last_application,
    }) else {
        return Map::new();
    };
    subject
}

/// What was seen, a sentence each.
pub(super) fn evidence(view: &AdvisoryLock) -> Vec<String> {
    let mut evidence = vec![format!(
        "backend {} holds {} on advisory key {} in database {} for at least {:.0} s",
        view.pid.unwrap_or(0),
        view.mode,
        view.key,
        view.database,
        view.age_seconds,
    )];
    if !view.reason.is_empty() {
        evidence.push(view.reason.clone());
    }
    if let Some(application) = &view.last_application {
        evidence.push(format!(
            "the application that used this server last is {application} (a clue, not proof)"
        ));
    }
    if view.waiters > 0 {
        let waiters = plural(f64::from(view.waiters), "session");
        evidence.push(format!("blocked on it: {waiters}"));
    }
    if view.spinners > 0 {
        let spinners = plural(f64::from(view.spinners), "client");
        evidence.push(format!("trying for it in vain, at most: {spinners}"));
    }
    evidence
}
