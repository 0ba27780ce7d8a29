//! Connections: how many, how patiently, and how they end.

mod places;
mod stalls;

use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use oncue_core::config::Network;
use oncue_proto::event;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::places::{InHand, Place, Places};
use self::stalls::{Answering, Stalls};
use crate::address::{ClientAddress, counted};
use crate::counts::Counts;
use crate::patient::PatientStream;
use crate::problem::{Instance, MALFORMED, Problem};
use crate::shares::Full;
use crate::tls::{HTTP_2, Tls};

/// Largest head, and how much is read ahead of a body, in bytes. Larger heads are answered 431 by hyper.
const BUFFER_BYTES: usize = 64 << 10;
/// Requests that one connection of HTTP/2 may have in hand, as many as browsers make use of.
const STREAMS: u32 = 100;
/// Bytes of an answer that are held for a client of HTTP/2 that does not take them yet.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Silence on a connection of HTTP/2 after which the client is asked whether it is there, and then has as much again.
const PING: Duration = Duration::from_secs(20);
/// Pause after a failed accept. Mostly it means that file descriptors have run out, and those in use come back.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Said to a connection beyond those its address may have; it is closed without being read.
const TOO_MANY: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\n\
    cache-control: no-store\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"type\":\"urn:oncue:problem:too-many-connections\",\"title\":\"This address has too many connections\",\
    \"status\":429,\"detail\":\"every connection this address may have is busy with a request\"}";

/// Bounds of a listener, which hold whoever the clients are.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections. Beyond them the one that has waited longest for a request ends; where none is without a request in
    /// hand, new ones wait in the queue of the socket.
    pub connections: usize,
    /// Open connections of one client address. Beyond them one of its own that has no request in hand ends; where there is
    /// none, the new one is answered 429.
    pub per_address: usize,
    /// Proxies in front, whose connections are not counted by their address.
    pub proxies: Vec<Network>,
    /// From the first byte of a request, or from the end of the one before, to the end of the headers. Ends idle
    /// keep-alive connections as well.
    pub head: Duration,
    /// Waiting for a client to take anything of its answer, before it is cut off.
    pub write: Duration,
    /// Certificate and key; `None` for plain HTTP/1.1.
    pub tls: Option<Arc<Tls>>,
    /// Time for requests and tasks to end after the stop; whatever is open then is cut off.
    pub drain: Duration,
}

/// Address of the other end of the connection, an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A running server as its handlers see it: shared by the router's state and [`serve`]. Clones are the same handle.
#[derive(Debug, Clone, Default)]
pub struct Handle {
    /// Cancelled when the server is told to stop: nothing that could go on for ever (long polls, streams of updates)
    /// may outlive it, or the drain would always take its whole time.
    pub stopping: CancellationToken,
    /// Work that must come to an end even when the client that asked for it has gone. The drain waits for it.
    pub tasks: TaskTracker,
    /// Connections, open and ended.
    pub counts: Arc<Counts>,
}

impl Handle {
    /// A handle around a token and tasks that the router's state holds already.
    pub fn new(stopping: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            stopping,
            tasks,
            counts: Arc::default(),
        }
    }

    /// Connections open right now.
    pub fn connections(&self) -> usize {
        self.counts.open.load(Ordering::Relaxed)
    }
}

