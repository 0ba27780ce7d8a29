//! Events of a stream as they come, read once for all who listen. A message heard on the bus says that there is something to
//! read; what is read stands in the stream, so it has a place to resume from. No consumer is left behind on any server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::{ApiError, Bus, BusError, Slice, StoredMessage, Subscription};
use oncue_core::contract::LiveCatalog;
use oncue_proto::event::{self, stream_of_type};
use serde_json::{Value, json};
use tokio::sync::{Mutex, broadcast};
use tokio::time::{Instant, sleep, timeout};

use crate::problem::Problem;

/// Events that a listener may be behind; beyond that it is cut off, and resumes from the stream.
const BEHIND: usize = 64;
/// Messages and bytes of one reading.
const MESSAGES: usize = 64;
const BYTES: usize = 1 << 20;
/// Pause between two looks where nothing is heard: what was delayed is not published, it comes out of another stream.
const LOOK: Duration = Duration::from_secs(1);
/// Pauses after a message was heard that its stream does not have yet.
const AGAIN: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(80),
];
/// Pause between two looks at the stream itself.
const LOOK_AT_STREAM: Duration = Duration::from_secs(5);

/// Feeds of all types that somebody listens to.
pub struct Feeds {
    bus: Bus,
    catalog: LiveCatalog,
    by_type: Mutex<HashMap<String, Weak<Feed>>>,
}

/// Feed of one type; it ends with its last listener.
pub struct Feed {
    ty: String,
    /// Creation time of the stream, Unix milliseconds: another stream of the same name has other sequences.
    created: AtomicU64,
    /// Sequence up to which all was told.
    told: AtomicU64,
    /// Number of times that the stream was made anew or went back.
    resets: AtomicU64,
    listeners: broadcast::Sender<Told>,
}

/// News for listeners.
#[derive(Clone)]
pub enum Told {
    Event(Arc<Shown>),
    /// The stream is another one.
    Reset,
}

/// An event as listeners see it.
pub struct Shown {
    pub sequence: u64,
    pub key: String,
    /// CloudEvent in structured JSON.
    pub json: String,
}

/// Place in a stream, as it stands in the id of a server-sent event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub created: u64,
    pub sequence: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.created, self.sequence)
    }
}

impl std::str::FromStr for Place {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (created, sequence) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self {
            created: created.parse()?,
            sequence: sequence.parse()?,
        })
    }
}

impl Feeds {
    pub fn new(bus: Bus, catalog: LiveCatalog) -> Self {
        Self {
            bus,
            catalog,
            by_type: Mutex::default(),
        }
    }

    /// Feed of a type, which begins now unless somebody listens already.
    pub async fn open(&self, ty: &str) -> Result<Arc<Feed>, Problem> {
        let mut feeds = self.by_type.lock().await;
        if let Some(feed) = feeds.get(ty).and_then(Weak::upgrade) {
            return Ok(feed);
        }
        let plain = self.bus.subscribe(ty).await?;
        let keyed = self.bus.subscribe(&format!("{ty}.*")).await?;
        let info = self.stream_info(ty).await?;
        let feed = Arc::new(Feed {
            ty: ty.to_owned(),
            created: AtomicU64::new(info.created_ms().unwrap_or(0)),
            told: AtomicU64::new(info.state.last_seq),
            resets: AtomicU64::new(0),
            listeners: broadcast::Sender::new(BEHIND),
        });
        feeds.retain(|_, feed| feed.strong_count() > 0);
        feeds.insert(ty.to_owned(), Arc::downgrade(&feed));
        let follower = FeedReader {
            feed: Arc::downgrade(&feed),
            bus: self.bus.clone(),
            catalog: self.catalog.clone(),
            plain,
            keyed,
            looked: Instant::now(),
        };
        tokio::spawn(follower.follow());
        Ok(feed)
    }

    /// Stream of a type, as it is.
    pub async fn stream_info(&self, ty: &str) -> Result<StreamInfo, ApiError> {
        self.bus.stream_info(stream_of_type(ty)).await
    }

    /// Events of a type behind a place, in order; none at the end of the stream.
    pub async fn read(&self, feed: &Feed, from: u64) -> Result<Read, BusError> {
        read(&self.bus, &self.catalog, feed, from).await
    }
}

/// Part of a stream that was read.
pub struct Read {
    pub events: Vec<Arc<Shown>>,
    /// Sequence behind the last message; `None` at the end of the stream.
    pub next: Option<u64>,
}

async fn read(bus: &Bus, catalog: &LiveCatalog, feed: &Feed, from: u64) -> Result<Read, BusError> {
    let ty = &feed.ty;
    let slice = Slice {
        from,
        since: None,
        subject: ty,
        messages: MESSAGES,
        bytes: BYTES,
    };
    let batch = bus.read_slice(stream_of_type(ty), &slice).await?;
    let next = batch.last().map(|last| last.sequence + 1);
    let created = feed.place().created;
    let events = batch.iter();
    let events = events.filter_map(|message| show(catalog, ty, created, message));
    Ok(Read {
        events: events.map(Arc::new).collect(),
        next,
    })
}

