//! For tests of functions: a handler is called like any function, with a context made here. No server is needed; files
//! are not there.

use crate::context::Context;
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
        "test",
        "",
        1,
        FileStore::Absent,
    )
}
