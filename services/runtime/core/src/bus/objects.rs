//! Files in the JetStream object store, in the layout of ADR-20 so that any NATS client can read them.
//!
//! The client library's own `put` leaves the chunks of an aborted upload behind and reads the old version first; this
//! one holds a bounded window of chunks, hashes as it goes, and takes back what it wrote when the source fails.

use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesOrdered, Stream, StreamExt};
use oncue_proto::oncue::v1::{Envelope, Header};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Bus, BusError, PublishError, failed, headers};
use oncue_proto::event;

/// Bytes of a chunk, which is one message: the default of NATS clients, far below any server's `max_payload`.
const CHUNK: usize = 128 << 10;
/// Chunks in flight while writing, and asked for at once while reading: the memory one transfer takes.
const WINDOW: usize = 8;
/// Batches of chunks on their way to one connection at once, 1 MiB each: a server ends a connection for which more than
/// `max_pending` (64 MiB) waits.
pub(super) const READS: usize = 16;
/// Longest wait for the next chunk of an answer.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Description of a stored object, in the JSON of ADR-20.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// Name, unique in the bucket.
    pub name: String,
    /// Bucket that holds it: that of its [app](crate::app::AppName::bucket).
    pub bucket: String,
    /// Token in the subject of its chunks.
    #[serde(rename = "nuid")]
    chunks_id: String,
    /// Bytes.
    pub size: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// `SHA-256=` and base64url of the whole content.
    pub digest: String,
    /// Whether it is only the trace of an object that was.
    #[serde(default)]
    pub deleted: bool,
    /// Anything else that was said of it when it was stored.
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// How the content was cut into chunks [NATS ADR-20].
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
/// How an object was cut into chunks.
struct Options {
    /// Bytes of a chunk; the last one may be shorter.
    max_chunk_size: usize,
}

impl Object {
    /// Description of an object with these bytes; nothing is stored.
    ///
    /// For a dry run, which shows what a handler would have stored.
    pub fn of_bytes(bucket: &str, name: &str, metadata: &[(&str, &str)], bytes: &[u8]) -> Self {
        let mut hashed = Context::new(&SHA256);
        hashed.update(bytes);
        let content = Content {
            size: bytes.len() as u64,
            chunks: bytes.len().div_ceil(CHUNK) as u64,
            digest: digest(hashed),
        };
        Self::new(bucket, name, metadata, String::new(), content)
    }

    /// Description of content that stands, or would stand, in chunks of [`CHUNK`] bytes.
    fn new(
        bucket: &str,
        name: &str,
        metadata: &[(&str, &str)],
        chunks_id: String,
        content: Content,
    ) -> Self {
        Self {
            name: name.to_owned(),
            bucket: bucket.to_owned(),
            chunks_id,
            size: content.size,
            chunks: content.chunks,
            digest: content.digest,
            deleted: false,
            metadata: metadata
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            options: Options {
                max_chunk_size: CHUNK,
            },
        }
    }

    /// SHA-256 of the content in lower-case hex.
    pub fn sha256(&self) -> String {
        let raw = self
            .digest
            .strip_prefix("SHA-256=")
            .and_then(|d| URL_SAFE.decode(d).ok())
            .unwrap_or_default();
        hex(&raw)
    }
}

/// Content of an object as it went into the store.
struct Content {
    /// Bytes.
    size: u64,
    /// Number of messages.
    chunks: u64,
    /// `SHA-256=` and base64url.
    digest: String,
}

/// Digest in the form of ADR-20, of all that was hashed.
fn digest(sha: Context) -> String {
    format!("SHA-256={}", URL_SAFE.encode(sha.finish()))
}

/// Bytes in lower-case hex.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// Reason for which a file was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The source broke off; nothing is left behind.
    #[error("the upload broke off: {0}")]
    Source(std::io::Error),
    /// Longer than the limit, in bytes; nothing is left behind.
    #[error("longer than the {0} bytes allowed")]
    TooLarge(u64),
    /// Another object stands under the name. It holds the digest of the bytes that were sent, which are gone again.
    #[error("another object of this name was stored meanwhile")]
    Taken { digest: String },
    /// The stream of the bucket did not take a message.
    #[error("the object store refuses: {0}")]
    Publish(PublishError),
}

impl PutError {
    /// Another object stands in the place of this one.
    fn taken(object: Object) -> Self {
        Self::Taken {
            digest: object.digest,
        }
    }
}

