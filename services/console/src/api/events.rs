//! `GET /api/events?type=TYPE`: the last events of a type, newest first, read backwards from its stream.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use oncue_admin::stores::streams::{Newest, newest};
use oncue_core::bus::StoredMessage;
use oncue_proto::event;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::decode::StreamOrigin;
use crate::problem::{MALFORMED, NOT_FOUND, Problem};
use crate::{App, away};

/// Events of one answer.
const MAX_EVENTS: usize = 100;

#[derive(Deserialize)]
pub struct Question {
    #[serde(rename = "type")]
    ty: String,
    /// Only those a function sent.
    source: Option<String>,
    limit: Option<usize>,
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

pub async fn get(
    State(app): State<Arc<App>>,
    Query(asked): Query<Question>,
) -> Result<Json<Value>, Problem> {
    if asked.ty.is_empty() || !asked.ty.chars().all(is_plain) {
        return Err(Problem::new(
            MALFORMED,
            "an event type is made of letters, digits, dots, _ and -",
        ));
    }
    let stream = event::stream_of_type(&asked.ty);
    let limit = asked.limit.unwrap_or(20).clamp(1, MAX_EVENTS);
    let Ok(created) = app.bus.stream_created(stream).await else {
        return Err(Problem::new(
            NOT_FOUND,
            format!("there is no stream {stream} yet"),
        ));
    };
    let origin = StreamOrigin { stream, created };
    let source = asked.source.map(|source| format!("/{source}"));
    let subjects = [asked.ty.clone(), format!("{}.*", asked.ty)];
    let mut found = Vec::new();
    for subject in &subjects {
        let wanted = Newest {
            subject,
            below: None,
            most: limit,
            questions: usize::MAX,
        };
        let page = newest(&app.bus, stream, &wanted, |message| {
            is_from(message, source.as_deref())
        });
        found.extend(page.await.map_err(away)?.messages);
    }
    found.sort_by_key(|found| std::cmp::Reverse(found.sequence));
    found.truncate(limit);
    let events: Vec<Value> = found
        .iter()
        .map(|found| origin.show(found, &app.catalog.now()))
        .collect();
    Ok(Json(json!({ "type": asked.ty, "events": events })))
}

/// Whether a message is from this source, if one is named.
fn is_from(message: &StoredMessage, source: Option<&str>) -> bool {
    source.is_none_or(|source| message.header("ce-source") == Some(source))
}
