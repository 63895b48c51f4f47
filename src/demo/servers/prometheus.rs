//! A private Prometheus, to show that a real one scrapes us and fires alerts.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::{ServerProcess, StopStep};
use super::{Failure, Home, PORT_ATTEMPTS, ServerError};
use crate::observe::tls::use_ring;

/// SIGTERM lets it flush its head block.
const STOP: &[StopStep] = &[(Signal::SIGTERM, Duration::from_secs(10))];
const PROGRAM: &str = "prometheus";

/// A running Prometheus. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Prometheus {
    process: ServerProcess,
    home: Home,
    port: u16,
}

impl Prometheus {
    /// Starts one with this configuration (YAML, without `rule_files`) and,
    /// when given, a copy of this rules file, and waits until it is ready.
    ///
    /// # Errors
    /// Prometheus is not installed (the environment variable
    /// `SNOWPIT_PROMETHEUS` names the program), the rules cannot be read, or
    /// it does not start: with the end of its log.
    pub async fn start(config: &str, rules: Option<&Path>) -> Result<Self, ServerError> {
        use_ring();
        let program = super::find_program(PROGRAM, "prometheus", "SNOWPIT_PROMETHEUS")?;
        let mut attempts = PORT_ATTEMPTS;
        loop {
            attempts -= 1;
            let home = Home::new(PROGRAM)?;
            let mut body = config.to_owned();
            if let Some(rules) = rules {
                let text = std::fs::read_to_string(rules).map_err(|source| home.error(source))?;
                let copy = home.write("rules.yml", &text)?;
                body.push_str(&format!("\nrule_files: ['{}']\n", copy.display()));
            }
            let file = home.write("prometheus.yml", &body)?;
            let port = super::choose_port(&mut None).map_err(|source| home.error(source))?;
            let mut command = home.command(&program)?;
            command
                .arg(format!("--config.file={}", file.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    home.path().join("data").display()
                ))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--web.enable-lifecycle");
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
