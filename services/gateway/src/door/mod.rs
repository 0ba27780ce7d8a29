//! The door: who may come in. [`policies`] are made of `[auth.NAME]` and `[limit.NAME]` once, [`enter`] holds one before a path: it
//! finds the [`identity`] of a request ([`auth`], by API [`keys`] or by tokens of an issuer, [`oidc`]), behind a brake on those
//! who try, and counts it for its [`limit`].

pub mod auth;
pub mod identity;
pub mod policies;

mod keys;
mod limit;
mod oidc;
mod refusal;
mod spender;

pub use self::refusal::insufficient;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use oncue_http::Peer;
use oncue_http::address::requester;

use self::limit::Requester;
use self::policies::Policy;
use crate::App;
use crate::problem::Problem;
use crate::routes::live::Found;

/// A policy before some paths, with the app.
#[derive(Clone)]
pub struct Guarded {
    pub app: Arc<App>,
    pub policy: Policy,
}

/// Middleware that lets a request pass as its policy says, with its identity as an extension.
pub async fn enter(State(guarded): State<Guarded>, mut request: Request, next: Next) -> Response {
    match admit(&guarded, &mut request).await {
        Ok(headers) => {
            let mut response = next.run(request).await;
            response.headers_mut().extend(headers);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// Headers of the answer to a request that may pass.
pub async fn admit(guarded: &Guarded, request: &mut Request) -> Result<HeaderMap, Problem> {
    let Guarded { app, policy } = guarded;
    let peer = request.extensions().get::<Peer>().copied();
    let proxies = &app.config.proxies;
    let client = peer.and_then(|Peer(peer)| requester(peer.ip(), request.headers(), proxies));
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
        Some(auth) => Some(auth.identify(request.headers(), client).await?),
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
    Ok(headers)
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
