//! Terminal of `oncue dev`: each flow is told as it grows, and keys are taken.

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_admin::flows::Sender;
use oncue_core::bus::Bus;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::contract::LiveCatalog;
use oncue_core::store::Store;
use oncue_proto::event::{self, Incoming};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::browser;
use super::growth::Growth;
use super::keyboard::Keyboard;
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, paint, remark, say};
use crate::verbs::health;
use crate::verbs::ps::streams;
use crate::verbs::publish;
use crate::verbs::tail::watch::{StartPoint, StreamMessage, Watch};

/// Between two looks at the ledgers of the flows that are told.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks for servers that are not there yet, for streams that are new, and for watches that have ended.
const FIND_INTERVAL: Duration = Duration::from_secs(1);
/// Messages read and not yet looked at.
const MAX_UNREAD: usize = 1024;

/// Person in front of the terminal.
pub struct Live<'l> {
    settings: &'l Settings,
    keyboard: Keyboard,
    growth: Growth,
    /// Last event that came from outside.
    last: Option<Incoming>,
    servers: Option<Servers>,
}

/// Servers of the app, once they answer.
struct Servers {
    bus: Bus,
    store: Store,
    catalog: LiveCatalog,
    /// By stream.
    watches: BTreeMap<String, Watch>,
}

impl<'l> Live<'l> {
    /// `None` where nobody sits there.
    pub fn open(settings: &'l Settings) -> Option<Self> {
        Some(Self {
            settings,
            keyboard: Keyboard::open()?,
            growth: Growth::default(),
            last: None,
            servers: None,
        })
    }

    /// Tells and listens until `q` is pressed.
    pub async fn run(&mut self) {
        let (sender, mut messages) = mpsc::channel(MAX_UNREAD);
        let mut look = every(LOOK_INTERVAL);
        let mut find = every(FIND_INTERVAL);
        loop {
            tokio::select! {
                Some(key) = self.keyboard.keys.recv() => match key {
                    b'q' => return,
                    b'o' => self.open_console().await,
                    b'p' => self.publish_again().await,
                    b'\n' => say(""), // whoever presses Enter wants to see what is new
                    _ => {}
                },
                Some(message) = messages.recv() => self.tell(&message),
                _ = look.tick() => self.look().await,
                _ = find.tick() => {
                    if let Some(hidden) = self.growth.second(event::now_ms()) {
                        say(hidden);
                    }
                    self.find(&sender).await;
                }
            }
        }
    }

    async fn open_console(&self) {
        let address = format!("{}/", health::console_url(&self.settings.config));
        if browser::open(&address).await {
            remark(paint(DIM, format_args!("opened {address}")));
        } else {
            remark(format_args!("no browser here; the console is at {address}"));
        }
    }

    /// Publishes the last event from outside once more, as a new event: what follows comes of it by itself.
    async fn publish_again(&self) {
        let Some(last) = &self.last else {
            return remark("no event has come yet; publish one with `oncue pub` or the gateway");
        };
        let Some(servers) = &self.servers else { return };
        let key = key(servers, last);
        let traceparent = publish::given_trace();
        let sender = Sender {
            source: publish::SOURCE,
            id: None,
            traceparent: traceparent.as_deref(),
            format: last.format,
        };
        let again = sender.wrapped(&last.meta.ty, &key, last.payload.clone());
        if let Err(e) = servers.bus.publish(&again.envelope).await {
            remark(paint(BAD, format_args!("not published: {e}")));
        }
    }

    fn tell(&mut self, message: &StreamMessage) {
        let headers = message.headers.iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
        let read = event::read(headers, message.payload.clone(), &message.origin());
        // Its function says what is wrong with one that cannot be read.
        let Ok(incoming) = read else { return };
        let Some(servers) = &self.servers else { return };
        let key = key(servers, &incoming);
        if let Some(line) = self.growth.event(&incoming.meta, &key, event::now_ms()) {
            say(line);
        }
        if incoming.meta.cause.is_empty() {
            self.last = Some(incoming);
        }
    }

    /// Tells what is new in the ledgers.
    async fn look(&mut self) {
        let Some(servers) = &self.servers else { return };
        // Redis that is away is told of by those who need it.
        let flows = servers.store.flows(&self.growth.ids()).await;
        for flow in flows.unwrap_or_default().into_iter().flatten() {
            for line in self.growth.ledger(&flow, event::now_ms()) {
                say(line);
            }
        }
    }

    /// Connects, and watches the streams that are not watched.
    async fn find(&mut self, messages: &mpsc::Sender<StreamMessage>) {
        if self.servers.is_none() {
            self.servers = Servers::connect(self.settings).await;
        }
        let Some(servers) = &mut self.servers else {
            return;
        };
        // A server that was started anew has no watches.
        servers.watches.retain(|_, watch| !watch.is_over());
        let Ok(streams) = streams(&servers.bus).await else {
            return;
        };
        for stream in streams {
            if stream == DLQ || stream == TIMER || servers.watches.contains_key(&stream) {
                continue;
            }
            let filters = [format!("{stream}.>")];
            let watch = Watch::start(
                &servers.bus,
                &stream,
                &filters,
                &StartPoint::New,
                messages.clone(),
            );
            if let Ok(watch) = watch.await {
                servers.watches.insert(stream, watch);
            }
        }
    }
}

impl Servers {
    /// `None` as long as one of them does not answer.
    async fn connect(settings: &Settings) -> Option<Self> {
        let bus = settings.bus().await.ok()?;
        let store = settings.store().await.ok()?;
        let catalog = LiveCatalog::default();
        catalog.follow(&bus).await.ok()?;
        Some(Self {
            bus,
            store,
            catalog,
            watches: BTreeMap::new(),
        })
    }
}

/// Key of an event; empty for one of a type that is not known.
fn key(
    servers: &Servers,
    Incoming {
        meta,
        format,
        payload,
        ..
    }: &Incoming,
) -> String {
    let catalog = servers.catalog.now();
    let entry = catalog.get(&meta.ty).ok();
    let key = entry.and_then(|entry| entry.check(*format, payload).ok());
    key.unwrap_or_default()
}

/// Ticks that are left out where there was no time for them.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
