//! New settings for an engine at work.
//!
//! Invariants: a target that stays keeps what it has learnt, its tracked locks
//! and its open incidents; one that is gone keeps nothing, and its incidents end
//! here, because nobody would ever look again. Time is that of the newest
//! sample: a replay that comes to the same settings says the same.

use std::sync::Arc;

use super::Engine;
use super::incident::{Effect, Incident, Kind};
use super::settings::Settings;
use super::target::{Findings, Target};
use crate::sample::UnixSeconds;

/// What is added to the evidence of an incident whose target is gone.
const NOT_WATCHED: &str = "its server is not in the configuration any more: it ends here because nobody looks, not because it is over";

impl Engine {
    /// What the engine is told now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes in new settings. The effects are the ends of incidents that nobody
    /// looks after any more.
    ///
    /// What was watched and is not in the settings any more must not send
    /// samples after this: they would bring it back.
    pub fn reconfigure(&mut self, settings: Settings) -> Vec<Effect> {
        if settings == *self.settings {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.settings, Arc::new(settings));
        let settings = Arc::clone(&self.settings);
        let at = self.at;
        self.traffic.reconfigure(&settings.services);
        let mut effects = Vec::new();
        let stays = |name: &&String| settings.targets.contains(name);
        for name in before.targets.iter().filter(|name| !stays(name)) {
            self.targets.remove(name);
            self.restored.forget(name);
            self.traffic.forget_target(name);
            effects.extend(self.ledger.abandon(name, at));
        }
        // Those that samples brought in are judged by the new settings as well.
        let mut without_pooler = Vec::new();
        for (name, target) in &mut self.targets {
            if target.reconfigure(&before, &settings) {
                without_pooler.push((name.clone(), target.saturated()));
            }
        }
        for (name, findings) in without_pooler {
            // A pooler that is gone brings no look that would end them.
            let findings = Findings {
                kinds: &[Kind::PoolSaturation],
                findings,
            };
            effects.extend(self.settle(&name, findings, at, false));
        }
        for name in &settings.targets {
            if !self.targets.contains_key(name) {
                let target = Target::new(name, &settings);
                self.targets.insert(name.clone(), target);
            }
        }
        effects
    }
}

/// An incident of a target that is not watched any more, as it ends at `at`.
pub fn abandoned(mut incident: Incident, at: UnixSeconds) -> Incident {
    // Without a sample in this life there is no time yet.
    incident.resolved_at = Some(at.max(incident.opened_at));
    incident.evidence.push(NOT_WATCHED.to_owned());
    incident
}

#[cfg(test)]
mod tests;