/// Serves `router` on `listener` until `stop` resolves, then accepts nothing more, finishes the requests and tasks in
/// flight, and returns: after [`Limits::drain`] at the latest.
///
/// HTTP/1.1, with TLS also HTTP/2. The listener comes bound, so that a test can bind port 0, and the caller knows the address
/// before the first connection. There is no error: an accept that fails is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    handle: &Handle,
    stop: impl Future<Output = ()>,
) {
    let router = router.layer(middleware::from_fn(one_host));
    let acceptor = Acceptor {
        listener,
        places: Places::new(
            limits.connections,
            limits.per_address,
            handle.counts.clone(),
        ),
        proxies: limits.proxies.clone(),
        counts: handle.counts.clone(),
    };
    let open = GracefulShutdown::new();
    let protocols = Arc::new(Protocols::new(&limits));
    let renewal = limits.tls.clone();
    let renewal = async move {
        match renewal {
            Some(tls) => tls.follow().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stop, renewal);
    loop {
        let accepted = tokio::select! {
            // A server under load must still see that it is to stop.
            biased;
            () = &mut stop => break,
            () = &mut renewal => continue,
            accepted = acceptor.accept() => accepted,
        };
        let Accepted {
            stream,
            peer,
            place,
        } = accepted;
        // Three things may end a connection besides itself: the place that it holds, which another client of its address may
        // take while it has nothing in hand; a client that takes nothing of an answer; and one that takes nothing of the
        // socket, which the stream sees.
        let signals = place.signals.clone();
        let stalls = Stalls::default();
        let service = Service {
            router: TowerToHyperService::new(router.clone()),
            peer,
            place,
            stalls: stalls.clone(),
        };
        let stream = PatientStream {
            stream,
            limit: limits.write,
            writing: signals.writing.clone(),
            counts: handle.counts.clone(),
            timer: None,
        };
        let connection = protocols.clone().serve(stream, service, open.watcher());
        let counted = Counted::new(&handle.counts);
        let counts = handle.counts.clone();
        let write = limits.write;
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = signals.close.cancelled() => {}
                () = stalls.stalled(write) => {
                    counts.stalled.fetch_add(1, Ordering::Relaxed);
                }
                ended = connection => {
                    // A client that breaks off is not worth a line in the log of every day.
                    if let Err(e) = ended {
                        tracing::debug!(error = e, "connection");
                    }
                }
            }
            drop(counted);
        });
    }
    // Its port is free from here on: another process may take over while this one drains.
    drop(acceptor);
    drain(handle, open, limits.drain).await;
}

/// How bytes of a connection become requests.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    /// Time for a handshake.
    head: Duration,
}

impl Protocols {
    fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        // Without the timer the time-out would silently not be there.
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(BUFFER_BYTES);
        // Pings find a client that is gone without a word, and bounds keep one connection from holding more than many of HTTP/1.1.
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(BUFFER_BYTES as u32)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        Self {
            http1,
            http2,
            tls: limits.tls.clone(),
            head: limits.head,
        }
    }

    /// Serves a connection to its end.
    async fn serve(
        self: Arc<Self>,
        stream: PatientStream,
        service: Service,
        watcher: Watcher,
    ) -> Result<(), String> {
        let Some(tls) = &self.tls else {
            return self.serve_http1(stream, service, watcher).await;
        };
        let handshake = tokio::time::timeout(self.head, tls.acceptor().accept(stream)).await;
        let stream = handshake
            .map_err(|_| "no TLS handshake in time".to_owned())?
            .map_err(|e| format!("TLS handshake: {e}"))?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return self.serve_http1(stream, service, watcher).await;
        }
        let connection = self.http2.serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).await.map_err(|e| e.to_string())
    }

    /// Serves a connection of HTTP/1.1, with or without TLS below it.
    async fn serve_http1<S>(
        &self,
        stream: S,
        service: Service,
        watcher: Watcher,
    ) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = self.http1.serve_connection(TokioIo::new(stream), service);
        watcher.watch(connection).await.map_err(|e| e.to_string())
    }
}

/// The router as one connection's requests come to it.
struct Service {
    /// Routes of the whole server; a clone is cheap.
    router: TowerToHyperService<Router>,
    peer: Peer,
    place: Arc<Place>,
    stalls: Stalls,
}

impl hyper::service::Service<hyper::Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        let Some(in_hand) = self.place.begin() else {
            // It ends at the next chance: nothing of this request was done.
            return std::future::pending().boxed();
        };
        request.extensions_mut().insert(self.peer);
        let answer = self.router.call(request);
        let stalls = self.stalls.clone();
        async move {
            let answer = answer.await?;
            Ok(answer.map(|body| {
                Body::new(AnswerBody {
                    body,
                    answering: stalls.begin(),
                    _in_hand: in_hand,
                })
            }))
        }
        .boxed()
    }
}

