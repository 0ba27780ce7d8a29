//! `GET /api/find`: a page of events that have something in common, newest first, as [`oncue_admin::flows::find()`] reads
//! them; `until` of the next page is where this one says it has come to.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use oncue_admin::flows::{EventQuery, FlowState, FoundEvent, PageLimits, find};
use oncue_core::model::flow::Flow;
use oncue_proto::{Catalog, event};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::problem::{MALFORMED, Problem};
use crate::{App, away};

/// Bounds of a page: somebody waits.
const LIMITS: PageLimits = PageLimits {
    events: 50,
    read: 50_000,
    time: Duration::from_millis(900),
};

/// Filters, as the form of the page sends them; an empty one is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    #[serde(rename = "type")]
    ty: String,
    function: String,
    key: String,
    text: String,
    /// `open`, `complete` or `failed`.
    state: String,
    /// Milliseconds.
    longer: Option<u64>,
    /// Unix milliseconds, both.
    from: Option<u64>,
    until: Option<u64>,
}

impl Asked {
    fn query(&self) -> Result<EventQuery, Problem> {
        let state = match self.state.as_str() {
            "" => None,
            word => Some(FlowState::named(word).ok_or_else(|| {
                let why = format!("a flow is open, complete or failed, not {word:?}");
                Problem::new(MALFORMED, why)
            })?),
        };
        Ok(EventQuery {
            ty: named(&self.ty),
            function: named(&self.function),
            key: named(&self.key),
            text: named(&self.text),
            state,
            longer: self.longer,
            from: self.from.unwrap_or(0),
            until: self.until.unwrap_or(0),
        })
    }
}

fn named(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let query = asked.query()?;
    let catalog = app.catalog.now();
    let functions = app.snapshot.manifests();
    let sources = app.sources(&functions, &catalog);
    let page = find(&sources, &query, LIMITS, event::now_ms())
        .await
        .map_err(away)?;
    let events = page.events.iter();
    let events: Vec<Value> = events
        .map(|found| shown(found, page.flows.get(&found.incoming.meta.flow), &catalog))
        .collect();
    Ok(Json(json!({
        "events": events,
        "searched": page.searched,
        "end": page.is_end,
        "read": page.read,
        "untracked": page.untracked,
    })))
}

fn shown(found: &FoundEvent, flow: Option<&Flow>, catalog: &Catalog) -> Value {
    // The id is known: only messages that brought none take it from the stream.
    let origin = StreamOrigin {
        stream: &found.stream,
        created: 0,
    };
    let mut shown = origin.show(&found.message, catalog);
    shown["id"] = found.incoming.meta.id.clone().into();
    shown["flow"] = found.incoming.meta.flow.clone().into();
    if let Some(flow) = flow {
        shown["state"] = FlowState::of(flow).word().into();
        shown["took"] = json!(flow.ended.map(|ended| ended.saturating_sub(flow.started)));
    }
    shown
}
