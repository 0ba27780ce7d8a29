//! An hour of each function, in memory: enough to see what led up to now, small enough for hundreds of functions. And a day of
//! it by minutes, in Redis, so that a restart of the console is no gap.

use std::collections::{BTreeMap, VecDeque};

use oncue_admin::services::counters::{Counters, quantile};
use oncue_core::bus::services::{DURATION_BOUNDS, DurationHistogram};
use serde::{Deserialize, Serialize};

/// Width of one point.
/// The interval of a console that nobody watches, so that its points have a sample each.
const STEP_MS: u64 = 5000;
/// An hour of points.
const POINTS: usize = 720;

/// One moment, as it is kept. Rates are per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub rate: f32,
    pub failed: f32,
    pub dead: f32,
    pub lag: u64,
    pub in_flight: u32,
    pub ms: f32,
}

/// The last hour, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Number of the step the last point belongs to.
    step: u64,
    /// Samples the last point was made of.
    samples: u32,
    points: VecDeque<(u64, Point)>,
}

/// Versions that are compared.
const COMPARED: usize = 4;
/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;

/// Minute of a function, as Redis keeps it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minute {
    /// Beginning of the minute, Unix milliseconds.
    pub at: u64,
    #[serde(flatten)]
    pub point: Point,
    /// Of the function's program.
    pub version: String,
    /// Workers that started within it.
    pub starts: usize,
    /// Work within it by version; a rolling restart has two at work.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub work: BTreeMap<String, Work>,
}

/// Work of one version of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub applied: u64,
    /// Runs that failed.
    pub failed: u64,
    pub dead: u64,
    /// Runs by the number of their bucket in [`DURATION_BOUNDS`], but for empty ones: most are.
    #[serde(default)]
    runs: BTreeMap<usize, u64>,
}

impl Work {
    /// Work that workers have counted. Durations in buckets of another release are left out.
    pub fn of(counters: &Counters) -> Self {
        let counts = &counters.stats.duration_ms.counts;
        let is_ours = counts.len() == DURATION_BOUNDS.len() + 1;
        let counts = counts.iter().copied().enumerate();
        Self {
            applied: counters.stats.applied,
            failed: counters.failed,
            dead: counters.stats.dead,
            runs: counts.filter(|(_, count)| is_ours && *count > 0).collect(),
        }
    }

