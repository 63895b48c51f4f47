//! One staging from the quiet before it to the quiet after it.
//!
//! The cause is at work for a fixed time, whatever is said meanwhile: what
//! counts is what an operator would read by then, and when it was first right.
//! Then it is mended, and the next one waits until every incident is over.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::DemoError;
use super::dice::Dice;
use super::expected::Said;
use super::load::{QUIET, Requests};
use super::outcome::Outcome;
use super::scenario::Scenario;
use super::servers::ServerError;
use super::sessions::Sessions;
use super::stack::Stack;
use super::stage::{EYES, RESOLVE_AFTER, WARM_UP};
use super::staged::{Staged, set_going};
use super::timeline::{Mark, Timeline};
use super::witness::Witness;
use crate::engine::incident::{Effect, Event, Incident};

/// The baseline is learnt by then or never.
const WARM_WITHIN: Duration = Duration::from_secs(WARM_UP as u64 + 30);
/// Before the first staging: the band has to be seen first.
const QUIET_BEFORE: Duration = Duration::from_secs(3);
/// The cause and the name must be right by then.
const RIGHT_WITHIN: f64 = 30.0;
/// The cause is at work for as long.
const AT_WORK: Duration = Duration::from_secs(32);
/// The sessions fall, and the daemon waits its while.
const RESOLVE_WITHIN: Duration = Duration::from_secs(RESOLVE_AFTER as u64 + 80);
/// What the smoothed series still remember of it has passed by then.
const QUIET_AFTER: Duration = Duration::from_secs(4);
/// A route is rare as long as this part of the requests is not reached.
const RARE_SHARE: f64 = 0.03;
/// Statements that run longer than any of a quiet day are ended, so that the
/// next staging need not wait for them.
const CANCEL_AFTER: f64 = 0.5;

