//! Choices: all luck of a run is a list of numbers, each of which says which of the ways that were open was taken. Number 0
//! is always the way things go by themselves, so a shorter list, or one with more zeros, is a plainer run.

use fastrand::Rng;

/// Ways that may be open, by how often luck takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likely {
    /// Another order of steps.
    Often,
    /// A crash, or a second delivery.
    Seldom,
}

impl Likely {
    fn weight(self) -> u32 {
        match self {
            Self::Often => 8,
            Self::Seldom => 1,
        }
    }
}

/// Source of the choices of one run, and their record.
pub(super) struct Choices {
    /// Choices made so far.
    made: Vec<u32>,
    source: Origin,
}

/// Where choices come from.
enum Origin {
    /// A list; behind its end all is plain.
    Given(Vec<u32>),
    /// Luck, which leaves things as they are so often of a hundred times.
    Luck { rng: Rng, calm: u32 },
}

impl Choices {
    /// Choices of a list.
    pub fn given(list: Vec<u32>) -> Self {
        Self {
            made: Vec::new(),
            source: Origin::Given(list),
        }
    }

    /// Choices of a seed. Some seeds are wild and some are calm: what only one crash shows, many crashes hide.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let calm = [20, 60, 85, 95][rng.usize(..4)];
        Self {
            made: Vec::new(),
            source: Origin::Luck { rng, calm },
        }
    }

    /// Chooses one of the open ways: 0 for the plain one, or `1 + n` for one of the others.
    pub fn choose(&mut self, others: &[Likely]) -> usize {
        if others.is_empty() {
            return 0;
        }
        let chosen = match &mut self.source {
            Origin::Given(list) => {
                let chosen = list.get(self.made.len()).copied().unwrap_or_default() as usize;
                // Of a run that went another way.
                if chosen > others.len() { 0 } else { chosen }
            }
            Origin::Luck { rng, calm } => {
                if rng.u32(..100) < *calm {
                    0
                } else {
                    let all: u32 = others.iter().map(|likely| likely.weight()).sum();
                    let mut left = rng.u32(..all);
                    let found = others.iter().position(|likely| {
                        let weight = likely.weight();
                        let is_here = left < weight;
                        left = left.saturating_sub(weight);
                        is_here
                    });
                    found.map_or(0, |place| place + 1)
                }
            }
        };
        self.made.push(chosen as u32);
        chosen
    }

    /// Takes out all that were made, without the plain ones at the end.
    pub fn take(&mut self) -> Vec<u32> {
        while self.made.last() == Some(&0) {
            self.made.pop();
        }
        std::mem::take(&mut self.made)
    }
}