    /// Adds more of it.
    pub fn add(&mut self, more: &Self) {
        self.applied += more.applied;
        self.failed += more.failed;
        self.dead += more.dead;
        for (bucket, count) in &more.runs {
            *self.runs.entry(*bucket).or_default() += count;
        }
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Duration in milliseconds that this share of the runs did not exceed.
    fn quantile(&self, share: f64) -> Option<f64> {
        let buckets = 0..=DURATION_BOUNDS.len();
        let histogram = DurationHistogram {
            bounds: DURATION_BOUNDS
                .map(|micros| micros as f64 / 1000.0)
                .to_vec(),
            counts: buckets
                .map(|bucket| self.runs.get(&bucket).copied().unwrap_or(0))
                .collect(),
        };
        quantile(&histogram, share)
    }
}

/// One version of a function as it has fared.
#[derive(Debug, PartialEq, Serialize)]
pub struct VersionFigures {
    version: String,
    /// Beginning of its first minute with work, Unix milliseconds, and end of its last one.
    first: u64,
    last: u64,
    applied: u64,
    failed: u64,
    dead: u64,
    /// Events applied per second of the minutes in which it had work.
    rate: f64,
    /// Share of its runs that failed.
    failing: f64,
    /// Milliseconds that half of the runs, and 99 of 100, did not exceed.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Sum over the minutes in which a version had work.
#[derive(Default)]
struct VersionSum {
    first: u64,
    last: u64,
    minutes: u64,
    work: Work,
}

impl VersionSum {
    fn figures(self, version: &str) -> VersionFigures {
        let work = self.work;
        VersionFigures {
            version: version.to_owned(),
            first: self.first,
            last: self.last,
            rate: work.applied as f64 / (self.minutes * MINUTE_MS / 1000) as f64,
            failing: work.failed as f64 / (work.applied + work.failed).max(1) as f64,
            p50: work.quantile(0.5),
            p99: work.quantile(0.99),
            applied: work.applied,
            failed: work.failed,
            dead: work.dead,
        }
    }
}

/// Versions that have had work, the latest first, as many as are compared. Minutes are in order.
pub fn versions(minutes: &[Minute]) -> Vec<VersionFigures> {
    let mut sums: BTreeMap<&str, VersionSum> = BTreeMap::new();
    for minute in minutes {
        for (version, work) in minute.work.iter().filter(|(_, work)| !work.is_none()) {
            let sum = sums.entry(version).or_default();
            if sum.minutes == 0 {
                sum.first = minute.at;
            }
            sum.last = minute.at + MINUTE_MS;
            sum.minutes += 1;
            sum.work.add(work);
        }
    }
    let figures = sums.into_iter().map(|(version, sum)| sum.figures(version));
    let mut figures: Vec<VersionFigures> = figures.collect();
    figures.sort_by_key(|version| std::cmp::Reverse((version.last, version.first)));
    figures.truncate(COMPARED);
    figures
}

/// Moment that is marked on a chart.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ChartMark {
    at: u64,
    text: String,
}

/// Minutes as they are read: several consoles may each have kept one, of which the first counts.
pub fn minutes(samples: &[String]) -> Vec<Minute> {
    let read = samples
        .iter()
        .filter_map(|json| serde_json::from_str(json).ok());
    let mut minutes: Vec<Minute> = read.collect();
    minutes.sort_by_key(|minute| minute.at);
    minutes.dedup_by_key(|minute| minute.at);
    minutes
}

/// New versions, and starts of workers.
pub fn marks(minutes: &[Minute]) -> Vec<ChartMark> {
    let mut marks = Vec::new();
    let mut version = None;
    for minute in minutes {
        let is_new = version.is_some_and(|before| before != minute.version.as_str());
        if is_new && !minute.version.is_empty() {
            marks.push(ChartMark {
                at: minute.at,
                text: format!("version {}", minute.version),
            });
        } else if minute.starts > 0 {
            marks.push(ChartMark {
                at: minute.at,
                text: match minute.starts {
                    1 => "a worker started".to_owned(),
                    many => format!("{many} workers started"),
                },
            });
        }
        version = Some(minute.version.as_str());
    }
    marks
}

/// Points as columns, which is what a chart wants.
#[derive(Debug, Default, Serialize)]
pub struct Columns {
    /// Unix milliseconds.
    at: Vec<u64>,
    rate: Vec<f32>,
    failed: Vec<f32>,
    dead: Vec<f32>,
    lag: Vec<u64>,
    in_flight: Vec<u32>,
    ms: Vec<f32>,
}

impl Point {
    /// Of `samples` points, all but `new` of which are in this one.
    fn and(&self, new: &Self, samples: u32) -> Self {
        Self {
            rate: mean(self.rate, new.rate, samples),
            failed: mean(self.failed, new.failed, samples),
            dead: mean(self.dead, new.dead, samples),
            lag: self.lag.max(new.lag),
            in_flight: self.in_flight.max(new.in_flight),
            ms: mean(self.ms, new.ms, samples),
        }
    }
}

impl Columns {
    /// Minutes alone.
    pub fn of(minutes: &[Minute]) -> Self {
        let mut columns = Self::default();
        for minute in minutes {
            columns.push(minute.at, &minute.point);
        }
        columns
    }

    fn push(&mut self, at: u64, point: &Point) {
        self.at.push(at);
        self.rate.push(rounded(point.rate));
        self.failed.push(rounded(point.failed));
        self.dead.push(rounded(point.dead));
        self.lag.push(point.lag);
        self.in_flight.push(point.in_flight);
        self.ms.push(rounded(point.ms));
    }
}

impl History {
    /// Rates of one step are averaged, of what is counted the highest is kept: a short peak is what one looks for.
    pub fn push(&mut self, at: u64, point: Point) {
        let step = at / STEP_MS;
        if let Some((_, last)) = self.points.back_mut().filter(|_| step == self.step) {
            self.samples += 1;
            *last = last.and(&point, self.samples);
            return;
        }
        self.step = step;
        self.samples = 1;
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back((step * STEP_MS, point));
    }

    /// Whether the lag has only grown over the last `steps` steps.
    pub fn lag_grows(&self, steps: usize) -> bool {
        let mut last: Vec<u64> = self
            .points
            .iter()
            .rev()
            .take(steps + 1)
            .map(|(_, point)| point.lag)
            .collect();
        last.reverse();
        last.len() > steps && last.windows(2).all(|pair| pair[1] > pair[0])
    }

    /// The hour, with kept minutes where it has no points yet.
    pub fn columns(&self, kept: &[Minute]) -> Columns {
        let first = self.points.front().map_or(u64::MAX, |(at, _)| *at);
        let mut columns = Columns::default();
        for minute in kept.iter().filter(|minute| minute.at + MINUTE_MS <= first) {
            columns.push(minute.at, &minute.point);
        }
        for (at, point) in &self.points {
            columns.push(*at, point);
        }
        columns
    }

