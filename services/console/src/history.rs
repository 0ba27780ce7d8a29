//! An hour of each function, in memory: enough to see what led up to now, small enough for hundreds of functions. And a day of
//! it by minutes, in Redis, so that a restart of the console is no gap.

use std::collections::VecDeque;

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
