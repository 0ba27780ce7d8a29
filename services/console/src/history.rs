//! An hour of each function, in memory: enough to see what led up to now, small enough for hundreds of functions.

use std::collections::VecDeque;

use serde::Serialize;

/// Width of one point.
/// The interval of a console that nobody watches, so that its points have a sample each.
const STEP_MS: u64 = 5000;
/// An hour of points.
const POINTS: usize = 720;

/// One moment, as it is kept. Rates are per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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

impl History {
    /// Rates of one step are averaged, of what is counted the highest is kept: a short peak is what one looks for.
    pub fn push(&mut self, at: u64, point: Point) {
        let step = at / STEP_MS;
        if let Some((_, last)) = self.points.back_mut().filter(|_| step == self.step) {
            self.samples += 1;
            *last = Point {
                rate: mean(last.rate, point.rate, self.samples),
                failed: mean(last.failed, point.failed, self.samples),
                dead: mean(last.dead, point.dead, self.samples),
                lag: last.lag.max(point.lag),
                in_flight: last.in_flight.max(point.in_flight),
                ms: mean(last.ms, point.ms, self.samples),
            };
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

    pub fn columns(&self) -> Columns {
        let mut columns = Columns::default();
        for (at, point) in &self.points {
            columns.at.push(*at);
            columns.rate.push(rounded(point.rate));
            columns.failed.push(rounded(point.failed));
            columns.dead.push(rounded(point.dead));
            columns.lag.push(point.lag);
            columns.in_flight.push(point.in_flight);
            columns.ms.push(rounded(point.ms));
        }
        columns
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
        let columns = history.columns();
        assert_eq!(
            (columns.at, columns.lag, columns.rate),
            (vec![5000, 10_000], vec![8, 1], vec![4.0, 1.0])
        );
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
