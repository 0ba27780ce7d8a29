//! Generic cell rate algorithm: a rate and a burst with one number for each client, the moment at which all it has taken would
//! be paid for at that rate. The function `oncue_spend` in Redis does the same for all processes together.

use std::time::Duration;

/// Rate at which something may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one is earned.
    pub interval: Duration,
    /// Most that can be taken at once.
    pub burst: u32,
}

/// Answer to whether one may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it was taken.
    pub allowed: bool,
    /// How many could be taken now.
    pub remaining: u32,
    /// Time until one may be taken; zero where it may be now.
    pub retry: Duration,
    /// Time until all of the burst may be taken again.
    pub reset: Duration,
}

impl Rate {
    /// Takes one at `now`, a time since any beginning; `paid` is the moment that is kept between calls.
    pub fn take(&self, paid: &mut Duration, now: Duration) -> Verdict {
        let most = self.interval * self.burst;
        // A debt of more than a whole burst is of another clock.
        let owed = paid.saturating_sub(now).min(most);
        let then = owed + self.interval;
        let allowed = then <= most;
        let owed = if allowed { then } else { owed };
        // Kept when it is refused as well, or a moment of another clock would stay.
        *paid = now + owed;
        let left = most.saturating_sub(owed);
        Verdict {
            allowed,
            remaining: (left.as_nanos() / self.interval.as_nanos().max(1)) as u32,
            retry: if allowed {
                Duration::ZERO
            } else {
                then.saturating_sub(most)
            },
            reset: owed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: Rate = Rate {
        interval: SECOND,
        burst: 3,
    };

    fn take(paid: &mut Duration, now: f64) -> (bool, u32, f64) {
        let verdict = RATE.take(paid, Duration::from_secs_f64(now));
        (
            verdict.allowed,
            verdict.remaining,
            verdict.retry.as_secs_f64(),
        )
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut paid = Duration::ZERO;
        let paid = &mut paid;
        assert_eq!(take(paid, 100.0), (true, 2, 0.0));
        assert_eq!(take(paid, 100.0), (true, 1, 0.0));
        assert_eq!(take(paid, 100.0), (true, 0, 0.0));
        assert_eq!(take(paid, 100.0), (false, 0, 1.0));
        assert_eq!(take(paid, 100.75), (false, 0, 0.25));
        // Refusals cost nothing: one is there when it was announced, to the very moment.
        assert_eq!(take(paid, 101.0), (true, 0, 0.0));
        assert_eq!(take(paid, 101.0), (false, 0, 1.0));
        assert_eq!(take(paid, 200.0), (true, 2, 0.0));
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_burst() {
        let paid = &mut Duration::from_secs(1_000_000);
        assert_eq!(take(paid, 5.0), (false, 0, 1.0));
        assert_eq!(take(paid, 6.0), (true, 0, 0.0));
    }
}
