//! A stage with its daemon. Several can run beside one another: each has its own
//! servers, and takes the next staging when it has done with one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::monitoring::{Alerting, Monitoring};
use super::outcome::Outcome;
use super::scenario::Scenario;
use super::stage::{LEAK_WINDOW, RESOLVE_AFTER, Stage, WARM_UP};
use super::timeline::{Mark, Timeline};
use super::witness::Witness;
use super::{DemoError, GRACE, orphan, staging};
use crate::daemon::{self, RunningDaemon};

/// Stagings that nobody has taken yet: the scenario, and its how-many-eth.
#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Mutex<VecDeque<(Scenario, u32)>>>);

impl Queue {
    /// Each scenario so many times, one round after another.
    pub(super) fn new(scenarios: &[Scenario], times: u32) -> Self {
        let rounds = (1..=times).flat_map(|number| {
            let numbered = move |&scenario: &Scenario| (scenario, number);
            scenarios.iter().map(numbered)
        });
        Self(Arc::new(Mutex::new(rounds.collect())))
    }

    fn next(&self) -> Option<(Scenario, u32)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    }
}

/// A running stage and the daemon that watches it.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) stage: Stage,
    pub(super) daemon: RunningDaemon,
    pub(super) seed: u64,
    monitoring: Option<Monitoring>,
}

/// What goes on after the last staging.
#[derive(Debug)]
pub(super) struct Left(Stack);

impl Left {
    /// Where to look.
    pub(super) fn tell(&self, timeline: &mut Timeline) {
        timeline.say("");
        timeline.say("Everything runs until Ctrl-C:");
        if let Some(monitoring) = &self.0.monitoring {
            monitoring.tell(self.0.daemon.address(), timeline);
        }
    }

    pub(super) async fn stop(self) {
        self.0.stop().await;
    }
}

/// What one stack saw.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) uncalled: Vec<String>,
}

/// Starts a stack, plays what is in the queue, and stops it, unless it is to be
/// looked at.
pub(super) async fn play(
    queue: Queue,
    seed: u64,
    keep: Option<PathBuf>,
    mut timeline: Timeline,
    monitoring: bool,
) -> Result<(Played, Option<Left>), DemoError> {
    let stack = Stack::start(seed, keep.as_deref(), &mut timeline, monitoring).await?;
    let mut witness = Witness::new(stack.daemon.effects());
    let result = stack.play_all(&queue, &mut witness, &mut timeline).await;
    let left = if monitoring && result.is_ok() {
        Some(Left(stack))
    } else {
        timeline.progress("stopping");
        stack.stop().await;
        None
    };
    timeline.clear();
    let played = Played {
        outcomes: result?,
        uncalled: witness.uncalled,
    };
    Ok((played, left))
}

impl Stack {
    async fn start(
        seed: u64,
        keep: Option<&Path>,
        timeline: &mut Timeline,
        monitoring: bool,
    ) -> Result<Self, DemoError> {
        timeline.progress("starting the servers");
        let stage = Stage::start().await?;
        timeline.tell(
            Mark::Ready,
            &format!(
                "PostgreSQL {} at port {}, PgBouncer in transaction mode at port {}",
                stage.version().await?,
                stage.postgres.port(),
                stage.pooler.port()
            ),
        );
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = stage.config(listen, keep);
        let alerting = if monitoring {
            Some(Alerting::start().await?)
        } else {
            None
        };
        config.alertmanager.urls = alerting.iter().map(Alerting::url).collect();
        let daemon = daemon::start(config).await?;
        let address = daemon.address();
        let monitoring = match alerting {
            Some(alerting) => Some(alerting.scrape(address).await?),
            None => None,
        };
        timeline.tell(
            Mark::Ready,
            &format!("snowpit looks every second: http://{address}/metrics"),
        );
        timeline.detail(&format!(
            "for the demo it learns what is normal in {WARM_UP:.0} s, looks for leaks in \
             {LEAK_WINDOW:.0} s, and waits {RESOLVE_AFTER:.0} s before an avalanche or a storm is \
             over; all else is as by default"
        ));
        Ok(Self {
            stage,
            daemon,
            seed,
            monitoring,
        })
    }

    async fn stop(self) {
        self.daemon.shutdown(GRACE).await;
        if let Some(monitoring) = self.monitoring {
            monitoring.stop().await;
        }
        self.stage.stop().await;
    }

    async fn play_all(
        &self,
        queue: &Queue,
        witness: &mut Witness,
        timeline: &mut Timeline,
    ) -> Result<Vec<Outcome>, DemoError> {
        let mut outcomes = Vec::new();
        while let Some((scenario, number)) = queue.next() {
            timeline.title(scenario.name(), scenario.description());
            outcomes.push(match scenario {
                Scenario::Orphan => {
                    let snapshot = || self.daemon.snapshot();
                    orphan::play(&self.stage, number, snapshot, witness, timeline).await?
                }
                _ => staging::play(self, scenario, number, witness, timeline).await?,
            });
        }
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_follow_one_another() {
        let queue = Queue::new(&[Scenario::Orphan, Scenario::Leak], 2);
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        let (orphan, leak) = (Scenario::Orphan, Scenario::Leak);
        assert_eq!(order, [(orphan, 1), (leak, 1), (orphan, 2), (leak, 2)]);
    }
}
