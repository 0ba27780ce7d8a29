//! From the listener to the end of the last request.

use std::sync::Arc;
use std::time::Duration;

use oncue_http::Limits;
use tokio::net::TcpListener;

use crate::App;
pub use crate::app::Guards;
use crate::routes::router;

/// Time for messages that still wait in the connection to NATS, once nothing more is published.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until `stop`, then accepts nothing more, finishes requests and uploads in flight, and returns.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: impl Future<Output = ()>) {
    let limits = Limits {
        connections: app.guards.connections,
        per_address: app.config.connections_per_address,
        proxies: app.config.proxies.clone(),
        head: app.guards.head,
        write: app.guards.write,
        tls: app.tls.clone(),
        drain: app.guards.drain,
    };
    oncue_http::serve(listener, router(app.clone()), limits, &app.handle, stop).await;
    let _ = tokio::time::timeout(FLUSH_TIMEOUT, app.bus.flush()).await;
}
