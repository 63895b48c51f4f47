//! The task that owns the engine: samples in, effects and a snapshot out.
//!
//! Invariants: nobody else calls the engine; what was sent before it is told to
//! reconfigure is judged by the old settings, and what was sent before it is
//! told to stop is taken in and on its way to the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::capture::Recorder;
use crate::engine::incident::Effect;
use crate::engine::{Engine, Settings, Snapshot};
use crate::expose::history::{HAND_OVER_EVERY, Keeper, Question};
use crate::expose::journal::JournalWriter;
use crate::expose::log;
use crate::expose::metrics::EngineTicks;
use crate::observe::poll::unix_now;
use crate::sample::Sample;
use crate::telemetry::{Telemetry, source_of};

/// Samples taken in before a snapshot is published, so that a backlog is worked
/// off faster than it grows.
const BATCH: usize = 64;

/// The engine with everything that follows it.
pub(super) struct Core {
    pub engine: Engine,
    pub keeper: Option<Keeper>,
    pub publish: watch::Sender<Arc<Snapshot>>,
    pub wanted: watch::Sender<BTreeSet<String>>,
    pub effects: broadcast::Sender<Arc<Effect>>,
    pub ticks: Arc<EngineTicks>,
    pub telemetry: Telemetry,
    pub recorder: Option<Recorder>,
    pub journal: Option<JournalWriter>,
}

/// The ways to the task.
pub(super) struct Inboxes {
    pub samples: mpsc::Receiver<Sample>,
    pub questions: mpsc::Receiver<Question>,
    pub changes: mpsc::Receiver<Change>,
    /// Takes in what is in `samples` and ends, whoever may still send.
    pub stop: CancellationToken,
}

/// New settings, and who wants to know that they hold.
pub(super) type Change = (Settings, oneshot::Sender<()>);

impl Core {
    /// Until nobody can send samples any more, or it is told to stop.
    pub async fn run(mut self, mut inboxes: Inboxes) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut hand_over = tokio::time::interval(HAND_OVER_EVERY);
        loop {
            tokio::select! {
                taken = inboxes.samples.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    for sample in batch.drain(..) {
                        self.apply(sample);
                    }
                    self.publish();
                }
                Some(question) = inboxes.questions.recv() => self.answer(question),
                Some((settings, done)) = inboxes.changes.recv() => {
                    self.take_waiting(&mut inboxes.samples);
                    self.reconfigure(settings);
                    self.publish();
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                () = inboxes.stop.cancelled() => {
                    self.take_waiting(&mut inboxes.samples);
                    self.publish();
                    break;
                }
                _ = hand_over.tick() => {
                    if let Some(keeper) = &self.keeper {
                        keeper.hand_over(&mut self.engine);
                    }
                }
            }
        }
        self.finish().await;
    }

    /// Side by side: each has a thread of its own, and one disk that hangs must
    /// not keep another from its last bytes.
    async fn finish(self) {
        let Self {
            mut engine,
            keeper,
            recorder,
            journal,
            ..
        } = self;
        let recorded = async {
            if let Some(recorder) = recorder {
                recorder.finish().await;
            }
        };
        let noted = async {
            if let Some(journal) = journal {
                journal.finish().await;
            }
        };
        let kept = async {
            if let Some(keeper) = keeper {
                keeper.finish(&mut engine).await;
            }
        };
        tokio::join!(recorded, noted, kept);
    }

    /// What is in the channel now, and not what comes meanwhile.
    fn take_waiting(&mut self, samples: &mut mpsc::Receiver<Sample>) {
        for _ in 0..samples.len() {
            let Ok(sample) = samples.try_recv() else {
                return;
            };
            self.apply(sample);
        }
    }

    fn reconfigure(&mut self, settings: Settings) {
        if settings == *self.engine.settings() {
            return;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.reconfigure(&settings);
        }
        let effects = self.engine.reconfigure(settings);
        self.tell(effects);
    }

    fn publish(&self) {
        let snapshot = self.engine.snapshot();
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != snapshot.clients_wanted;
            if changed {
                wanted.clone_from(&snapshot.clients_wanted);
            }
            changed
        });
        self.publish.send_replace(Arc::new(snapshot));
    }

    fn answer(&self, question: Question) {
        let Question {
            selector,
            from,
            to,
            answer,
        } = question;
        // Who asked may have gone.
        let _ = answer.send(self.engine.series(&selector, from, to));
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "measures the engine from outside"
    )]
    fn apply(&mut self, sample: Sample) {
        if let Some(recorder) = &mut self.recorder {
            recorder.offer(&sample);
        }
        let source = source_of(&sample.report);
        let (at, began) = (unix_now(), std::time::Instant::now());
        let effects = self.engine.apply(sample);
        let took = began.elapsed();
        self.ticks.record(took);
        self.telemetry.tick(source, at, took, &effects);
        self.tell(effects);
    }

    fn tell(&self, effects: Vec<Effect>) {
        for effect in effects {
            log::incident(&effect);
            if let Some(journal) = &self.journal {
                journal.offer(&effect);
            }
            // Nobody following is no error.
            let _ = self.effects.send(Arc::new(effect));
        }
    }
}
