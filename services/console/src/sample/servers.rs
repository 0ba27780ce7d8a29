//! Whether NATS and Redis are there: one question a second to each, with little patience. What a look finds out may take
//! as long as the longest of its requests; this takes a second, and the page says so within two.

use std::sync::Arc;
use std::time::Duration;

use oncue_proto::event;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::App;

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(700);
/// Time for an answer, which takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// Servers that do not answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Servers {
    /// `None` while it answers.
    pub nats: Option<Away>,
    /// `None` while it answers.
    pub redis: Option<Away>,
}

/// A server that does not answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Away {
    /// Unix milliseconds of the first question without an answer.
    pub since: u64,
    /// Sentence on what happened, and where.
    pub why: String,
    /// Way out.
    pub advice: String,
}

/// Asks until the process ends, and tells every browser as soon as an answer is another one.
pub async fn watch(app: Arc<App>) {
    let mut servers = Servers::default();
    loop {
        let (nats, redis) = tokio::join!(nats(&app), redis(&app));
        servers = Servers {
            nats: away(nats, servers.nats),
            redis: away(redis, servers.redis),
        };
        if app.snapshot.serve(servers.clone()) {
            for away in [&servers.nats, &servers.redis].into_iter().flatten() {
                tracing::warn!("{}; {}", away.why, away.advice);
            }
            app.live.publish(app.snapshot.news(app.live.watchers()));
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = app.stop.cancelled() => return,
        }
    }
}

/// Failure of a question, and what to do about it.
struct Silence {
    why: String,
    advice: &'static str,
}

fn away(silence: Option<Silence>, before: Option<Away>) -> Option<Away> {
    let Silence { why, advice } = silence?;
    // The first words stay, so that a page does not flicker between two sentences for one silence.
    Some(before.unwrap_or_else(|| Away {
        since: event::now_ms(),
        why,
        advice: advice.to_owned(),
    }))
}

async fn nats(app: &App) -> Option<Silence> {
    let at = app.config.nats.url.to_string();
    if !app.bus.is_connected() {
        return Some(Silence {
            why: format!("NATS at {at} is not reached: the connection is closed"),
            advice: "start it; workers and console connect anew by themselves, and no event that was accepted is lost",
        });
    }
    match timeout(PATIENCE, app.bus.api("INFO", &Value::Null)).await {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some(Silence {
            why: format!("JetStream of NATS at {at} does not work: {e}"),
            advice: "see its log and its disk; `oncue doctor` says what it needs",
        }),
        Err(_) => Some(Silence {
            why: format!("NATS at {at} holds its connection and does not answer"),
            advice: "see whether its process is stopped or starved, and its disk; `oncue doctor` asks it itself",
        }),
    }
}

async fn redis(app: &App) -> Option<Silence> {
    let at = app.store.address();
    match timeout(PATIENCE, app.store.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(Silence {
            why: format!("Redis at {at} is not reached: {e}"),
            advice: "start it; until then events wait in NATS, and nothing is lost",
        }),
        Err(_) => Some(Silence {
            why: format!("Redis at {at} does not answer"),
            advice: "see whether its process is stopped, starved or swaps; until then events wait in NATS, and nothing is lost",
        }),
    }
}
