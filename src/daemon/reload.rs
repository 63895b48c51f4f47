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
        let (config, needs_restart, pushers) = self.read().await?;
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

    /// The file as it is now, checked, with what cannot change as before and a
    /// sentence for each that should have; and the ways to the Alertmanagers when
    /// they, or the certificates to trust, are others. Files are read on a thread
    /// of their own. The doors come last: they change as soon as they are found
    /// good.
    async fn read(&self) -> Result<(Config, Vec<String>, Option<Prepared>), ReloadError> {
        let refused = |text: String| ReloadError::Refused(text);
        let Some(path) = self.config.path.clone() else {
            let text = "it was not read from a file: start snowpit with --config FILE";
            return Err(refused(text.to_owned()));
        };
        let (before, doors) = (self.config.clone(), self.doors.clone());
        let pushing = self.pushers.origin();
        let reading = tokio::task::spawn_blocking(move || {
            let mut config = load(&path)?;
            let prepared = Prepared::new(&config.alertmanager);
            let told = |error| format!("alerts cannot be pushed: {error}");
            let pushers = Some(prepared.map_err(told)?).filter(|new| new.origin() != &pushing);
            let stays = Stays::between(&before, &config);
            let needs_restart = keep_fixed(&before, &mut config, stays);
            let server = (!stays.server).then_some(&config.doors.server);
            let otlp = (!stays.otlp).then_some(&config.doors.otlp);
            doors
                .reload(server, otlp)
                .map_err(|errors| errors.to_string())?;
            Ok((config, needs_restart, pushers))
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

/// The sections whose addresses the file changes in vain. Who may come in there
/// stays with the address: what is safe at the new one need not be at the old.
#[derive(Clone, Copy)]
struct Stays {
    server: bool,
    otlp: bool,
}

impl Stays {
    fn between(old: &Config, new: &Config) -> Self {
        Self {
            server: old.listen != new.listen,
            otlp: old.otlp != new.otlp,
        }
    }
}

/// Keeps in `new` what cannot change while the daemon runs. A sentence for each
/// that should have.
fn keep_fixed(old: &Config, new: &mut Config, stays: Stays) -> Vec<String> {
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
    let (mut server, mut otlp) = (None, None);
    if stays.server {
        let what = "who may come in ([server] users, bearer_token_file, tls, open_health), with \
                    [server] listen,";
        server = keep(&old.doors.server, &mut new.doors.server, what);
    }
    if stays.otlp {
        let what = "who may come in ([otlp] users, bearer_token_file, tls), with [otlp] \
                    grpc_listen or http_listen,";
        otlp = keep(&old.doors.otlp, &mut new.doors.otlp, what);
    }
    new.doors.listeners.clone_from(&old.doors.listeners);
    let sentences = [
        keep(&old.listen, &mut new.listen, "[server] listen"),
        server,
        keep(
            &old.otlp,
            &mut new.otlp,
            "[otlp] grpc_listen or http_listen",
        ),
        otlp,
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
            let sentences = fix(&old, &mut new.clone());
            assert_eq!(sentences.len(), 4, "{sentences:?}");
            assert!(sentences.iter().all(|s| s.contains("needs a restart")));
        }
        fix(&old, &mut new);
        assert_eq!(
            (new.listen, new.otlp, &new.history, &new.telemetry_endpoint),
            (old.listen, old.otlp, &None, &None)
        );
        assert!(fix(&old, &mut new).is_empty());
    }

    fn fix(old: &Config, new: &mut Config) -> Vec<String> {
        let stays = Stays::between(old, new);
        keep_fixed(old, new, stays)
    }

    #[test]
    fn an_address_that_stays_keeps_who_may_come_in() {
        let hash = bcrypt::hash("secret", 10).unwrap();
        let users = format!("users = {{ ops = \"{hash}\" }}\n");
        let with = |server: &str, otlp: &str, users: &str| {
            let text = format!(
                "[server]\nlisten = \"{server}\"\n{users}[otlp]\ngrpc_listen = \"{otlp}\"\n\
                 {users}[[postgres]]\nname = \"main\"\n\
                 dsn = \"postgresql://snowpit@127.0.0.1:1/postgres\"\n"
            );
            Config::parse(&text, "the test", |_| None).unwrap()
        };
        let old = with("0.0.0.0:9899", "0.0.0.0:4317", &users);
        let mut new = with("127.0.0.1:9899", "127.0.0.1:4317", "");
        let sentences = fix(&old, &mut new);
        assert_eq!(new.doors, old.doors);
        let about = |what: &str| sentences.iter().filter(|s| s.contains(what)).count();
        assert_eq!((about("[server] users"), about("[otlp] users")), (1, 1));
        // Where the address is the same, users are taken up and taken away.
        let mut open = with("0.0.0.0:9899", "127.0.0.1:4317", "");
        fix(&old, &mut open);
        assert!(!open.doors.server.asks() && open.doors.otlp.asks());
    }
}
