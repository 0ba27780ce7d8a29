//! Connections: how many, how patiently, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::App;
use crate::routes::router;

/// What a client is granted.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    /// Open at once; others wait in the queue of the socket. Default 4,096.
    pub connections: usize,
    /// Bytes of event bodies held at once, all requests together; beyond that they are refused. Default 64 MiB.
    pub memory: usize,
    /// Uploads at once; each holds a little more than 1 MiB of what it passes on. Others are refused. Default 64.
    pub uploads: usize,
    /// From the first byte of a request, or from the end of the one before, to the end of the headers. Default 15 s.
    pub head: Duration,
    /// Waiting for the body without getting on. Default 15 s.
    pub body: Duration,
    /// For what is in hand when the end comes. Default 10 s.
    pub drain: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        let patience = Duration::from_secs(15);
        Self {
            connections: 4096,
            memory: 64 << 20,
            uploads: 64,
            head: patience,
            body: patience,
            drain: Duration::from_secs(10),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Largest head, and what is read ahead of a body.
const BUFFER: usize = 64 << 10;

/// Serves until `shutdown`, then accepts nothing more, finishes what is in hand, and returns.
pub async fn serve(listener: TcpListener, app: Arc<App>, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(app.guards.connections));
    let open = GracefulShutdown::new();
    let router = router(app.clone());
    let mut http = http1::Builder::new();
    // Without the timer the time-out would silently not be there.
    http.timer(TokioTimer::new())
        .header_read_timeout(app.guards.head)
        .max_buf_size(BUFFER);
    tokio::pin!(shutdown);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors: the ones in use come back.
                tracing::warn!(error = %e, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            service.call(request)
        });
        let connection =
            open.watch(http.serve_connection(TokioIo::<TcpStream>::new(stream), service));
        let app = app.clone();
        app.metrics.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection");
            }
            app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
    drop(listener);
    finish(&app, open).await;
}

/// Requests first, then uploads whose client has gone, then what still waits in the connection to NATS.
async fn finish(app: &App, open: GracefulShutdown) {
    let count = open.count();
    tracing::info!(connections = count, "stopping");
    app.tasks.close();
    app.stopping.cancel();
    let work = async {
        open.shutdown().await;
        app.tasks.wait().await;
    };
    if tokio::time::timeout(app.guards.drain, work).await.is_err() {
        tracing::warn!("stopped with requests still open");
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), app.bus.flush()).await;
}