    /// One point for the minute that began at `from`; `None` where nothing was seen.
    pub fn minute(&self, from: u64) -> Option<Point> {
        let within = self.points.iter().rev().map(|(at, point)| (*at, *point));
        let within = within.filter(|(at, _)| (from..from + MINUTE_MS).contains(at));
        let mut sum: Option<Point> = None;
        for (before, (_, point)) in within.enumerate() {
            sum = Some(sum.map_or(point, |sum| sum.and(&point, before as u32 + 1)));
        }
        sum
    }
}

/// Mean of `samples` values, of which all but `new` had the mean `old`.
fn mean(old: f32, new: f32, samples: u32) -> f32 {
    old + (new - old) / samples as f32
}

/// Two digits behind the point: a browser needs no more.
fn rounded(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lag(lag: u64) -> Point {
        Point {
            lag,
            rate: lag as f32,
            ..Point::default()
        }
    }

    #[test]
    fn a_step_holds_the_mean_rate_and_the_highest_lag() {
        let mut history = History::default();
        for (at, value) in [(5000, 4), (6000, 8), (7000, 0), (10_000, 1)] {
            history.push(at, lag(value));
        }
        let columns = history.columns(&[]);
        assert_eq!(
            (columns.at, columns.lag, columns.rate),
            (vec![5000, 10_000], vec![8, 1], vec![4.0, 1.0])
        );
    }

    fn kept(at: u64, version: &str, starts: usize) -> Minute {
        Minute {
            at,
            point: lag(9),
            version: version.into(),
            starts,
            work: BTreeMap::new(),
        }
    }

    #[test]
    fn kept_minutes_stand_before_the_points_of_a_new_console() {
        let mut history = History::default();
        for (at, value) in [(120_000, 4), (125_000, 8), (180_000, 1)] {
            history.push(at, lag(value));
        }
        let minute = history.minute(120_000).unwrap();
        assert_eq!((minute.lag, minute.rate), (8, 6.0));
        assert_eq!(history.minute(240_000), None);
        let minutes = [kept(0, "1", 0), kept(60_000, "1", 2), kept(120_000, "2", 1)];
        assert_eq!(
            history.columns(&minutes).at,
            [0, 60_000, 120_000, 125_000, 180_000]
        );
        let texts: Vec<String> = marks(&minutes).into_iter().map(|mark| mark.text).collect();
        assert_eq!(texts, ["2 workers started", "version 2"]);
        let json = serde_json::to_string(&minutes[1]).unwrap();
        let read = super::minutes(&[json.clone(), "odd".into(), json]);
        assert_eq!(read, [minutes[1].clone()], "one of each minute");
    }

    /// Minute in which versions had so much work, all of whose runs took up to a bound.
    fn worked(at: u64, all: &[(&str, u64, u64, usize)]) -> Minute {
        let work = all.iter().map(|(version, applied, failed, bucket)| {
            let work = Work {
                applied: *applied,
                failed: *failed,
                dead: 0,
                runs: [(*bucket, applied + failed)]
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
                    .collect(),
            };
            ((*version).to_owned(), work)
        });
        Minute {
            work: work.collect(),
            ..kept(at, "", 0)
        }
    }

    #[test]
    fn two_versions_are_compared_by_what_each_has_done() {
        let minutes = [
            worked(0, &[("1", 600, 0, 3)]),
            // A rolling restart: both at work.
            worked(60_000, &[("1", 600, 0, 3), ("2", 300, 100, 6)]),
            worked(120_000, &[("2", 300, 100, 6), ("3", 0, 0, 0)]),
            kept(180_000, "2", 0),
        ];
        let json: Vec<String> = minutes
            .iter()
            .map(|minute| serde_json::to_string(minute).unwrap())
            .collect();
        let read = super::minutes(&json);
        assert_eq!(read, minutes);
        let compared = versions(&read);
        let shown: Vec<_> = compared
            .iter()
            .map(|one| (one.version.as_str(), one.first, one.last, one.rate))
            .collect();
        assert_eq!(
            shown,
            [("2", 60_000, 180_000, 5.0), ("1", 0, 120_000, 10.0)]
        );
        assert_eq!((compared[0].failing, compared[1].failing), (0.25, 0.0));
        // Half of those that took between 5 and 10 ms, and between half and one.
        assert_eq!((compared[0].p50, compared[1].p50), (Some(7.5), Some(0.75)));
    }

    #[test]
    fn durations_of_another_release_are_left_out() {
        let mut counters = Counters::default();
        counters.stats.applied = 7;
        counters.stats.duration_ms.counts = vec![7, 0];
        let work = Work::of(&counters);
        assert_eq!((work.applied, work.runs.len()), (7, 0));
        assert_eq!(work.quantile(0.5), None);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut history = History::default();
        for step in 0..POINTS as u64 + 5 {
            history.push(step * STEP_MS, lag(step));
        }
        assert_eq!(
            (history.points.len(), history.points[0].0),
            (POINTS, 5 * STEP_MS)
        );
        assert!(history.lag_grows(3));
        history.push(u64::MAX, lag(0));
        assert!(!history.lag_grows(3));
    }
}
