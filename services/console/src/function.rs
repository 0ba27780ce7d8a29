//! `GET /api/functions/{name}`: what a function is, how it fares now, how it fared for the last hour, what failed last.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use oncue_admin::dead_letters::{Letter, ms};
use oncue_core::bus::layout::DLQ;
use serde_json::{Value, json};

use crate::App;
use crate::events::latest;
use crate::problem::{NOT_FOUND, Problem};

/// Dead letters named among what failed last.
const LAST: usize = 8;

pub async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let function = app.board.function(&name);
    let function = function
        .ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no function {name:?}")))?;
    let (card, vitals) = (&function.card, &function.vitals);
    let limits = card
        .limits
        .clone()
        .map(|limits| limits.with(&app.config.function(&name)));
    let (retried, dead) = vitals.troubles();
    let subject = format!("{DLQ}.{name}");
    let letters = latest(&app.bus, DLQ, &subject, LAST, |_| true)
        .await
        .unwrap_or_default();
    let instances: Vec<Value> = vitals
        .instances
        .iter()
        .map(|(id, instance)| {
            let mut shown = json!(instance);
            shown["id"] = json!(id);
            shown
        })
        .collect();
    let consumer = vitals.consumer.as_ref().map(|consumer| {
        json!({
            "stream": consumer.stream,
            "pending": consumer.pending,
            "in_hand": consumer.in_hand,
            "redelivered": consumer.redelivered,
            "delivered": consumer.delivered,
        })
    });
    Ok(Json(json!({
        "card": card,
        "limits": limits,
        "health": vitals.health(),
        "rate": vitals.rate(),
        "lag": vitals.lag(),
        "in_flight": vitals.in_flight(),
        "minute": { "retried": retried, "dead": dead },
        "letters": vitals.letters,
        "consumer": consumer,
        "instances": instances,
        "histogram": vitals.histogram(),
        "history": vitals.history.columns(),
        "errors": letters.iter().rev().filter_map(Letter::read).map(|letter| error(&letter)).collect::<Vec<_>>(),
    })))
}

fn error(letter: &Letter) -> Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "group": letter.group,
        "at": ms(inner.at.as_ref()),
        "reason": inner.reason,
        "message": inner.message,
        "site": inner.site,
        "event": inner.event_id,
        "flow": inner.flow_id,
        "trace": letter.trace_id(),
    })
}
