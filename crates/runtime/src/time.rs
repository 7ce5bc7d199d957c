//! Instants and sleeping.

use crate::sim;
use pin_project_lite::pin_project;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::task::coop;

/// The instant at which a program's clock begins: not 0, so that there are some before.
pub(crate) const START_NS: u64 = 3_600_000_000_000;

/// A moment of the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub(crate) u64);

impl Instant {
    /// This moment.
    pub fn now() -> Self {
        match sim::current() {
            Some(sim) => Self(sim.monotonic()),
            None => Self::from_tokio(tokio::time::Instant::now()),
        }
    }

    /// How long ago it was; nothing if it is yet to come.
    pub fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    /// How much later it is than another one; nothing if it is not.
    pub fn duration_since(&self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Tokio's clock, since it may stand still in a test.
    fn from_tokio(now: tokio::time::Instant) -> Self {
        let base = base();
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match now.checked_duration_since(base) {
            Some(since) => Self(START_NS.saturating_add(ns(since))),
            None => Self(START_NS.saturating_sub(ns(base.duration_since(now)))),
        }
    }

    fn into_tokio(self) -> tokio::time::Instant {
        let base = base();
        match self.0.checked_sub(START_NS).map(Duration::from_nanos) {
            // At most centuries: Tokio takes that.
            Some(since) => base + since,
            None => base,
        }
    }
}

/// The moment that this process's instants are counted from.
fn base() -> tokio::time::Instant {
    static BASE: OnceLock<std::time::Instant> = OnceLock::new();
    (*BASE.get_or_init(std::time::Instant::now)).into()
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self::now()
    }
}

/// The time of day, in microseconds since the Unix epoch. It may jump.
pub fn wall_us() -> u64 {
    match sim::current() {
        Some(sim) => sim.wall_us(),
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_micros() as u64),
    }
}

pin_project! {
    /// Waits for a moment.
    #[derive(Debug)]
    pub struct Sleep {
        #[pin]
        inner: SleepInner,
    }
}

pin_project! {
    #[project = SleepProjection]
    #[derive(Debug)]
    enum SleepInner {
        Tokio { #[pin] sleep: tokio::time::Sleep },
        Sim { sleep: sim::Sleep },
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.project().inner.project() {
            SleepProjection::Tokio { sleep } => sleep.poll(cx),
            SleepProjection::Sim { sleep } => sleep.poll_elapsed(cx),
        }
    }
}

/// Waits for so long.
pub fn sleep(duration: Duration) -> Sleep {
    let inner = match sim::current() {
        Some(sim) => {
            let sleep = sim.sleep_until(Instant::now() + duration);
            SleepInner::Sim { sleep }
        }
        None => SleepInner::Tokio {
            sleep: tokio::time::sleep(duration),
        },
    };
    Sleep { inner }
}

/// Waits until then.
pub fn sleep_until(deadline: Instant) -> Sleep {
    let inner = match sim::current() {
        Some(sim) => SleepInner::Sim {
            sleep: sim.sleep_until(deadline),
        },
        None => SleepInner::Tokio {
            sleep: tokio::time::sleep_until(deadline.into_tokio()),
        },
    };
    Sleep { inner }
}

/// It took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it took too long")]
pub struct Elapsed;

pin_project! {
    /// A future that is given up at a moment.
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let had_budget = coop::has_budget_remaining();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if had_budget && !coop::has_budget_remaining() {
            // It always takes all of what Tokio lets a task do at once: there would never be any left for the time.
            ready!(pin!(coop::unconstrained(this.sleep)).poll(cx));
        } else {
            ready!(this.sleep.poll(cx));
        }
        Poll::Ready(Err(Elapsed))
    }
}

/// Gives a future up after so long.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    let sleep = sleep(duration);
    Timeout { future, sleep }
}

/// Gives a future up at a moment.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    let sleep = sleep_until(deadline);
    Timeout { future, sleep }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_stands_still_is_followed() {
        let begin = Instant::now();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(7));
        sleep_until(begin + Duration::from_secs(10)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(10));
        sleep_until(begin).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(10), "that is over");
        let never = timeout(Duration::from_secs(5), std::future::pending::<()>());
        assert_eq!(never.await, Err(Elapsed));
        assert_eq!(timeout(Duration::ZERO, async { 3 }).await, Ok(3), "it is done");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_runs_for_years_still_sleeps() {
        tokio::time::advance(Duration::from_secs(86_400 * 365 * 3)).await;
        let begin = Instant::now();
        sleep_until(begin + Duration::from_secs(10)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(10));
        let far = timeout(Duration::from_secs(5), sleep_until(begin + Duration::MAX));
        assert_eq!(far.await, Err(Elapsed));
    }

    #[tokio::test]
    async fn what_always_has_something_to_do_is_given_up() {
        let busy = async {
            loop {
                tokio::task::coop::consume_budget().await;
            }
        };
        let given_up = timeout(Duration::from_millis(10), busy);
        let in_time = tokio::time::timeout(Duration::from_secs(5), given_up).await;
        assert_eq!(in_time.expect("in time"), Err::<(), _>(Elapsed));
    }

    #[test]
    fn instants_do_not_overflow() {
        let now = Instant::now();
        assert_eq!(now + Duration::MAX, Instant(u64::MAX));
        assert_eq!(now - Duration::MAX, Instant(0));
        assert_eq!(now - (now + Duration::from_secs(1)), Duration::ZERO);
    }
}
