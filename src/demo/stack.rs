//! A stage with its daemon. Several can run beside one another: each has its own
//! servers, and takes the next staging when it has done with one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
}

/// What one stack saw.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) uncalled: Vec<String>,
}

/// Starts a stack, plays what is in the queue, and stops it.
pub(super) async fn play(
    queue: Queue,
    seed: u64,
    keep: Option<PathBuf>,
    mut timeline: Timeline,
) -> Result<Played, DemoError> {
    let stack = Stack::start(seed, keep.as_deref(), &mut timeline).await?;
    let mut witness = Witness::new(stack.daemon.effects());
    let result = stack.play_all(&queue, &mut witness, &mut timeline).await;
    timeline.progress("stopping");
    stack.daemon.shutdown(GRACE).await;
    stack.stage.stop().await;
    timeline.clear();
    Ok(Played {
        outcomes: result?,
        uncalled: witness.uncalled,
    })
}

impl Stack {
    async fn start(
        seed: u64,
        keep: Option<&Path>,
        timeline: &mut Timeline,
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
        let daemon = daemon::start(stage.config(listen, keep)).await?;
        let address = daemon.address();
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
        })
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
