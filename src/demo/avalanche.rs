//! The avalanche: a rarely used route with a slow statement gets more requests
//! than usual, and few as they are, their sessions pile up.
//!
//! Little's law: 4 requests/s of 10 s each hold forty sessions, while 170 fast
//! requests/s hold one or two. By requests the route stays under 3 %, so a graph
//! of the traffic shows nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::DemoError;
use super::load::{QUIET_RATE, SURGE_RATE};
use super::outcome::Outcome;
use super::routes::{APPLICATION, RARE};
use super::stage::{RESOLVE_AFTER, Stage, USER, WARM_UP};
use super::timeline::{Mark, Timeline};
use super::witness::Witness;
use crate::engine::Snapshot;
use crate::engine::incident::{Cause, Event, Incident, Kind};

pub(super) const NAME: &str = "avalanche";

/// The baseline is learnt by then or never.
const WARM_WITHIN: Duration = Duration::from_secs(WARM_UP as u64 + 30);
/// Between the end of the warm-up and the surge: the band has to be seen first.
const QUIET: Duration = Duration::from_secs(3);
/// Without an incident by then there will be none.
const DETECT_WITHIN: Duration = Duration::from_secs(40);
/// The surge goes on for as long, so that sessions reach their height: a
/// request takes up to 12 s.
const SURGE: Duration = Duration::from_secs(14);
/// The last slow request ends, the sessions fall, the daemon waits its while:
/// seen to take 36 s.
const RESOLVE_WITHIN: Duration = Duration::from_secs(RESOLVE_AFTER as u64 + 60);
/// The route is rare as long as this part of the requests is not reached.
const RARE_SHARE: f64 = 0.03;

