//! A TCP proxy that does to a connection what networks do: cuts, refuses, swallows, freezes, delays, throttles, slices,
//! resets, and loses exactly one answer. Every fault counts itself when it really happens.

mod frames;
mod ledger;
mod link;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::ledger::{Ledger, Line};

pub use self::ledger::Wire;

/// Carries the bytes of all proxies: a test that waits for a program blocks its own thread, and servers and programs speak
/// through proxies meanwhile.
static LINES: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build();
    runtime.expect("a runtime")
});

/// What is spoken on the line; it decides what an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Nats,
    Redis,
    /// Anything else; it is not looked into.
    Other,
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
    /// The same for connections with a number below this one; who connects anew is served.
    pub dead_below: u64,
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
    /// So many acks of atomic batches are lost.
    pub lose_batch_acks: u32,
    /// So many atomic batches lose their second message on the way to the server.
    pub tear_batches: u32,
    /// Requests that are answered with an error and do nothing.
    pub answer_errors: Option<Refusal>,
}

/// Requests that get an error for an answer: of Redis those of one command, of NATS what is published below a subject.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Name of the command, or beginning of the subjects.
    pub of: &'static str,
    /// Error as the server would write it: a line of Redis without its `-`, or the JSON of a publish ack.
    pub answer: String,
    /// So many requests.
    pub left: u32,
}

pub struct Proxy {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    /// Where doors without a server of their own lead to.
    server: AtomicU16,
    protocol: Protocol,
    faults: watch::Sender<Faults>,
    /// Counts cuts: connections end when it moves.
    cuts: watch::Sender<u64>,
    fired: Mutex<BTreeMap<&'static str, u64>>,
    ledger: Mutex<Ledger>,
    /// The number of the next connection.
    next: AtomicU64,
    seed: Mutex<fastrand::Rng>,
}

impl Proxy {
    /// Listens on a port of its own and passes everything to `server` on this machine.
    pub async fn start(protocol: Protocol, server: u16, seed: u64) -> Self {
        let inner = Arc::new(Inner {
            server: AtomicU16::new(server),
            protocol,
            faults: watch::channel(Faults::default()).0,
            cuts: watch::channel(0).0,
            fired: Mutex::default(),
            ledger: Mutex::default(),
            next: AtomicU64::new(0),
            seed: Mutex::new(fastrand::Rng::with_seed(seed)),
        });
        Self {
            port: listen(&inner, None).await,
            inner,
        }
    }

    /// One more port of the same proxy, to a server of its own or to the common one: what its connections have in hand can
    /// be told from others'.
    pub async fn door(&self, server: Option<u16>) -> u16 {
        listen(&self.inner, server).await
    }

    /// Who connects from now on comes to another server.
    pub fn lead_to(&self, server: u16) {
        self.inner.server.store(server, Ordering::Relaxed);
    }

    pub fn set(&self, faults: Faults) {
        self.inner.faults.send_replace(faults);
    }

    /// Back to a clean line. Connections that lost bytes are reset, as no client could make sense of what follows.
    pub fn heal(&self) {
        let before = self.inner.faults.send_replace(Faults::default());
        if !before.swallow.is_empty() || before.dead_below > 0 {
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
        self.inner.fired.lock().clone()
    }

    pub fn fired_of(&self, fault: &str) -> u64 {
        self.inner
            .fired
            .lock()
            .get(fault)
            .copied()
            .unwrap_or_default()
    }

    pub fn connections(&self) -> usize {
        self.inner.cuts.receiver_count()
    }

    /// From here on NAKs are judged by this ack wait.
    pub fn judge(&self, ack_wait: Duration) {
        self.inner.ledger.lock().ack_wait = ack_wait;
    }

    pub fn wire(&self) -> Wire {
        self.inner.ledger.lock().wire.clone()
    }

    /// Messages delivered to who is connected at this port and not settled yet.
    pub fn in_hand(&self, door: u16) -> usize {
        self.inner.ledger.lock().in_hand(door)
    }

    /// From now on all that is connected is half-open for good; only who notices and connects anew is served.
    pub fn let_die(&self) -> u64 {
        let dead_below = self.inner.next.load(Ordering::Relaxed);
        self.set(Faults {
            dead_below,
            ..Faults::default()
        });
        dead_below
    }

    /// Connections that are still open of those with a number below this one.
    pub fn open_below(&self, number: u64) -> usize {
        self.inner.ledger.lock().open_before(number)
    }
}

impl Inner {
    fn count(&self, fault: &'static str, times: u64) {
        if times > 0 {
            *self.fired.lock().entry(fault).or_default() += times;
        }
    }
}

async fn listen(inner: &Arc<Inner>, server: Option<u16>) -> u16 {
    let inner = Arc::downgrade(inner);
    let bound = LINES.spawn(async move {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let door = listener.local_addr().expect("an address").port();
        tokio::spawn(accept(inner, listener, door, server));
        door
    });
    bound.await.expect("the proxy listens")
}

async fn accept(
    inner: std::sync::Weak<Inner>,
    listener: TcpListener,
    door: u16,
    server: Option<u16>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let Some(inner) = inner.upgrade() else { return };
        if inner.faults.borrow().refuse {
            inner.count("refuse", 1);
            continue;
        }
        let line = Line {
            number: inner.next.fetch_add(1, Ordering::Relaxed),
            door,
        };
        inner.ledger.lock().opened(line);
        tokio::spawn(async move {
            // A server that is away looks like one that refuses.
            let server = server.unwrap_or_else(|| inner.server.load(Ordering::Relaxed));
            if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                link::run(&inner, line, client, server).await;
            }
            inner.ledger.lock().closed(line);
        });
    }
}
