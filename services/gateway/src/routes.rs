//! Which path is what.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};

use crate::problem::{METHOD, NOT_FOUND, Problem};
use crate::{App, download, events, flows, health, observe, page, state, upload};

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/icon.svg", get(page::icon))
        .route("/v1/events/{type}", post(events::post))
        .route("/v1/files/", put(upload::unnamed))
        // A name when it is put, an id when it is asked for.
        .route("/v1/files/{file}", get(download::file).put(upload::put))
        .route(
            "/v1/files/{file}/thumbnails/{edge}",
            get(download::thumbnail),
        )
        .route("/v1/flows/{id}", get(flows::get))
        .route("/v1/state/{table}/", get(state::get))
        .route("/v1/state/{table}/{*key}", get(state::get))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(async |request: Request| {
            Problem::new(NOT_FOUND, format!("there is no {}", request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            Problem::new(
                METHOD,
                format!("{} is not among those in Allow", request.method()),
            )
        })
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}
