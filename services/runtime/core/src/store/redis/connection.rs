//! The connection to Redis. The client connects anew when a line breaks, but one that went dead without breaking (a
//! firewall that forgot it, a host that vanished) it would keep for ever: somebody has to ask now and then.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError, cmd};

/// Longer than any stall of a healthy Redis (fsync, fork); a time-out only means "unknown, try again".
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two questions whether anybody is there.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Connection {
    client: Client,
    connection: Mutex<ConnectionManager>,
}

impl Connection {
    pub async fn open(client: Client) -> Result<Arc<Self>, RedisError> {
        let connection =
            Mutex::new(ConnectionManager::new_with_config(client.clone(), config()).await?);
        Ok(Arc::new(Self { client, connection }))
    }

    pub fn get(&self) -> ConnectionManager {
        self.connection.lock().clone()
    }

    /// Asks from now on, as long as somebody holds the line; one that does not answer is replaced.
    pub fn watch(line: &Arc<Self>) {
        let weak = Arc::downgrade(line);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE.mul_f64(0.8 + fastrand::f64() * 0.4)).await;
                let Some(line) = weak.upgrade() else { return };
                let dead = cmd("PING")
                    .exec_async(&mut line.get())
                    .await
                    .is_err_and(|e| e.is_timeout());
                if dead
                    && let Ok(new) =
                        ConnectionManager::new_with_config(line.client.clone(), config()).await
                {
                    tracing::warn!("the line to Redis was dead; connected anew");
                    *line.connection.lock() = new;
                }
            }
        });
    }
}

fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(2)))
        .set_response_timeout(Some(TIMEOUT))
        .set_number_of_retries(3)
        .set_max_delay(Duration::from_secs(1))
}
