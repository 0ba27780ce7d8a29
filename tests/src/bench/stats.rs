//! Middle and range of some numbers.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let Some((&low, &high)) = values.first().zip(values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self { median, low, high }
    }
}

/// The value below which the share `of` (0 to 1) of all lies; sorts them.
pub fn percentile(values: &mut [f64], of: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * of).ceil() as usize;
    values
        .get(at.saturating_sub(1))
        .or(values.last())
        .copied()
        .unwrap_or_default()
}
