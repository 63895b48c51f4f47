//! New settings for a target that is being watched: what was learnt stays, and
//! what is judged by other thresholds from now on goes on from where it was.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use super::{Target, not_yet_seen};
use crate::engine::correlate::services::Services;
use crate::engine::incident::Finding;
use crate::engine::locks::advisory::AdvisoryLocks;
use crate::engine::settings::{Service, Settings};

impl Target {
    /// Takes in new settings. True when a pooler in front of it is gone.
    pub fn reconfigure(&mut self, before: &Settings, settings: &Arc<Settings>) -> bool {
        self.shown = OnceLock::new();
        self.settings = Arc::clone(settings);
        let gone = self.change_poolers(before, settings);
        let detect = &settings.detect;
        if !detect.orphaned_advisory_lock.enabled {
            self.advisory = AdvisoryLocks::new(&self.name);
            self.orphans.clear();
        }
        self.avalanche.reconfigure(settings);
        if of(&self.name, before) != of(&self.name, settings) {
            self.services = Services::at(&self.name, &settings.services);
            self.avalanche
                .rename(Services::at(&self.name, &settings.services));
        }
        self.headroom.reconfigure(settings);
        self.habits.reconfigure(settings);
        self.reach.reconfigure(&detect.primary_unreachable);
        self.waits.reconfigure(detect);
        self.saturation.reconfigure(settings);
        gone
    }

    /// What is told of the pools.
    pub fn saturated(&self) -> Vec<Finding> {
        self.saturation.findings()
    }

    /// Those that a capture brought in without a configuration stay.
    fn change_poolers(&mut self, before: &Settings, settings: &Settings) -> bool {
        let here = |settings: &Settings| -> BTreeSet<String> {
            let poolers = settings.poolers.iter();
            let here = poolers.filter(|pooler| pooler.target == self.name);
            here.map(|pooler| pooler.name.clone()).collect()
        };
        let (before, now) = (here(before), here(settings));
        for pooler in before.difference(&now) {
            self.poolers.remove(pooler);
            self.saturation.forget(pooler);
            self.reach.forget(pooler);
            self.waits.forget(pooler);
        }
        for pooler in now.difference(&before) {
            let unseen = || not_yet_seen(pooler, &self.name);
            self.poolers.entry(pooler.clone()).or_insert_with(unseen);
        }
        before.difference(&now).next().is_some()
    }
}

/// The services that have sessions at a target.
fn of<'a>(target: &str, settings: &'a Settings) -> Vec<(&'a String, &'a Vec<String>)> {
    let services = settings.services.iter();
    let here = services.filter(|service: &&Service| service.targets.iter().any(|t| t == target));
    here.map(|service| (&service.name, &service.applications))
        .collect()
}
