//! Problems of who is not let in, with the challenge that says what would help [RFC 6750 section 3].

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderValue, header};

use crate::problem::{AWAY, FORBIDDEN, Problem, TOO_MANY_ATTEMPTS, UNAUTHENTICATED};

/// No credential, or none that this policy takes.
pub fn no_credential(why: &str) -> Problem {
    challenge(Problem::new(UNAUTHENTICATED, why), "")
}

/// A credential that is wrong. The words are the same for all that could be wrong with a key.
pub fn invalid(why: impl Into<String>) -> Problem {
    challenge(
        Problem::new(UNAUTHENTICATED, why),
        ", error=\"invalid_token\"",
    )
}

/// A credential that is right, and not enough. Scopes are words without quotes.
pub fn insufficient(scopes: &str, why: impl Into<String>) -> Problem {
    let mut parameters = ", error=\"insufficient_scope\"".to_owned();
    if !scopes.is_empty() {
        let _ = write!(parameters, ", scope=\"{scopes}\"");
    }
    challenge(Problem::new(FORBIDDEN, why), &parameters)
}

/// Too many wrong credentials from this address, or from all.
pub fn braked(retry: Duration) -> Problem {
    let why = "too many credentials that were none came from here; nothing was checked";
    Problem::new(TOO_MANY_ATTEMPTS, why).with_header(header::RETRY_AFTER, seconds(retry))
}

/// Redis or the issuer does not answer. Nobody is let in unseen.
pub fn away(why: impl Into<String>) -> Problem {
    Problem::new(AWAY, why)
}

/// Whole seconds, after which it is worth trying again.
pub fn seconds(time: Duration) -> HeaderValue {
    HeaderValue::from(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

fn challenge(problem: Problem, parameters: &str) -> Problem {
    let text = format!("Bearer realm=\"oncue\"{parameters}");
    match HeaderValue::from_str(&text) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    }
}
