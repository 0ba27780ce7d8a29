//! Connections: how many, how patiently, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest head, and how much is read ahead of a body, in bytes. Larger heads are answered 431 by hyper.
const BUFFER_BYTES: usize = 64 << 10;
/// Pause after a failed accept. Mostly it means that file descriptors have run out, and those in use come back.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bounds of a listener, which hold whoever the clients are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; more wait in the queue of the socket, and are not refused.
    pub connections: usize,
    /// From the first byte of a request, or from the end of the one before, to the end of the headers. Ends idle
    /// keep-alive connections as well.
    pub head: Duration,
    /// Time for requests and tasks to end after the stop; whatever is open then is cut off.
    pub drain: Duration,
}

/// Address of the client, an extension of every request.
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
    /// Open connections, for metrics; the bound itself is a semaphore of the listener.
    connections: Arc<AtomicUsize>,
}

impl Handle {
    /// A handle around a token and tasks that the router's state holds already.
    pub fn new(stopping: CancellationToken, tasks: TaskTracker) -> Self {
        Self {
            stopping,
            tasks,
            connections: Arc::default(),
        }
    }

    /// Connections open right now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Serves `router` on `listener` until `stop` resolves, then accepts nothing more, finishes the requests and tasks in
/// flight, and returns: after [`Limits::drain`] at the latest.
///
/// HTTP/1.1 without TLS. The listener comes bound, so that a test can bind port 0, and the caller knows the address
/// before the first connection. There is no error: an accept that fails is logged and tried again.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    handle: &Handle,
    stop: impl Future<Output = ()>,
) {
    let router = router.layer(middleware::from_fn(one_host));
    let acceptor = Acceptor::new(listener, limits.connections);
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // Without the timer the time-out would silently not be there.
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER_BYTES);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            // A server under load must still see that it is to stop.
            biased;
            () = &mut stop => break,
            accepted = acceptor.accept() => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let peer = accepted.peer;
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            service.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(accepted.stream), service);
        let connection = open.watch(connection);
        let counted = Counted::new(&handle.connections);
        let permit = accepted.permit;
        tokio::spawn(async move {
            // A client that breaks off is not worth a line in the log of every day.
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection");
            }
            drop(counted);
            drop(permit);
        });
    }
    // Its port is free from here on: another process may take over while this one drains.
    drop(acceptor);
    drain(handle, open, limits.drain).await;
}

/// Refuses a request that does not say which host it is for, or says it twice [RFC 9112 section 3.2]: what stands in
/// front may read another one than we.
async fn one_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let wanted = usize::from(request.version() != Version::HTTP_10);
    if hosts > 1 || hosts < wanted {
        let why = format!("the request has {hosts} Host headers, and must have one");
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    next.run(request).await
}

/// A listener that accepts only as many connections as may be open.
struct Acceptor {
    listener: TcpListener,
    /// One for each connection that may still be opened.
    permits: Arc<Semaphore>,
}

/// A connection with its permit to be open.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
}

impl Acceptor {
    /// Acceptor for so many connections, or as many as a semaphore can count.
    fn new(listener: TcpListener, connections: usize) -> Self {
        let permits = connections.min(Semaphore::MAX_PERMITS);
        Self {
            listener,
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Waits for a permit first, so that a connection beyond the bound stays in the kernel's queue and costs nothing
    /// here.
    async fn accept(&self) -> Accepted {
        loop {
            let permit = self.permits.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Answers are written whole; waiting for more to send would only delay them.
                    let _ = stream.set_nodelay(true);
                    return Accepted {
                        stream,
                        peer: Peer(address),
                        permit,
                    };
                }
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Counts a connection for as long as it lives, also when its task panics.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;
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
            head: LONG,
            drain: LONG,
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
    async fn a_connection_beyond_the_bound_waits_for_another_to_end() {
        let router = Router::new().route("/", get(async || "ok"));
        let limits = Limits {
            connections: 1,
            ..limits()
        };
        let server = start(router, limits).await;
        let first = TcpStream::connect(server.address).await.unwrap();
        while server.handle.connections() == 0 {
            tokio::task::yield_now().await;
        }
        let mut second = ask(server.address).await;
        let mut byte = [0];
        let early = timeout(Duration::from_millis(100), second.read(&mut byte)).await;
        assert!(early.is_err(), "answered beyond the bound");
        drop(first);
        assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
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
