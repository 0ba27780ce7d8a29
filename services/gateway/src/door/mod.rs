//! The door: who may come in. [`policies`] are made of `[auth.NAME]` and `[limit.NAME]` once, [`enter`] holds one before a path: it
//! finds the [`identity`] of a request ([`auth`], by API [`keys`] or by tokens of an issuer, [`oidc`]), behind a brake on those
//! who try, and counts it for its [`limit`]. Whoever listens has one of the [`seats`], for as long as it would be let in.

pub mod auth;
pub mod identity;
pub mod policies;
pub mod seats;

mod guesses;
mod keys;
mod limit;
mod oidc;
mod refusal;
mod spender;

pub use self::refusal::insufficient;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use self::limit::Requester;
use self::policies::Policy;
use crate::problem::Problem;
use crate::request::Client;
use crate::routes::live::Found;

/// Middleware that lets a request pass as its policy says, with its identity as an extension.
pub async fn enter(State(policy): State<Policy>, mut request: Request, next: Next) -> Response {
    match admit(&policy, &mut request).await {
        Ok(headers) => {
            let mut response = next.run(request).await;
            response.headers_mut().extend(headers);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// Headers of the answer to a request that may pass.
pub async fn admit(policy: &Policy, request: &mut Request) -> Result<HeaderMap, Problem> {
    let client = Client::of(request.extensions());
    let early = policy.limit.as_ref().filter(|limit| limit.is_before_auth());
    let late = policy
        .limit
        .as_ref()
        .filter(|limit| !limit.is_before_auth());
    let route = route(request);
    let mut headers = HeaderMap::new();
    if let Some(limit) = early {
        let requester = Requester {
            client,
            identity: None,
            route: &route,
        };
        headers = limit.count(&requester).await?;
    }
    let identity = match &policy.auth {
        Some(auth) => {
            let identified = auth.identify(request.headers(), client).await;
            Some(identified.map_err(|problem| with_headers(problem, &headers))?)
        }
        None => None,
    };
    if let Some(limit) = late {
        let requester = Requester {
            client,
            identity: identity.as_ref(),
            route: &route,
        };
        headers = limit.count(&requester).await?;
    }
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity);
    }
    if let Some(auth) = &policy.auth {
        // By which whoever stays is judged again.
        request.extensions_mut().insert(auth.clone());
    }
    Ok(headers)
}

/// A problem of a request that was counted, which says how things stand as well.
fn with_headers(problem: Problem, headers: &HeaderMap) -> Problem {
    headers.iter().fold(problem, |problem, (name, value)| {
        problem.with_header(name.clone(), value.clone())
    })
}

/// Path as the router has it, with the method.
fn route(request: &Request) -> String {
    let path = request.extensions().get::<MatchedPath>();
    let of_app = request.extensions().get::<Found>();
    let path = path
        .map(MatchedPath::as_str)
        .or(of_app.map(Found::path))
        .unwrap_or_default();
    format!("{} {path}", request.method())
}
