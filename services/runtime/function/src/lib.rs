//! Oncue: write a function; its signature says which event it acts on, which state it owns and what follows.
//!
//! ```no_run
//! use oncue::{Context, Function, Result, State};
//! use oncue_proto::web::{PageMilestone, PageViewed};
//!
//! #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
//! struct Page { views: u64 }
//! impl State for Page { const TABLE: &'static str = "pages"; }
//!
//! async fn count_views(view: PageViewed, page: &mut Page, _: &Context) -> Result<Option<PageMilestone>> {
//!     page.views += 1;
//!     Ok((page.views % 10 == 0).then(|| PageMilestone { page: view.page, views: page.views }))
//! }
//!
//! fn main() -> std::process::ExitCode { oncue::run(Function::new("count-views", count_views)) }
//! ```
//!
//! The names to learn are those re-exported here. Modules, in the order in which to read them:

/// Each event is a few dozen small allocations, taken in one task and given back in another: with this allocator a worker
/// took less CPU time for an event than with that of the C library, in each of three rounds of the click pipeline.
#[cfg(all(feature = "mimalloc", not(any(test, feature = "system-allocator"))))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod function;
mod context;
pub mod state;
pub mod error;
pub mod testing;
mod run;
mod inspect;
mod worker;

pub use context::Context;
pub use error::{Result, reject};
pub use function::Function;
pub use oncue_proto::{Delayed, events};
pub use run::run;
pub use state::State;
