//! How many workers a function should have: a pure function of what was seen of it, its limits, and the time.
//!
//! As in the cloud, each event that waits or is in hand should find a free slot: so many slots, so many workers, at once.
//! Down it goes slowly: to the most that was needed within the last `idle`, and never sooner than `idle` after a start.

use std::collections::VecDeque;
use std::time::Duration;

use oncue_core::config::Scale;

/// Without a look for this long nothing is known of the time in between.
const GAP: Duration = Duration::from_secs(10);

/// What one look at the bus says of a function.
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
    pub fn is_quiet(&self) -> bool {
        self.lag == 0 && self.in_flight == 0
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub scale: Scale,
    /// Events one worker holds at a time.
    pub concurrency: u64,
    /// Events all workers hold together; more of them would have nothing to hold.
    pub reserved: u64,
}

/// The workers there are, without those that were told to stop.
#[derive(Debug, Clone, Copy, Default)]
pub struct Crew {
    pub have: u32,
    /// Of these, how many ended on their own and wait to be started again.
    pub failing: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Stay,
    /// More would be good, if only they lived.
    Wait(String),
    Start(u32, String),
    Stop(u32, String),
}

/// What is remembered of the samples: the last, and how much was needed when.
#[derive(Debug, Default)]
pub struct History {
    last: Option<(Duration, Sample)>,
    /// Since when we look without a gap, and nothing was started.
    since: Duration,
    /// Needs no later one reaches, falling; at most one for each possible number of workers.
    peaks: VecDeque<(Duration, u32)>,
}

impl History {
    pub fn see(&mut self, now: Duration, sample: Sample, limits: &Limits) {
        let before = self.last.replace((now, sample));
        if before.is_none_or(|(at, _)| now.saturating_sub(at) > GAP) {
            self.since = now;
        }
        let need = need(&sample, before.map(|(_, sample)| sample), limits);
        while self.peaks.pop_back_if(|(_, peak)| *peak <= need).is_some() {}
        self.peaks.push_back((now, need));
        let too_old = |(at, _): &mut (Duration, u32)| *at + limits.scale.idle < now;
        while self.peaks.pop_front_if(too_old).is_some() {}
    }

    /// An event was seen on its way: there is at least one, whatever the last look said.
    pub fn hear(&mut self, now: Duration, limits: &Limits) {
        let last = self.last.map(|(_, sample)| sample).unwrap_or_default();
        self.see(
            now,
            Sample {
                lag: last.lag.max(1),
                ..last
            },
            limits,
        );
    }

    pub fn started(&mut self, now: Duration) {
        self.since = now;
    }
}

/// Workers so that every event has a slot, within the bounds.
fn need(sample: &Sample, before: Option<Sample>, limits: &Limits) -> u32 {
    let Scale { min, max, .. } = limits.scale;
    let slots = |events: u64| events.div_ceil(limits.concurrency.max(1));
    let busy_between = before.is_some_and(|before| before.delivered != sample.delivered);
    let work = (sample.lag + sample.in_flight).max(u64::from(busy_between));
    let useful = slots(work).min(slots(limits.reserved.max(1)));
    u32::try_from(useful).unwrap_or(max).clamp(min, max)
}

pub fn decide(history: &History, crew: Crew, limits: &Limits, now: Duration) -> Decision {
    let Scale { min, max, idle } = limits.scale;
    let Crew { have, failing } = crew;
    let (Some((_, last)), Some((_, want))) = (history.last, history.peaks.back().copied()) else {
        return if have < min {
            Decision::Start(min - have, format!("at least {min}"))
        } else {
            Decision::Stay
        };
    };
    let Sample { lag, in_flight, .. } = last;
    if want > have {
        let each = limits.concurrency;
        let why = format!(
            "lag {lag} + in flight {in_flight}, {each} at a time each, {min} to {max} workers"
        );
        if failing > 0 {
            return Decision::Wait(format!("{failing} of {have} keep ending ({why})"));
        }
        return Decision::Start(want - have, why);
    }
    let most = history.peaks.front().map_or(want, |(_, peak)| *peak);
    if most < have && now.saturating_sub(history.since) >= idle {
        let idle = humantime::format_duration(idle);
        return Decision::Stop(
            have - most,
            format!("no more than {most} needed for {idle} (lag {lag}, in flight {in_flight})"),
        );
    }
    Decision::Stay
}

#[cfg(test)]
mod tests;