impl Bus {
    /// Stores the bytes that `source` yields under `name`, at most `limit` of them. An older object of the name is
    /// replaced once the new one stands; its chunks go then, so a reader of the old one ends in an error.
    ///
    /// Fails with [`PutError`], and then leaves nothing behind, as when this future is dropped; but where NATS does
    /// not answer whether the object stands, its chunks stay.
    pub async fn put_object(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
    ) -> Result<Object, PutError> {
        self.put(name, metadata, source, limit, true).await
    }

    /// As [`put_object`](Self::put_object), but never in the place of another object, not even of one that is stored at the same time:
    /// then it is [`PutError::Taken`].
    pub async fn create_object(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
    ) -> Result<Object, PutError> {
        self.put(name, metadata, source, limit, false).await
    }

    async fn put(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
        replaces: bool,
    ) -> Result<Object, PutError> {
        // Dropped half-way (the client went away, the handler timed out) as well as failed: the chunks go.
        let chunks_id = event::new_id();
        let mut upload = Upload {
            bus: self.clone(),
            chunks_id: chunks_id.clone(),
            in_flight: FuturesOrdered::new(),
            done: false,
        };
        let content = upload.chunks(source, limit).await?;
        let object = Object::new(&self.app().bucket(), name, metadata, chunks_id, content);
        let mut old = None;
        let mut expected = None;
        if replaces {
            old = self.object(name).await.ok().flatten();
        } else {
            let free = self.free_place(&object).await;
            expected = free.map_err(|e| PutError::Publish(PublishError::Unable(e.0)))?;
            if expected.is_none() {
                return Err(PutError::taken(object));
            }
        }
        let put = self.put_meta(&object, expected).await;
        if !replaces && matches!(put, Err(PublishError::Outdated(_))) {
            return Err(PutError::taken(object));
        }
        // Where it is not known whether the object stands, its chunks must: an orphan is better than a hollow file.
        if matches!(put, Ok(()) | Err(PublishError::Unknown(_))) {
            upload.done = true;
        }
        put.map_err(PutError::Publish)?;
        if let Some(old) = old {
            self.purge_chunks(&old.chunks_id).await;
        }
        Ok(object)
    }

    /// Sequence of the trace of an object that was, under the name of this one, 0 for nothing; `None` where an object stands.
    async fn free_place(&self, object: &Object) -> Result<Option<u64>, BusError> {
        let stream = format!("OBJ_{}", object.bucket);
        let subject = meta_subject(&object.bucket, &object.name);
        let stands = self.last_message(&stream, &subject).await;
        let Some(stands) = stands.map_err(|e| failed("object store", e))? else {
            return Ok(Some(0));
        };
        let there: Object =
            serde_json::from_slice(&stands.payload).map_err(|e| failed("object store", e))?;
        Ok(there.deleted.then_some(stands.sequence))
    }

    /// Publishes the description of an object, in place of the one that stands under its name: `Nats-Rollup`
    /// makes the stream drop that one in the same step. With a sequence `expected` only if that one is still what stands there.
    async fn put_meta(&self, object: &Object, expected: Option<u64>) -> Result<(), PublishError> {
        let subject = meta_subject(&object.bucket, &object.name);
        let mut headers = vec![Header {
            name: "Nats-Rollup".into(),
            value: "sub".into(),
        }];
        headers.extend(expected.map(|sequence| Header {
            name: "Nats-Expected-Last-Subject-Sequence".into(),
            value: sequence.to_string(),
        }));
        let payload = json!(object).to_string().into();
        self.publish(&Envelope {
            subject,
            headers,
            payload,
        })
        .await
        .map(|_| ())
    }

    /// Object stored under `name`; `None` when there is none, or no longer. One request in general, two where it is
    /// not there.
    pub async fn object(&self, name: &str) -> Result<Option<Object>, BusError> {
        let bucket = self.app().bucket();
        let stream = format!("OBJ_{bucket}");
        let subject = meta_subject(&bucket, name);
        let known = self.last_by_subject(&stream, &subject).await?;
        let payload = match known {
            Some(payload) => payload,
            // Any replica may have answered, and one that lags behind does not know; the leader does.
            None => match self.last_message(&stream, &subject).await {
                Ok(Some(found)) => found.payload,
                Ok(None) => return Ok(None),
                Err(e) => return Err(failed("object store", e)),
            },
        };
        let object: Object =
            serde_json::from_slice(&payload).map_err(|e| failed("object store", e))?;
        Ok(Some(object).filter(|object| !object.deleted))
    }

