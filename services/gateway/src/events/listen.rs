//! `GET /v1/stream?type=TYPE&key=KEY`: events as they happen, in server-sent events [HTML section 9.2]. The id of each is
//! its place in the stream, so `Last-Event-ID` resumes exactly; what cannot be resumed is said by an event `reset`.
//!
//! Nothing is held for a slow client: it is cut off, and reads from the stream when it comes again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::Stream;
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Interval, sleep};

use super::feed::{Feed, Place, Shown, Told};
use crate::App;
use crate::door::seats::{answer, heartbeat};
use crate::problem::{FORBIDDEN, MALFORMED, Problem, of_catalog};
use crate::request::last_event_id;

/// Pause before a stream that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(1);
/// Pause after which a browser comes again.
const RETRY: Duration = Duration::from_secs(2);

/// Type and key that a client wants to hear.
struct Wanted {
    ty: String,
    key: Option<String>,
}

impl Wanted {
    fn of(app: &App, query: &str) -> Result<Self, Problem> {
        let mut ty = None;
        let mut key = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "type" => &mut ty,
                "key" => &mut key,
                other => return Err(malformed(format!("{other:?} is neither type nor key"))),
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(malformed(format!("{name} is there more than once")));
            }
        }
        let ty = ty.ok_or_else(|| malformed("type is missing, as in ?type=shop.order.placed"))?;
        if !app.config.stream.contains(&ty) {
            app.catalog.now().get(&ty).map_err(of_catalog)?;
            let why =
                format!("nobody may hear {ty}: [gateway] stream of oncue.toml does not name it");
            return Err(Problem::new(FORBIDDEN, why));
        }
        Ok(Self { ty, key })
    }
}

fn malformed(why: impl Into<String>) -> Problem {
    Problem::new(MALFORMED, why)
}

pub async fn get(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Wanted { ty, key } = Wanted::of(&app, request.uri().query().unwrap_or_default())?;
    let (head, _) = request.into_parts();
    let seat = app.seat(&head)?;
    let last = last_event_id(&head.headers)?;
    let feed = app.feeds.open(&ty).await?;
    let live = feed.listen();
    let mut listening = Listening {
        resets: feed.resets(),
        next: feed.place().sequence + 1,
        catching_up: false,
        ready: VecDeque::new(),
        heartbeat: heartbeat(),
        app,
        feed,
        live,
        key,
    };
    if let Some(last) = last {
        listening.resume(&last).await?;
    }
    // The first bytes tell the client that it is heard, and where it stands.
    listening
        .ready
        .push_front(listening.sign_of_life().retry(RETRY));
    Ok(answer(listening.stream(), seat))
}

/// One client that listens.
struct Listening {
    app: Arc<App>,
    feed: Arc<Feed>,
    live: broadcast::Receiver<Told>,
    key: Option<String>,
    /// Resets of the feed that it knows of.
    resets: u64,
    /// Sequence of the next event it has not seen.
    next: u64,
    /// Whether it still reads what was there before it came.
    catching_up: bool,
    ready: VecDeque<Event>,
    heartbeat: Interval,
}

impl Listening {
    /// Goes on behind the last event that the client has seen, if all that followed is still there.
    async fn resume(&mut self, last: &str) -> Result<(), Problem> {
        let info = self.app.feeds.stream_info(self.feed.ty()).await?;
        let now = Place {
            created: info.created_ms().unwrap_or(0),
            sequence: info.state.last_seq,
        };
        let why = match last.parse::<Place>() {
            Err(_) => "the id is none of this stream",
            Ok(last) if last.created != now.created => "the stream was made anew",
            Ok(last) if last.sequence > now.sequence => "the stream has gone back",
            Ok(last) if last.sequence + 1 < info.state.first_seq => {
                "events since then are no longer kept"
            }
            Ok(last) => {
                self.next = last.sequence + 1;
                self.catching_up = true;
                return Ok(());
            }
        };
        self.ready.push_back(reset(why, self.feed.place()));
        Ok(())
    }

    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(Some(self), async |listening| {
            let mut listening = listening?;
            let event = listening.next().await?;
            Some((Ok(event), Some(listening)))
        })
    }

    /// Next thing to say; `None` ends the answer.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let resets = self.feed.resets();
            if resets != self.resets {
                let place = self.feed.place();
                self.resets = resets;
                self.next = place.sequence + 1;
                self.catching_up = false;
                return Some(reset("the stream was made anew", place));
            }
            if self.catching_up {
                self.catch_up().await;
                continue;
            }
            let app = self.app.clone();
            tokio::select! {
                told = self.live.recv() => match told {
                    Ok(Told::Event(shown)) => self.take(&shown),
                    // Seen by its number.
                    Ok(Told::Reset) => {}
                    Err(RecvError::Lagged(_)) => {
                        tracing::info!(ty = self.feed.ty(), "a client that listens is too slow, and is cut off");
                        return None;
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.heartbeat.tick() => return Some(self.sign_of_life()),
                () = app.handle.stopping.cancelled() => return None,
            }
        }
    }

    /// Reads on in the stream. What comes meanwhile is heard, or read the next time.
    async fn catch_up(&mut self) {
        self.live = self.live.resubscribe();
        let Ok(read) = self.app.feeds.read(&self.feed, self.next).await else {
            sleep(AGAIN).await;
            return;
        };
        for shown in read.events {
            self.take(&shown);
        }
        match read.next {
            Some(next) => self.next = next,
            None => self.catching_up = false,
        }
    }

    fn take(&mut self, shown: &Shown) {
        if shown.sequence < self.next {
            return;
        }
        self.next = shown.sequence + 1;
        if self.key.as_ref().is_some_and(|key| *key != shown.key) {
            return;
        }
        let place = Place {
            sequence: shown.sequence,
            ..self.feed.place()
        };
        let event = Event::default().event(self.feed.ty());
        self.ready
            .push_back(event.id(place.to_string()).data(&shown.json));
    }

    /// Comment, with the place up to which the client has heard all: events of other types move it on.
    fn sign_of_life(&self) -> Event {
        let mut place = self.feed.place();
        // What was told and not yet taken from the channel is not heard.
        let is_all_heard = !self.catching_up && self.live.is_empty();
        let heard = self.next.saturating_sub(1);
        place.sequence = if is_all_heard {
            place.sequence.max(heard)
        } else {
            heard
        };
        Event::default().id(place.to_string()).comment("")
    }
}

/// Says that events may have been missed, and from where it goes on.
fn reset(why: &str, place: Place) -> Event {
    let data = json!({ "reason": why }).to_string();
    Event::default()
        .event("reset")
        .id(place.to_string())
        .data(data)
}
