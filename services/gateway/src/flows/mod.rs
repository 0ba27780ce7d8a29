//! `GET /v1/flows/{id}`: what has become of a flow; on request once it is complete ([`wait`]), or as it goes on
//! ([`progress`]). A route may answer with one event of it ([`reply`]). However many clients ask, one [`watcher`] reads the ledgers for all of them.

pub mod progress;
pub mod replies;
pub mod reply;
pub mod view;
pub mod wait;
pub mod watcher;
pub mod watchlist;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oncue_core::agreement;
use oncue_core::model::flow::Flow;

use self::wait::WaitRequest;
use crate::App;
use crate::problem::Problem;
use crate::request::{check_id, path_after, path_piece};

/// For looking whether events of an old flow are still there.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

pub async fn get(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let id = path_piece(path_after(&request, "/v1/flows/"))?;
    let id = check_id(id)?;
    let (head, _) = request.into_parts();
    if progress::is_stream_asked(&head.headers) {
        return progress::stream(&app, &id, &head).await;
    }
    let wait = WaitRequest::of(&app, &head)?;
    let now = wait::read(&app, &id).await?;
    let Some(limit) = wait.limit() else {
        return Ok(view::answer(StatusCode::OK, &settled(&app, now).await));
    };
    let flow = if now.is_complete() {
        Arc::new(now)
    } else {
        match wait.until_complete(&app, &id).await {
            Some(flow) => flow,
            // Redis was away at the end of the wait, or the ledger has just expired; the second read says which.
            None => Arc::new(wait::read(&app, &id).await?),
        }
    };
    let status = if flow.is_complete() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let flow = settled(&app, Arc::unwrap_or_clone(flow)).await;
    let mut response = view::answer(status, &flow);
    response.headers_mut().extend(wait::applied(limit));
    Ok(response)
}

/// The flow with the steps marked that nobody will ever take. Where NATS does not say, they count as open.
async fn settled(app: &App, flow: Flow) -> Flow {
    let looked = agreement::with_lost_steps(&app.bus, &app.store, flow.clone());
    match tokio::time::timeout(LOOK_TIMEOUT, looked).await {
        Ok(Ok(flow)) => flow,
        _ => flow,
    }
}