/// Plays one staging.
pub(super) async fn play(
    stack: &Stack,
    scenario: Scenario,
    number: u32,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<Outcome, DemoError> {
    let sessions = Sessions::watch(&stack.stage).await?;
    warm_up(stack, &sessions, witness, timeline).await?;
    let usual = sessions.now();
    let before = stack.stage.load.requests();
    let mut dice = Dice::new(stack.seed, scenario, number);
    let staged = set_going(scenario, number, &stack.stage, &mut dice).await?;
    let Some(staged) = staged else {
        return Err(DemoError::NotStaged("this scenario is played otherwise"));
    };
    let mut run = Run {
        started: Instant::now(),
        outcome: scenario.outcome(number, timeline.seconds()),
        sessions,
        staged,
        open: BTreeMap::new(),
        said: Said::default(),
    };
    let told = run.staged.told.clone();
    timeline.tell(Mark::Staged, &format!("{told}; {usual} sessions in use"));
    run.outcome.staged = told;
    run.go_on(witness, timeline).await;
    run.outcome.fact("sessions_before", usual);
    run.facts(stack.stage.load.requests().since(before), timeline);
    run.mend(stack, witness, timeline).await?;
    Ok(run.outcome)
}

/// Waits until the daemon knows what is normal.
async fn warm_up(
    stack: &Stack,
    sessions: &Sessions,
    witness: &mut Witness,
    timeline: &mut Timeline,
) -> Result<(), DemoError> {
    let deadline = Instant::now() + WARM_WITHIN;
    let learnt = || {
        let view = stack.daemon.snapshot();
        view.targets.values().find_map(|target| target.band)
    };
    let mut waited = false;
    let band = loop {
        if let Some(band) = learnt() {
            break band;
        }
        if Instant::now() >= deadline {
            return Err(DemoError::NotStaged("the daemon learnt no baseline"));
        }
        waited = true;
        let step = Instant::now() + Duration::from_millis(500);
        let progress = || {
            let now = sessions.now();
            format!("the daemon learns what is normal; {now} sessions in use")
        };
        witness.idle(step, timeline, progress).await;
    };
    if waited {
        timeline.tell(
            Mark::Ready,
            &format!(
                "the daemon has learnt what is normal: {:.1} sessions in use, at most {:.1}",
                band.expected, band.upper
            ),
        );
        let deadline = Instant::now() + QUIET_BEFORE;
        let progress = || "a quiet moment".to_owned();
        witness.idle(deadline, timeline, progress).await;
    }
    calm(stack, witness, timeline).await;
    Ok(())
}

/// Waits until no incident is open: the one before may have left one.
async fn calm(stack: &Stack, witness: &mut Witness, timeline: &mut Timeline) {
    let deadline = Instant::now() + RESOLVE_WITHIN;
    let is_calm = || stack.daemon.snapshot().open.is_empty();
    let mut waited = false;
    while !is_calm() && Instant::now() < deadline {
        waited = true;
        let step = Instant::now() + Duration::from_millis(500);
        let progress = || "an incident is still open".to_owned();
        witness.idle(step, timeline, progress).await;
    }
    if waited {
        let progress = || "a quiet moment".to_owned();
        let deadline = Instant::now() + QUIET_AFTER;
        witness.idle(deadline, timeline, progress).await;
    }
}

/// A staging while it runs.
struct Run {
    started: Instant,
    outcome: Outcome,
    sessions: Sessions,
    staged: Staged,
    /// Incidents that opened since, and are not over, by id.
    open: BTreeMap<String, Incident>,
    said: Said,
}

impl Run {
    /// Until the cause has been at work for its time.
    async fn go_on(&mut self, witness: &mut Witness, timeline: &mut Timeline) {
        let deadline = self.started + AT_WORK;
        loop {
            let progress = || format!("{} sessions in use", self.sessions.now());
            let Some(effect) = witness.any(deadline, timeline, progress).await else {
                break;
            };
            self.take(&effect, witness, timeline);
        }
        self.conclude(timeline);
    }

    fn take(&mut self, effect: &Effect, witness: &mut Witness, timeline: &mut Timeline) {
        let incident = &effect.incident;
        let known = self.open.contains_key(&incident.id);
        if effect.event == Event::Opened && !self.staged.expected.allows(incident) {
            witness.uncalled_for(effect, timeline);
            return;
        }
        // What was open before is not about this staging.
        if !known && effect.event != Event::Opened {
            return;
        }
        if effect.event == Event::Resolved {
            self.open.remove(&incident.id);
        } else {
            self.open.insert(incident.id.clone(), incident.clone());
        }
        self.detected(effect, timeline);
        self.judge(incident, timeline);
    }

    fn detected(&mut self, effect: &Effect, timeline: &mut Timeline) {
        let after = self.started.elapsed().as_secs_f64();
        let summary = &effect.incident.summary;
        let about = self.staged.expected.is_about(&effect.incident);
        match effect.event {
            Event::Opened if about => {
                self.outcome.detected_after.get_or_insert(after);
                timeline.tell(Mark::Detected, &format!("after {after:.1} s: {summary}"));
            }
            Event::Opened => timeline.detail(&format!("after {after:.1} s also: {summary}")),
            Event::Resolved if about => {
                timeline.tell(Mark::Wrong, "resolved while the cause is at work");
            }
            _ => {}
        }
    }

    /// Looks at what is said now, and tells of it when it has changed.
    fn judge(&mut self, newest: &Incident, timeline: &mut Timeline) {
        let said = self.staged.expected.judge(self.open.values());
        if said == self.said {
            return;
        }
        let after = self.started.elapsed().as_secs_f64();
        if said.cause {
            self.outcome.cause_after.get_or_insert(after);
        }
        let named = said.name && self.outcome.named_after.is_none();
        if said.name {
            self.outcome.named_after.get_or_insert(after);
        }
        let mark = if said.accused.is_some() {
            Mark::Wrong
        } else {
            Mark::Named
        };
        if !said.words.is_empty() && said.words != self.said.words {
            timeline.tell(mark, &format!("after {after:.1} s: {}", said.words));
        }
        if named {
            for sentence in std::iter::once(&newest.summary).chain(&newest.evidence) {
                timeline.detail(sentence);
            }
            self.outcome.fact("incident", newest.id.clone());
        }
        if let Some(accused) = said.accused.clone()
            && self.said.accused.as_ref() != Some(&accused)
        {
            let problem = format!("after {after:.1} s the wrong route was named: {accused}");
            self.outcome.problems.push(problem);
        }
        self.said = said;
    }

    /// What is said at the end counts, and that it was said in time.
    fn conclude(&mut self, timeline: &mut Timeline) {
        let in_time = |after: Option<f64>| after.is_some_and(|after| after <= RIGHT_WITHIN);
        self.outcome.detected = self.outcome.detected_after.is_some();
        self.outcome.cause_right = self.said.cause && in_time(self.outcome.cause_after);
        self.outcome.name_right = self.said.name && in_time(self.outcome.named_after);
        if !self.said.words.is_empty() {
            self.outcome.named = Some(self.said.words.clone());
        }
        let mut problems = Vec::new();
        let seconds = AT_WORK.as_secs();
        let said = &self.said.words;
        if !self.outcome.detected {
            problems.push(format!("no incident within {seconds} s"));
        } else if !self.outcome.cause_right {
            let right = self.staged.expected.cause;
            problems.push(format!("the cause is {right}, and was told as: {said}"));
        } else if !self.outcome.name_right {
            let right = &self.staged.expected.culprit;
            problems.push(format!("to be named: {right:?}; was told as: {said}"));
        }
        for problem in problems {
            timeline.tell(Mark::Wrong, &problem);
            self.outcome.problems.push(problem);
        }
    }

    fn facts(&mut self, requests: Requests, timeline: &mut Timeline) {
        let peak = self.sessions.peak();
        let share = requests.slow_share();
        self.outcome.fact("sessions_peak", peak);
        self.outcome.fact("requests", requests.all());
        self.outcome.fact("slow_share_of_requests", share);
        self.outcome.fact("failed_requests", requests.failed);
        self.outcome.fact("requests_not_sent", requests.dropped);
        if self.staged.rare && share >= RARE_SHARE {
            let problem = "the route was not rare: not as staged".to_owned();
            self.outcome.problems.push(problem);
        }
        timeline.tell(
            Mark::Acted,
            &format!(
                "the cause is mended: {peak} sessions at the height, {:.1} % of {} requests \
                 to slow routes, {} failed",
                share * 100.0,
                requests.all(),
                requests.failed
            ),
        );
    }

    /// Mends the cause and waits until no incident is open.
    async fn mend(
        &mut self,
        stack: &Stack,
        witness: &mut Witness,
        timeline: &mut Timeline,
    ) -> Result<(), DemoError> {
        let stage = &stack.stage;
        stage.load.turn(QUIET);
        stage.fleet.set_life(None);
        self.staged.crowd.shutdown().await;
        let eyes = stage.own_eyes().await?;
        let cancel = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' \
             AND backend_type = 'client backend' AND application_name <> '{EYES}' \
             AND query_start < now() - interval '{CANCEL_AFTER} s'"
        );
        for statement in self.staged.mend.iter().chain([&cancel]) {
            let done = eyes.batch_execute(statement).await;
            done.map_err(ServerError::from)?;
        }
        let ended = Instant::now();
        while !self.open.is_empty() {
            let progress = || {
                let now = self.sessions.now();
                format!(
                    "{} incidents are open; {now} sessions in use",
                    self.open.len()
                )
            };
            let deadline = ended + RESOLVE_WITHIN;
            let Some(effect) = witness.any(deadline, timeline, progress).await else {
                break;
            };
            self.settle(&effect, ended, witness, timeline);
        }
        for incident in self.open.values() {
            let seconds = RESOLVE_WITHIN.as_secs();
            let problem = format!("{} is not resolved within {seconds} s", incident.id);
            timeline.tell(Mark::Wrong, &problem);
            self.outcome.problems.push(problem);
        }
        let deadline = Instant::now() + QUIET_AFTER;
        let progress = || "a quiet moment".to_owned();
        witness.idle(deadline, timeline, progress).await;
        Ok(())
    }

    fn settle(
        &mut self,
        effect: &Effect,
        ended: Instant,
        witness: &mut Witness,
        timeline: &mut Timeline,
    ) {
        let incident = &effect.incident;
        match effect.event {
            Event::Resolved if self.open.remove(&incident.id).is_some() => {
                let after = ended.elapsed().as_secs_f64();
                let kind = incident.kind.as_str();
                timeline.tell(Mark::Resolved, &format!("{kind} after {after:.1} s"));
                if self.staged.expected.is_about(incident) {
                    self.outcome.resolved_after = Some(after);
                }
            }
            // The cause is gone, and its traces are told of a moment late.
            Event::Opened if self.staged.expected.allows(incident) => {
                self.open.insert(incident.id.clone(), incident.clone());
            }
            Event::Opened => witness.uncalled_for(effect, timeline),
            _ => {}
        }
    }
}
