//! A child process that cannot outlive us.
//!
//! The kernel's parent-death signal fires when the *thread* that forked ends,
//! so each child is forked by a thread of its own, which then waits for it and
//! lives exactly as long. Waiting leaves the zombie in place until the state
//! is marked ended under the lock, so a signal never reaches a stranger who was
//! given the pid again.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};

/// How often a group is looked at whose leader has ended: two seconds in all.
const GROUP_LOOKS: u32 = 80;

/// A signal and how long to wait for its effect before the next one.
pub(super) type StopStep = (Signal, Duration);

/// A running child. Dropping it goes through its stop steps, then SIGKILL, and
/// waits for the end: it blocks for as long as that takes.
#[derive(Debug)]
pub(super) struct ServerProcess {
    pid: Pid,
    end: Arc<End>,
    stop_steps: &'static [StopStep],
}

#[derive(Debug, Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerProcess {
    /// Starts the command. When we die, the child gets the first signal of
    /// `stop_steps` from the kernel.
    pub(super) fn spawn(mut command: Command, stop_steps: &'static [StopStep]) -> io::Result<Self> {
        let last_will = stop_steps.first().map_or(Signal::SIGKILL, |step| step.0);
        let end = Arc::new(End::default());
        let keeper_end = Arc::clone(&end);
        let (started, start) = mpsc::channel();
        std::thread::Builder::new()
            .name("server-keeper".into())
            .spawn(move || {
                die_with_parent(&mut command, last_will);
                keep(command, &keeper_end, &started);
            })?;
        let pid = start
            .recv()
            .map_err(|_| io::Error::other("the keeper thread ended"))??;
        Ok(Self {
            pid,
            end,
            stop_steps,
        })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// `None` while it runs.
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        *self.end.lock()
    }

    /// Waits for the end; for programs that do a thing and leave.
    pub(super) async fn ended(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            tokio::time::sleep(super::READY_POLL).await;
        }
    }

    /// Goes to the whole group: `initdb` has helpers. PostgreSQL's backends
    /// have sessions of their own, and their postmaster sees to them.
    pub(super) fn signal(&self, signal: Signal) {
        let ended = self.end.lock();
        if ended.is_none() {
            // The only error left is a program that changed its user; the next
            // step shows it.
            let _ = killpg(self.pid, signal);
        }
    }

    fn ends_within(&self, patience: Duration) -> bool {
        let (status, _) = self
            .end
            .changed
            .wait_timeout_while(self.end.lock(), patience, |status| status.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        status.is_some()
    }

    fn stop(&self) {
        for (signal, patience) in self.stop_steps {
            self.signal(*signal);
            if self.ends_within(*patience) {
                return;
            }
        }
        self.signal(Signal::SIGKILL);
        // Bounded: a process in uninterruptible sleep must not hang us.
        self.ends_within(Duration::from_secs(5));
    }

    /// Helpers may outlive the leader for a moment, and write where the caller
    /// is about to remove the directory.
    fn await_group(&self) {
        for _ in 0..GROUP_LOOKS {
            if killpg(self.pid, None) == Err(Errno::ESRCH) {
                return;
            }
            std::thread::sleep(super::READY_POLL);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.stop();
        self.await_group();
    }
}

/// The keeper thread: forks, reports, waits.
fn keep(mut command: Command, end: &End, started: &mpsc::Sender<io::Result<Pid>>) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    let _ = started.send(Ok(pid));
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
    let mut status = end.lock();
    // Does not block: the child has ended and only waits to be reaped.
    *status = Some(child.wait().unwrap_or_default());
    end.changed.notify_all();
}

/// Sends `last_will` to the process when the thread that starts it ends, however
/// that comes about.
pub fn die_with_parent(command: &mut Command, last_will: Signal) {
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed;
    // prctl and getppid are plain system calls and nothing here allocates. std
    // runs this after it changed the user, which would clear the setting.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(last_will)?;
            if getppid() != parent {
                return Err(io::Error::from_raw_os_error(Errno::ESRCH as i32));
            }
            Ok(())
        });
    }
}
