//! Kinds of problem a user of the console can meet. The handler says what is wrong; [`guard`](crate::guard) writes
//! the document.

use axum::http::StatusCode;
use oncue_http::problem::Kind;
pub use oncue_http::problem::{AWAY, MALFORMED, NOT_FOUND, Problem};

pub const LOGIN: Kind = Kind::new(StatusCode::UNAUTHORIZED, "login", "Log in first");
pub const WRONG_TOKEN: Kind = Kind::new(
    StatusCode::UNAUTHORIZED,
    "wrong-token",
    "This is not the token",
);
pub const TOO_MANY_LOGINS: Kind = Kind::new(
    StatusCode::TOO_MANY_REQUESTS,
    "too-many-logins",
    "Too many wrong tokens",
);
pub const FORBIDDEN: Kind = Kind::new(StatusCode::FORBIDDEN, "forbidden", "Not from there");
pub const READ_ONLY: Kind = Kind::new(
    StatusCode::FORBIDDEN,
    "read-only",
    "This console only looks",
);
pub const NO_RIGHT: Kind = Kind::new(
    StatusCode::FORBIDDEN,
    "no-right",
    "You may not do this here",
);
pub const GONE: Kind = Kind::new(StatusCode::CONFLICT, "gone", "Not what it was any more");
pub const REFUSED: Kind = Kind::new(StatusCode::CONFLICT, "refused", "Not possible as it is");
pub const INTERNAL: Kind = Kind::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "The console failed",
);
pub const CROWDED: Kind = Kind::new(
    StatusCode::SERVICE_UNAVAILABLE,
    "crowded",
    "Too many at once",
);
