//! Processes by id: signals, children, and this program's own end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

/// Sends SIGKILL; no error if the process is gone already.
pub fn kill9(pid: u32) {
    send(pid, Signal::SIGKILL);
}

pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // The only other outcome that loopback tests meet is ESRCH: it has ended.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Waits until the process has ended, and says whether it did so within `max`.
pub(crate) async fn ended(pid: u32, max: Duration) -> bool {
    let deadline = Instant::now() + max;
    while alive(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// A zombie, which only waits for its parent to notice, is not alive.
fn alive(pid: u32) -> bool {
    if Path::new("/proc/self").exists() {
        return stat(pid).is_some_and(|stat| stat.state != 'Z');
    }
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok())
}

/// The processes whose parent is `pid`, from `/proc` where there is one, else from `ps`.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    if let Ok(processes) = std::fs::read_dir("/proc") {
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        return Ok(pids
            .filter(|&child| stat(child).is_some_and(|stat| stat.parent == pid))
            .collect());
    }
    let listed = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()
        .context("ps")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let pairs = listed.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(str::parse::<u32>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    });
    Ok(pairs
        .filter(|&(_, parent)| parent == pid)
        .map(|(child, _)| child)
        .collect())
}

struct Stat {
    state: char,
    parent: u32,
    /// Of all its threads, those that have ended included.
    cpu_ticks: u64,
}

/// What the kernel's clock ticks are to programs, everywhere on Linux.
const TICK_US: u64 = 10_000;

/// CPU time that the process has used, in µs, in steps of the kernel's clock.
pub fn cpu_us(pid: u32) -> Result<u64> {
    let stat = stat(pid).with_context(|| format!("no process {pid}"))?;
    Ok(stat.cpu_ticks * TICK_US)
}

/// The state and the parent in `/proc/<pid>/stat`; the name before them is in parentheses and may hold anything.
fn stat(pid: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        // Its fields 14 and 15: as itself, and in the kernel for it.
        cpu_ticks: fields.nth(9)?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?,
    })
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .context("VmRSS")
}

/// Completes when this program is asked to end, by Ctrl-C or SIGTERM.
pub async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
