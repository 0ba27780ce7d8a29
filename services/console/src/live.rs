//! News for browsers, pushed: the graph when it is another one, numbers every second. Each is made once for all; a
//! browser that reads slowly misses some and gets the newest.

pub mod notices;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Notify, watch};

use crate::access::sessions::Session;
use crate::problem::{AWAY, CROWDED, Problem};
use crate::snapshot::News;
use crate::{App, away};

/// After which a browser tries again when we are away.
/// Browsers wait three seconds or more by themselves, and a restart takes less.
const RETRY: &str = "retry: 2000\n\n";
/// Time for Redis to answer.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Live {
    /// Holds one value: a slow browser skips moments rather than filling a queue.
    news: watch::Sender<News>,
    watchers: AtomicUsize,
    /// Somebody has come to a console nobody watched.
    came: Notify,
}

impl Live {
    pub fn watchers(&self) -> usize {
        self.watchers.load(Ordering::Relaxed)
    }

    /// Tells every browser.
    pub fn publish(&self, news: News) {
        self.news.send_replace(news);
    }

    /// Returns when somebody comes to a console nobody watched.
    pub async fn awaited(&self) {
        self.came.notified().await;
    }
}

/// Browser that is told of updates, counted for as long as it lives.
struct Watcher {
    app: Arc<App>,
    /// None without a token: then nobody logs in, and nobody out.
    session: Option<Session>,
}

impl Watcher {
    fn new(app: Arc<App>, session: Option<Session>) -> Option<Self> {
        let before = app.live.watchers.fetch_add(1, Ordering::Relaxed);
        let watcher = Self { app, session };
        // Else the first to come would look at numbers of the slow interval, up to five seconds old.
        if before == 0 {
            watcher.app.live.came.notify_one();
        }
        // One too many is dropped here, which takes it off the count again.
        (before < watcher.app.guards.watchers).then_some(watcher)
    }

    /// Whether it may be told more: its session may have been ended, here or at another console, or have expired.
    fn may_look(&self) -> bool {
        let sessions = &self.app.access.sessions;
        let session = self.session.as_ref();
        session.is_none_or(|session| sessions.holds(session))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.app.live.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn stream(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    let most = app.guards.watchers;
    let watcher = Watcher::new(app.clone(), app.access.session(&headers));
    let watcher =
        watcher.ok_or_else(|| Problem::new(CROWDED, format!("{most} browsers watch already")))?;
    let mut news = app.live.news.subscribe();
    // So that a browser sees the last moment at once and not with the next look.
    news.mark_changed();
    let updates = stream::unfold((watcher, news, None), async |(watcher, mut news, shown)| {
        tokio::select! {
            changed = news.changed() => changed.ok()?,
            () = watcher.app.stop.cancelled() => return None,
        }
        if !watcher.may_look() {
            return None;
        }
        let latest = news.borrow_and_update().clone();
        let mut frame = Vec::new();
        if shown.is_none() {
            frame.extend_from_slice(RETRY.as_bytes());
        }
        // Numbers are told in the order of a graph, so a browser that does not have that graph gets it first.
        if shown != Some(latest.version) {
            frame.extend_from_slice(&latest.graph);
        }
        frame.extend_from_slice(&latest.tick);
        Some((
            Ok::<_, Infallible>(Bytes::from(frame)),
            (watcher, news, Some(latest.version)),
        ))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(updates)).into_response())
}

/// The process lives.
pub async fn healthy() -> &'static str {
    "ok\n"
}

/// There is something to show.
pub async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, Problem> {
    if !app.bus.is_connected() {
        return Err(Problem::new(AWAY, "NATS is away"));
    }
    match tokio::time::timeout(REDIS_TIMEOUT, app.store.ping()).await {
        Ok(Ok(())) => Ok("ready\n"),
        Ok(Err(e)) => Err(away(e)),
        Err(_) => Err(Problem::new(AWAY, "Redis does not answer")),
    }
}
