//! Connection to Redis with a heartbeat. The client connects anew when a connection breaks, but one that went dead
//! without breaking (a firewall that forgot it, a host that vanished) it would keep for ever, and so one to a primary
//! that was demoted: Redis closes no connection then. Somebody has to ask now and then. Where the URL names sentinels, a
//! new connection is to whatever server they name.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ConnectionInfo, ErrorKind, RedisError, cmd};
use rustls::ClientConfig;

use super::login::Login;
use super::sentinel::{SentinelAnswer, Sentinels, is_primary};
use crate::backoff::spread;

/// Longest wait for an answer: longer than any stall of a healthy Redis (fsync, fork); a time-out only means
/// "unknown, try again".
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two questions, on average.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Pause, on average, between two attempts to find the primary again.
const FIND_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pause between two of the client's own attempts to connect.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Attempts of the client before a call fails.
const RECONNECT_ATTEMPTS: usize = 3;

/// Where the server is that takes writes.
pub(super) enum Place {
    /// At one address.
    At(ConnectionInfo),
    /// Wherever these sentinels say.
    Behind(Sentinels),
}

/// Multiplexed connection, shared by all clones of a store.
pub(super) struct Connection {
    /// Place, for connections to come.
    place: Place,
    /// Proof, for connections to come.
    login: Login,
    /// Connection in use, replaced when it turns out to be dead.
    line: Mutex<Line>,
}

/// A connection and where it leads.
struct Line {
    manager: ConnectionManager,
    info: ConnectionInfo,
}

impl Place {
    /// Connects to the server as it is now.
    async fn connect(&self, login: &Login) -> Result<Line, RedisError> {
        let info = match self {
            Self::At(info) => info.clone(),
            Self::Behind(sentinels) => sentinels.primary(login).await?,
        };
        let client = login.client(info)?;
        let info = client.get_connection_info().clone();
        let manager = ConnectionManager::new_with_config(client, config()).await?;
        Ok(Line { manager, info })
    }
}

impl Connection {
    /// Connects; fails where the server cannot be reached.
    pub async fn open(place: Place, login: Login) -> Result<Arc<Self>, RedisError> {
        let line = Mutex::new(place.connect(&login).await?);
        Ok(Arc::new(Self { place, login, line }))
    }

    /// Connection as it is now; cheap.
    pub fn get(&self) -> ConnectionManager {
        self.line.lock().manager.clone()
    }

    /// Host and port, or path, of the server that it leads to.
    pub fn address(&self) -> String {
        self.line.lock().info.addr().to_string()
    }

    /// All it takes to connect to that server once more.
    pub fn server(&self) -> ConnectionInfo {
        self.line.lock().info.clone()
    }

    /// TLS of a connection to that server which the client library does not make.
    pub fn tls(&self) -> Result<Arc<ClientConfig>, RedisError> {
        self.login.tls()
    }

    /// Sentinels, where they are asked.
    pub fn sentinels(&self) -> Option<&Sentinels> {
        match &self.place {
            Place::At(_) => None,
            Place::Behind(sentinels) => Some(sentinels),
        }
    }

    /// Answers of the sentinels, asked now; none where there are none.
    pub async fn sentinel_answers(&self) -> Vec<SentinelAnswer> {
        match self.sentinels() {
            Some(sentinels) => sentinels.answers(&self.login).await,
            None => Vec::new(),
        }
    }

    /// Asks for its role from now on, as long as somebody holds the connection; one that does not answer, or that is not
    /// to a primary, is replaced: behind the same address may be another server by now.
    pub fn watch(connection: &Arc<Self>) {
        let weak = Arc::downgrade(connection);
        tokio::spawn(async move {
            let mut pause = ASK_EVERY;
            let mut is_lost = false;
            loop {
                tokio::time::sleep(spread(pause)).await;
                // The last clone of the store is gone, and this task with it.
                let Some(connection) = weak.upgrade() else {
                    return;
                };
                pause = ASK_EVERY;
                let why = match cmd("ROLE").query_async(&mut connection.get()).await {
                    Err(e) if e.is_timeout() => "was dead",
                    // Another server may be the primary by now, and the client knows one address only.
                    Err(_) if connection.sentinels().is_some() => "broke",
                    // The client tries the password that it began with, and the file may hold another one by now.
                    Err(e)
                        if e.kind() == ErrorKind::AuthenticationFailed
                            || e.code() == Some("NOAUTH") =>
                    {
                        "was refused"
                    }
                    Ok(role) if !is_primary(&role) => "was to a replica",
                    // Any other error the client mends by itself.
                    _ => continue,
                };
                match connection.place.connect(&connection.login).await {
                    Ok(line) => {
                        let to = line.info.addr();
                        tracing::warn!("the connection to Redis {why}; connected anew to {to}");
                        *connection.line.lock() = line;
                        is_lost = false;
                    }
                    Err(e) => {
                        // Once, and not every second of a failover.
                        if !is_lost {
                            tracing::warn!("the connection to Redis {why}: {e}");
                        }
                        is_lost = true;
                        pause = FIND_EVERY;
                    }
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
