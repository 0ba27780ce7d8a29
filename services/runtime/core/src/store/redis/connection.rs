//! Connection to Redis with a heartbeat. The client connects anew when a connection breaks, but one that went dead
//! without breaking (a firewall that forgot it, a host that vanished) it would keep for ever, and so one to a primary
//! that was demoted: Redis closes no connection then. Somebody has to ask now and then.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, Value, cmd};

use crate::backoff::spread;

/// Longest wait for an answer: longer than any stall of a healthy Redis (fsync, fork); a time-out only means
/// "unknown, try again".
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two questions, on average.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pause between two of the client's own attempts to connect.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Attempts of the client before a call fails.
const RECONNECT_ATTEMPTS: usize = 3;

/// Multiplexed connection, shared by all clones of a store.
pub(super) struct Connection {
    /// Address, for connections to come.
    client: Client,
    /// Connection in use, replaced when it turns out to be dead.
    manager: Mutex<ConnectionManager>,
}

impl Connection {
    /// Connects; fails where the server cannot be reached.
    pub async fn open(client: Client) -> Result<Arc<Self>, RedisError> {
        let manager = ConnectionManager::new_with_config(client.clone(), config()).await?;
        let manager = Mutex::new(manager);
        Ok(Arc::new(Self { client, manager }))
    }

    /// Address of the server.
    pub fn address(&self) -> redis::ConnectionInfo {
        self.client.get_connection_info().clone()
    }

    /// Connection as it is now; cheap.
    pub fn get(&self) -> ConnectionManager {
        self.manager.lock().clone()
    }

    /// Asks for its role from now on, as long as somebody holds the connection; one that does not answer, or that is not
    /// to a primary, is replaced: behind the same address may be another server by now.
    pub fn watch(connection: &Arc<Self>) {
        let weak = Arc::downgrade(connection);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(spread(ASK_EVERY)).await;
                // The last clone of the store is gone, and this task with it.
                let Some(connection) = weak.upgrade() else {
                    return;
                };
                let why = match cmd("ROLE").query_async(&mut connection.get()).await {
                    Err(e) if e.is_timeout() => "was dead",
                    Ok(role) if !is_primary(&role) => "was to a replica",
                    // Any other error the client mends by itself.
                    _ => continue,
                };
                let new = ConnectionManager::new_with_config(connection.client.clone(), config());
                if let Ok(new) = new.await {
                    tracing::warn!("the connection to Redis {why}; connected anew");
                    *connection.manager.lock() = new;
                }
            }
        });
    }
}

/// Whether an answer to `ROLE` is that of a primary: a list that begins with `master`.
fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else {
        return true;
    };
    matches!(parts.first(), Some(Value::BulkString(name)) if name == b"master")
}

/// Time-outs and attempts of the client's own.
fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT))
        .set_number_of_retries(RECONNECT_ATTEMPTS)
        .set_max_delay(LONGEST_RECONNECT_DELAY)
}
