//! A notice, as the list in Redis has it.

use std::collections::BTreeSet;

use oncue_core::config::NoticeKind;
use serde::{Deserialize, Serialize};

/// A thing that is wrong, or was: since when, and who knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub kind: NoticeKind,
    pub text: String,
    pub advice: String,
    pub link: String,
    /// When it began, Unix milliseconds.
    pub since: u64,
    /// When it was over.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Receivers that know of its beginning.
    #[serde(default)]
    pub told: BTreeSet<String>,
    /// Receivers that know of its end.
    #[serde(default)]
    pub told_end: BTreeSet<String>,
}

impl Notice {
    /// Whether a receiver has something to hear: that it began, or that it is over. Whoever never heard of it need not
    /// hear of its end.
    pub fn is_news_to(&self, receiver: &str) -> bool {
        let knows = self.told.contains(receiver);
        match self.ended {
            None => !knows,
            Some(_) => knows && !self.told_end.contains(receiver),
        }
    }

    /// Merges what two consoles know of it, who could not ask each other; a later one counts for itself.
    pub fn and(self, other: Self) -> Self {
        if self.since != other.since {
            return if self.since > other.since {
                self
            } else {
                other
            };
        }
        Self {
            told: &self.told | &other.told,
            told_end: &self.told_end | &other.told_end,
            ended: self.ended.or(other.ended),
            ..self
        }
    }
}