/// Body of an answer, whose request is in hand until it ends.
struct AnswerBody {
    body: Body,
    answering: Answering,
    _in_hand: InHand,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() {
            self.answering.pending();
        } else {
            self.answering.handed();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Refuses a request that does not say which host it is for, or says it twice [RFC 9112 section 3.2]: what stands in
/// front may read another one than we. A host in the target is put into `Host`, where everybody looks for it. Over HTTP/2 a
/// `Host` that says something else is a second one [RFC 9113 section 8.3.1]; before, the target's counts and `Host` means
/// nothing [RFC 9112 section 3.2.2].
async fn one_host(mut request: Request, next: Next) -> Response {
    let version = request.version();
    let wanted = usize::from(version != Version::HTTP_10);
    let given = count_hosts(&request);
    if let Some(host) = target_host(&request)
        && request.headers().get(header::HOST) != Some(&host)
    {
        if version == Version::HTTP_2 {
            request.headers_mut().append(header::HOST, host);
        } else if given == wanted || given == 1 {
            request.headers_mut().insert(header::HOST, host);
        }
    }
    let hosts = count_hosts(&request);
    if hosts > 1 || hosts < wanted {
        return no_host(&request, hosts);
    }
    next.run(request).await
}

fn count_hosts(request: &Request) -> usize {
    request.headers().get_all(header::HOST).iter().count()
}

/// Host in the target of a request, with its port and without a user.
fn target_host(request: &Request) -> Option<HeaderValue> {
    let authority = request.uri().authority()?.as_str();
    let host = authority.rsplit('@').next().unwrap_or(authority);
    HeaderValue::from_str(host).ok()
}

/// Answer to a request of no host or of several, which no router sees.
fn no_host(request: &Request, hosts: usize) -> Response {
    let why = format!("the request has {hosts} Host headers, and must have one");
    let trace_id = event::new_id();
    tracing::debug!(trace_id, "{why}");
    let instance = Instance {
        path: request.uri().path(),
        trace_id: &trace_id,
    };
    let problem = Problem::new(MALFORMED, why);
    let mut response = problem.clone().into_response();
    problem.write(&mut response, Some(instance));
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// A listener that accepts only as many connections as may be open.
struct Acceptor {
    listener: TcpListener,
    places: Arc<Places>,
    proxies: Vec<Network>,
    counts: Arc<Counts>,
}

/// A connection with its place.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    place: Arc<Place>,
}

impl Acceptor {
    async fn accept(&self) -> Accepted {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let client = counted(address.ip(), &self.proxies);
            if let Some(place) = self.place(client).await {
                // Answers are written whole; waiting for more to send would only delay them.
                let _ = stream.set_nodelay(true);
                return Accepted {
                    stream,
                    peer: Peer(address),
                    place,
                };
            }
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            let _ = refuse(stream);
        }
    }

    /// A place; `None` where this client has all that it may have. While all are taken by whoever it is, the others
    /// stay in the kernel's queue and cost nothing here.
    async fn place(&self, client: Option<ClientAddress>) -> Option<Arc<Place>> {
        loop {
            match self.places.open(client) {
                Ok(place) => return Some(place),
                Err(Full::Client) => return None,
                Err(Full::All) => self.places.freed().await,
            }
        }
    }
}

/// Says why a connection is closed, without waiting for its client: a new connection takes so little at once. A request
/// that has come already is read first, since a socket closed with bytes unread takes its answer with it.
fn refuse(stream: TcpStream) -> io::Result<()> {
    let mut stream = stream.into_std()?;
    let _ = stream.read(&mut [0; 4096]);
    stream.write_all(TOO_MANY.as_bytes())
}

/// Counts a connection for as long as it lives, also when its task panics.
struct Counted(Arc<Counts>);

impl Counted {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self(counts.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests first, then the tasks whose clients have gone. In this order, since a request may still begin a task.
async fn drain(handle: &Handle, open: GracefulShutdown, limit: Duration) {
    tracing::info!(connections = open.count(), "stopping");
    handle.stopping.cancel();
    handle.tasks.close();
    let work = async {
        open.shutdown().await;
        handle.tasks.wait().await;
    };
    if tokio::time::timeout(limit, work).await.is_err() {
        tracing::warn!("stopped with requests still open");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;
    use tokio::sync::{Semaphore, oneshot};
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    struct Server {
        address: SocketAddr,
        handle: Handle,
        stop: oneshot::Sender<()>,
        served: tokio::task::JoinHandle<()>,
    }

    async fn start(router: Router, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Handle::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = handle.clone();
        let served = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            serve(listener, router, limits, &shared, stop).await;
        });
        Server {
            address,
            handle,
            stop,
            served,
        }
    }

    fn limits() -> Limits {
        Limits {
            connections: 8,
            per_address: 8,
            proxies: Vec::new(),
            head: LONG,
            write: LONG,
            tls: None,
            drain: LONG,
        }
    }

    /// Answers that are held back until they may go.
    #[derive(Clone)]
    struct HeldBack {
        asked: Arc<AtomicUsize>,
        go: Arc<Semaphore>,
    }

    impl HeldBack {
        fn new() -> Self {
            Self {
                asked: Arc::default(),
                go: Arc::new(Semaphore::new(0)),
            }
        }

        fn router(&self) -> Router {
            let held = self.clone();
            let slow = get(async move || {
                held.asked.fetch_add(1, Ordering::Relaxed);
                let _permit = held.go.acquire().await;
                "ok"
            });
            Router::new().route("/", slow)
        }

        /// Waits until so many requests are in hand.
        async fn holds(&self, requests: usize) {
            while self.asked.load(Ordering::Relaxed) < requests {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(LONG, stream.read_to_string(&mut text))
            .await
            .expect("the connection ends")
            .unwrap();
        text
    }

    #[tokio::test]
    async fn the_target_says_the_host_before_the_header_does() {
        let says = get(async |request: Request| {
            let host = request.headers().get(header::HOST);
            host.map_or("", |host| host.to_str().unwrap()).to_owned()
        });
        let server = start(Router::new().route("/", says), limits()).await;
        for (head, host) in [
            ("GET / HTTP/1.1\r\nhost: a:1\r\n", Some("a:1")),
            ("GET http://b:2/ HTTP/1.1\r\nhost: a\r\n", Some("b:2")),
            ("GET http://me@b/ HTTP/1.1\r\nhost: a\r\n", Some("b")),
            ("GET http://b/ HTTP/1.0\r\n", Some("b")),
            ("GET / HTTP/1.0\r\n", Some("")),
            ("GET / HTTP/1.1\r\n", None),
            ("GET http://b/ HTTP/1.1\r\n", None),
            ("GET http://b/ HTTP/1.1\r\nhost: b\r\nhost: b\r\n", None),
            ("GET http://b/ HTTP/1.0\r\nhost: a\r\nhost: b\r\n", None),
        ] {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let request = format!("{head}connection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = answer(&mut stream).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            match host {
                Some(host) => assert_eq!(body, host, "{request}"),
                None => assert!(
                    head.contains(" 400 ")
                        && head.contains("content-type: application/problem+json")
                        && head.contains("x-content-type-options: nosniff")
                        && body.contains("urn:oncue:problem:malformed"),
                    "{request}{answer}"
                ),
            }
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_for_another_to_end() {
        let held = HeldBack::new();
        let limits = Limits {
            connections: 1,
            ..limits()
        };
        let server = start(held.router(), limits).await;
        let mut first = ask(server.address).await;
        held.holds(1).await;
        let mut second = ask(server.address).await;
        let mut byte = [0];
        let early = timeout(Duration::from_millis(100), second.read(&mut byte)).await;
        assert!(early.is_err(), "answered beyond the bound");
        assert_eq!(server.handle.connections(), 1);
        held.go.add_permits(2);
        assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
        assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn connections_without_a_request_give_way() {
        for limits in [
            Limits {
                connections: 3,
                ..limits()
            },
            Limits {
                per_address: 3,
                ..limits()
            },
        ] {
            let router = Router::new().route("/", get(async || "ok"));
            let server = start(router, limits).await;
            let mut idle = Vec::new();
            for begun in ["", "GET / HTTP/1.1\r\nhos", "", "", "GET", ""] {
                let mut stream = TcpStream::connect(server.address).await.unwrap();
                stream.write_all(begun.as_bytes()).await.unwrap();
                idle.push(stream);
            }
            // The first one is used, and kept alive.
            let mut kept = TcpStream::connect(server.address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
            kept.write_all(request).await.unwrap();
            let mut start_of_answer = [0; 12];
            kept.read_exact(&mut start_of_answer).await.unwrap();
            assert_eq!(&start_of_answer, b"HTTP/1.1 200");
            for _ in 0..5 {
                let mut client = ask(server.address).await;
                assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
            }
            assert_eq!(answer(&mut idle[0]).await, "", "the oldest was closed");
            let gave_way = server.handle.counts.gave_way.load(Ordering::Relaxed);
            assert!(gave_way >= 4, "{gave_way}");
        }
    }

    #[tokio::test]
    async fn one_address_cannot_have_all_connections() {
        let held = HeldBack::new();
        let limits = Limits {
            per_address: 2,
            ..limits()
        };
        let server = start(held.router(), limits.clone()).await;
        let mut busy = [ask(server.address).await, ask(server.address).await];
        held.holds(2).await;
        let refused = answer(&mut ask(server.address).await).await;
        assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
        assert_eq!(server.handle.counts.refused.load(Ordering::Relaxed), 1);
        assert_eq!(server.handle.connections(), 2);
        // All of 127/8 is this machine: another address of it is another client.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let mut other = socket.connect(server.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        other.write_all(request).await.unwrap();
        held.holds(3).await;
        held.go.add_permits(3);
        for stream in busy.iter_mut().chain([&mut other]) {
            assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        }
        // A proxy speaks for many.
        let limits = Limits {
            proxies: vec!["127.0.0.1".parse().unwrap()],
            ..limits
        };
        let held = HeldBack::new();
        let proxied = start(held.router(), limits).await;
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(ask(proxied.address).await);
        }
        held.holds(4).await;
        held.go.add_permits(4);
        for stream in &mut all {
            assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off() {
        let large = get(async || vec![0_u8; 64 << 20]);
        let limits = Limits {
            write: Duration::from_millis(200),
            ..limits()
        };
        let server = start(Router::new().route("/", large), limits).await;
        let stuck = ask(server.address).await;
        let cut = async {
            while server.handle.counts.stalled.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, cut).await.expect("it is cut off");
        drop(stuck);
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_head_is_cut_off() {
        let limits = Limits {
            head: Duration::from_millis(50),
            ..limits()
        };
        let server = start(Router::new(), limits).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhos").await.unwrap();
        answer(&mut stream).await;
    }

    #[tokio::test]
    async fn the_drain_waits_for_requests_and_tasks_and_only_so_long() {
        let (go, gone) = oneshot::channel::<()>();
        let gone = Arc::new(tokio::sync::Mutex::new(Some(gone)));
        let slow = get(async move || {
            let gone = gone.lock().await.take().expect("one request");
            let _ = gone.await;
            "ok"
        });
        let server = start(Router::new().route("/", slow), limits()).await;
        let mut client = ask(server.address).await;
        let (end_task, task_ended) = oneshot::channel::<()>();
        server.handle.tasks.spawn(task_ended);
        while server.handle.connections() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.stop.send(()).unwrap();
        timeout(LONG, server.handle.stopping.cancelled())
            .await
            .expect("told to stop");
        go.send(()).unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
        assert!(!server.served.is_finished(), "a task is still under way");
        end_task.send(()).unwrap();
        timeout(LONG, server.served).await.expect("ends").unwrap();

        let limits = Limits {
            drain: Duration::from_millis(50),
            ..limits()
        };
        let stuck = start(Router::new(), limits).await;
        stuck.handle.tasks.spawn(std::future::pending::<()>());
        stuck.stop.send(()).unwrap();
        timeout(LONG, stuck.served).await.expect("ends").unwrap();
    }
}
