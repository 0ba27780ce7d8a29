//! Connection to Redis with a heartbeat. The client connects anew when a connection breaks, but one that went dead
//! without breaking (a firewall that forgot it, a host that vanished) it would keep for ever: somebody has to ask now
//! and then.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, cmd};

use crate::backoff::spread;

/// Longest wait for an answer: longer than any stall of a healthy Redis (fsync, fork); a time-out only means
/// "unknown, try again".
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two pings, on average.
const PING_EVERY: Duration = Duration::from_secs(5);
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

    /// Connection as it is now; cheap.
    pub fn get(&self) -> ConnectionManager {
        self.manager.lock().clone()
    }

    /// Pings from now on, as long as somebody holds the connection; one that does not answer is replaced.
    pub fn watch(connection: &Arc<Self>) {
        let weak = Arc::downgrade(connection);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(spread(PING_EVERY)).await;
                // The last clone of the store is gone, and this task with it.
                let Some(connection) = weak.upgrade() else {
                    return;
                };
                // Any other error the client mends by itself.
                let dead = cmd("PING")
                    .exec_async(&mut connection.get())
                    .await
                    .is_err_and(|e| e.is_timeout());
                if dead
                    && let Ok(new) =
                        ConnectionManager::new_with_config(connection.client.clone(), config())
                            .await
                {
                    tracing::warn!("the connection to Redis was dead; connected anew");
                    *connection.manager.lock() = new;
                }
            }
        });
    }
}

/// Time-outs and attempts of the client's own.
fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(REDIS_TIMEOUT))
        .set_number_of_retries(RECONNECT_ATTEMPTS)
        .set_max_delay(LONGEST_RECONNECT_DELAY)
}
