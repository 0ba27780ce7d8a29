//! Two kinds of failure and no third: `?` means "again, later", [`reject`] means "never, and here is why".
//!
//! ```
//! # use oncue::{Result, reject};
//! fn amount(text: &str) -> Result<u64> {
//!     if text.is_empty() {
//!         return Err(reject("an order without an amount")); // a dead letter now
//!     }
//!     Ok(text.parse()?) // again later, with growing delay
//! }
//! # assert!(amount("").is_err());
//! ```

use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// Result of a handler: the events that follow, or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A handler's failure. Any error becomes one with `?` and is retried with growing delay until the attempts are used
/// up; then, and at once after [`reject`], the event is dead-lettered with this message.
pub struct Error {
    /// Whether the event can never be handled.
    pub(crate) rejected: bool,
    /// Text with all causes, for the dead letter.
    pub(crate) message: String,
    /// For `error.type` and metrics: one of few.
    pub(crate) class: &'static str,
    /// Where in the source it came up, `file:line`.
    pub(crate) site: String,
    /// Time before which it is not tried again; the usual delay where that is longer.
    pub(crate) not_before: Duration,
}

/// The event can never be handled: `return Err(reject("no such page"))`. It is dead-lettered now, state unchanged.
#[track_caller]
pub fn reject(why: impl fmt::Display) -> Error {
    Error {
        rejected: true,
        message: why.to_string(),
        class: "rejected",
        site: site(),
        not_before: Duration::ZERO,
    }
}

/// Place of the caller, through every function that is marked so.
#[track_caller]
fn site() -> String {
    let caller = Location::caller();
    format!("{}:{}", caller.file(), caller.line())
}

impl Error {
    /// A failure that the platform found, at no place in the author's source.
    pub(crate) fn retry(why: impl fmt::Display) -> Self {
        Self {
            rejected: false,
            message: why.to_string(),
            class: "error",
            site: String::new(),
            not_before: Duration::ZERO,
        }
    }

    /// This failure under another class, one of the few that metrics know.
    pub(crate) fn of_class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }

    /// This failure, found at another place of the source: that of a panic.
    pub(crate) fn at(self, site: String) -> Self {
        Self { site, ..self }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    #[track_caller]
    fn from(error: E) -> Self {
        // Most errors say only their own part; the cause, which is what helps, comes behind.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self {
            rejected: false,
            message,
            class: "error",
            site: site(),
            not_before: Duration::ZERO,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({:?})",
            if self.rejected { "Reject" } else { "Retry" },
            self.message
        )
    }
}
