//! Starts a process that dies with this one, whatever this one dies of.
//!
//! The kernel kills the child when the *thread* that started it ends (`PR_SET_PDEATHSIG`). So each child has a thread of
//! its own, which starts it, waits for its end, and ends only then.
//!
//! The crate exists for what is `unsafe`: what runs in the child between fork and exec, and an option of sockets.

mod low_water;

pub use low_water::set_low_water;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getppid};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{oneshot, watch};

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// Whether the process is there, if only as one that has ended and keeps its number: it may be sent signals.
    alive: Arc<Mutex<bool>>,
    ended: watch::Receiver<Option<Result<ExitStatus, Errno>>>,
}

impl Process {
    /// Starts a program, whose niceness (`nice(2)`) is by so much above this process's: where processors are few, others
    /// go first.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn spawn(mut command: Command, nicer_by: u8) -> io::Result<Self> {
        let (started, starting) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let alive = Arc::new(Mutex::new(true));
        let watched = alive.clone();
        before_exec(&mut command, nicer_by);
        std::thread::Builder::new().name("child".into()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(e) => return drop(started.send(Err(e))),
            };
            // Whoever started it may have gone: then it is dropped with the `Process`, and killed.
            let process = pid(&child).map(|pid| Self {
                pid,
                alive: watched.clone(),
                ended,
            });
            drop(started.send(process));
            end.send_replace(Some(wait(&mut child, &watched)));
        })?;
        starting
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it has failed")))
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends it a signal; nothing if it has ended.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        // While this is held, its number is not another's.
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if *alive { kill(self.pid, signal) } else { Ok(()) }
    }

    /// Waits for its end. May be dropped and called again.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => Ok(ended?),
            _ => Err(io::Error::other("the thread that waits for it has failed")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended, or nothing can be done about it.
        let _ = self.signal(Signal::SIGKILL);
    }
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(io::Error::other)
}

/// Waits for the end of a process, and lets go of its number only while no signal is sent to it.
fn wait(child: &mut Child, alive: &Mutex<bool>) -> Result<ExitStatus, Errno> {
    let errno = |e: io::Error| e.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    let pid = pid(child).map_err(errno)?;
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
            Ok(_) => break,
        }
    }
    let mut alive = alive.lock().unwrap_or_else(PoisonError::into_inner);
    *alive = false;
    child.wait().map_err(errno)
}

/// Has the child killed when the thread that starts it ends, and lets it give way to others.
#[allow(
    unsafe_code,
    reason = "what runs between fork and exec must be async-signal-safe"
)]
fn before_exec(command: &mut Command, nicer_by: u8) {
    let parent = std::process::id();
    let before_exec = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // SAFETY: a system call. That it fails says only that nobody goes first.
        unsafe {
            libc::nice(nicer_by.into());
        }
        // It may have ended before: then there is no signal.
        match u32::try_from(getppid().as_raw()) {
            Ok(found) if found == parent => Ok(()),
            _ => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: three system calls, and nothing that allocates or takes a lock.
    unsafe {
        command.pre_exec(before_exec);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// Waits without a child of its own until its input ends.
    fn reader() -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "read line"]).stdin(Stdio::piped());
        command
    }

    #[tokio::test]
    async fn a_process_is_waited_for_and_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 7"]);
        let mut process = Process::spawn(command, 0).await.unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(7));
        process.signal(Signal::SIGKILL).unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(7));

        let mut process = Process::spawn(reader(), 0).await.unwrap();
        assert!(futures_now(&mut process).await.is_none());
        process.signal(Signal::SIGTERM).unwrap();
        assert!(!process.wait().await.unwrap().success());
        assert!(Process::spawn(Command::new("/nowhere"), 0).await.is_err());
    }

    #[tokio::test]
    async fn a_process_gives_way_to_others() {
        let niceness = async |nicer_by| {
            let mut command = Command::new("sh");
            command.args(["-c", "exit $(nice)"]);
            let mut process = Process::spawn(command, nicer_by).await.unwrap();
            process.wait().await.unwrap().code().unwrap()
        };
        let ours = niceness(0).await;
        assert_eq!(niceness(3).await, (ours + 3).min(19));
    }

    async fn futures_now(process: &mut Process) -> Option<ExitStatus> {
        tokio::select! {
            biased;
            ended = process.wait() => ended.ok(),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed() {
        let process = Process::spawn(reader(), 0).await.unwrap();
        let mut ended = process.ended.clone();
        drop(process);
        assert!(ended.wait_for(Option::is_some).await.is_ok());
    }

    /// The runtime's threads come and go; the child's does not.
    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut process = std::thread::spawn(move || runtime().block_on(Process::spawn(reader(), 0)))
            .join()
            .unwrap()
            .unwrap();
        runtime().block_on(async {
            assert!(futures_now(&mut process).await.is_none());
            process.signal(Signal::SIGTERM).unwrap();
            process.wait().await.unwrap();
        });
    }
}
