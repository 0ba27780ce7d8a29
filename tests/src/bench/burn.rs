//! Work for a processor, by the round and not by the clock: a handler that is held up burns no less.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// So many rounds of arithmetic that cannot be left out.
pub fn burn(rounds: u64) {
    let mut value = 1_u64;
    for _ in 0..rounds {
        value = black_box(
            value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        );
    }
}

/// How many rounds take `time` here: the fastest of some tries, since others use this machine too.
pub fn rounds(time: Duration) -> u64 {
    const TRY: u64 = 100_000;
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        burn(TRY);
        best = best.min(start.elapsed());
    }
    (TRY as f64 * time.as_secs_f64() / best.as_secs_f64()) as u64
}
