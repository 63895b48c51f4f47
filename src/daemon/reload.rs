//! Another configuration for a daemon at work.
//!
//! Invariants: everything that can be refused is refused before anything is
//! changed; what is gone has ended before the engine forgets it, and what is new
//! starts after the engine knows it; one reload at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::core::Change;
use super::sources::Sources;
use crate::config::Config;
use crate::engine::Snapshot;
use crate::expose::alertmanager::{Prepared, Pushers};
use crate::expose::web::{ReloadError, ReloadHealth, Reloaded, Request};
use crate::listen::Doors;

/// How long an Alertmanager that is not configured any more may take the last
/// change.
const LAST_PUSH: Duration = Duration::from_secs(2);

/// What can change while the daemon runs.
pub(super) struct Control {
    /// In force.
    pub config: Config,
    pub sources: Sources,
    pub pushers: Pushers,
    pub changes: mpsc::Sender<Change>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub targets: watch::Sender<Vec<String>>,
    pub services: watch::Sender<Vec<String>>,
    pub doors: Doors,
    pub health: ReloadHealth,
}

impl Control {
    /// Reloads when asked, until `stop` is cancelled: also in the middle of one.
    /// Gives back who has to be stopped last.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        stop: CancellationToken,
    ) -> Pushers {
        loop {
            let answer = tokio::select! {
                () = stop.cancelled() => return self.pushers,
                Some(answer) = requests.recv() => answer,
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => Err(ReloadError::Stopping),
                outcome = self.reload() => outcome,
            };
            self.health.ended(&outcome);
            // Who asked may have gone.
            let _ = answer.send(outcome);
        }
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let (mut config, pushers) = self.read().await?;
        let needs_restart = keep_fixed(&self.config, &mut config);
        let changes = self.sources.stop_others(&config).await;
        let (done, known) = oneshot::channel();
        let change = (config.settings.clone(), done);
        if self.changes.send(change).await.is_err() || known.await.is_err() {
            return Err(ReloadError::Stopping);
        }
        self.targets.send_replace(config.settings.targets.clone());
        self.services.send_replace(names_of_services(&config));
        self.sources.start_missing(&config);
        if let Some(prepared) = pushers {
            let health = self.pushers.health();
            self.pushers.stop(LAST_PUSH).await;
            self.pushers = prepared.start(&self.snapshot, health);
        }
        let warnings = config.warnings.clone();
        self.config = config;
        Ok(Reloaded {
            started: changes.started,
            restarted: changes.restarted,
            stopped: changes.stopped,
            kept: changes.kept,
            needs_restart,
            warnings,
        })
    }

    /// The file as it is now, checked, and the ways to other Alertmanagers when
    /// they are others. Files are read on a thread of their own. The doors come
    /// last: they change as soon as they are found good.
    async fn read(&self) -> Result<(Config, Option<Prepared>), ReloadError> {
        let refused = |text: String| ReloadError::Refused(text);
        let Some(path) = self.config.path.clone() else {
            let text = "it was not read from a file: start snowpit with --config FILE";
            return Err(refused(text.to_owned()));
        };
        let (before, doors) = (self.config.alertmanager.clone(), self.doors.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let config = load(&path)?;
            let pushers = if config.alertmanager == before {
                None
            } else {
                let prepared = Prepared::new(&config.alertmanager);
                let told = |error| format!("alerts cannot be pushed: {error}");
                Some(prepared.map_err(told)?)
            };
            doors
                .reload(&config.doors)
                .map_err(|errors| errors.to_string())?;
            Ok((config, pushers))
        });
        let read = reading.await;
        let read = read.unwrap_or_else(|_| Err("the reading of it panicked".to_owned()));
        read.map_err(refused)
    }
}

fn load(path: &Path) -> Result<Config, String> {
    let config = Config::load(path, |name| std::env::var(name).ok());
    config.map_err(|errors| errors.to_string())
}

/// The names of the configured services.
pub(super) fn names_of_services(config: &Config) -> Vec<String> {
    let services = config.settings.services.iter();
    services.map(|service| service.name.clone()).collect()
}

/// Keeps in `new` what cannot change while the daemon runs. A sentence for each
/// that should have.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<String> {
    fn keep<T: Clone + PartialEq>(old: &T, new: &mut T, what: &str) -> Option<String> {
        let changed = old != new;
        new.clone_from(old);
        changed.then(|| {
            format!(
                "{what} needs a restart to change: the value from before goes on until snowpit is \
                 started again"
            )
        })
    }
    let sentences = [
        keep(&old.listen, &mut new.listen, "[server] listen"),
        keep(
            &old.otlp,
            &mut new.otlp,
            "[otlp] grpc_listen or http_listen",
        ),
        keep(&old.history, &mut new.history, "[history]"),
        keep(
            &old.telemetry_endpoint,
            &mut new.telemetry_endpoint,
            "[telemetry]",
        ),
    ];
    sentences.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, more: &str) -> Config {
        let text = format!(
            "[server]\nlisten = \"{listen}\"\n[[postgres]]\nname = \"main\"\n\
             dsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n{more}"
        );
        Config::parse(&text, "the test", |_| None).unwrap()
    }

    #[test]
    fn what_cannot_change_is_kept_and_told_each_time() {
        let old = config("127.0.0.1:9899", "");
        let more = "[otlp]\ngrpc_listen = \"127.0.0.1:4317\"\n\
                    [history]\ndirectory = \"/tmp/elsewhere\"\n\
                    [telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\n";
        let mut new = config("127.0.0.1:9900", more);
        for _ in 0..2 {
            let sentences = keep_fixed(&old, &mut new.clone());
            assert_eq!(sentences.len(), 4, "{sentences:?}");
            assert!(sentences.iter().all(|s| s.contains("needs a restart")));
        }
        keep_fixed(&old, &mut new);
        assert_eq!(
            (new.listen, new.otlp, &new.history, &new.telemetry_endpoint),
            (old.listen, old.otlp, &None, &None)
        );
        assert!(keep_fixed(&old, &mut new).is_empty());
    }
}
