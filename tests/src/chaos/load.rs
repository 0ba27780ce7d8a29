//! The client: publishes events in bursts, waits for each ack, tries again under the same id, and writes down what was
//! acknowledged. That record is the truth everything else is measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oncue_core::bus::Bus;
use oncue_proto::event::{self, IdSecret, format_time, now_ms};
use oncue_proto::oncue::v1::{Envelope, Header};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::report::Live;

/// Events of one key, about: rows stay small.
const PER_KEY: u64 = 50;
/// Events of one key within a second, about: the key space grows with the rate.
const PER_KEY_SECOND: u64 = 20;
const BURST: u64 = 40;
/// Of so many events, the output of one has its very id forged.
pub const FORGED_WITH_SECRET: u64 = 10;
/// How far back the times go under which an event comes again, within any horizon.
const RESTAMPED: [u64; 3] = [0, 10 * 60 * 1000, 20 * 3600 * 1000];
/// Events in a second where nothing else is asked for.
pub const USUAL: u64 = 400;
/// Longest insistence on an ack once the load is over.
const INSIST: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub struct Shape {
    /// Events in a second, about.
    pub rate: u64,
    /// Stops here at the latest.
    pub most: u64,
    /// What events tell the function, at random; `emit:1` has one follow.
    pub words: &'static [&'static str],
    /// One in so many is told to fail for good instead; 0 for none.
    pub poison: u64,
    /// Whether some events come without id, as any client would send them.
    pub plain: bool,
    /// Whether some are sent a second time on purpose.
    pub copies: bool,
    /// Whether every other one is of a newer contract, with a field that no program here knows.
    pub newer: bool,
    /// How often each is sent again under its id, as by a client that retries and stamps anew: with another time, or none,
    /// and nothing by which the server could know it.
    pub stamps: u64,
    /// Whether a stranger publishes events of his own first, under ids that outputs might have.
    pub forged: Option<Forger>,
}

/// Who takes the ids of outputs before their functions do. Everybody can compute those that hang on the cause alone; with
/// the secret, which only the two servers have, every tenth is the very id.
#[derive(Debug, Clone)]
pub struct Forger {
    pub secret: IdSecret,
}

impl Forger {
    fn events(&self, cause: &str, number: u64) -> Vec<Envelope> {
        let hash = event::hash(&[cause.as_bytes(), b"misbehave", &0_u64.to_be_bytes()]);
        let mut ids = vec![URL_SAFE_NO_PAD.encode(hash)];
        if number.is_multiple_of(FORGED_WITH_SECRET) {
            ids.push(self.secret.output_id(cause, "misbehave", 0));
        }
        let event = |id: String| Envelope {
            subject: "web.other.thing".into(),
            headers: headers([("ce-id", id.clone()), ("Nats-Msg-Id", id)]),
            payload: "{}".into(),
        };
        ids.into_iter().map(event).collect()
    }
}

fn headers<const N: usize>(all: [(&str, String); N]) -> Vec<Header> {
    let header = |(name, value): (&str, String)| Header {
        name: name.to_owned(),
        value,
    };
    all.into_iter().map(header).collect()
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rate: USUAL,
            most: u64::MAX,
            words: &["emit:1"],
            poison: 0,
            plain: true,
            copies: true,
            newer: false,
            stamps: 0,
            forged: None,
        }
    }
}

/// One event the client tried to publish.
#[derive(Debug, Clone)]
pub struct Sent {
    pub number: u64,
    pub key: String,
    pub word: &'static str,
    /// Its own id; a plain event has the one its place in the stream gives it, known once it is acknowledged.
    pub id: Option<String>,
    pub acked: bool,
    /// Whether it has a field that no program here knows.
    pub newer: bool,
    /// Sequence of its first ack.
    pub sequence: u64,
}

impl Sent {
    /// Whether it is meant to end as a dead letter.
    pub fn is_poison(&self) -> bool {
        matches!(self.word, "reject" | "fail" | "panic")
    }

    /// Its payload, which is the same whenever it is sent.
    pub fn payload(&self) -> String {
        let Self {
            number, key, word, ..
        } = self;
        let more = if self.newer {
            r#","campaign":{"name":"spring"}"#
        } else {
            ""
        };
        format!(r#"{{"page":"{key}","visitor":"{number}","referrer":"{word}"{more}}}"#)
    }

    /// Sent again under its id, with this time; none for no time at all.
    pub fn again(&self, time: Option<u64>) -> Option<Envelope> {
        let mut headers = headers([("ce-id", self.id.clone()?)]);
        headers.extend(time.map(|time| Header {
            name: "ce-time".to_owned(),
            value: format_time(time),
        }));
        Some(Envelope {
            subject: "web.page.viewed".into(),
            headers,
            payload: self.payload().into(),
        })
    }

    /// What must follow from it.
    pub fn follows(&self, secret: &IdSecret) -> Option<String> {
        let id = self
            .id
            .as_ref()
            .filter(|_| self.word.starts_with("emit:1"))?;
        Some(secret.output_id(id, "misbehave", 0))
    }
}

pub struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<Sent>>,
    acked: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    extra: Arc<AtomicU64>,
}

