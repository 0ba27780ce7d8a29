//! `GET /openapi.json`: everything this gateway answers to, as it is now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use oncue_core::model::openapi::{Described, document};
use serde_json::Value;

use crate::App;

/// The document, made of the routes and the contract as they are.
pub async fn get(State(app): State<Arc<App>>) -> ([(HeaderName, &'static str); 1], Json<Value>) {
    let described = Described {
        title: app.bus.app().as_str(),
        version: env!("CARGO_PKG_VERSION"),
        catalog: &app.catalog.now(),
        routes: &app.routes.now(),
        expose: &app.config.expose,
        heard: &app.config.stream,
        auths: &app.policies.auth_configs(),
        auth: app.config.auth.as_deref(),
        webhooks: app
            .webhooks
            .values()
            .map(|webhook| &webhook.config)
            .collect(),
    };
    (
        [(header::CACHE_CONTROL, "no-cache")],
        Json(document(&described)),
    )
}
