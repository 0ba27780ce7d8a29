//! Connections: how many, how patiently, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
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
    /// Open at once; others wait in the queue of the socket. Default 512.
    pub connections: usize,
    /// From the first byte of a request to the end of its headers. Default 15 s.
    pub head: Duration,
    /// Browsers that are told of updates at once. Default 128.
    pub watchers: usize,
    /// For what is in hand when the end comes. Default 10 s.
    pub drain: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(15),
            watchers: 128,
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
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection");
            }
            drop(place);
        });
    }
    drop(listener);
    finish(&app, open).await;
}

/// Streams of updates end at once, then requests, then redrives: an event that was sent is a letter no more, and whoever
/// asked for it should read in the log how it went.
async fn finish(app: &App, open: GracefulShutdown) {
    tracing::info!(connections = open.count(), "stopping");
    app.stop.cancel();
    app.tasks.close();
    let work = async {
        open.shutdown().await;
        app.tasks.wait().await;
    };
    if tokio::time::timeout(app.guards.drain, work).await.is_err() {
        tracing::warn!("stopped with work still open");
    }
}