    /// Deletes the object; one that is not there is deleted already. Its description stays and says so, as ADR-20 has
    /// it.
    pub async fn delete_object(&self, name: &str) -> Result<(), BusError> {
        let Some(mut object) = self.object(name).await? else {
            return Ok(());
        };
        let chunks_id = object.chunks_id.clone();
        object.deleted = true;
        object.size = 0;
        object.chunks = 0;
        object.digest = String::new();
        self.put_meta(&object, None)
            .await
            .map_err(|e| failed("object store", e))?;
        self.purge_chunks(&chunks_id).await;
        Ok(())
    }

    /// Removes chunks. A failure leaves orphans, which cost room and nothing else.
    async fn purge_chunks(&self, chunks_id: &str) {
        let bucket = self.app().bucket();
        let filter = json!({ "filter": format!("$O.{bucket}.C.{chunks_id}") });
        let purged = self
            .api(&format!("STREAM.PURGE.OBJ_{bucket}"), &filter)
            .await;
        if let Err(e) = purged {
            tracing::warn!(error = %e, chunks_id, "cannot remove chunks of a replaced or aborted object");
        }
    }

    /// Bytes `range` of an object, in order. A whole read checks the digest and ends in an error if it does not match.
    /// Takes a few chunks of memory, whatever the size.
    pub fn read_object(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
        let reader = ChunkReader {
            bus: self.clone(),
            object: object.clone(),
            whole: range == (0..object.size),
            range,
            sequence: 1,
            offset: 0,
            sha: Context::new(&SHA256),
            ready: Vec::new(),
        };
        futures_util::stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|part| (part, reader)))
        })
    }
}

/// Subject of the description of an object. Its name is encoded, since it may hold anything.
fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

/// Chunks on their way into the store. Unless it is `done`, dropping it removes the chunks again.
struct Upload {
    bus: Bus,
    chunks_id: String,
    /// Acks that are awaited, in the order of the chunks.
    in_flight: FuturesOrdered<BoxFuture<'static, Result<(), PublishError>>>,
    /// Whether the object stands, and the chunks with it.
    done: bool,
}

impl Upload {
    /// Sends all that `source` yields, cut into chunks, and waits until they are stored. Holds at most [`WINDOW`] of
    /// them, so a fast source is held up by a slow stream.
    async fn chunks(
        &mut self,
        mut source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
    ) -> Result<Content, PutError> {
        let mut sha = Context::new(&SHA256);
        let mut size = 0;
        let mut chunks = 0;
        let mut pending = BytesMut::new();
        loop {
            let part = source.next().await.transpose().map_err(PutError::Source)?;
            let end = part.is_none();
            if let Some(part) = part {
                size += part.len() as u64;
                if size > limit {
                    return Err(PutError::TooLarge(limit));
                }
                sha.update(&part);
                pending.extend_from_slice(&part);
            }
            while pending.len() >= CHUNK || (end && !pending.is_empty()) {
                self.send(pending.split_to(pending.len().min(CHUNK)).freeze());
                chunks += 1;
                if self.in_flight.len() >= WINDOW {
                    self.in_flight
                        .next()
                        .await
                        .transpose()
                        .map_err(PutError::Publish)?;
                }
            }
            if end {
                break;
            }
        }
        while let Some(stored) = self.in_flight.next().await {
            stored.map_err(PutError::Publish)?;
        }
        Ok(Content {
            size,
            chunks,
            digest: digest(sha),
        })
    }

    /// Publishes one chunk, without waiting for its ack.
    fn send(&mut self, payload: Bytes) {
        let bus = self.bus.clone();
        let subject = format!("$O.{}.C.{}", self.bus.app().bucket(), self.chunks_id);
        let envelope = Envelope {
            subject,
            headers: Vec::new(),
            payload,
        };
        self.in_flight
            .push_back(async move { bus.publish(&envelope).await.map(|_| ()) }.boxed());
    }
}

/// Takes back what was sent, in a task of its own; without a runtime, at the end of a process, the chunks stay.
impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.done {
            return;
        }
        let bus = self.bus.clone();
        let chunks_id = std::mem::take(&mut self.chunks_id);
        let in_flight = std::mem::take(&mut self.in_flight);
        runtime.spawn(async move {
            // The server works off publishes and purges in separate queues: a chunk still on its way would outlive a
            // purge that was sent after it.
            in_flight.for_each(|_| std::future::ready(())).await;
            bus.purge_chunks(&chunks_id).await;
        });
    }
}

