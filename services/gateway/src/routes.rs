//! Which path is what. Routes of the API come before files of the site.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post, put};
use oncue_core::config::GatewayConfig;
use oncue_http::problem::{method_not_allowed, not_found};

use crate::door::{Guarded, enter};
use crate::events::webhook;
use crate::files::{download, upload};
use crate::observe::browser::{compression, cors};
use crate::observe::health;
use crate::problem::{NOT_FOUND, Problem};
use crate::{App, events, flows, observe, state};

pub fn router(app: Arc<App>) -> Router {
    let GatewayConfig { auth, limit, .. } = &app.config;
    let guarded = Guarded {
        policy: app.policies.policy(auth.as_deref(), limit.as_deref()),
        app: app.clone(),
    };
    let api = Router::new()
        .route("/v1/events/{type}", post(events::post))
        .route("/v1/files/", put(upload::unnamed))
        // A name when it is put, an id when it is asked for.
        .route("/v1/files/{file}", get(download::file).put(upload::put))
        .route("/v1/files/{file}/{kind}/{name}", get(download::derived))
        .route("/v1/flows/{id}", get(flows::get))
        .route("/v1/state/{table}/", get(state::get))
        .route("/v1/state/{table}/{*key}", get(state::get))
        .route_layer(from_fn_with_state(guarded, enter));
    let router = api
        .merge(webhooks(&app))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/", get(index))
        .fallback(site_file)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(compression())
        .layer(from_fn_with_state(app.clone(), observe::observe));
    match &app.config.cors {
        Some(allowed) => router.layer(cors(allowed)),
        None => router,
    }
    .with_state(app)
}

/// Webhooks, whose signatures say who sends them; each counts for a limit of its own.
fn webhooks(app: &Arc<App>) -> Router<Arc<App>> {
    let mut router = Router::new().route("/v1/webhooks/{name}", post(webhook::post));
    for (name, webhook) in &app.webhooks {
        let limit = webhook.config.limit.as_deref();
        let guarded = Guarded {
            policy: app.policies.policy(None, limit),
            app: app.clone(),
        };
        let path = format!("/v1/webhooks/{name}");
        let limited = Router::new().route(&path, post(webhook::post));
        router = router.merge(limited.route_layer(from_fn_with_state(guarded, enter)));
    }
    router
}

async fn index(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    if app.site.is_none() {
        let why = "there is no page here; name a folder with an index.html as `site = \"FOLDER\"` under [gateway] in \
                   oncue.toml";
        return Err(Problem::new(NOT_FOUND, why));
    }
    site_file(State(app), request).await
}

async fn site_file(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Some(site) = &app.site else {
        return Err(not_found(request).await);
    };
    let (head, body) = request.into_parts();
    match site.answer(&head).await? {
        Some(response) => Ok(response),
        None => Err(not_found(Request::from_parts(head, body)).await),
    }
}