impl Load {
    pub fn start(
        bus: Bus,
        created: u64,
        name: &str,
        seed: u64,
        shape: Shape,
        live: Arc<Live>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (acked, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counts = (acked.clone(), refused.clone());
        let extra = Arc::<AtomicU64>::default();
        let client = Client {
            bus,
            created,
            name: name.to_owned(),
            shape,
            stopped,
            counts,
            extra: extra.clone(),
            live,
            seed,
        };
        Self {
            stop,
            task: tokio::spawn(client.run()),
            acked,
            refused,
            extra,
        }
    }

    /// Messages that the stream has taken beyond the events: copies with another time, forged ones.
    pub fn extra(&self) -> Arc<AtomicU64> {
        self.extra.clone()
    }

    /// Publishes that were answered by no ack.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Stops publishing new events, insists on those under way, and returns all.
    pub async fn end(self) -> Vec<Sent> {
        self.stop.send_replace(true);
        self.task.await.expect("the client does not panic")
    }
}

#[derive(Clone)]
struct Client {
    bus: Bus,
    created: u64,
    name: String,
    shape: Shape,
    stopped: watch::Receiver<bool>,
    /// Of acks and of publishes without.
    counts: (Arc<AtomicU64>, Arc<AtomicU64>),
    /// Of messages beyond the events.
    extra: Arc<AtomicU64>,
    live: Arc<Live>,
    seed: u64,
}

impl Client {
    async fn run(self) -> Vec<Sent> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let permits = Arc::new(Semaphore::new(4096));
        let (mut tasks, mut number, mut stopped) = (JoinSet::new(), 0, self.stopped.clone());
        // A gentle client sends as often, and less at a time: what happens between two commands meets it as well.
        let rate = self.shape.rate.max(1);
        let burst = rate.div_ceil(20).min(BURST);
        let pause = Duration::from_millis(1000 * burst / rate);
        while number < self.shape.most && !*stopped.borrow() {
            for _ in 0..burst.min(self.shape.most - number) {
                let Ok(permit) = permits.clone().acquire_owned().await else {
                    break;
                };
                let (client, draft) = (self.clone(), self.draft(number, &mut rng));
                tasks.spawn(async move {
                    let _permit = permit;
                    client.send(draft).await
                });
                number += 1;
            }
            let _ = tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await;
        }
        tasks.join_all().await
    }

    fn draft(&self, number: u64, rng: &mut fastrand::Rng) -> Draft {
        let keys = (self.shape.rate / PER_KEY_SECOND).clamp(20, 1000);
        let key = format!(
            "/{}-{}",
            self.name,
            number / PER_KEY / keys * keys + rng.u64(..keys)
        );
        let poison = self.shape.poison > 0 && rng.u64(..self.shape.poison) == 0;
        let words = if poison {
            &["reject", "fail"]
        } else {
            self.shape.words
        };
        let word = words[rng.usize(..words.len())];
        let plain = self.shape.plain && rng.u8(..5) == 0;
        let id = (!plain).then(|| format!("{}-{number}", self.name));
        let mut headers = Vec::new();
        if let Some(id) = &id {
            headers.extend([
                ("ce-id", id.clone()),
                ("ce-type", "web.page.viewed".to_owned()),
            ]);
            if rng.u8(..4) > 0 {
                headers.push(("ce-time", format_time(now_ms())));
            }
            // Half of them without the server's own protection against copies.
            if rng.bool() {
                headers.push(("Nats-Msg-Id", id.clone()));
            }
        }
        let again = self.shape.copies && id.is_some() && rng.u8(..30) == 0;
        let headers = headers.into_iter().map(|(name, value)| Header {
            name: name.to_owned(),
            value,
        });
        let sent = Sent {
            number,
            key,
            word,
            id,
            acked: false,
            newer: self.shape.newer && number.is_multiple_of(2),
            sequence: 0,
        };
        let envelope = Envelope {
            subject: "web.page.viewed".into(),
            headers: headers.collect(),
            payload: sent.payload().into(),
        };
        Draft {
            sent,
            envelope,
            again,
        }
    }

    async fn send(mut self, draft: Draft) -> Sent {
        let Draft {
            mut sent,
            envelope,
            again,
        } = draft;
        let plain = sent.id.is_none();
        if let (Some(forger), Some(id)) = (&self.shape.forged, &sent.id) {
            for event in forger.events(id, sent.number) {
                let taken = self.bus.publish(&event).await;
                self.extra
                    .fetch_add(u64::from(taken.is_ok()), Ordering::Relaxed);
            }
        }
        let give_up = async {
            let _ = self.stopped.wait_for(|stop| *stop).await;
            tokio::time::sleep(INSIST).await;
        };
        let insist = async {
            loop {
                let answer = self.bus.publish(&envelope).await;
                self.counts
                    .1
                    .fetch_add(u64::from(answer.is_err()), Ordering::Relaxed);
                match answer {
                    Ok(ack) => return Some(ack),
                    // Without an id a second try would be a second event.
                    Err(oncue_core::bus::PublishError::Unknown(_)) if plain => return None,
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        };
        let ack = tokio::select! { ack = insist => ack, () = give_up => None };
        if let Some(ack) = ack {
            (sent.acked, sent.sequence) = (true, ack.sequence);
            self.counts.0.fetch_add(1, Ordering::Relaxed);
            self.live.events.fetch_add(1, Ordering::Relaxed);
            if plain {
                sent.id = Some(format!("web:{}:{}", self.created, ack.sequence));
            } else if again {
                let _ = self.bus.publish(&envelope).await;
            }
            self.stamp_anew(&sent).await;
        }
        sent
    }

    /// Sends it again and again, each time with another idea of when it happened.
    async fn stamp_anew(&self, sent: &Sent) {
        for n in 0..self.shape.stamps {
            let ago = RESTAMPED.get(n as usize % (RESTAMPED.len() + 1));
            let time = ago.map(|ago| now_ms() - ago);
            let Some(event) = sent.again(time) else {
                return;
            };
            let taken = self.bus.publish(&event).await;
            self.extra
                .fetch_add(u64::from(taken.is_ok()), Ordering::Relaxed);
        }
    }
}

struct Draft {
    sent: Sent,
    envelope: Envelope,
    /// Sent a second time on purpose.
    again: bool,
}