/// Read of one object that is under way.
struct ChunkReader {
    bus: Bus,
    object: Object,
    /// Bytes that are wanted.
    range: Range<u64>,
    /// Whether the digest is still to be checked.
    whole: bool,
    /// Next sequence to ask the stream for.
    sequence: u64,
    /// Bytes of the object that have passed.
    offset: u64,
    /// Hash of the bytes that have passed, for a whole read.
    sha: Context,
    /// Chunks that have come, the next one last.
    ready: Vec<Bytes>,
}

impl ChunkReader {
    /// Next part that lies in the range, `None` at its end. Fails where a chunk is missing, because the object was
    /// replaced or deleted meanwhile.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            if self.offset >= self.range.end {
                return self.finish();
            }
            if self.ready.is_empty() {
                self.fetch().await?;
            }
            let Some(chunk) = self.ready.pop() else {
                return Err(std::io::Error::other(format!(
                    "object {} ends at byte {}",
                    self.object.name, self.offset
                )));
            };
            let from = self.offset;
            self.offset += chunk.len() as u64;
            if self.whole {
                self.sha.update(&chunk);
            }
            let start = self.range.start.max(from);
            let end = self.range.end.min(self.offset);
            if start < end {
                let part = (start - from) as usize..(end - from) as usize;
                return Ok(Some(chunk.slice(part)));
            }
        }
    }

    /// End of the range; of a whole object only if the digest is right.
    fn finish(&mut self) -> std::io::Result<Option<Bytes>> {
        let whole = std::mem::take(&mut self.whole);
        let is_checked = whole && self.object.size > 0;
        if is_checked && digest(self.sha.clone()) != self.object.digest {
            return Err(std::io::Error::other(format!(
                "object {} does not match its digest",
                self.object.name
            )));
        }
        Ok(None)
    }

    /// Fetches the next chunks, in a task of its own: a batch once asked for comes to its end and makes room for others,
    /// also while nobody asks this reader for more.
    async fn fetch(&mut self) -> std::io::Result<()> {
        let batch = Batch {
            bus: self.bus.clone(),
            chunks_id: self.object.chunks_id.clone(),
            sequence: self.sequence,
            chunks: Vec::with_capacity(WINDOW),
        };
        let mut batch = tokio::spawn(batch.fetch()).await.map_err(unreadable)??;
        self.sequence = batch.sequence;
        batch.chunks.reverse(); // taken from the end
        self.ready = batch.chunks;
        Ok(())
    }
}

/// Chunks of one object that are asked for together.
struct Batch {
    bus: Bus,
    chunks_id: String,
    /// Next sequence to ask the stream for.
    sequence: u64,
    /// Chunks that have come.
    chunks: Vec<Bytes>,
}

impl Batch {
    /// Fetches by one batched direct get: up to a window of chunks for one request, no consumer to create or forget.
    async fn fetch(mut self) -> std::io::Result<Self> {
        let reads = self.bus.shared.reads.clone();
        let _permit = reads.acquire_owned().await.map_err(unreadable)?;
        let client = &self.bus.client;
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(unreadable)?;
        let bucket = self.bus.app().bucket();
        let subject = format!("$O.{bucket}.C.{}", self.chunks_id);
        let query = json!({ "seq": self.sequence, "next_by_subj": subject, "batch": WINDOW });
        let request = self
            .bus
            .api_subject(format_args!("DIRECT.GET.OBJ_{bucket}"));
        client
            .publish_with_reply(request, inbox, query.to_string().into())
            .await
            .map_err(unreadable)?;
        loop {
            let answer = tokio::time::timeout(CHUNK_TIMEOUT, answers.next())
                .await
                .map_err(unreadable)?;
            let answer = answer.ok_or_else(|| unreadable("connection closed"))?;
            if answer.status.is_some() {
                break; // 204 end of batch, 404 no more
            }
            let sequence = headers(&answer)
                .find(|(name, _)| *name == "Nats-Sequence")
                .and_then(|(_, s)| s.parse::<u64>().ok());
            // The next question begins behind it.
            self.sequence = sequence.ok_or_else(|| unreadable("no sequence"))? + 1;
            self.chunks.push(answer.payload);
        }
        Ok(self)
    }
}

/// Error of a read, for whoever reads the stream of bytes.
fn unreadable(e: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(format!("object store: {e}"))
}
