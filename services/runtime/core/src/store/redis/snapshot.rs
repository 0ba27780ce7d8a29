//! Snapshots of an app's keys, and their way back. Redis is asked as a replica asks: it answers with all that it held at one
//! moment, and goes on meanwhile.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use oncue_proto::oncue::v1::BackupEntry;
use redis::{ConnectionAddr, ConnectionInfo, cmd};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::Store;
use crate::store::{Gap, StoreError};

/// Longest silence of a Redis that is about to send its snapshot: it says every ten seconds that it is still there.
const SILENCE: Duration = Duration::from_mins(1);
/// Key, without the app, that tells a snapshot taken now from one that was under way for somebody else.
const PROOF: &str = "backup";
/// Key, without the app, of a hash, stream -> [`Gap`] as JSON.
const GAPS: &str = "gaps";
/// Age at which that key goes by itself, seconds: an abandoned backup holds no outputs for longer.
const PROOF_SECONDS: u64 = 600;

/// Snapshot of a server, in the RDB format.
pub struct ServerSnapshot {
    /// Bytes of the format; a reader waits for them.
    pub bytes: Box<dyn Read + Send>,
    /// Number of the database with the app's keys.
    pub database: u64,
    /// Beginning of the app's keys.
    pub prefix: Vec<u8>,
    /// Key that is none of the app's data: its value has the id of [`Store::begin_backup`] where the snapshot is younger than that.
    pub proof: Vec<u8>,
}

impl Store {
    /// Marks that a backup goes on: until it is [over](Self::end_backup), or ten minutes after the last such call, workers
    /// keep all outputs that they publish.
    pub async fn begin_backup(&self, id: &str) -> Result<(), StoreError> {
        let mut set = cmd("SET");
        set.arg(self.keys.of(PROOF))
            .arg(id)
            .arg("EX")
            .arg(PROOF_SECONDS);
        Ok(set.exec_async(&mut self.connection()).await?)
    }

    /// Whether a backup goes on.
    pub(super) async fn is_backed_up(&self) -> Result<bool, StoreError> {
        let mut exists = cmd("EXISTS");
        exists.arg(self.keys.of(PROOF));
        Ok(exists.query_async(&mut self.connection()).await?)
    }

    /// The backup is over.
    pub async fn end_backup(&self) -> Result<(), StoreError> {
        let mut del = cmd("DEL");
        del.arg(self.keys.of(PROOF));
        Ok(del.exec_async(&mut self.connection()).await?)
    }

