//! Snapshots of streams with their consumers, and their way back [NATS ADR-9, JetStream API].

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::layout::CREATED;
use super::{ApiError, Bus, BusError, failed};
use crate::app::OWNER;

/// Longest silence within a snapshot.
const SILENCE: Duration = Duration::from_mins(1);
/// Bytes of a chunk.
const CHUNK: usize = 128 << 10;

/// Stream as its snapshot found it, in the server's own JSON: what a restore has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StreamSnapshot {
    pub config: Value,
    pub state: Value,
}

impl StreamSnapshot {
    /// With the creation time of the stream, Unix milliseconds, in its metadata: a restored one is of now to the server.
    pub fn note_created(&mut self, created: u64) {
        let metadata = &mut self.config["metadata"];
        if !metadata.is_object() {
            *metadata = json!({});
        }
        metadata[CREATED] = created.to_string().into();
    }

    /// Creation time of the stream, Unix milliseconds, if it was [noted](Self::note_created).
    pub fn created(&self) -> Option<u64> {
        self.config["metadata"][CREATED].as_str()?.parse().ok()
    }

    /// Same messages in a stream of another name, to be read from it: it takes nothing in, fires nothing and loses nothing by age.
    #[must_use]
    pub fn renamed(&self, name: &str) -> Self {
        let mut copy = self.clone();
        copy.config["name"] = name.into();
        copy.config["subjects"] = json!([format!("{name}.none")]);
        copy.config["max_age"] = 0.into();
        copy.config["max_bytes"] = (-1).into();
        copy.config["num_replicas"] = 1.into();
        if let Some(metadata) = copy.config["metadata"].as_object_mut() {
            // It is nobody's, lest it is saved with the streams of its app if a restore is broken off.
            metadata.remove(OWNER);
        }
        copy.config["allow_msg_schedules"] = false.into();
        copy.config["allow_direct"] = true.into();
        copy
    }

    /// Same stream, which takes nothing over from others.
    #[must_use]
    pub fn without_sources(&self) -> Self {
        let mut copy = self.clone();
        if let Some(config) = copy.config.as_object_mut() {
            config.remove("sources");
        }
        copy
    }

    /// Whether the stream takes messages over from others.
    pub fn has_sources(&self) -> bool {
        self.config["sources"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    }

    /// Sequence of the last message.
    pub fn last(&self) -> u64 {
        self.state["last_seq"].as_u64().unwrap_or(0)
    }

    /// Number of messages.
    pub fn messages(&self) -> u64 {
        self.state["messages"].as_u64().unwrap_or(0)
    }
}

impl Bus {
    /// Takes a snapshot of a stream with its consumers, at one moment after this call, and gives the chunks to `keep`.
    ///
    /// # Errors
    /// There is no such stream, the server stops sending, or `keep` fails.
    pub async fn snapshot(
        &self,
        stream: &str,
        mut keep: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<StreamSnapshot, BusError> {
        let inbox = self.client.new_inbox();
        let chunks = self.client.subscribe(inbox.clone()).await;
        let mut chunks = chunks.map_err(|e| failed(stream, e))?;
        let question = json!({ "deliver_subject": inbox, "chunk_size": CHUNK });
        let answer = self
            .api(&format!("STREAM.SNAPSHOT.{stream}"), &question)
            .await;
        let answer = answer.map_err(|e| failed(format_args!("snapshot of {stream}"), e))?;
        let snapshot = StreamSnapshot::deserialize(&answer).map_err(|e| failed(stream, e))?;
        loop {
            let next = tokio::time::timeout(SILENCE, chunks.next()).await;
            let Ok(Some(chunk)) = next else {
                return Err(BusError(format!("the snapshot of {stream} broke off")));
            };
            if chunk.payload.is_empty() {
                // An end that came too early says why.
                let status = chunk.status.filter(|status| !status.is_success());
                return match status {
                    None => Ok(snapshot),
                    Some(status) => Err(BusError(format!(
                        "the snapshot of {stream} broke off: {status} {}",
                        chunk.description.unwrap_or_default()
                    ))),
                };
            }
            keep(&chunk.payload).map_err(|e| failed(format_args!("snapshot of {stream}"), e))?;
            if let Some(reply) = chunk.reply {
                // The server sends no more than so many that nobody has said to have.
                let told = self.client.publish(reply, Bytes::new()).await;
                told.map_err(|e| failed(stream, e))?;
            }
        }
    }

    /// Makes a stream with its consumers of a snapshot. The stream must not be there.
    ///
    /// # Errors
    /// The server refuses or stops answering, or `chunks` cannot be read.
    pub async fn restore_snapshot(
        &self,
        stream: &str,
        snapshot: &StreamSnapshot,
        mut chunks: impl io::Read,
    ) -> Result<(), BusError> {
        #[derive(Deserialize)]
        struct RestoreBegun {
            deliver_subject: String,
        }
        let what = format!("restore of {stream}");
        let begun = self
            .api(&format!("STREAM.RESTORE.{stream}"), &json!(snapshot))
            .await
            .map_err(|e| failed(&what, e))?;
        let RestoreBegun { deliver_subject } =
            RestoreBegun::deserialize(&begun).map_err(|e| failed(&what, e))?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = fill(&mut chunks, &mut buffer).map_err(|e| failed(&what, e))?;
            let chunk = Bytes::copy_from_slice(&buffer[..length]);
            let sent = self.client.request(deliver_subject.clone(), chunk);
            let answer = tokio::time::timeout(SILENCE, sent).await;
            let answer = answer.map_err(|_| BusError(format!("{what}: the server is silent")))?;
            let answer = answer.map_err(|e| failed(&what, e))?;
            // The last answer, to the empty chunk, is the stream; before it there is nothing to say but an error.
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
            if let Some(error) = answer.get("error") {
                let error = ApiError::deserialize(error).unwrap_or_default();
                return Err(failed(&what, error));
            }
            if length == 0 {
                return Ok(());
            }
        }
    }
}

/// Fills a buffer as far as there is input.
fn fill(input: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}
