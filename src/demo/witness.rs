//! What the daemon says, as it says it.
//!
//! The demo learns of incidents from the daemon's own effects and from nothing
//! else, so that the times are those at which an operator would have known.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::timeline::{Mark, Timeline};
use crate::engine::incident::{Effect, Event, Kind};

/// Between two progress lines.
const PROGRESS: Duration = Duration::from_millis(500);

/// Listens to the daemon.
#[derive(Debug)]
pub(super) struct Witness {
    effects: broadcast::Receiver<Arc<Effect>>,
    /// Kinds that are true of what is staged as well.
    pub(super) true_as_well: &'static [Kind],
    /// Summaries of incidents that opened and that nobody staged.
    pub(super) uncalled: Vec<String>,
}

impl Witness {
    pub(super) fn new(effects: broadcast::Receiver<Arc<Effect>>) -> Self {
        Self {
            effects,
            true_as_well: &[],
            uncalled: Vec::new(),
        }
    }

    /// The next change of any incident, or `None` when `deadline` comes first or
    /// the daemon ended.
    pub(super) async fn any(
        &mut self,
        deadline: Instant,
        timeline: &mut Timeline,
        progress: impl Fn() -> String,
    ) -> Option<Arc<Effect>> {
        loop {
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            timeline.progress(&progress());
            let wait = tokio::time::timeout_at(deadline.min(now + PROGRESS), self.effects.recv());
            match wait.await {
                Ok(Ok(effect)) => return Some(effect),
                Ok(Err(RecvError::Closed)) => return None,
                // Lagged: what was lost is lost; or time for progress.
                Ok(Err(RecvError::Lagged(_))) | Err(_) => {}
            }
        }
    }

    /// The next change of an incident of this kind, or `None` when `deadline`
    /// comes first or the daemon ended. Incidents of other kinds are told as
    /// what they are: nobody staged them.
    pub(super) async fn next(
        &mut self,
        kind: Kind,
        deadline: Instant,
        timeline: &mut Timeline,
        progress: impl Fn() -> String,
    ) -> Option<Arc<Effect>> {
        while let Some(effect) = self.any(deadline, timeline, &progress).await {
            if effect.incident.kind == kind {
                return Some(effect);
            }
            self.uncalled_for(&effect, timeline);
        }
        None
    }

    /// Waits without expecting anything.
    pub(super) async fn idle(
        &mut self,
        deadline: Instant,
        timeline: &mut Timeline,
        progress: impl Fn() -> String,
    ) {
        while let Some(effect) = self.any(deadline, timeline, &progress).await {
            self.uncalled_for(&effect, timeline);
        }
        // The daemon may have ended, and said nothing more.
        tokio::time::sleep_until(deadline).await;
    }

    /// Notes an incident that nobody staged.
    pub(super) fn uncalled_for(&mut self, effect: &Effect, timeline: &mut Timeline) {
        if effect.event != Event::Opened {
            return;
        }
        let summary = &effect.incident.summary;
        if self.true_as_well.contains(&effect.incident.kind) {
            timeline.detail(&format!("also: {summary}"));
        } else {
            timeline.tell(Mark::Wrong, &format!("not staged: {summary}"));
            self.uncalled.push(summary.clone());
        }
    }
}
