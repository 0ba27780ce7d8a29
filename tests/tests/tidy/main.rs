//! What must hold of the house itself, checked from its files alone. Each failure says what is missing and where to
//! add it.

mod app;
mod arrows;
mod author;
mod code;
mod functions;
mod licences;
mod readme;
mod tree;
