//! A TCP proxy that does to a connection what networks do: cuts, refuses, swallows, freezes, delays, throttles, slices,
//! resets, and loses exactly one answer. Every fault counts itself when it really happens.

mod frames;
mod link;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is spoken on the line; it decides what an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Nats,
    Redis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Up,
    Down,
}

/// What the proxy does to everything that passes; nothing, by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// New connections are closed at once.
    pub refuse: bool,
    /// Half-open: bytes vanish, the connection stays.
    pub swallow: &'static [Direction],
    /// A partition: bytes wait, and arrive once it is over.
    pub freeze: bool,
    pub latency: Duration,
    pub jitter: Duration,
    /// 0 is no limit.
    pub bytes_per_second: usize,
    /// One byte per segment.
    pub slices: bool,
    /// Once: a piece short of its last byte, then a reset.
    pub reset: Option<Direction>,
    /// So many answers are lost: on Redis the reply of an `FCALL`, with the connection; on NATS a publish ack alone.
    pub lose_answers: u32,
}

pub struct Proxy {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    server: u16,
    protocol: Protocol,
    faults: watch::Sender<Faults>,
    /// Counts cuts: connections end when it moves.
    cuts: watch::Sender<u64>,
    fired: Mutex<BTreeMap<&'static str, u64>>,
    wire: Mutex<Wire>,
    seed: Mutex<fastrand::Rng>,
}

/// What was settled over this proxy.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    pub acks: u64,
    pub naks: u64,
    pub terms: u64,
    /// NAKs sent when the server had not heard of the delivery for the ack wait, and may have given it to another.
    pub late_naks: u64,
    /// Of these, those whose worker had said that it is still at it, too late as well.
    pub late_naks_after_progress: u64,
    /// Deliveries of which the server had heard nothing for that long, and whether progress was reported afterwards; no
    /// word revives them.
    expired: HashMap<String, bool>,
    /// When each delivery was last spoken of.
    heard: HashMap<String, Instant>,
    pub ack_wait: Duration,
    /// When connections were taken.
    pub accepted: Vec<Instant>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything to `server` on this machine.
    pub async fn start(protocol: Protocol, server: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let inner = Arc::new(Inner {
            server,
            protocol,
            faults: watch::channel(Faults::default()).0,
            cuts: watch::channel(0).0,
            fired: Mutex::default(),
            wire: Mutex::new(Wire { ack_wait: Duration::MAX, ..Wire::default() }),
            seed: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        tokio::spawn(accept(Arc::downgrade(&inner), listener));
        Self { port, inner }
    }

    pub fn set(&self, faults: Faults) {
        self.inner.faults.send_replace(faults);
    }

    /// Back to a clean line. Connections that lost bytes are reset, as no client could make sense of what follows.
    pub fn heal(&self) {
        let before = self.inner.faults.send_replace(Faults::default());
        if !before.swallow.is_empty() {
            self.inner.cuts.send_modify(|n| *n += 1);
        }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        let open = self.inner.cuts.receiver_count() as u64;
        self.inner.count("cut", open);
        self.inner.cuts.send_modify(|n| *n += 1);
    }

    /// How often each fault happened.
    pub fn fired(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.inner.fired).clone()
    }

    pub fn fired_of(&self, fault: &str) -> u64 {
        lock(&self.inner.fired).get(fault).copied().unwrap_or_default()
    }

    pub fn connections(&self) -> usize {
        self.inner.cuts.receiver_count()
    }

    /// From here on NAKs are judged by this ack wait.
    pub fn judge(&self, ack_wait: Duration) {
        lock(&self.inner.wire).ack_wait = ack_wait;
    }

    pub fn wire(&self) -> Wire {
        lock(&self.inner.wire).clone()
    }
}

impl Inner {
    fn count(&self, fault: &'static str, times: u64) {
        if times > 0 {
            *lock(&self.fired).entry(fault).or_default() += times;
        }
    }
}

async fn accept(inner: std::sync::Weak<Inner>, listener: TcpListener) {
    while let Ok((client, _)) = listener.accept().await {
        let Some(inner) = inner.upgrade() else { return };
        if inner.faults.borrow().refuse {
            inner.count("refuse", 1);
            continue;
        }
        lock(&inner.wire).accepted.push(Instant::now());
        tokio::spawn(async move {
            // A server that is away looks like one that refuses.
            if let Ok(server) = TcpStream::connect(("127.0.0.1", inner.server)).await {
                link::run(inner, client, server).await;
            }
        });
    }
}

/// Guards maps for a few instructions; a panic inside leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
