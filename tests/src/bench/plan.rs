//! What is measured and what comes of it: cases hold rows, rows hold figures.

use serde::{Deserialize, Serialize};

use super::stats::Spread;

/// How much time there is.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    /// Two minutes for everything rather than a quarter of an hour.
    pub quick: bool,
}

impl Plan {
    /// `long`, or `short` where there is little time.
    pub fn size<T>(self, long: T, short: T) -> T {
        if self.quick { short } else { long }
    }
}

/// One case with all it found; or why it could not run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Case {
    pub id: String,
    pub title: String,
    pub rows: Vec<Row>,
    /// Why it was not measured here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped: Option<String>,
    /// What went wrong: then there are no figures to trust.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failed: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub figures: Vec<Figure>,
    /// Beside the point, and good to know.
    #[serde(default)]
    pub details: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub unit: String,
    #[serde(flatten)]
    pub spread: Spread,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goal: Option<Goal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(goal) => value >= goal,
            Self::AtMost(goal) => value <= goal,
        }
    }
}

impl Case {
    pub fn new(id: &str, title: &str) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            ..Self::default()
        }
    }
}

impl Figure {
    pub fn new(name: &str, unit: &str, values: impl IntoIterator<Item = f64>) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            spread: Spread::of(values),
            goal: None,
        }
    }

    #[must_use]
    pub fn goal(self, goal: Goal) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }
}
