//! From the listener to the end of the last request.

use std::sync::Arc;

use oncue_http::{Handle, Limits};
use tokio::net::TcpListener;

use crate::App;
pub use crate::Guards;
use crate::routes::router;

/// Serves until `stop`, then accepts nothing more, finishes requests in flight, and returns. Streams of updates end
/// at once; redrives are waited for: an event that was sent is a dead letter no more, and whoever asked for it should
/// read in the log how it went.
pub async fn serve(listener: TcpListener, app: Arc<App>, stop: impl Future<Output = ()>) {
    let limits = Limits {
        connections: app.guards.connections,
        per_address: app.guards.per_address,
        proxies: app.config.console.proxies.clone(),
        head: app.guards.head,
        write: app.guards.write,
        tls: app.tls.clone(),
        drain: app.guards.drain,
    };
    let handle = Handle::new(app.stop.clone(), app.tasks.clone());
    oncue_http::serve(listener, router(app), limits, &handle, stop).await;
}
