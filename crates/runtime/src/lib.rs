//! Tasks, time and randomness: what the other crates take from here, so that they run as well in a simulation.
//!
//! Which one it is, is asked of the thread when something is used: a program that runs in the one or the other has no
//! types for it. A simulation (feature `sim`) has one thread, virtual time, and one seed from which every choice comes:
//! the same seed gives the same run. Without the feature there is nothing to ask, and all of it is Tokio's.
//!
//! What needs no runtime (Tokio's channels, semaphores, notifications) is used as it is. Nothing may choose at random by
//! itself: so [`select!`] is always biased.

mod home;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(not(feature = "sim"))]
#[allow(dead_code, unreachable_pub, reason = "nobody can begin one")]
mod sim;
mod task;
mod tasks;
mod time;

pub use home::Home;
pub use task::{JoinError, JoinHandle, Worker, in_place, is_running, spawn, unblock, worker, yield_now};
pub use tasks::Tasks;
pub use time::{Elapsed, Instant, Sleep, Timeout, sleep, sleep_until, timeout, timeout_at, wall_us};
#[doc(hidden)]
pub use tokio;

/// [`tokio::select!`], biased: the first branch that is ready is taken.
#[macro_export]
macro_rules! select {
    ($($branches:tt)*) => {
        $crate::tokio::select! { biased; $($branches)* }
    };
}

/// A random number.
pub fn random() -> u64 {
    match sim::current() {
        Some(sim) => sim.random(),
        None => rand::random(),
    }
}

/// Sixteen random bytes.
pub fn random_bytes() -> [u8; 16] {
    ((u128::from(random()) << 64) | u128::from(random())).to_le_bytes()
}

/// Says that something rare has happened: a simulation counts it, nobody else does.
#[inline]
pub fn reached(what: &'static str) {
    if let Some(sim) = sim::current() {
        sim.count(what);
    }
}

/// Whether a fault is planted here, to see that the simulation finds it: never, outside of one.
#[inline]
pub fn planted(fault: &str) -> bool {
    match sim::current() {
        Some(sim) => sim.has(fault),
        None => false,
    }
}
