//! Oncue: write a function; its signature says which event it acts on, which state it owns and what follows.
//!
//! ```no_run
//! use oncue::{Context, Function, Result, State};
//! use oncue_app_events::web::{PageMilestone, PageViewed};
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
//! fn main() -> std::process::ExitCode {
//!     oncue::run(Function::new("count-views", count_views).version(env!("CARGO_PKG_VERSION")))
//! }
//! ```
//!
//! Names, in the order in which one meets them:
//!
//! * [`Function`] is a name, an async function and limits: `Function::new("count-views", count_views).concurrency(16)`.
//! * [`run`] serves it until told to stop: `oncue::run(function)`.
//! * [`State`] is the row of the event's key: `impl State for Page { const TABLE: &'static str = "pages"; }`.
//! * [`Context`] is the rest of the surroundings: `context.id()`, `context.add("totals", "views", 1)?`.
//! * [`Result`] has two kinds of error: `?` means again later, with growing delay, and
//! * [`reject`] means never: `return Err(reject("no such page"))` is a dead letter now.
//! * [`events!`] makes one of several: `events! { enum Verdict { Accepted(FileAccepted), Rejected(FileRejected) } }`.
//! * [`Delayed`] happens later: `Ok(Delayed { event: reminder, after: Duration::from_hours(1) })`.
//! * [`Event`] is implemented by `oncue-build` for every message with the option; [`Trigger`] is whatever may be the first
//!   argument, [`Emit`] whatever may be returned.
//!
//! A handler is a plain function, so a test calls it: `count_views(view, &mut page, &oncue::testing::context("/home"))`.

/// Each event is a few dozen small allocations, taken in one task and given back in another: with this allocator a worker
/// took less CPU time for an event than with that of the C library, in each of three rounds of the click pipeline.
#[cfg(all(feature = "mimalloc", not(any(test, feature = "system-allocator"))))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod function;
#[doc(hidden)]
pub mod foreign;
mod context;
pub mod files;
mod state;
pub mod error;
pub mod testing;
pub mod event;
mod run;
mod inspect;
mod operator;
mod worker;

pub use context::Context;
pub use error::{Result, reject};
pub use function::Function;
#[doc(inline)]
pub use oncue_proto::{Delayed, Emit, Event, Trigger, events};
pub use run::run;
#[doc(hidden)]
pub use run::{begin, check_verb, run_foreign, stop};
pub use state::State;
