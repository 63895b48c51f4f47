//! What a person is told about a spin.

use serde_json::{Map, Value, json};

use super::Wanted;
use super::crowd::Crowd;
use crate::engine::locks::view::{AdvisoryLock, Verdict};
use crate::engine::words::{count, plural};

/// Origins named in a sentence.
const MAX_ORIGINS: usize = 10;

/// What the incident is about. Figures that grow are no part of it.
pub fn subject(wanted: &Wanted) -> Map<String, Value> {
    let Value::Object(subject) = json!({"database": wanted.database, "key": wanted.key}) else {
        return Map::new();
    };
    subject
}

pub fn summary(
    target: &str,
    wanted: &Wanted,
    crowd: &Crowd,
    holder: Option<&AdvisoryLock>,
) -> String {
    let name = holder
        .and_then(|lock| lock.names.first())
        .map_or_else(String::new, |name| format!(" ({name})"));
    let held = match holder {
        Some(lock) => format!(
            "backend {} holds it ({})",
            lock.pid.unwrap_or(0),
            lock.verdict.as_str()
        ),
        None => "nobody was seen with it lately".to_owned(),
    };
    format!(
        "{} on advisory lock {}{name} in database {} of {target}: {held}",
        spinners(crowd),
        wanted.key,
        wanted.database,
    )
}

fn spinners(crowd: &Crowd) -> String {
    match (crowd.least, crowd.most) {
        (least, most) if least == most => {
            let verb = if least == 1 { "spins" } else { "spin" };
            format!("{} {verb}", plural(f64::from(least), "client"))
        }
        (least, most) => format!("{least} to {most} clients spin"),
    }
}

/// What was seen, a sentence each.
pub fn evidence(crowd: &Crowd, holder: Option<&AdvisoryLock>) -> Vec<String> {
    let tries = crowd.tries as f64;
    let verb = if crowd.tries == 1 { "was" } else { "were" };
    let mut evidence = vec![format!(
        "{} {verb} seen to fail in the last 15 s, of {} at least and {} at most",
        plural(tries, "call").replace("call", "try-lock call"),
        plural(f64::from(crowd.least), "client"),
        crowd.most,
    )];
    for (origin, clients) in crowd.by_origin.iter().take(MAX_ORIGINS) {
        let application = if origin.application.is_empty() {
            "an application without a name"
        } else {
            &origin.application
        };
        let address = if origin.client.is_empty() {
            "a local socket"
        } else {
            &origin.client
        };
        evidence.push(format!(
            "{application} from {address}: at most {}",
            plural(f64::from(*clients), "client")
        ));
    }
    if let Some(calls) = crowd.calls_per_second {
        evidence.push(format!(
            "pg_stat_statements counts {} calls/s of these statements, for any key",
            if calls < 10.0 {
                format!("{calls:.1}")
            } else {
                count(calls)
            }
        ));
    }
    if let Some(lock) = holder {
        evidence.push(format!(
            "backend {} has held the lock for at least {:.0} s; it is {}: {}",
            lock.pid.unwrap_or(0),
            lock.age_seconds,
            lock.verdict.as_str(),
            lock.reason,
        ));
    }
    evidence
}

/// The command that frees the lock where nobody owns it; else the statement that
/// shows who does.
pub fn actions(holder: Option<&AdvisoryLock>) -> Vec<String> {
    let Some(lock) = holder else {
        return Vec::new();
    };
    let freeing = Some(lock.action.clone()).filter(|action| !action.is_empty());
    let showing = lock
        .pid
        .filter(|_| lock.verdict != Verdict::Prepared)
        .map(|pid| format!("SELECT * FROM pg_stat_activity WHERE pid = {pid};"));
    freeing.into_iter().chain(showing).collect()
}
