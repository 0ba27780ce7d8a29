//! Examples, and properties over made-up lives of a function: whatever is sampled whenever, these hold.

use super::*;

fn limits(min: u32, max: u32, idle: u64, concurrency: u64) -> PoolLimits {
    PoolLimits {
        scale: Scale {
            min,
            max,
            idle: Duration::from_secs(idle),
        },
        concurrency,
        reserved: 10_000,
    }
}

#[test]
fn bounds_that_change_hold_at_once_for_what_was_needed_before() {
    let mut history = History::default();
    history.record(seconds(0), waiting(0, 0), &limits(1, 1, 10, 1));
    let more = limits(3, 3, 10, 1);
    let decision = decide(&history, have(1), &more, seconds(1));
    assert!(matches!(decision, Decision::Start(2, _)), "{decision:?}");
    let mut busy = History::default();
    busy.record(seconds(0), waiting(50, 0), &limits(0, 20, 10, 1));
    let fewer = limits(0, 4, 10, 1);
    let decision = decide(&busy, have(4), &fewer, seconds(1));
    assert_eq!(decision, Decision::Stay, "no more than there may be");
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn waiting(lag: u64, in_flight: u64) -> Sample {
    Sample {
        lag,
        in_flight,
        delivered: 0,
    }
}

fn have(have: u32) -> WorkerCount {
    WorkerCount { have, failing: 0 }
}

/// The decision after these samples, one a second.
fn after(samples: &[Sample], count: WorkerCount, limits: &PoolLimits) -> Decision {
    let mut history = History::default();
    for (at, sample) in samples.iter().enumerate() {
        history.record(seconds(at as u64), *sample, limits);
    }
    decide(&history, count, limits, seconds(samples.len() as u64 - 1))
}

fn started(decision: &Decision) -> u32 {
    if let Decision::Start(n, _) = decision {
        *n
    } else {
        0
    }
}

#[test]
fn every_event_finds_a_slot() {
    let two_each = limits(0, 4, 60, 2);
    for (lag, in_flight, workers, expected) in [
        (1, 0, 0, 1),
        (2, 0, 0, 1),
        (3, 0, 0, 2),
        (3, 2, 1, 2),
        (1000, 0, 1, 3),
        (0, 2, 1, 0),
        (0, 0, 0, 0),
    ] {
        let decision = after(&[waiting(lag, in_flight)], have(workers), &two_each);
        assert_eq!(
            started(&decision),
            expected,
            "lag {lag}, in flight {in_flight}, {workers} workers: {decision:?}"
        );
    }
    let Decision::Start(3, why) = after(&[waiting(7, 1)], have(1), &two_each) else {
        panic!("more are needed")
    };
    assert_eq!(why, "lag 7 + in flight 1, 2 at a time each, 0 to 4 workers");
}

#[test]
fn what_may_not_be_held_needs_no_worker() {
    let reserved = PoolLimits {
        reserved: 3,
        ..limits(0, 9, 60, 2)
    };
    assert_eq!(started(&after(&[waiting(100, 0)], have(0), &reserved)), 2);
}

#[test]
fn the_provisioned_run_before_anything_is_known() {
    assert_eq!(
        started(&decide(
            &History::default(),
            have(0),
            &limits(2, 4, 60, 1),
            seconds(0)
        )),
        2
    );
    assert_eq!(
        decide(
            &History::default(),
            have(0),
            &limits(0, 4, 60, 1),
            seconds(0)
        ),
        Decision::Stay
    );
}

#[test]
fn it_sleeps_after_the_idle_time_and_not_before() {
    let limits = limits(0, 2, 3, 1);
    let quiet = |n: usize| [&[waiting(1, 0)][..], &vec![waiting(0, 0); n]].concat();
    assert_eq!(after(&quiet(3), have(1), &limits), Decision::Stay);
    let why = "no more than 0 needed for 3s (lag 0, in flight 0)";
    assert_eq!(
        after(&quiet(4), have(1), &limits),
        Decision::Stop(1, why.into())
    );
}

#[test]
fn work_done_between_two_looks_keeps_it_awake() {
    let limits = limits(0, 1, 3, 1);
    let busy = |n: u64| {
        (0..n)
            .map(|delivered| Sample {
                delivered,
                ..Sample::default()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(after(&busy(50), have(1), &limits), Decision::Stay);
}

#[test]
fn an_event_that_was_heard_wakes_and_a_false_alarm_ends() {
    let limits = limits(0, 4, 3, 1);
    let mut history = History::default();
    history.record_wake(seconds(100), &limits);
    assert_eq!(
        started(&decide(&history, have(0), &limits, seconds(100))),
        1
    );
    history.started(seconds(100));
    for at in 101..=103 {
        history.record(seconds(at), Sample::default(), &limits);
        assert_eq!(
            decide(&history, have(1), &limits, seconds(at)),
            Decision::Stay
        );
    }
    history.record(seconds(104), Sample::default(), &limits);
    assert!(matches!(
        decide(&history, have(1), &limits, seconds(104)),
        Decision::Stop(1, _)
    ));
}

#[test]
fn what_keeps_ending_is_not_multiplied() {
    let count = WorkerCount {
        have: 1,
        failing: 1,
    };
    let Decision::Wait(why) = after(&[waiting(9, 0)], count, &limits(0, 4, 60, 1)) else {
        panic!("it waits")
    };
    assert!(why.starts_with("1 of 1 keep ending"), "{why}");
}

#[test]
fn after_a_gap_nothing_is_stopped() {
    let limits = limits(0, 4, 3, 1);
    let mut history = History::default();
    history.record(seconds(0), waiting(4, 0), &limits);
    history.record(seconds(600), Sample::default(), &limits);
    assert_eq!(
        decide(&history, have(4), &limits, seconds(600)),
        Decision::Stay
    );
}

/// Numbers from a seed; nothing here needs good ones.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A function that is decided upon once a second or so, and its workers.
struct Life {
    limits: PoolLimits,
    history: History,
    workers: u32,
    now: Duration,
    seen: Vec<(Duration, u32)>,
    last_start: Duration,
    starts: u32,
    stops: u32,
}

impl Life {
    fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            history: History::default(),
            workers: limits.scale.min,
            now: seconds(0),
            seen: Vec::new(),
            last_start: seconds(0),
            starts: 0,
            stops: 0,
        }
    }

    /// One look and what follows, with everything that must hold then.
    fn step(&mut self, pause: Duration, sample: Sample) {
        let Scale { min, max, idle } = self.limits.scale;
        self.now += pause;
        let before = self.history.last.map(|last| last.sample);
        self.seen
            .push((self.now, need(&sample, before, &self.limits)));
        self.history.record(self.now, sample, &self.limits);
        assert!(
            self.history.peaks.len() <= max as usize + 1,
            "memory is bounded"
        );
        let decision = decide(&self.history, have(self.workers), &self.limits, self.now);
        match &decision {
            Decision::Start(n, _) => {
                assert!(*n > 0);
                self.workers += n;
                self.last_start = self.now;
                self.starts += 1;
                self.history.started(self.now);
            }
            Decision::Stop(n, _) => {
                assert!(*n > 0 && *n <= self.workers);
                self.workers -= n;
                self.stops += 1;
                assert!(
                    self.last_start + idle <= self.now,
                    "no flapping: stopped right after a start"
                );
                let recent = self
                    .seen
                    .iter()
                    .filter(|(at, _)| *at + idle >= self.now)
                    .map(|(_, need)| *need)
                    .max();
                assert!(
                    recent <= Some(self.workers),
                    "stopped what was needed within the idle time"
                );
            }
            Decision::Stay | Decision::Wait(_) => {}
        }
        assert!(
            (min..=max).contains(&self.workers),
            "{} is not within {min} and {max}",
            self.workers
        );
        assert!(
            sample.lag == 0 || self.workers > 0,
            "lag {} and nobody there",
            sample.lag
        );
        let again = decide(&self.history, have(self.workers), &self.limits, self.now);
        assert_eq!(
            again,
            Decision::Stay,
            "the same numbers do not move it twice"
        );
    }
}

#[test]
fn bounds_hold_and_nothing_flaps_whatever_comes() {
    let mut starts = 0;
    let mut stops = 0;
    let mut slept = 0;
    for seed in 1..=2000 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed << 20);
        let min = dice.below(3) as u32;
        let max = (min + dice.below(5) as u32).max(1);
        let mut limits = limits(min, max, 1 + dice.below(20), 1 + dice.below(4));
        limits.reserved = 1 + dice.below(30);
        let mut life = Life::new(limits);
        let mut delivered = 0;
        for _ in 0..200 {
            let longest = if dice.below(20) == 0 { 60_000 } else { 2000 };
            let pause = Duration::from_millis(200 + dice.below(longest));
            let often = dice.below(4);
            let mut amount = |n: u64| {
                if dice.below(4) < often {
                    0
                } else {
                    dice.below(n)
                }
            };
            let lag = amount(40);
            let in_flight = amount(9);
            delivered += amount(3);
            life.step(
                pause,
                Sample {
                    lag,
                    in_flight,
                    delivered,
                },
            );
        }
        // Whatever it was, once there is quiet it goes down to where it is provisioned, and stays there.
        for _ in 0..60 {
            life.step(
                seconds(1),
                Sample {
                    delivered,
                    ..Sample::default()
                },
            );
        }
        assert_eq!(life.workers, limits.scale.min, "seed {seed}");
        starts += life.starts;
        stops += life.stops;
        slept += u32::from(limits.scale.min == 0);
    }
    assert!(
        starts > 2000 && stops > 2000 && slept > 300,
        "{starts} starts, {stops} stops, {slept} slept: too little"
    );
}
