//! Rows that more than one function works on.

use std::collections::BTreeMap;

use oncue::State;
use serde::{Deserialize, Serialize};

/// Pages by views, one field per page, in the one row `all`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ranking(pub BTreeMap<String, u64>);

impl State for Ranking {
    const TABLE: &'static str = "rankings";
}

impl Ranking {
    /// Key of the one row.
    pub const ALL: &'static str = "all";
    const KEPT: usize = 100;

    /// Counts never fall, so whichever milestone comes last, the highest stays.
    pub fn record(&mut self, page: String, views: u64) {
        let best = self.0.entry(page).or_default();
        *best = views.max(*best);
        if self.0.len() > Self::KEPT {
            self.0 = self.best(Self::KEPT).into_iter().collect();
        }
    }

    /// The `n` highest, best first; equal ones by name.
    pub fn best(&self, n: usize) -> Vec<(String, u64)> {
        let mut pages: Vec<(String, u64)> = self
            .0
            .iter()
            .map(|(page, views)| (page.clone(), *views))
            .collect();
        pages.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        pages.truncate(n);
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_hundred_best_and_never_goes_back() {
        let mut ranking = Ranking::default();
        for views in 1..=150 {
            ranking.record(format!("/{views}"), views * 10);
        }
        ranking.record("/150".into(), 10);
        let best = ranking.best(200);
        assert_eq!(best.len(), 100);
        assert_eq!(best[0], ("/150".into(), 1500));
        assert_eq!(best[99], ("/51".into(), 510));
    }
}
