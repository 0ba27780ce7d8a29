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
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use oncue_core::config::{GatewayConfig, Target};
use oncue_http::problem::{method_not_allowed, not_found};

use self::live::Found;
use crate::door::policies::Policy;
use crate::door::{admit, enter};
use crate::events::{handshake, listen, webhook};
use crate::files::{download, upload};
use crate::observe::browser::{compression, cors, share};
use crate::observe::health;
use crate::observe::trace::Trace;
use crate::problem::{METHOD, NOT_FOUND, NOT_READY, Problem};
use crate::{App, events, flows, observe, state};

pub fn router(app: Arc<App>) -> Router {
    let GatewayConfig { auth, limit, .. } = &app.config;
    let policy = app.policies.policy(auth.as_deref(), limit.as_deref());
    let api = Router::new()
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
        .route("/v1/stream", get(listen::get))
        .route_layer(from_fn_with_state(policy, enter));
    let router = api
        .merge(webhooks(&app))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/client.js", get(client::get))
        .route("/openapi.json", get(openapi::get))
        .fallback(other)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(compression());
    let router = match &app.config.cors {
        Some(allowed) => router.layer(from_fn_with_state(cors(allowed), share)),
        None => router,
    };
    router
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}

/// Webhooks, whose signatures say who sends them; each counts for a limit of its own.
fn webhooks(app: &Arc<App>) -> Router<Arc<App>> {
    let mut router = Router::new().route("/v1/webhooks/{name}", post(webhook::post));
    for (name, webhook) in &app.webhooks {
        let limit = webhook.config.limit.as_deref();
        let policy = app.policies.policy(None, limit);
        let path = format!("/v1/webhooks/{name}");
        let limited = Router::new().route(&path, post(webhook::post));
        router = router.merge(limited.route_layer(from_fn_with_state(policy, enter)));
    }
    router
}

/// Policy before a route: its own names, or those of `[gateway]`.
///
/// # Errors
/// The route came with a change of `oncue.toml` that also made its policy; those are read at the start only.
fn policy(app: &App, found: &Found) -> Result<Policy, Problem> {
    let route = &found.endpoint().route;
    let auth = route.auth.as_ref().or(app.config.auth.as_ref());
    let limit = route.limit.as_ref().or(app.config.limit.as_ref());
    let [auth, limit] = [auth, limit].map(|name| name.map(String::as_str));
    if let Some(unknown) = app.policies.unknown(auth, limit) {
        let why = format!("this gateway does not know {unknown} yet; it has to be restarted");
        return Err(Problem::new(NOT_READY, why));
    }
    Ok(app.policies.policy(auth, limit))
}

/// Answers by a route of `oncue.toml`, or with a file of the site.
async fn other(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    mut request: Request,
) -> Result<Response, Problem> {
    if let Some(found) = request.extensions().get::<Found>().cloned() {
        let policy = policy(&app, &found)?;
        let headers = admit(&policy, &mut request).await?;
        let answered = match &found.endpoint().target {
            Target::Event(target) => event::serve(&app, &trace, &found, target, request).await,
            Target::Row { table, key } => {
                row::serve(&app, &trace, &found, table, key, request).await
            }
        };
        let mut response = answered.into_response();
        response.headers_mut().extend(headers);
        return Ok(response);
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
