//! `GET /api/drift`: differences between what is declared and what happens, as `oncue map --drift` names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use oncue_admin::drift::{Finding, Observed, findings};
use oncue_admin::topology::Topology;
use oncue_proto::event;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::problem::Problem;
use crate::{App, away};

/// A function is used if it acted on an event within this many days; as `oncue map` has it.
const DAYS: u64 = 7;
/// Programs and servers are asked no more often, however many look.
const CACHE_TIME: Duration = Duration::from_secs(30);

/// Findings of the last look, and when it was. One asks, the others wait for the answer.
pub type CachedDrift = Mutex<Option<(Instant, Value)>>;

pub async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    // Held while it is asked: ten pages that are opened at once start each program once.
    let mut known = app.drift.lock().await;
    if let Some((_, said)) = known.as_ref().filter(|(at, _)| at.elapsed() < CACHE_TIME) {
        return Ok(Json(said.clone()));
    }
    let topology = Topology::read(&app.config, &app.bin, Some(&app.bus), Some(&app.store))
        .await
        .map_err(away)?;
    for remark in &topology.remarks {
        tracing::debug!("{remark}");
    }
    let observed = Observed::read(&app.catalog.now(), &topology, &app.bus, &app.store)
        .await
        .map_err(away)?;
    let found: Vec<Finding> = findings(&topology, &observed, event::now_ms(), DAYS);
    let said = json!({ "findings": found, "observed": observed.edges.len(), "days": DAYS });
    *known = Some((Instant::now(), said.clone()));
    Ok(Json(said))
}
