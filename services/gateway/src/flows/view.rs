//! A flow as clients see it, in JSON.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use oncue_core::model::flow::{Flow, FlowEvent, Step};
use serde::Serialize;

/// Status of a flow of which nothing is open and all went well, and name of the last event of its stream.
pub const COMPLETE: &str = "complete";

/// The whole flow, as it stands.
#[derive(Serialize)]
pub struct FlowView<'f> {
    id: &'f str,
    /// `running`, `complete`, `failed`: all that ran is over, and some steps are dead letters; or `lost`: nothing is open, and some
    /// steps will never be taken.
    status: &'static str,
    /// Steps that are still to be taken.
    open: u64,
    /// Steps set aside as dead letters.
    dead: usize,
    /// Steps whose event is gone from its stream.
    lost: usize,
    /// Unix milliseconds, as `ended`.
    started: u64,
    ended: Option<u64>,
    waits_for: Option<StepView<'f>>,
    events: &'f [FlowEvent],
}

/// One step with the event it acts on.
#[derive(Serialize)]
pub struct StepView<'f> {
    pub event: &'f str,
    #[serde(rename = "type")]
    pub ty: &'f str,
    #[serde(flatten)]
    pub step: &'f Step,
}

impl<'f> FlowView<'f> {
    pub fn of(flow: &'f Flow) -> Self {
        Self {
            id: &flow.id,
            status: flow.status(),
            open: flow.open,
            dead: flow.dead(),
            lost: flow.lost(),
            started: flow.started,
            ended: flow.ended,
            waits_for: waits_for(flow),
            events: &flow.events,
        }
    }
}

/// The one step to look at when nothing goes on.
pub fn waits_for(flow: &Flow) -> Option<StepView<'_>> {
    flow.waits_for().map(|(event, step)| StepView {
        event: &event.id,
        ty: &event.ty,
        step,
    })
}

/// A response with the flow, never kept by anybody on the way.
pub fn answer(status: StatusCode, flow: &Flow) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (status, headers, Json(FlowView::of(flow))).into_response()
}
