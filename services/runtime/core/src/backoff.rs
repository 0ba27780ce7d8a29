//! Backoff: delays that double from attempt to attempt up to a limit, with a random half taken off, so that processes
//! which failed together do not come back together.

use std::time::Duration;

/// Delays between attempts: exponential, capped, with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Delay after the first attempt, before jitter.
    pub first: Duration,
    /// Longest delay, before jitter.
    pub longest: Duration,
}

impl Backoff {
    /// Delay after the `attempt`th attempt, counted from 1: between half of it and all of it, at random.
    pub fn delay(&self, attempt: u32) -> Duration {
        self.delay_with(attempt, fastrand::f64())
    }

    /// Delay as [`delay`](Self::delay) has it, with `random` in 0..1 in place of chance: 0 for half of it, 1 for all.
    pub fn delay_with(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << attempt.saturating_sub(1).min(20));
        doubled.min(self.longest).mul_f64(0.5 + random / 2.0)
    }
}

/// Pause with jitter, between half of `pause` and one and a half: for work that many processes do on the side and
/// better not at the same moment.
pub fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_longest_and_never_march_in_step() {
        let backoff = Backoff {
            first: Duration::from_millis(500),
            longest: Duration::from_mins(1),
        };
        assert_eq!(backoff.delay_with(1, 1.0), backoff.first);
        assert_eq!(backoff.delay_with(3, 1.0), Duration::from_secs(2));
        assert_eq!(backoff.delay_with(40, 1.0), backoff.longest);
        assert_eq!(backoff.delay_with(40, 0.0), backoff.longest / 2);
        assert_ne!(backoff.delay(7), backoff.delay(7));
    }
}
