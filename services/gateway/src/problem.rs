//! Kinds of problem a client of the gateway can meet, in the order of their status. The handler says what is wrong;
//! [`observe`](crate::observe) adds which request it was and writes the document.

use axum::http::StatusCode;
use oncue_core::bus::PublishError;
use oncue_http::problem::Kind;
pub use oncue_http::problem::{AWAY, MALFORMED, METHOD, NOT_FOUND, Problem};
use oncue_proto::CatalogError;

pub const EMPTY_KEY: Kind = Kind::new(
    StatusCode::BAD_REQUEST,
    "empty-key",
    "The event does not say what it is about",
);
pub const BOUNDS: Kind = Kind::new(
    StatusCode::BAD_REQUEST,
    "bounds",
    "Key or attributes are longer than allowed",
);
pub const CLOCK: Kind = Kind::new(
    StatusCode::BAD_REQUEST,
    "clock",
    "The event comes from the future",
);
pub const TOO_OLD: Kind = Kind::new(
    StatusCode::BAD_REQUEST,
    "too-old",
    "The event is older than the horizon",
);
pub const UNAUTHENTICATED: Kind = Kind::new(
    StatusCode::UNAUTHORIZED,
    "unauthenticated",
    "Nobody knows who this is",
);
pub const FORBIDDEN: Kind = Kind::new(StatusCode::FORBIDDEN, "forbidden", "Not for clients");
pub const UNKNOWN_TYPE: Kind = Kind::new(
    StatusCode::NOT_FOUND,
    "unknown-type",
    "The contract has no such event type",
);
pub const SLOW: Kind = Kind::new(
    StatusCode::REQUEST_TIMEOUT,
    "slow-body",
    "The body came too slowly",
);
pub const ID_REUSE: Kind = Kind::new(
    StatusCode::CONFLICT,
    "id-reuse",
    "This id was used for something else",
);
pub const TOO_LARGE: Kind = Kind::new(
    StatusCode::PAYLOAD_TOO_LARGE,
    "too-large",
    "Larger than allowed",
);
pub const MEDIA_TYPE: Kind = Kind::new(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "media-type",
    "Not a form this can be sent in",
);
/// Of an event in a batch.
pub const WITHHELD: Kind = Kind::new(
    StatusCode::FAILED_DEPENDENCY,
    "withheld",
    "Another event of the batch is wrong",
);
pub const RANGE: Kind = Kind::new(
    StatusCode::RANGE_NOT_SATISFIABLE,
    "range",
    "The file has no such range",
);
pub const MISDIRECTED: Kind = Kind::new(
    StatusCode::MISDIRECTED_REQUEST,
    "misdirected",
    "Not under this name",
);
pub const INTERNAL: Kind = Kind::new(
    StatusCode::INTERNAL_SERVER_ERROR,
    "internal",
    "The gateway failed",
);
pub const TOO_MANY: Kind = Kind::later(
    "too-many-transfers",
    "This address has too many transfers under way",
    "1",
)
.with_status(StatusCode::TOO_MANY_REQUESTS);
pub const TOO_MANY_LISTENERS: Kind = Kind::later(
    "too-many-listeners",
    "This address listens to as much as it may",
    "5",
)
.with_status(StatusCode::TOO_MANY_REQUESTS);
pub const TOO_MANY_ATTEMPTS: Kind = Kind::new(
    StatusCode::TOO_MANY_REQUESTS,
    "too-many-attempts",
    "Too many wrong credentials",
);
pub const LIMITED: Kind = Kind::new(
    StatusCode::TOO_MANY_REQUESTS,
    "limited",
    "Too many requests",
);
pub const UNSIGNED: Kind = Kind::new(
    StatusCode::UNAUTHORIZED,
    "unsigned",
    "Nobody known has signed this",
);
/// The stream may have taken it or not; only a retry under the same id can tell.
pub const UNKNOWN: Kind = Kind::later(
    "outcome-unknown",
    "The bus did not say whether it took the event",
    "1",
);
pub const FULL: Kind = Kind::later("full", "The stream is full", "10");
/// Another limit than the stream's own; the detail names it.
pub const UNABLE: Kind = Kind::later("bus-unable", "The bus cannot take the event now", "10");
pub const BEHIND: Kind = Kind::later("behind", "The functions are too far behind", "2");
pub const BUSY: Kind = Kind::later("busy", "The gateway has its hands full", "1");
pub const NOT_READY: Kind = Kind::later("not-ready", "The gateway is not ready", "1");

/// Every kind but [`TOO_LARGE`] means that the same request may be sent again under the same id.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub fn of_publish(e: PublishError) -> Problem {
    let kind = match e {
        PublishError::TooLarge(_) => TOO_LARGE,
        PublishError::Full(_) => FULL,
        PublishError::Unable(_) => UNABLE,
        PublishError::Unknown(_) => UNKNOWN,
        PublishError::NoStream(_) | PublishError::Refused(_) | PublishError::Outdated(_) => AWAY,
    };
    Problem::new(kind, e.to_string())
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub fn of_catalog(e: CatalogError) -> Problem {
    let kind = match e {
        CatalogError::UnknownType { .. } => UNKNOWN_TYPE,
        CatalogError::Malformed(_) => MALFORMED,
        CatalogError::EmptyKey(_) => EMPTY_KEY,
    };
    Problem::new(kind, e.to_string())
}
