//! Number of workers a function should have: a pure function of the samples of its consumer, its limits, and the
//! time.
//!
//! As in the cloud, each event that waits or is in flight should find a free slot: so many slots, so many workers, at
//! once. Down it goes slowly: to the most that was needed within the last `idle`, and never sooner than `idle` after
//! a start.

use std::collections::VecDeque;
use std::time::Duration;

use oncue_core::config::Scale;

/// Time between two samples after which nothing is known of what was needed in between.
/// Ten looks: fewer may be lost to a server that restarts.
const SAMPLE_GAP: Duration = Duration::from_secs(10);

/// Sample of a function's consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Events not yet handed to any worker.
    pub lag: u64,
    /// Events handed out and not acknowledged; those that wait to be tried again are among them.
    pub in_flight: u64,
    /// How often an event was handed out, ever: tells of work that was done between two looks.
    pub delivered: u64,
}

impl Sample {
    /// Whether nothing is left to do, for now.
    pub fn is_quiet(&self) -> bool {
        self.lag == 0 && self.in_flight == 0
    }
}

/// Bounds of a pool, and how much its workers hold.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    pub scale: Scale,
    /// Events one worker holds at a time.
    pub concurrency: u64,
    /// Events all workers hold together; more of them would have nothing to hold.
    pub reserved: u64,
}

/// Workers there are, without those that were told to stop.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkerCount {
    pub have: u32,
    /// Of these, how many ended on their own and wait to be started again.
    pub failing: u32,
}

/// Change of the number of workers, with its reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Stay,
    /// More would be good, if only they lived.
    Wait(String),
    Start(u32, String),
    Stop(u32, String),
}

/// Sample and when it was taken; times count from the start of the autoscaler.
#[derive(Debug, Clone, Copy)]
struct TimedSample {
    at: Duration,
    sample: Sample,
}

/// Workers that were needed at a time.
#[derive(Debug, Clone, Copy)]
struct Need {
    at: Duration,
    workers: u32,
}

/// Memory of the samples: the last, and how many workers were needed when.
#[derive(Debug, Default)]
pub struct History {
    last: Option<TimedSample>,
    /// Since when there are samples without a gap, and nothing was started.
    since: Duration,
    /// Needs no later one reaches, falling; at most one for each possible number of workers. The front is the most
    /// that was needed within `idle`, the back the need of the last sample.
    peaks: VecDeque<Need>,
}

impl History {
    /// Takes in a sample. Costs no more than the number of needs that it outdoes.
    pub fn record(&mut self, now: Duration, sample: Sample, limits: &PoolLimits) {
        let before = self.last.replace(TimedSample { at: now, sample });
        if before.is_none_or(|before| now.saturating_sub(before.at) > SAMPLE_GAP) {
            self.since = now;
        }
        let workers = need(&sample, before.map(|before| before.sample), limits);
        while self
            .peaks
            .pop_back_if(|peak| peak.workers <= workers)
            .is_some()
        {}
        self.peaks.push_back(Need { at: now, workers });
        let idle = limits.scale.idle;
        while self
            .peaks
            .pop_front_if(|peak| peak.at + idle < now)
            .is_some()
        {}
    }

    /// Records an event seen on its way: there is at least one, whatever the last sample said.
    pub fn record_wake(&mut self, now: Duration, limits: &PoolLimits) {
        let last = self.last.map(|last| last.sample).unwrap_or_default();
        let sample = Sample {
            lag: last.lag.max(1),
            ..last
        };
        self.record(now, sample, limits);
    }

    /// Workers that were needed at the last sample; `None` before the first.
    pub fn wanted(&self) -> Option<u32> {
        self.peaks.back().map(|need| need.workers)
    }

    /// Begins the time anew for which workers are kept in any case.
    pub fn started(&mut self, now: Duration) {
        self.since = now;
    }
}

/// Workers so that every event has a slot, within the bounds.
fn need(sample: &Sample, before: Option<Sample>, limits: &PoolLimits) -> u32 {
    let Scale { min, max, .. } = limits.scale;
    // A quick function has nothing waiting at any look and is busy all the same.
    let worked_between = before.is_some_and(|before| before.delivered != sample.delivered);
    let work = (sample.lag + sample.in_flight).max(u64::from(worked_between));
    // More workers than hold what may be in flight at all would have nothing to do.
    let useful = limits
        .workers_for(work)
        .min(limits.workers_for(limits.reserved.max(1)));
    u32::try_from(useful).unwrap_or(max).clamp(min, max)
}

impl PoolLimits {
    fn workers_for(&self, events: u64) -> u64 {
        events.div_ceil(self.concurrency.max(1))
    }
}

/// Decision of this moment. Reads no clock and changes nothing: the same history gives the same decision.
pub fn decide(
    history: &History,
    count: WorkerCount,
    limits: &PoolLimits,
    now: Duration,
) -> Decision {
    let Scale { min, max, idle } = limits.scale;
    let WorkerCount { have, failing } = count;
    let Some((last, wanted)) = history.last.zip(history.peaks.back()) else {
        return if have < min {
            Decision::Start(min - have, format!("at least {min}"))
        } else {
            Decision::Stay
        };
    };
    let Sample { lag, in_flight, .. } = last.sample;
    // What was needed is of the bounds of then, which may have been others.
    let wanted = wanted.workers.clamp(min, max);
    if wanted > have {
        let each = limits.concurrency;
        let why = format!(
            "lag {lag} + in flight {in_flight}, {each} at a time each, {min} to {max} workers"
        );
        // More of what does not live would only end more often.
        if failing > 0 {
            return Decision::Wait(format!("{failing} of {have} keep ending ({why})"));
        }
        return Decision::Start(wanted - have, why);
    }
    let peak = history.peaks.front();
    let peak = peak.map_or(wanted, |peak| peak.workers.clamp(min, max));
    if peak < have && now.saturating_sub(history.since) >= idle {
        let idle = humantime::format_duration(idle);
        return Decision::Stop(
            have - peak,
            format!("no more than {peak} needed for {idle} (lag {lag}, in flight {in_flight})"),
        );
    }
    Decision::Stay
}

#[cfg(test)]
mod tests;
