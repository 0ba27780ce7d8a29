//! Which path is what. The API's own come first, then the routes of `oncue.toml` ([`live`]), each to an event ([`event`]) or to
//! a row ([`row`]), then files of the site.

pub mod live;

mod client;
mod event;
mod openapi;
mod row;
mod values;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post, put};
use oncue_core::config::Target;
use oncue_http::problem::{method_not_allowed, not_found};

use self::live::Found;
use crate::events::{handshake, listen};
use crate::files::{download, upload};
use crate::observe::health;
use crate::observe::trace::Trace;
use crate::problem::{METHOD, NOT_FOUND, Problem};
use crate::{App, events, flows, observe, state};

pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/v1/events",
            post(events::post_any).options(handshake::answer),
        )
        .route(
            "/v1/events/{type}",
            post(events::post).options(handshake::answer),
        )
        .route("/v1/files/", put(upload::unnamed))
        // A name when it is put, an id when it is asked for.
        .route("/v1/files/{file}", get(download::file).put(upload::put))
        .route("/v1/files/{file}/{kind}/{name}", get(download::derived))
        .route("/v1/flows/{id}", get(flows::get))
        .route("/v1/state/{table}/", get(state::get))
        .route("/v1/state/{table}/{*key}", get(state::get))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/stream", get(listen::get))
        .route("/v1/client.js", get(client::get))
        .route("/openapi.json", get(openapi::get))
        .fallback(other)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}

/// Answers by a route of `oncue.toml`, or with a file of the site.
async fn other(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Result<Response, Problem> {
    if let Some(found) = request.extensions().get::<Found>().cloned() {
        return match &found.endpoint().target {
            Target::Event(target) => event::serve(&app, &trace, &found, target, request).await,
            Target::Row { table, key } => {
                row::serve(&app, &trace, &found, table, key, request).await
            }
        };
    }
    let allowed = live::allowed(&app.routes, &request);
    let method = request.method().clone();
    match site_file(&app, request).await {
        // The path of a route is no path of the site that is not there.
        Err(problem) if problem.kind() == NOT_FOUND && !allowed.is_empty() => {
            let why = format!("{method} is not among those in Allow");
            let allow = HeaderValue::from_str(&allowed);
            let allow = allow.unwrap_or_else(|_| HeaderValue::from_static(""));
            Err(Problem::new(METHOD, why).with_header(header::ALLOW, allow))
        }
        other => other,
    }
}

async fn site_file(app: &App, request: Request) -> Result<Response, Problem> {
    let Some(site) = &app.site else {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        if request.uri().path() == "/" && !is_read {
            let refused = method_not_allowed(request).await;
            return Err(refused.with_header(header::ALLOW, HeaderValue::from_static("GET,HEAD")));
        }
        if request.uri().path() == "/" {
            let why = "there is no page here; name a folder with an index.html as `site = \"FOLDER\"` under [gateway] in \
                       oncue.toml";
            return Err(Problem::new(NOT_FOUND, why));
        }
        return Err(not_found(request).await);
    };
    let (head, body) = request.into_parts();
    match site.answer(&head).await? {
        Some(response) => Ok(response),
        None => Err(not_found(Request::from_parts(head, body)).await),
    }
}
