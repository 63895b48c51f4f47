//! The daemon as a program, started and stopped as its users do.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// An upper limit on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `snowpit run`, until it listens. Its address comes with it.
pub async fn daemon(config: &Path) -> (Child, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_snowpit"))
        .arg("run")
        .arg("--config")
        .arg(config)
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stderr.take().unwrap()).lines();
    let address = timeout(PATIENCE, async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, address)) = line.split_once("listening address=") {
                return address.split(' ').next().unwrap_or_default().to_owned();
            }
            said += &line;
        }
        panic!("it ended: {said}");
    });
    let address = address.await.expect("it says where it listens");
    // A pipe that nobody reads would stop it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (program, address)
}

pub async fn stop(mut program: Child) {
    let pid = Pid::from_raw(i32::try_from(program.id().unwrap()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let ended = timeout(PATIENCE, program.wait()).await;
    ended.expect("it ends when told to").unwrap();
}

/// A port that nobody has now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
