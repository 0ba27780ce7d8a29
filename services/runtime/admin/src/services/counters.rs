//! Counters of workers and what is worked out from them: sums, differences between two looks, and quantiles.

use oncue_core::bus::services::{DurationHistogram, WorkerStats};

/// Counters of a worker, or sums over several, as the services API has them: runs, failures and time are the API's
/// own fields, the rest is what our workers add in `data`. All but `stats.in_flight` and
/// `stats.waiting_outputs` only grow while a worker lives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Events by what became of them, and the durations of runs.
    pub stats: WorkerStats,
    /// Runs of the handler.
    /// From `num_requests`; a run that was tried again counts again.
    pub runs: u64,
    /// Runs that failed.
    /// From `num_errors`: runs that were put back to be tried again, and events set aside as dead letters.
    pub failed: u64,
    /// Nanoseconds the handler ran.
    /// From `processing_time`. Runs at the same time add up, so it may grow faster than the clock.
    pub busy_nanos: u64,
}

impl Counters {
    /// Adds the counters of another worker. Durations in other buckets, of another version, are left to their own
    /// kind.
    pub fn add(&mut self, other: &Self) {
        let stats = &mut self.stats;
        let more = &other.stats;
        stats.in_flight += more.in_flight;
        stats.delivered += more.delivered;
        stats.applied += more.applied;
        stats.duplicates += more.duplicates;
        stats.conflicts += more.conflicts;
        stats.retried += more.retried;
        stats.dead += more.dead;
        // All workers of a function look at the same outputs, at different times.
        stats.waiting_outputs = stats.waiting_outputs.max(more.waiting_outputs);
        add_durations(&mut stats.duration_ms, &more.duration_ms);
        self.runs += other.runs;
        self.failed += other.failed;
        self.busy_nanos += other.busy_nanos;
    }

    /// Counted since `before`. A worker that was restarted under its old name has done all of it since.
    /// Told by fewer runs than before; one that has overtaken its old count already is taken for the same process.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if before.runs > self.runs {
            return self.clone();
        }
        let now = &self.stats;
        let then = &before.stats;
        Self {
            stats: WorkerStats {
                in_flight: now.in_flight,
                delivered: now.delivered.saturating_sub(then.delivered),
                applied: now.applied.saturating_sub(then.applied),
                duplicates: now.duplicates.saturating_sub(then.duplicates),
                conflicts: now.conflicts.saturating_sub(then.conflicts),
                retried: now.retried.saturating_sub(then.retried),
                dead: now.dead.saturating_sub(then.dead),
                waiting_outputs: now.waiting_outputs,
                duration_ms: durations_since(&now.duration_ms, &then.duration_ms),
            },
            runs: self.runs - before.runs,
            failed: self.failed.saturating_sub(before.failed),
            busy_nanos: self.busy_nanos.saturating_sub(before.busy_nanos),
        }
    }

    /// Mean duration of a run in milliseconds, where there was one.
    pub fn average_ms(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.busy_nanos as f64 / self.runs as f64 / 1e6)
    }

    /// Quantiles of the durations.
    /// No better than the buckets: within one, durations are taken to be spread evenly.
    pub fn durations(&self) -> Durations {
        let histogram = &self.stats.duration_ms;
        match (quantile(histogram, 0.5), quantile(histogram, 0.99)) {
            (Some(p50), Some(p99)) => Durations {
                p50: Some(p50),
                p99: Some(p99),
                average: false,
            },
            _ => Durations {
                p50: self.average_ms(),
                p99: self.average_ms(),
                average: true,
            },
        }
    }
}

/// Durations of runs in milliseconds. Where no histogram was kept, both are the mean, and `average` says so.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Durations {
    /// Half of the runs took no longer.
    pub p50: Option<f64>,
    /// One run in a hundred took longer.
    pub p99: Option<f64>,
    /// Whether both are only the mean.
    pub average: bool,
}

/// Whether a histogram counts anything by its own bounds: one bucket more than there are bounds.
fn is_histogram(histogram: &DurationHistogram) -> bool {
    histogram.counts.len() == histogram.bounds.len() + 1
}

/// Adds a histogram to a sum, which takes the bounds of the first that is one.
/// Buckets of other bounds cannot be told apart any further, so they are left out rather than guessed.
fn add_durations(sum: &mut DurationHistogram, more: &DurationHistogram) {
    if !is_histogram(more) {
        return;
    }
    if !is_histogram(sum) {
        sum.clone_from(more);
    } else if sum.bounds == more.bounds {
        for (count, more) in sum.counts.iter_mut().zip(&more.counts) {
            *count += more;
        }
    }
}

/// Durations counted since an earlier look, in the same buckets.
fn durations_since(now: &DurationHistogram, then: &DurationHistogram) -> DurationHistogram {
    let before = then.counts.iter().copied().chain(std::iter::repeat(0));
    DurationHistogram {
        bounds: now.bounds.clone(),
        counts: now
            .counts
            .iter()
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before))
            .collect(),
    }
}

/// Quantile in milliseconds, by linear interpolation within its bucket, as Prometheus does; of the last bucket, which
/// has no end, its beginning. `None` where nothing was counted.
pub fn quantile(histogram: &DurationHistogram, q: f64) -> Option<f64> {
    let all: u64 = histogram.counts.iter().sum();
    if histogram.bounds.is_empty() || all == 0 {
        return None;
    }
    let rank = q * all as f64;
    let mut below = 0.0;
    let mut lower = 0.0;
    for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            return Some(lower + (bound - lower) * ((rank - below) / count));
        }
        below += count;
        lower = *bound;
    }
    histogram.bounds.last().copied()
}
