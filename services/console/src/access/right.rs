//! Rights of a person.

/// Right of somebody; each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Everything that is shown.
    Look,
    /// Publish, redrive, pause, restart, fire: what goes through the functions as any event does.
    Operate,
    /// Rows, bounds of workers, letters that are given up: what stays changed.
    Admin,
}

impl Right {
    /// Word of it, as the page knows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// Right of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Look, Self::Operate, Self::Admin]
            .into_iter()
            .find(|right| right.word() == word)
    }
}