/// Event of a message; nothing for what is none of its type.
fn show(catalog: &LiveCatalog, ty: &str, created: u64, message: &StoredMessage) -> Option<Shown> {
    let incoming = message.read(stream_of_type(ty), created).ok()?;
    let catalog = catalog.now();
    let entry = catalog.get(ty).ok()?;
    let key = entry.check(incoming.format, &incoming.payload).ok()?;
    let data = entry.to_json(incoming.format, &incoming.payload).ok()?;
    let meta = incoming.meta;
    let mut json = json!({
        "specversion": "1.0",
        "id": meta.id,
        "source": meta.source,
        "type": ty,
        "time": event::format_time(meta.time),
        "datacontenttype": "application/json",
        "data": data,
    });
    if !key.is_empty() {
        json["subject"] = Value::from(key.as_str());
    }
    Some(Shown {
        sequence: message.sequence,
        key,
        json: json.to_string(),
    })
}

impl Feed {
    pub fn ty(&self) -> &str {
        &self.ty
    }

    /// News from now on.
    pub fn listen(&self) -> broadcast::Receiver<Told> {
        self.listeners.subscribe()
    }

    /// Number of resets so far: another one means that sequences are others.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Acquire)
    }

    /// Place up to which all was told.
    pub fn place(&self) -> Place {
        Place {
            created: self.created.load(Ordering::Acquire),
            sequence: self.told.load(Ordering::Acquire),
        }
    }
}

/// Task that reads for one feed.
struct FeedReader {
    feed: Weak<Feed>,
    bus: Bus,
    catalog: LiveCatalog,
    plain: Subscription,
    keyed: Subscription,
    /// When the stream itself was last looked at.
    looked: Instant,
}

impl FeedReader {
    async fn follow(mut self) {
        loop {
            let heard = self.heard().await;
            let Some(feed) = self.feed.upgrade() else {
                return;
            };
            let told = if heard {
                self.tell_soon(&feed).await
            } else {
                self.tell(&feed).await.map(|_| ())
            };
            let looked = match told {
                Ok(()) if self.looked.elapsed() >= LOOK_AT_STREAM => self.look(&feed).await,
                other => other.map_err(|e| e.to_string()),
            };
            if let Err(e) = looked {
                tracing::warn!(ty = feed.ty, error = e, "cannot read for those who listen");
                sleep(LOOK).await;
            }
        }
    }

    /// Waits for a message, for some time; several at once are one.
    async fn heard(&mut self) -> bool {
        let heard = timeout(LOOK, async {
            tokio::select! {
                message = self.plain.next() => message.is_some(),
                message = self.keyed.next() => message.is_some(),
            }
        });
        let heard = heard.await.unwrap_or(false);
        while self.plain.next().now_or_never().flatten().is_some() {}
        while self.keyed.next().now_or_never().flatten().is_some() {}
        heard
    }

    /// Tells of a message that is on its way into the stream.
    async fn tell_soon(&self, feed: &Feed) -> Result<(), BusError> {
        for pause in AGAIN {
            sleep(pause).await;
            if self.tell(feed).await? {
                break;
            }
        }
        Ok(())
    }

    /// Tells of all that is new in the stream; returns whether there was something.
    async fn tell(&self, feed: &Feed) -> Result<bool, BusError> {
        let mut any = false;
        loop {
            let from = feed.place().sequence + 1;
            let Read { events, next } = read(&self.bus, &self.catalog, feed, from).await?;
            let Some(next) = next else {
                return Ok(any);
            };
            any = true;
            for shown in events {
                // Nobody may be listening just now.
                let _ = feed.listeners.send(Told::Event(shown));
            }
            feed.told.store(next - 1, Ordering::Release);
        }
    }

    /// Looks whether the stream is still the one it was, and how far it has come with events of other types.
    async fn look(&mut self, feed: &Feed) -> Result<(), String> {
        self.looked = Instant::now();
        let info = self.bus.stream_info(stream_of_type(&feed.ty)).await;
        let info = info.map_err(|e| e.to_string())?;
        let created = info.created_ms().unwrap_or(0);
        let place = feed.place();
        if created != place.created || info.state.last_seq < place.sequence {
            feed.told.store(info.state.last_seq, Ordering::Release);
            feed.created.store(created, Ordering::Release);
            // Last: a listener that sees it sees the place as well.
            feed.resets.fetch_add(1, Ordering::Release);
            let _ = feed.listeners.send(Told::Reset);
            return Ok(());
        }
        // Of its own type, all up to there is told with this.
        self.tell(feed).await.map_err(|e| e.to_string())?;
        feed.told.fetch_max(info.state.last_seq, Ordering::AcqRel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn places_are_read_as_they_are_written() {
        let place = Place {
            created: 1_700_000_000_000,
            sequence: 42,
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in ["", "42", "a-1", "1-", "1-2-3", "-1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
