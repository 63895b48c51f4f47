//! The lock nobody owns: replicas of a gateway start at once behind a
//! transaction pool and race for one advisory lock.
//!
//! Three replicas with eight workers each open a transaction, read what is
//! there, and call `pg_try_advisory_lock`. One gets it, prepares the database,
//! commits, and dies before it unlocks. The lock belongs to the backend, and
//! the backend is back in the pool. The other workers try again and again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::DemoError;
use super::gateway::{Gateway, KEY, REPLICAS, WORKERS, first_value};
use super::outcome::Outcome;
use super::scenario::Scenario;
use super::servers::ServerError;
use super::stage::{DATABASE, POOLER, Stage};
use super::timeline::{Mark, Timeline};
use super::witness::Witness;
use crate::engine::Snapshot;
use crate::engine::incident::{Event, Incident, Kind};

/// Two polls must agree; ten would be a fault.
const DETECT_WITHIN: Duration = Duration::from_secs(15);
const RESOLVE_WITHIN: Duration = Duration::from_secs(15);

/// So many workers at once are an avalanche, where it is known what is normal.
const BESIDE: &[Kind] = &[Kind::ConnectionAvalanche];

/// Stages the orphan, waits until it is told, and does what the incident says.
pub(super) async fn play(
    stage: &Stage,
    number: u32,
    snapshot: impl Fn() -> Arc<Snapshot>,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<Outcome, DemoError> {
    witness.true_as_well = BESIDE;
    let mut gateway = Gateway::start(stage);
    let pid = gateway.orphan().await?;
    let left = Instant::now();
    let mut outcome = Scenario::Orphan.outcome(number, timeline.seconds());
    outcome.staged =
        format!("{REPLICAS} replicas × {WORKERS} workers raced for advisory lock {KEY}");
    timeline.tell(Mark::Staged, &outcome.staged);
    timeline.detail(&format!(
        "the winner's client is gone, its backend {pid} is back in the pool with the lock"
    ));
    see_orphan(stage, pid).await?;
    let incident = detected(witness, timeline, &gateway, left, &mut outcome).await;
    if let Some(incident) = incident {
        judge(&incident, pid, &mut outcome);
        outcome.cause_right = outcome.passed();
        outcome.name_right = outcome.passed();
        outcome.cause_after = outcome.detected_after.filter(|_| outcome.cause_right);
        outcome.named_after = outcome.cause_after;
        act(stage, &gateway, &incident, witness, timeline, &mut outcome).await?;
    } else {
        tell_verdicts(&snapshot(), timeline);
    }
    gateway.settle(timeline, &mut outcome).await;
    witness.true_as_well = &[];
    Ok(outcome)
}

async fn detected(
    witness: &mut Witness,
    timeline: &mut Timeline,
    gateway: &Gateway,
    left: Instant,
    outcome: &mut Outcome,
) -> Option<Incident> {
    let deadline = left + DETECT_WITHIN;
    let progress = || {
        let refused = gateway.tally.refused.load(Ordering::Relaxed);
        format!("waiting for the incident; the other workers were refused {refused} times")
    };
    let kind = Kind::OrphanedAdvisoryLock;
    while let Some(effect) = witness.next(kind, deadline, timeline, progress).await {
        if effect.event != Event::Opened {
            continue;
        }
        let after = left.elapsed().as_secs_f64();
        outcome.detected = true;
        outcome.detected_after = Some(after);
        let summary = &effect.incident.summary;
        timeline.tell(Mark::Detected, &format!("after {after:.1} s: {summary}"));
        for sentence in &effect.incident.evidence {
            timeline.detail(sentence);
        }
        return Some(effect.incident.clone());
    }
    let wait = DETECT_WITHIN.as_secs();
    outcome
        .problems
        .push(format!("no incident within {wait} s"));
    timeline.tell(Mark::Wrong, &format!("no incident within {wait} s"));
    None
}

/// What the daemon thinks of the locks instead.
fn tell_verdicts(snapshot: &Snapshot, timeline: &mut Timeline) {
    let targets = snapshot.targets.values();
    for lock in targets.flat_map(|target| &target.locks.advisory_locks) {
        timeline.detail(&format!(
            "the daemon holds lock {} to be {}: {}",
            lock.key,
            lock.verdict.as_str(),
            lock.reason
        ));
    }
}

/// Compares the incident with what was staged.
fn judge(incident: &Incident, pid: i32, outcome: &mut Outcome) {
    let told = |field: &str| match incident.subject.get(field) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    outcome.expect("key", &KEY.to_string(), &told("key"));
    outcome.expect("database", DATABASE, &told("database"));
    outcome.expect("pooler", POOLER, &told("pooler"));
    outcome.expect("pid", &pid.to_string(), &told("pid"));
    outcome.expect("verdict", "orphaned", &told("verdict"));
    outcome.named = Some(format!(
        "lock {} in {} at {}, {}",
        told("key"),
        told("database"),
        told("pooler"),
        told("verdict")
    ));
    outcome.fact("incident", incident.id.clone());
}

/// Does what the incident says, as an operator would, and waits for its end.
async fn act(
    stage: &Stage,
    gateway: &Gateway,
    incident: &Incident,
    witness: &mut Witness,
    timeline: &mut Timeline,
    outcome: &mut Outcome,
) -> Result<(), DemoError> {
    let Some(command) = console_command(incident) else {
        let told = format!("no RECONNECT among the actions {:?}", incident.actions);
        timeline.tell(Mark::Wrong, &told);
        outcome.problems.push(told);
        return Ok(());
    };
    // Nobody can have got the lock rightly before it was freed.
    let falsely = gateway.tally.ready.load(Ordering::Relaxed);
    outcome.fact("falsely_ready", falsely);
    if falsely > 0 {
        timeline.detail(&format!(
            "{falsely} workers landed on the very backend and believe they got the lock"
        ));
    }
    stage.pooler.console(command).await?;
    let acted = Instant::now();
    timeline.tell(
        Mark::Acted,
        &format!("{command} on the console of {POOLER}"),
    );
    outcome.fact("action", command);
    let deadline = acted + RESOLVE_WITHIN;
    let progress = || "waiting for the end of the incident".to_owned();
    let kind = Kind::OrphanedAdvisoryLock;
    while let Some(effect) = witness.next(kind, deadline, timeline, progress).await {
        if effect.event == Event::Resolved && effect.incident.id == incident.id {
            let after = acted.elapsed().as_secs_f64();
            outcome.resolved_after = Some(after);
            timeline.tell(Mark::Resolved, &format!("after {after:.1} s"));
            return Ok(());
        }
    }
    let told = format!("not resolved within {} s", RESOLVE_WITHIN.as_secs());
    timeline.tell(Mark::Wrong, &told);
    outcome.problems.push(told);
    Ok(())
}

/// The command for our pooler's console: `RECONNECT app;`, without the words
/// that say where.
fn console_command(incident: &Incident) -> Option<&str> {
    incident
        .actions
        .iter()
        .filter(|action| action.contains(POOLER))
        .filter_map(|action| action.split_inclusive(';').next())
        .find(|command| command.starts_with("RECONNECT "))
}

/// Looks with our own eyes: the backend holds the lock outside a transaction,
/// and the pooler has given it to no client.
async fn see_orphan(stage: &Stage, pid: i32) -> Result<(), DemoError> {
    let (high, low) = (KEY >> 32, KEY & 0xffff_ffff);
    let sql = format!(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = {pid} \
         AND virtualtransaction LIKE '%/0' AND (classid, objid, objsubid) = ({high}, {low}, 1)"
    );
    let eyes = stage.own_eyes().await?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let held = has_row(&eyes, &sql).await?;
        let servers = stage.pooler.console("SHOW SERVERS").await?;
        let unlinked = servers.iter().any(|row| {
            row.get("remote_pid") == Some(&pid.to_string()) && row.get("link") == Some("")
        });
        if held && unlinked {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(DemoError::NotStaged(
        "the lock did not stay on an unlinked backend",
    ))
}

async fn has_row(client: &Client, sql: &str) -> Result<bool, ServerError> {
    Ok(first_value(client, sql).await?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_lock_stays_until_the_pooler_reconnects() {
        let stage = Stage::start().await.unwrap();
        let mut gateway = Gateway::start(&stage);
        let pid = gateway.orphan().await.unwrap();
        see_orphan(&stage, pid).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        see_orphan(&stage, pid).await.unwrap();
        assert!(gateway.tally.refused.load(Ordering::Relaxed) >= 23);
        stage.pooler.console("RECONNECT app;").await.unwrap();
        // The backend needs a moment to see that its client is gone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(see_orphan(&stage, pid).await.is_err());
        while gateway.workers.join_next().await.is_some() {}
        assert_eq!(gateway.tally.ready.load(Ordering::Relaxed), 23);
    }
}
