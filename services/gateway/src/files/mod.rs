//! Files: [`upload`] into the object store, [`download`] out of it, whole or a [`range`].

pub mod download;
pub mod upload;

mod range;
