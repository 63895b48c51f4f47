//! Other settings for a detector at work.

use super::{Avalanche, Inherited};
use crate::engine::correlate::services::Services;
use crate::engine::correlate::window::History;
use crate::engine::settings::Settings;

impl Avalanche {
    /// Takes in other thresholds; what is normal stays. Who is switched on begins
    /// anew.
    pub fn reconfigure(&mut self, settings: &Settings) {
        let tuning = &settings.detect.connection_avalanche;
        if tuning.enabled == self.enabled {
            self.detector.retune(tuning.into());
        } else {
            *self = Self::new(&self.target, settings);
        }
    }

    /// Applications belong to services of other names from now on. How many
    /// sessions are normal stays; whose they were is forgotten, or all sessions
    /// of a new name would be taken for a rise. An open incident keeps its last
    /// word.
    pub fn rename(&mut self, services: Services) {
        self.services = services;
        self.history = History::default();
        if let (Some(episode), Some(finding)) = (self.episode.take(), self.last.clone()) {
            self.inherited = Some(Inherited {
                opened_at: episode.alarm.onset_at,
                peak: episode.climb.peak(),
                finding,
            });
        }
    }
}
