//! A real terminal to look at: tmux, with a server of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// An upper limit on a busy machine, not a pace.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at the screen.
const PAUSE: Duration = Duration::from_millis(100);

/// A shell in a terminal, in a directory of its own.
pub struct Tmux {
    directory: tempfile::TempDir,
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).output();
    }
}

impl Tmux {
    /// With so many columns and rows.
    pub fn start(columns: usize, rows: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tmux = Self { directory };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let place = tmux.directory.path().display().to_string();
        tmux.ask(&[
            "new-session",
            "-d",
            "-c",
            &place,
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1='$ ' ENV= bash --norc --noprofile",
        ]);
        // All that a program writes, byte by byte.
        let raw = format!("cat > '{}'", tmux.raw_file().display());
        tmux.ask(&["pipe-pane", &raw]);
        tmux
    }

    fn raw_file(&self) -> std::path::PathBuf {
        self.directory.path().join("raw")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-u")
            .arg("-S")
            .arg(self.directory.path().join("socket"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX");
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output();
        let output = output.expect("tmux runs; it comes with Debian's package tmux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    /// The bytes that were written to the terminal so far.
    pub fn raw(&self) -> Vec<u8> {
        std::fs::read(self.raw_file()).unwrap_or_default()
    }

    /// Presses keys, by the names that tmux has for them.
    pub fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Types a line at the shell.
    pub fn run(&self, line: &str) {
        self.ask(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    pub fn resize(&self, columns: usize, rows: usize) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.ask(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// A fact about the terminal, such as `alternate_on`.
    pub fn fact(&self, name: &str) -> String {
        let format = format!("#{{{name}}}");
        self.ask(&["display-message", "-p", &format])
            .trim()
            .to_owned()
    }

    /// Waits until the screen is as wanted, and gives it.
    pub async fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(began.elapsed() < PATIENCE, "no {what}:\n{screen}");
            sleep(PAUSE).await;
        }
    }

    /// Waits until a text is on the screen.
    pub async fn sees(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text)).await
    }
}

/// The program under test, in quotes for a shell.
pub fn program() -> String {
    format!("'{}'", Path::new(env!("CARGO_BIN_EXE_snowpit")).display())
}