/// Stages the surge once the daemon knows what is normal, and waits until it is
/// told and over.
pub(super) async fn play(
    stage: &Stage,
    snapshot: impl Fn() -> Arc<Snapshot>,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<Outcome, DemoError> {
    let sessions = Sessions::watch(stage).await?;
    warm_up(&snapshot, &sessions, witness, timeline).await?;
    let before = stage.load.requests();
    let usual = sessions.now();
    stage.load.set_rare_rate(SURGE_RATE);
    let mut surge = Surge {
        started: Instant::now(),
        sessions,
        outcome: Outcome::new(NAME, timeline.seconds()),
        incident: None,
    };
    timeline.tell(
        Mark::Staged,
        &format!(
            "{} goes from {QUIET_RATE} to {SURGE_RATE} requests/s, at about 10 s each; \
             {usual} sessions in use",
            RARE.name()
        ),
    );
    surge.go_on(witness, timeline).await;
    stage.load.set_rare_rate(QUIET_RATE);
    let requests = stage.load.requests().since(before);
    let share = requests.rare_share();
    let peak = surge.sessions.peak();
    timeline.tell(
        Mark::Acted,
        &format!(
            "the surge ends: {peak} sessions at its height, {:.1} % of {} requests, {} failed",
            share * 100.0,
            requests.rare + requests.popular,
            requests.failed
        ),
    );
    let Surge {
        sessions,
        mut outcome,
        incident,
        ..
    } = surge;
    outcome.fact("sessions_before", usual);
    outcome.fact("sessions_peak", peak);
    outcome.fact("requests", requests.rare + requests.popular);
    outcome.fact("route_share_of_requests", share);
    outcome.fact("failed_requests", requests.failed);
    if share >= RARE_SHARE {
        outcome
            .problems
            .push("the route was not rare: not as staged".into());
    }
    if let Some(incident) = incident {
        resolved(&incident, witness, timeline, &sessions, &mut outcome).await;
    }
    Ok(outcome)
}

async fn warm_up(
    snapshot: &impl Fn() -> Arc<Snapshot>,
    sessions: &Sessions,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<(), DemoError> {
    let deadline = Instant::now() + WARM_WITHIN;
    let learnt = || {
        let view = snapshot();
        view.targets.values().find_map(|target| target.band)
    };
    let band = loop {
        if let Some(band) = learnt() {
            break band;
        }
        if Instant::now() >= deadline {
            return Err(DemoError::NotStaged("the daemon learnt no baseline"));
        }
        let step = Instant::now() + Duration::from_millis(500);
        let progress = || {
            format!(
                "the daemon learns what is normal; {} sessions in use",
                sessions.now()
            )
        };
        witness.idle(step, timeline, progress).await;
    };
    timeline.tell(
        Mark::Ready,
        &format!(
            "the daemon has learnt what is normal: {:.1} sessions in use, at most {:.1}",
            band.expected, band.upper
        ),
    );
    let progress = || "a quiet moment".to_owned();
    witness
        .idle(Instant::now() + QUIET, timeline, progress)
        .await;
    Ok(())
}

/// The surge while it lasts.
struct Surge {
    started: Instant,
    sessions: Sessions,
    outcome: Outcome,
    incident: Option<Incident>,
}

impl Surge {
    /// Until the incident is named and the sessions had time to rise.
    async fn go_on(&mut self, witness: &mut Witness, timeline: &mut Timeline) {
        let kind = Kind::ConnectionAvalanche;
        loop {
            let wanted = match self.outcome.named_after {
                Some(_) => SURGE,
                None => DETECT_WITHIN,
            };
            let progress = || format!("{} sessions in use", self.sessions.now());
            let deadline = self.started + wanted;
            let Some(effect) = witness.next(kind, deadline, timeline, progress).await else {
                break;
            };
            let after = self.started.elapsed().as_secs_f64();
            match effect.event {
                Event::Opened => {
                    self.outcome.detected_after = Some(after);
                    let summary = &effect.incident.summary;
                    timeline.tell(Mark::Detected, &format!("after {after:.1} s: {summary}"));
                }
                Event::Updated => {}
                Event::Resolved => self.problem(timeline, "resolved while the surge went on"),
            }
            self.name(&effect.incident, after, timeline);
            self.incident = Some(effect.incident.clone());
        }
        if self.outcome.detected_after.is_none() {
            let wait = DETECT_WITHIN.as_secs();
            self.problem(timeline, &format!("no incident within {wait} s"));
        } else if self.outcome.named_after.is_none() {
            self.problem(timeline, "no route was named");
        }
    }

    /// A route is named when the incident's cause is an endpoint; a wrong one
    /// is worse than none.
    fn name(&mut self, incident: &Incident, after: f64, timeline: &mut Timeline) {
        let Some(first) = incident.attribution.first() else {
            return;
        };
        let said = format!("{} {}", first.service, first.route);
        if incident.cause != Some(Cause::Endpoint) || self.outcome.named.as_ref() == Some(&said) {
            return;
        }
        let figures = format!(
            "{:.0} % of the extra sessions, confidence {:.2}",
            first.share * 100.0,
            first.confidence
        );
        let right = said == format!("{APPLICATION} {}", RARE.name());
        self.outcome.named = Some(said.clone());
        self.outcome.fact("attributed_share", first.share);
        self.outcome.fact("confidence", first.confidence);
        self.outcome.fact("incident", incident.id.clone());
        if right {
            self.outcome.named_after.get_or_insert(after);
            timeline.tell(
                Mark::Named,
                &format!("after {after:.1} s: {said}, {figures}"),
            );
            for sentence in &incident.evidence {
                timeline.detail(sentence);
            }
        } else {
            self.problem(
                timeline,
                &format!("the wrong route was named: {said}, {figures}"),
            );
        }
    }

    fn problem(&mut self, timeline: &mut Timeline, text: &str) {
        timeline.tell(Mark::Wrong, text);
        self.outcome.problems.push(text.to_owned());
    }
}

async fn resolved(
    incident: &Incident,
    witness: &mut Witness,
    timeline: &mut Timeline,
    sessions: &Sessions,
    outcome: &mut Outcome,
) {
    let ended = Instant::now();
    let deadline = ended + RESOLVE_WITHIN;
    let progress = || {
        format!(
            "the last slow requests end; {} sessions in use",
            sessions.now()
        )
    };
    let kind = Kind::ConnectionAvalanche;
    while let Some(effect) = witness.next(kind, deadline, timeline, progress).await {
        if effect.event == Event::Resolved && effect.incident.id == incident.id {
            let after = ended.elapsed().as_secs_f64();
            outcome.resolved_after = Some(after);
            timeline.tell(Mark::Resolved, &format!("after {after:.1} s"));
            return;
        }
    }
    let told = format!("not resolved within {} s", RESOLVE_WITHIN.as_secs());
    timeline.tell(Mark::Wrong, &told);
    outcome.problems.push(told);
}

/// The application's sessions in use, seen with our own eyes.
#[derive(Debug)]
struct Sessions {
    seen: Arc<Seen>,
    _task: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    now: AtomicU32,
    peak: AtomicU32,
}

impl Sessions {
    async fn watch(stage: &Stage) -> Result<Self, DemoError> {
        let eyes = stage.own_eyes().await?;
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state <> 'idle'";
            while let Ok(row) = eyes.query_one(sql, &[&USER]).await {
                let count = u32::try_from(row.get::<_, i64>(0)).unwrap_or_default();
                shared.now.store(count, Ordering::Relaxed);
                shared.peak.fetch_max(count, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Ok(Self { seen, _task: task })
    }

    fn now(&self) -> u32 {
        self.seen.now.load(Ordering::Relaxed)
    }

    fn peak(&self) -> u32 {
        self.seen.peak.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_requests_hold_forty_sessions() {
        let stage = Stage::start().await.unwrap();
        let sessions = Sessions::watch(&stage).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(sessions.peak() < 12, "{}", sessions.peak());
        let before = stage.load.requests();
        stage.load.set_rare_rate(SURGE_RATE);
        tokio::time::sleep(SURGE).await;
        let requests = stage.load.requests().since(before);
        assert!(sessions.peak() >= 30, "{}", sessions.peak());
        assert!(requests.rare_share() < RARE_SHARE, "{requests:?}");
        assert!(requests.popular > 1_500, "{requests:?}");
        assert_eq!((requests.failed, requests.dropped), (0, 0));
    }
}
