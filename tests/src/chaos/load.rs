//! The client: publishes events in bursts, waits for each ack, tries again under the same id, and writes down what was
//! acknowledged. That record is the truth everything else is measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_proto::event::{IdSecret, format_time, now_ms};
use oncue_proto::oncue::v1::{Envelope, Header};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::report::Live;

/// Events of one key, about: rows stay small.
const PER_KEY: u64 = 50;
/// Events of one key within a second, about: the key space grows with the rate.
const PER_KEY_SECOND: u64 = 20;
const BURST: u64 = 40;
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
    /// Sequence of its first ack.
    pub sequence: u64,
}

impl Sent {
    /// Whether it is meant to end as a dead letter.
    pub fn is_poison(&self) -> bool {
        matches!(self.word, "reject" | "fail" | "panic")
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
        let client = Client {
            bus,
            created,
            name: name.to_owned(),
            shape,
            stopped,
            counts,
            live,
            seed,
        };
        Self {
            stop,
            task: tokio::spawn(client.run()),
            acked,
            refused,
        }
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
    live: Arc<Live>,
    seed: u64,
}

impl Client {
    async fn run(self) -> Vec<Sent> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let permits = Arc::new(Semaphore::new(4096));
        let (mut tasks, mut number, mut stopped) = (JoinSet::new(), 0, self.stopped.clone());
        let pause = Duration::from_millis(1000 * BURST / self.shape.rate.max(1));
        while number < self.shape.most && !*stopped.borrow() {
            for _ in 0..BURST.min(self.shape.most - number) {
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
        let payload = format!(r#"{{"page":"{key}","visitor":"{number}","referrer":"{word}"}}"#);
        let envelope = Envelope {
            subject: "web.page.viewed".into(),
            headers: headers.collect(),
            payload: payload.into(),
        };
        Draft {
            sent: Sent {
                number,
                key,
                word,
                id,
                acked: false,
                sequence: 0,
            },
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
        }
        sent
    }
}

struct Draft {
    sent: Sent,
    envelope: Envelope,
    /// Sent a second time on purpose.
    again: bool,
}
