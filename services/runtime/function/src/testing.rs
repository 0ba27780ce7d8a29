//! For tests of functions. A handler is called like any function, with a [`context`] made here; the rest of the kit is for
//! whole apps, in process and without a server, and needs the feature `testing`:
//!
//! ```toml
//! [dev-dependencies]
//! oncue = { version = "0.1", features = ["testing"] }
//! ```
//!
//! * [`Surroundings`] makes a context with more to it: attempt, time, files; [`operations`] reads what a handler recorded.
//! * [`App`] runs functions on each other's events: publish, settle, look at rows, events and dead letters, let time pass.
//! * [`Luck`] plays one scenario under many orders, crashes and repeated deliveries, and shows the smallest that matters.
//! * [`Client`] speaks to the real servers that `oncue test` has started.
//!
//! # What is real, and what is not
//!
//! Decoding, keys, rows with their versions, ids of outputs, bounds, the two kinds of error, the count of attempts and the
//! rules of the commit are those of the worker, by the same code. The store is a map held to the same suite as the one in
//! Redis. Not modelled: delays between attempts (a retry comes when nothing else is left to do), limits of the servers and
//! their failures, cron lines (publish the event yourself), functions in other programs, ledgers of flows, redrives, and
//! the clock that a handler reads by itself: time passes in [`App::advance`] alone.

#[cfg(feature = "testing")]
mod app;
#[cfg(feature = "testing")]
mod choices;
#[cfg(feature = "testing")]
mod job;
#[cfg(feature = "testing")]
mod luck;
#[cfg(feature = "testing")]
mod map_store;
#[cfg(feature = "testing")]
mod client;
#[cfg(feature = "testing")]
mod ending;
#[cfg(feature = "testing")]
mod streams;
#[cfg(feature = "testing")]
mod surroundings;
#[cfg(feature = "testing")]
mod world;

#[cfg(feature = "testing")]
pub use self::app::App;
#[cfg(feature = "testing")]
pub use self::client::Client;
#[cfg(feature = "testing")]
pub use self::luck::Luck;
#[cfg(feature = "testing")]
pub use self::surroundings::{Surroundings, operations};
#[cfg(feature = "testing")]
pub use self::world::Tally;

/// Text of a panic, for `oncue-host --testing`.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    crate::worker::effects::panic_text(panic).to_owned()
}

/// The store in a map, for Oncue's own tests.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use self::map_store::MapStore;

use crate::context::{Context, Declared};
use crate::files::FileStore;

/// The form of a row in Redis, for Oncue's own tests.
#[doc(hidden)]
pub use crate::state::{from_fields, to_fields};

use oncue_proto::event::{Meta, Origin};

/// The context of one event with this key, one second after 1970 began.
///
/// ```
/// # use oncue::{Context, Result};
/// async fn greet(name: &str, _: &mut (), context: &Context) -> Result<String> {
///     Ok(format!("{name}, {}", context.key()))
/// }
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// assert_eq!(greet("ann", &mut (), &oncue::testing::context("/home")).await?, "ann, /home");
/// # Ok::<(), oncue::error::Error>(()) }).unwrap();
/// ```
pub fn context(key: &str) -> Context {
    let origin = Origin {
        stream: "test",
        stream_created: 1,
        sequence: 1,
        published: 1000,
        subject: "test.event.happened",
    };
    Context::new(
        Meta::of_origin(&origin).into(),
        key.into(),
        Declared::ALL,
        1,
        FileStore::Absent,
    )
}
