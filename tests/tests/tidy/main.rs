//! What must hold of the repository itself, checked from its files alone. Each failure says what is missing and where to
//! add it.

mod app;
mod arrows;
mod author;
mod circles;
mod code;
mod config_doc;
mod counts;
mod functions;
mod licences;
mod monitoring;
mod packaging;
mod ratchet;
mod readme;
mod security;
mod source;
mod tree;
mod wire;
