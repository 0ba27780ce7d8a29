//! Trace viewer for a machine without Docker: Jaeger's own UI over traces kept in the memory of this process.
//!
//! Spans come in over OTLP ([`ingest`]), stay in a bounded [`store`], and go out in the JSON that the UI asks for
//! (`query`). Where a real Jaeger runs, use that one; the ports are the same, so nothing else changes.

pub mod ingest;
pub mod store;

mod jaeger;
mod query;
mod search;
mod ui;

use std::{
    future::{Future, IntoFuture},
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header, uri::Authority};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::server::TcpIncoming;

use store::{Limits, SharedStore};

/// Time open requests have to finish after the stop signal. `oncue up` waits for this process, so it is short.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(700);

/// Ports, by default Jaeger's, so that exporters and bookmarks need no change.
#[derive(Clone, Debug, clap::Args)]
pub struct Ports {
    /// Port of the UI and the query API.
    #[arg(
        long,
        value_name = "PORT",
        env = "ONCUE_VIEWER_UI_PORT",
        default_value_t = 16686
    )]
    pub ui_port: u16,
    /// Port of OTLP over gRPC.
    #[arg(
        long,
        value_name = "PORT",
        env = "ONCUE_VIEWER_OTLP_GRPC_PORT",
        default_value_t = 4317
    )]
    pub otlp_grpc_port: u16,
    /// Port of OTLP over HTTP (`POST /v1/traces`).
    #[arg(
        long,
        value_name = "PORT",
        env = "ONCUE_VIEWER_OTLP_HTTP_PORT",
        default_value_t = 4318
    )]
    pub otlp_http_port: u16,
    /// Port of the health check (`GET /status`).
    #[arg(
        long,
        value_name = "PORT",
        env = "ONCUE_VIEWER_HEALTH_PORT",
        default_value_t = 13133
    )]
    pub health_port: u16,
}

/// Sockets of all servers, bound before anything is served: a viewer that is half there hides the mistake.
pub struct Listeners {
    ui: TcpListener,
    otlp_grpc: TcpListener,
    otlp_http: TcpListener,
    health: TcpListener,
}

/// Addresses of a running viewer; with port 0 only known after binding.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub ui: SocketAddr,
    pub otlp_grpc: SocketAddr,
    pub otlp_http: SocketAddr,
    pub health: SocketAddr,
}

impl Listeners {
    /// Binds all four. The error is a line for the person at the terminal and names the flag to change.
    pub async fn bind(host: &str, ports: &Ports) -> Result<Self, String> {
        Ok(Self {
            ui: bind(host, ports.ui_port, "--ui-port").await?,
            otlp_grpc: bind(host, ports.otlp_grpc_port, "--otlp-grpc-port").await?,
            otlp_http: bind(host, ports.otlp_http_port, "--otlp-http-port").await?,
            health: bind(host, ports.health_port, "--health-port").await?,
        })
    }

    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            ui: self.ui.local_addr()?,
            otlp_grpc: self.otlp_grpc.local_addr()?,
            otlp_http: self.otlp_http.local_addr()?,
            health: self.health.local_addr()?,
        })
    }
}

async fn bind(host: &str, port: u16, flag: &str) -> Result<TcpListener, String> {
    TcpListener::bind((host, port))
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("port {port} on {host} is already in use; choose another with {flag}")
            }
            _ => format!(
                "cannot listen on {host}, port {port}: {error}; change it with --listen or {flag}"
            ),
        })
}

/// Serves until `shutdown` completes, then gives open requests [`DRAIN_TIMEOUT`] and returns. An error of any server
/// ends all of them.
///
/// The store begins empty and ends with this: nothing is written to disk.
pub async fn serve(
    listeners: Listeners,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let store = SharedStore::new(limits);
    let (stop, stopped) = watch::channel(());
    let mut servers = Box::pin(async {
        tokio::try_join!(
            serve_http(
                listeners.ui,
                query::router(store.clone()),
                dropped(&stopped)
            ),
            serve_http(
                listeners.health,
                query::health(store.clone()),
                dropped(&stopped)
            ),
            serve_http(
                listeners.otlp_http,
                ingest::http(store.clone()),
                dropped(&stopped)
            ),
            serve_grpc(listeners.otlp_grpc, store.clone(), dropped(&stopped)),
        )
    });
    tokio::select! {
        ended = &mut servers => return ended.map(drop),
        () = shutdown => drop(stop),
    }
    // An exporter may keep its connection open for ever; after the timeout it is cut.
    tokio::time::timeout(DRAIN_TIMEOUT, servers)
        .await
        .map_or(Ok(()), |ended| ended.map(drop))
}

/// Completes once the sender is dropped. It never sends: dropping it stops every server at once.
fn dropped(stopped: &watch::Receiver<()>) -> impl Future<Output = ()> + Send + use<> {
    let mut stopped = stopped.clone();
    async move {
        let _ = stopped.changed().await;
    }
}

async fn serve_http(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = if listener.local_addr()?.ip().is_loopback() {
        router.layer(middleware::from_fn(of_this_machine))
    } else {
        router
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .into_future()
        .await
}

/// Refuses a `Host` that is neither an address nor `localhost`: whoever owns such a name may make it lead to this machine, and his
/// pages would read every trace (DNS rebinding).
async fn of_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let is_nobodys = host.is_none_or(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
    });
    if is_nobodys {
        return next.run(request).await;
    }
    let how =
        "traces are shown under 127.0.0.1 and localhost; --listen HOST opens this to other names\n";
    (StatusCode::MISDIRECTED_REQUEST, how).into_response()
}

async fn serve_grpc(
    listener: TcpListener,
    store: SharedStore,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    tonic::transport::Server::builder()
        .add_service(ingest::grpc(store))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop)
        .await
        .map_err(io::Error::other)
}
