//! A private Alertmanager, to show that pages arrive.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::{ServerProcess, StopStep};
use super::{Failure, Home, PORT_ATTEMPTS, ServerError};
use crate::observe::tls::use_ring;

/// SIGTERM lets it write its state.
const STOP: &[StopStep] = &[(Signal::SIGTERM, Duration::from_secs(5))];
const PROGRAM: &str = "alertmanager";
/// As Debian calls it.
const DEBIAN: &str = "prometheus-alertmanager";
const VARIABLE: &str = "SNOWPIT_ALERTMANAGER";

/// A running Alertmanager. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Alertmanager {
    process: ServerProcess,
    home: Home,
    port: u16,
}

impl Alertmanager {
    /// Starts one with this configuration (YAML), not clustered, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// Alertmanager is not installed (the environment variable
    /// `SNOWPIT_ALERTMANAGER` names the program), or it does not start: with the
    /// end of its log.
    pub async fn start(config: &str) -> Result<Self, ServerError> {
        Self::start_at(config, None).await
    }

    /// The same, at this port when it is free: for a restart in the same place.
    ///
    /// # Errors
    /// As there.
    pub async fn start_at(config: &str, port: Option<u16>) -> Result<Self, ServerError> {
        use_ring();
        let program = super::find_program(DEBIAN, DEBIAN, VARIABLE)
            .or_else(|_| super::find_program(PROGRAM, DEBIAN, VARIABLE))?;
        let mut attempts = PORT_ATTEMPTS;
        let mut wanted = port;
        loop {
            attempts -= 1;
            let home = Home::new(PROGRAM)?;
            let file = home.write("alertmanager.yml", config)?;
            let port = super::choose_port(&mut wanted).map_err(|source| home.error(source))?;
            let mut command = home.command(&program)?;
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!(
                    "--storage.path={}",
                    home.path().join("data").display()
                ))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--cluster.listen-address=");
            let process =
                ServerProcess::spawn(command, STOP).map_err(|source| ServerError::Spawn {
                    program: PROGRAM,
                    source,
                })?;
            let server = Self {
                process,
                home,
                port,
            };
            let ready = format!("{}/-/ready", server.url());
            let result = super::await_ready(&server.home, &server.process, || async {
                reqwest::get(&ready)
                    .await
                    .is_ok_and(|response| response.status().is_success())
            })
            .await;
            match result {
                Ok(()) => return Ok(server),
                Err(Failure::PortTaken) if attempts > 0 => {}
                Err(Failure::PortTaken) => {
                    return Err(ServerError::NotReady {
                        program: PROGRAM,
                        log: server.log_tail(),
                    });
                }
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    /// The address of its API and page, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.home.log_tail()
    }

    /// Shutdown without blocking the runtime.
    pub async fn stop(self) {
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}
