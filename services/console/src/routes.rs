//! Which path is what.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use oncue_http::problem::{method_not_allowed, not_found};

use crate::api::{
    actions, bounds, doctor, drift, events, find, flow, function, letters, logs, notices, pause,
    publish, recent, restart, rows, schedules, search, streams,
};
use crate::{App, access, guard, live, metrics, page};

pub fn router(app: Arc<App>) -> Router {
    // Whoever may not log in may still see that there is a console, and that it lives.
    let open = Router::new()
        .route("/", get(page::html))
        .route("/{asset}", get(page::asset))
        .route("/healthz", get(live::healthy))
        .route("/readyz", get(live::ready))
        .route("/api/about", get(access::about))
        .route("/api/login", post(access::login))
        .route("/api/login/begin", get(access::oidc::begin))
        .route("/api/login/back", get(access::oidc::back))
        .route("/api/logout", post(access::logout));
    let read = Router::new()
        .route("/api/live", get(live::stream))
        .route("/api/functions/{name}", get(function::get))
        .route("/api/events", get(events::get))
        .route("/api/flows", get(recent::get))
        .route("/api/flows/{id}", get(flow::get))
        .route("/api/flows/{id}/events/{event}", get(flow::event))
        .route("/api/types", get(publish::types))
        .route("/api/search", get(search::get))
        .route("/api/find", get(find::get))
        .route("/api/drift", get(drift::get))
        .route("/api/letters", get(letters::list))
        .route("/api/letters/{number}", get(letters::one))
        .route("/api/letters/group/{group}", get(letters::page))
        .route(
            "/api/letters/group/{group}/differences",
            get(letters::differences),
        )
        .route("/api/doctor", get(doctor::get))
        .route("/api/logs", get(logs::get))
        .route("/api/notices", get(notices::list))
        .route("/api/schedules", get(schedules::list))
        .route("/api/schedules/{name}", get(schedules::one))
        .route("/api/streams", get(streams::list))
        .route("/api/streams/{name}", get(streams::one))
        .route("/api/streams/{name}/messages", get(streams::messages))
        .route("/api/tables", get(rows::tables))
        .route("/api/tables/{table}", get(rows::list))
        .route("/api/tables/{table}/row", get(rows::one))
        .route("/api/jobs/{id}", get(actions::job))
        .layer(from_fn_with_state(app.clone(), guard::reader));
    let measure = Router::new()
        .route("/metrics", get(metrics::get))
        .layer(from_fn_with_state(app.clone(), guard::scraper));
    let act = Router::new()
        .route("/api/functions/{name}/pause", post(pause::pause))
        .route("/api/functions/{name}/resume", post(pause::resume))
        .route("/api/functions/{name}/restart", post(restart::restart))
        .route("/api/notices/silence", post(notices::silence))
        .route("/api/schedules/{name}/fire", post(schedules::fire))
        .route("/api/schedules/{name}/pause", post(schedules::pause))
        .route("/api/schedules/{name}/resume", post(schedules::resume))
        .route("/api/publish", post(publish::publish))
        .route("/api/publish/try", post(publish::attempt))
        .route("/api/letters/try", post(actions::attempt))
        .route("/api/letters/{number}/edit", post(letters::edit))
        .route("/api/letters/redrive", post(actions::redrive))
        .route("/api/letters/group/{group}/owner", post(letters::own))
        .layer(from_fn_with_state(app.clone(), guard::operator));
    let change = Router::new()
        .route("/api/functions/{name}/bounds", post(bounds::set))
        .route("/api/functions/{name}/bounds/reset", post(bounds::reset))
        .route("/api/tables/{table}/row", post(rows::edit))
        .route("/api/letters/drop", post(actions::give_up))
        .layer(from_fn_with_state(app.clone(), guard::admin));
    open.merge(read)
        .merge(measure)
        .merge(act)
        .merge(change)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(app.clone(), guard::every))
        .with_state(app)
}
