//! `GET /api/drift`: where what is declared and what happens differ, as `oncue map --drift` names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use oncue_admin::drift::{Finding, Observed, findings};
use oncue_admin::topology::House;
use oncue_proto::event;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::App;
use crate::problem::{AWAY, Problem};

/// A function is used if it acted on an event within this many days; as `oncue map` has it.
const DAYS: u64 = 7;
/// Programs and servers are asked no more often, however many look.
const KEPT: Duration = Duration::from_secs(30);

/// What was found last, and when. One asks, the others wait for the answer.
pub type Known = Mutex<Option<(Instant, Value)>>;

pub async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let mut known = app.drift.lock().await;
    if let Some((_, said)) = known.as_ref().filter(|(at, _)| at.elapsed() < KEPT) {
        return Ok(Json(said.clone()));
    }
    let (house, remarks) = House::ask(&app.config, &app.bin, Some(&app.bus), Some(&app.store))
        .await
        .map_err(|why| Problem::new(AWAY, why))?;
    for remark in remarks {
        tracing::debug!("{remark}");
    }
    let observed = Observed::ask(&app.catalog, &house, &app.bus, &app.store).await?;
    let found: Vec<Finding> = findings(&house, &observed, event::now_ms(), DAYS);
    let said = json!({ "findings": found, "observed": observed.edges.len(), "days": DAYS });
    *known = Some((Instant::now(), said.clone()));
    Ok(Json(said))
}
