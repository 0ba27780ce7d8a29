//! `GET /api/functions/{name}`: a function, how it fares now, how it fared for the last hour, what failed last.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use oncue_admin::dead_letters::Letter;
use oncue_core::bus::layout::DLQ;
use serde_json::{Value, json};

use crate::App;
use crate::api::events::latest;
use crate::problem::{NOT_FOUND, Problem};
use crate::snapshot::Instance;

/// Dead letters named among what failed last.
const LAST_LETTERS: usize = 8;

pub async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let function = app.snapshot.function(&name);
    let function = function
        .ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no function {name:?}")))?;
    let view = &function.view;
    let status = &function.status;
    let limits = view
        .limits
        .clone()
        .map(|limits| limits.with(&app.config.function(&name)));
    let troubles = status.troubles();
    let subject = app.bus.app().letters(&name);
    let letters = latest(&app.bus, DLQ, &subject, LAST_LETTERS, |_| true)
        .await
        .unwrap_or_default();
    let instances = status.instances.values();
    let instances: Vec<Value> = instances.map(Instance::shown).collect();
    let consumer = status.consumer.as_ref().map(|consumer| {
        json!({
            "stream": consumer.stream,
            "pending": consumer.info.num_pending,
            "in_hand": consumer.info.num_ack_pending,
            "redelivered": consumer.info.num_redelivered,
            "delivered": consumer.info.delivered.consumer_seq,
        })
    });
    Ok(Json(json!({
        "card": view,
        "limits": limits,
        "health": status.health(),
        "waiting_outputs": status.waiting_outputs(),
        "rate": status.rate(),
        "lag": status.lag(),
        "in_flight": status.in_flight(),
        "minute": { "retried": troubles.retried, "dead": troubles.dead },
        "letters": status.letters,
        "consumer": consumer,
        "instances": instances,
        "histogram": status.histogram(),
        "history": status.history.columns(),
        "errors": letters.iter().rev().filter_map(|message| Letter::read(app.bus.app(), message)).map(|letter| error(&letter)).collect::<Vec<_>>(),
    })))
}

fn error(letter: &Letter) -> Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "group": letter.group,
        "at": letter.at(),
        "reason": inner.reason,
        "message": inner.message,
        "site": inner.site,
        "event": inner.event_id,
        "flow": inner.flow_id,
        "trace": letter.trace_id(),
    })
}