    /// Takes a snapshot of the server, and has it read on a thread that may wait.
    ///
    /// # Errors
    /// Redis does not send one; `read` fails.
    pub async fn snapshot<T: Send + 'static>(
        &self,
        read: impl FnOnce(ServerSnapshot) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let info = self.connection.server();
        let tls = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Some(self.connection.tls()?),
            _ => None,
        };
        let prefix = self.keys.of("").into_bytes();
        let proof = self.keys.of(PROOF).into_bytes();
        let taken = tokio::task::spawn_blocking(move || {
            read(ServerSnapshot {
                database: info.redis_settings().db() as u64,
                bytes: Box::new(replicate(&info, tls)?),
                prefix,
                proof,
            })
        })
        .await;
        let taken = taken.map_err(|e| StoreError::refused(e.to_string()))?;
        taken.map_err(|e| StoreError::refused(e.to_string()))
    }

    /// Parts of streams that a restore did not bring back.
    pub async fn gaps(&self) -> Result<BTreeMap<String, Gap>, StoreError> {
        let fields: BTreeMap<String, String> = cmd("HGETALL")
            .arg(self.keys.of(GAPS))
            .query_async(&mut self.connection())
            .await?;
        let gaps = fields.into_iter();
        let gaps =
            gaps.filter_map(|(stream, json)| Some((stream, serde_json::from_str(&json).ok()?)));
        Ok(gaps.collect())
    }

    /// Notes what a restore did not bring back.
    pub async fn note_gap(&self, stream: &str, gap: Gap) -> Result<(), StoreError> {
        let mut note = cmd("HSET");
        note.arg(self.keys.of(GAPS))
            .arg(stream)
            .arg(serde_json::json!(gap).to_string());
        Ok(note.exec_async(&mut self.connection()).await?)
    }

    /// Whether any key of the app is there.
    pub async fn is_used(&self) -> Result<bool, StoreError> {
        Ok(self.partitions().await?.is_some())
    }

    /// Removes every key of the app, and nothing else.
    pub async fn remove_all(&self) -> Result<(), StoreError> {
        let mut c = self.connection();
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(self.keys.of("*"))
                .arg("COUNT")
                .arg(1000);
            let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut c).await?;
            if !keys.is_empty() {
                cmd("UNLINK").arg(&keys).exec_async(&mut c).await?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Puts entries of a snapshot back, in the place of what is there under their keys.
    pub async fn put_back(&self, entries: &[BackupEntry]) -> Result<(), StoreError> {
        let mut pipe = redis::pipe();
        for entry in entries {
            if entry.fields.is_empty() {
                pipe.cmd("RESTORE")
                    .arg(&entry.key[..])
                    .arg(entry.expires_at)
                    .arg(&entry.dump[..])
                    .arg("REPLACE")
                    .arg("ABSTTL");
                continue;
            }
            let fill = pipe.cmd("HSET").arg(&entry.key[..]);
            for field in &entry.fields {
                fill.arg(&field.name[..]).arg(&field.value[..]);
            }
            if entry.expires_at > 0 {
                pipe.cmd("PEXPIREAT")
                    .arg(&entry.key[..])
                    .arg(entry.expires_at);
            }
        }
        self.query(&pipe).await.map(|_| ())
    }
}

/// A connection of its own, which must be waited for.
trait ReplicaLine: Read + Write + Send {}
impl<T: Read + Write + Send> ReplicaLine for T {}

/// Asks as a replica does; returns the snapshot behind the answer.
fn replicate(
    info: &ConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
) -> io::Result<impl Read + Send + use<>> {
    let line: Box<dyn ReplicaLine> = match (info.addr(), tls) {
        (ConnectionAddr::Tcp(host, port), _) => Box::new(connect(host, *port)?),
        (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let session = ClientConnection::new(tls, name).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, connect(host, *port)?))
        }
        (ConnectionAddr::Unix(path), _) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(SILENCE))?;
            Box::new(stream)
        }
        (other, _) => return Err(io::Error::other(format!("no snapshot over {other}"))),
    };
    let mut line = BufReader::with_capacity(1 << 16, line);
    let settings = info.redis_settings();
    if let Some(password) = settings.password() {
        let user = settings.username().unwrap_or("default");
        let auth = cmd("AUTH").arg(user).arg(password).get_packed_command();
        line.get_mut().write_all(&auth)?;
        answer(&mut line)?;
    }
    line.get_mut()
        .write_all(&cmd("SYNC").get_packed_command())?;
    let length = answer(&mut line)?;
    let length: u64 = length
        .strip_prefix('$')
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| io::Error::other(format!("Redis answers {length:?} to SYNC")))?;
    Ok(line.take(length))
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port))?;
    stream.set_read_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Next line that says something.
fn answer(line: &mut impl io::BufRead) -> io::Result<String> {
    loop {
        let mut text = String::new();
        if line.read_line(&mut text)? == 0 {
            return Err(io::Error::other("Redis closed the connection"));
        }
        let text = text.trim_end();
        if let Some(why) = text.strip_prefix('-') {
            return Err(io::Error::other(format!("Redis: {why}")));
        }
        // Empty ones say that it is still at work.
        if !text.is_empty() {
            return Ok(text.to_owned());
        }
    }
}
