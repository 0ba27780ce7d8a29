//! What the library promises without any server.

mod function;
