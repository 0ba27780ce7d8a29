//! Following a row, in server-sent events: the value as it is, then each value that it is seen to have, then `gone` for one
//! that is no more. A value that lasts for less than a quarter of a second may never be seen.

use std::convert::Infallible;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::Interval;

use super::watcher::{Seen, WatchedRow};
use crate::App;
use crate::door::seats::{answer, heartbeat};
use crate::problem::Problem;
use crate::request::last_event_id;

/// Follows a row for as long as the client stays.
pub async fn stream(
    app: &Arc<App>,
    table: &str,
    key: &str,
    head: &Parts,
) -> Result<Response, Problem> {
    let seat = app.seat(head)?;
    let row = WatchedRow {
        table: table.to_owned(),
        key: key.to_owned(),
    };
    // Where Redis is away, the client hears so before it waits.
    super::read(app, table, key).await?;
    let following = Following {
        observed: app.rows.watch(row),
        shown: last_event_id(&head.headers)?,
        heartbeat: heartbeat(),
        app: app.clone(),
    };
    Ok(answer(following.stream(), seat))
}

/// One client that follows a row.
struct Following {
    app: Arc<App>,
    observed: watch::Receiver<Seen>,
    /// Tag of the value that the client has.
    shown: Option<String>,
    heartbeat: Interval,
}

impl Following {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(self, async |mut following| {
            let event = following.next().await?;
            Some((Ok(event), following))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            tokio::select! {
                changed = self.observed.changed() => {
                    changed.ok()?;
                    let seen = self.observed.borrow_and_update().clone();
                    if let Some(event) = self.show(&seen) {
                        return Some(event);
                    }
                }
                _ = self.heartbeat.tick() => return Some(Event::default().comment("")),
                () = self.app.handle.stopping.cancelled() => return None,
            }
        }
    }

    /// Event with what the client does not know yet.
    fn show(&mut self, seen: &Seen) -> Option<Event> {
        let (tag, event) = match seen {
            Seen::Unread | Seen::Away => return None,
            Seen::Gone => ("gone", Event::default().event("gone").data("{}")),
            Seen::Value(value) => {
                let event = Event::default().event("row").data(&value.body);
                (value.tag.as_str(), event)
            }
        };
        if self.shown.as_deref() == Some(tag) {
            return None;
        }
        self.shown = Some(tag.to_owned());
        Some(event.id(tag))
    }
}
