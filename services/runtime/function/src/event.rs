//! Identity of an event as it travels: id, type, time, source, flow and cause.
//!
//! ```
//! # use oncue::Context;
//! fn came_from_outside(context: &Context) -> bool {
//!     let meta: &oncue::event::Meta = context.meta();
//!     meta.source == "/gateway"
//! }
//! ```

#[doc(inline)]
pub use oncue_proto::event::Meta;
