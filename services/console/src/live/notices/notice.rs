//! A notice, as the list in Redis has it.

use std::collections::BTreeSet;

use oncue_core::config::NoticeKind;
use serde::{Deserialize, Serialize};

use super::conditions::Condition;

/// A thing that is wrong, or was: since when, and who knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Notice {
    pub kind: NoticeKind,
    pub text: String,
    pub advice: String,
    pub link: String,
    /// When it was first seen, Unix milliseconds.
    pub since: u64,
    /// When it was last seen.
    pub seen: u64,
    /// When it was over.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Until when nobody is told, Unix milliseconds.
    #[serde(default)]
    pub silent_until: u64,
    /// Receivers that know of its beginning.
    #[serde(default)]
    pub told: BTreeSet<String>,
    /// Receivers that know of its end.
    #[serde(default)]
    pub told_end: BTreeSet<String>,
}

/// Half of a notice that a receiver does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untold {
    Began,
    Ended,
}

impl Notice {
    pub fn new(condition: &Condition, now: u64) -> Self {
        Self {
            kind: condition.kind,
            text: condition.text.clone(),
            advice: condition.advice.clone(),
            link: condition.link.clone(),
            since: now,
            seen: now,
            ended: None,
            silent_until: 0,
            told: BTreeSet::new(),
            told_end: BTreeSet::new(),
        }
    }

    /// Half that is to be told to a receiver. Whoever never heard of a notice need not hear that it is over.
    pub fn untold(&self, receiver: &str, now: u64) -> Option<Untold> {
        let knows = self.told.contains(receiver);
        match self.ended {
            _ if self.silent_until > now => None,
            None if !knows => Some(Untold::Began),
            Some(_) if knows && !self.told_end.contains(receiver) => Some(Untold::Ended),
            _ => None,
        }
    }

    /// Whether it is over, and all who knew of it know that.
    pub fn is_done(&self) -> bool {
        self.ended.is_some() && self.told.is_subset(&self.told_end)
    }
}
