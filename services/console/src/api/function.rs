//! `GET /api/functions/{name}`: a function, how it fares now, how it fared for the last hour, what failed last.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use oncue_admin::dead_letters::Letter;
use oncue_admin::services::bounds;
use oncue_admin::stores::streams::{Newest, newest};
use oncue_core::bus::layout::DLQ;
use oncue_core::store::SAMPLES_MS;
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::App;
use crate::history::{self, Columns};
use crate::problem::{NOT_FOUND, Problem};
use crate::snapshot::Instance;

/// Dead letters named among what failed last.
const LAST_LETTERS: usize = 8;

/// Time that Redis has to say what it kept.
const REDIS_TIMEOUT: Duration = Duration::from_secs(1);
const HOUR_MS: u64 = 3600 * 1000;

/// How much of the past is shown: an hour, or with `span=day` a day by minutes.
#[derive(Deserialize)]
pub struct PastSpan {
    #[serde(default)]
    span: String,
}

pub async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Query(wanted): Query<PastSpan>,
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
    let last = Newest {
        subject: &subject,
        below: None,
        most: LAST_LETTERS,
        questions: usize::MAX,
    };
    let letters = newest(&app.bus, DLQ, &last, |_| true).await;
    let letters = letters.map(|page| page.messages).unwrap_or_default();
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
    let is_day = wanted.span == "day";
    let from = event::now_ms().saturating_sub(if is_day { SAMPLES_MS } else { HOUR_MS });
    let kept = timeout(REDIS_TIMEOUT, app.store.samples(&name, from)).await;
    let kept = history::minutes(&kept.ok().and_then(Result::ok).unwrap_or_default());
    let columns = if is_day {
        Columns::of(&kept)
    } else {
        status.history.columns(&kept)
    };
    let file = app.config.functions.get(&name).map(|function| {
        let scale = function.scale();
        json!({ "min": scale.min, "max": scale.max })
    });
    let supervised = status.supervised.as_ref();
    let supervised = supervised
        .map(|kept| json!({ "min": kept.min, "max": kept.max, "processes": kept.workers.len() }));
    let set = bounds::of(&app.bus, &name).await.ok().flatten();
    Ok(Json(json!({
        "card": view,
        "bounds": { "file": file, "now": supervised, "set": set },
        "limits": limits,
        "health": status.health(),
        "why": status.reason(&name),
        "waiting_outputs": status.waiting_outputs(),
        "rate": status.rate(),
        "lag": status.lag(),
        "in_flight": status.in_flight(),
        "minute": { "retried": troubles.retried, "dead": troubles.dead },
        "letters": status.letters,
        "consumer": consumer,
        "instances": instances,
        "histogram": status.histogram(),
        "history": columns,
        "marks": history::marks(&kept),
        "versions": history::versions(&kept),
        "errors": letters.iter().filter_map(|message| Letter::read(app.bus.app(), message)).map(|letter| error(&letter)).collect::<Vec<_>>(),
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
