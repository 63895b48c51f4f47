//! Captures through the same engine that runs live, as fast as it goes.
//!
//! Invariant: what comes out depends on the captures and the settings alone, so
//! that a replay says what the live program said, byte for byte each time.

use crate::capture::{Captures, Rejected};
use crate::engine::incident::{Effect, Event};
use crate::engine::{Engine, Settings};
use crate::sample::UnixSeconds;

/// A replay at work.
pub struct Replay {
    captures: Captures,
    engine: Engine,
    /// Judges with these thresholds instead of the captured ones.
    configured: Option<Settings>,
    summary: Summary,
}

/// What one step gave.
#[derive(Debug)]
pub enum Step {
    /// A sample was applied, with these changes of incidents.
    Applied(Vec<Effect>),
    /// A line was left out.
    LeftOut(Rejected),
}

/// What was replayed so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    pub samples: u64,
    pub opened: u64,
    pub resolved: u64,
    /// Lines left out that should not be there.
    pub rejected: u64,
    /// Lines left out as a killed or newer writer leaves them.
    pub cut: u64,
    /// Times of the earliest and the latest sample.
    pub span: Option<(UnixSeconds, UnixSeconds)>,
}

impl Replay {
    /// The settings to begin with are those of the captures, see
    /// [`Captures::settings`], or what was made of them.
    pub fn new(captures: Captures, settings: Settings) -> Self {
        Self {
            captures,
            engine: Engine::new(settings).without_history(),
            configured: None,
            summary: Summary::default(),
        }
    }

    /// Judges as a configuration says, see [`tuned`].
    #[must_use]
    pub fn tuned_by(mut self, configured: Settings) -> Self {
        let settings = tuned(self.captures.settings(), &configured);
        self.engine = Engine::new(settings).without_history();
        self.configured = Some(configured);
        self
    }

    /// Applies the next sample. `None` when all are.
    pub fn step(&mut self) -> Option<Step> {
        let sample = match self.captures.next()? {
            Ok(sample) => sample,
            Err(rejected) => {
                if rejected.problem.is_harmless() {
                    self.summary.cut += 1;
                } else {
                    self.summary.rejected += 1;
                }
                return Some(Step::LeftOut(rejected));
            }
        };
        let (first, last) = self.summary.span.unwrap_or((sample.t, sample.t));
        self.summary.span = Some((first.min(sample.t), last.max(sample.t)));
        self.summary.samples += 1;
        let mut effects = Vec::new();
        if let Some(changed) = self.captures.take_change() {
            let settings = match &self.configured {
                Some(configured) => tuned(changed, configured),
                None => changed,
            };
            effects.extend(self.engine.reconfigure(settings));
        }
        effects.extend(self.engine.apply(sample));
        for effect in &effects {
            match effect.event {
                Event::Opened => self.summary.opened += 1,
                Event::Resolved => self.summary.resolved += 1,
                Event::Updated => {}
            }
        }
        Some(Step::Applied(effects))
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Bytes read of the files, and their sizes together.
    pub fn progress(&self) -> (u64, u64) {
        self.captures.progress()
    }
}

/// The captures' settings, judged with the thresholds, the named locks and the
/// pooler addresses of a configuration. Who is there (targets, poolers,
/// services, and whether every pooler is polled) is a fact of the captures; the
/// configuration only adds services that they do not name.
pub fn tuned(captured: Settings, configured: &Settings) -> Settings {
    let mut services = captured.services;
    for service in &configured.services {
        if services.iter().all(|known| known.name != service.name) {
            services.push(service.clone());
        }
    }
    Settings {
        services,
        pooler_addresses: configured.pooler_addresses.clone(),
        advisory_locks: configured.advisory_locks.clone(),
        detect: configured.detect.clone(),
        ..captured
    }
}
