//! `GET /api/doctor`: findings of `oncue doctor`, asked anew at most every half minute. Its program is run, so that the page
//! and the terminal say the same.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::App;

/// Time for which an answer is good: each is a process.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// Time for the program, which itself waits for servers that do not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Last answer.
#[derive(Default)]
pub struct CachedDoctor(Mutex<Option<(Instant, Value)>>);

pub async fn get(State(app): State<Arc<App>>) -> Json<Value> {
    Json(answer(&app).await)
}

/// Findings of the doctor, which may be half a minute old.
pub async fn answer(app: &App) -> Value {
    // Whoever comes meanwhile waits for the same answer.
    let mut last = app.doctor.0.lock().await;
    if let Some((at, answer)) = &*last
        && at.elapsed() < GOOD_FOR
    {
        return answer.clone();
    }
    let answer = ask(app).await.unwrap_or_else(|why| {
        let text = format!("`oncue doctor` cannot be asked: {why}");
        json!({ "findings": [{ "verdict": "know", "text": text, "advice": "run it in a terminal" }] })
    });
    *last = Some((Instant::now(), answer.clone()));
    answer
}

async fn ask(app: &App) -> Result<Value, String> {
    let program = app.bin.join("oncue");
    let asked = Command::new(&program)
        .args(["doctor", "--json"])
        // With the credentials of this process: others need not be here.
        .envs(app.config.servers())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, asked)
        .await
        .map_err(|_| format!("it took longer than {} s", PATIENCE.as_secs()))?
        .map_err(|e| format!("{}: {e}", program.display()))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
