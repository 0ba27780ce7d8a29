//! The door: who may come in. [`policies`] are made of `[auth.NAME]` once, [`enter`] holds one before a path: it
//! finds the [`identity`] of a request ([`auth`], by API [`keys`] or by tokens of an issuer, [`oidc`]), behind a [`brake`] on those
//! who try.

pub mod auth;
pub mod identity;
pub mod policies;

mod brake;
mod gcra;
mod keys;
mod oidc;
mod refusal;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use oncue_http::Peer;
use oncue_http::address::requester;

use self::policies::Policy;
use crate::App;
use crate::problem::Problem;

/// A policy before some paths, with the app.
#[derive(Clone)]
pub struct Guarded {
    pub app: Arc<App>,
    pub policy: Policy,
}

/// Middleware that lets a request pass as its policy says, with its identity as an extension.
pub async fn enter(State(guarded): State<Guarded>, mut request: Request, next: Next) -> Response {
    if let Err(problem) = admit(&guarded, &mut request).await {
        return problem.into_response();
    }
    next.run(request).await
}

async fn admit(guarded: &Guarded, request: &mut Request) -> Result<(), Problem> {
    let Guarded { app, policy } = guarded;
    let Some(auth) = &policy.auth else {
        return Ok(());
    };
    let peer = request.extensions().get::<Peer>().copied();
    let client =
        peer.and_then(|Peer(peer)| requester(peer.ip(), request.headers(), &app.config.proxies));
    let identity = auth.identify(request.headers(), client).await?;
    request.extensions_mut().insert(identity);
    Ok(())
}
