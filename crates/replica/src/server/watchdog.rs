//! When a managed server is to be killed: it hangs, or takes too much memory.

use super::{Http, PING_INTERVAL, PING_RETRY, PING_TIMEOUT, ServerState, down, up};
use rtdb_runtime::Instant;
use std::fs;
use std::time::Duration;
use tokio::sync::watch;

/// How often a server's memory is looked at.
const MEMORY_POLL: Duration = Duration::from_millis(100);
/// Ticks a second in which Linux counts processor time, on all common architectures.
const TICKS: u64 = 100;
/// A server is busy if it uses at least one of so many parts of a core.
const BUSY_PART: u32 = 20;

/// What a managed server may do before it is killed and started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// How long it may answer nothing while it hardly uses the processor: it hangs.
    pub idle_hang_max: Duration,
    /// How long it may answer nothing at all, though it is busy: it may be opening a large database.
    pub busy_hang_max: Duration,
    /// The memory that it may have resident, in bytes.
    pub memory_max: Option<u64>,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            idle_hang_max: Duration::from_secs(30),
            busy_hang_max: Duration::from_secs(900),
            memory_max: None,
        }
    }
}

impl ServerLimits {
    /// Whether a server hangs that has been `silent` for so long, and used so much of the processor meanwhile.
    fn hangs(&self, silent: Duration, processor: Duration) -> bool {
        let idle = processor < silent / BUSY_PART;
        silent >= self.busy_hang_max || (idle && silent >= self.idle_hang_max)
    }
}

/// Asks the server how it is, and reports that. Ends, with the reason, when it hangs.
pub(super) async fn watch_answers(
    pid: i32,
    limits: ServerLimits,
    http: &Http,
    report: &watch::Sender<ServerState>,
) -> String {
    // Only the time counts in which it was asked: it is not to blame for a pause of this process.
    let (mut silent, mut processor) = (Duration::ZERO, processor_time(pid));
    loop {
        let asked = Instant::now();
        let pause = match http.ping(PING_TIMEOUT).await {
            Ok(()) => {
                up(report);
                (silent, processor) = (Duration::ZERO, processor_time(pid));
                PING_INTERVAL
            }
            Err(e) => {
                down(report, e.to_string());
                silent += asked.elapsed().min(PING_TIMEOUT) + PING_RETRY;
                let used = processor_time(pid).saturating_sub(processor);
                if limits.hangs(silent, used) {
                    return format!("it has not answered for {silent:?}");
                }
                PING_RETRY
            }
        };
        rtdb_runtime::sleep(pause).await;
    }
}

/// Ends, with the reason, when the server has more memory than it may.
pub(super) async fn watch_memory(pid: i32, limits: ServerLimits) -> String {
    let Some(max) = limits.memory_max else {
        return std::future::pending().await;
    };
    loop {
        let resident = resident_bytes(pid);
        if resident > max {
            return format!(
                "it has {} MiB of memory, and may have {}",
                resident >> 20,
                max >> 20
            );
        }
        rtdb_runtime::sleep(MEMORY_POLL).await;
    }
}

/// The processor time that a process has used; none if it is gone.
fn processor_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Duration::from_millis(ticks(&stat) * (1000 / TICKS))
}

/// User and system time in `/proc/PID/stat`: the 14th and 15th field. The 2nd, in brackets, may hold anything.
fn ticks(stat: &str) -> u64 {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0;
    };
    let times = rest.split_whitespace().skip(11).take(2);
    times.filter_map(|time| time.parse::<u64>().ok()).sum()
}

/// The memory that a process has resident, in bytes; none if it is gone.
fn resident_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    resident_kib(&status) << 10
}

fn resident_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_given_more_time_than_an_idle_one() {
        let limits = ServerLimits::default();
        let seconds = Duration::from_secs;
        assert!(!limits.hangs(seconds(29), seconds(0)));
        assert!(limits.hangs(seconds(30), seconds(1)));
        assert!(!limits.hangs(seconds(30), seconds(2)));
        assert!(!limits.hangs(seconds(899), seconds(600)));
        assert!(limits.hangs(seconds(900), seconds(900)));
    }

    #[test]
    fn what_linux_says_of_a_process_is_read() {
        let stat = "42 (a (strange) name) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 7 1 1";
        assert_eq!(ticks(stat), 300);
        assert_eq!(ticks(""), 0);
        assert_eq!(
            resident_kib("Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t   2048 kB\n"),
            2048
        );
        assert_eq!(resident_kib("Name:\tx\n"), 0);

        let me = i32::try_from(std::process::id()).unwrap();
        assert!(resident_bytes(me) > 1 << 20);
        let (start, before) = (Instant::now(), processor_time(me));
        while processor_time(me) == before {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "no processor time is counted"
            );
            std::hint::spin_loop();
        }
    }
}
