//! Files in the JetStream object store, in the layout of ADR-20 so that any NATS client can read them.
//!
//! The client library's own `put` leaves the chunks of an aborted upload behind and reads the old version first; this
//! one holds a bounded window of chunks, hashes as it goes, and takes back what it wrote when the source fails.

use std::ops::Range;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesOrdered, Stream, StreamExt};
use oncue_proto::oncue::v1::{Envelope, Header};
use ring::digest::{Context, SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::layout::FILES;
use super::{Bus, BusError, PublishError, failed, headers};
use oncue_proto::event;

const CHUNK: usize = 128 << 10;
/// Chunks in flight while writing, and asked for at once while reading: the memory one transfer takes.
const WINDOW: usize = 8;
const QUIET: Duration = Duration::from_secs(10);

/// What is known of a stored object; the JSON of ADR-20.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    pub name: String,
    pub bucket: String,
    #[serde(rename = "nuid")]
    chunks_id: String,
    /// Bytes.
    pub size: u64,
    pub chunks: u64,
    /// `SHA-256=` and base64url.
    pub digest: String,
    #[serde(default)]
    pub deleted: bool,
    #[serde(default)]
    pub metadata: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Options {
    max_chunk_size: usize,
}

impl Object {
    /// What would be known of an object with these bytes; nothing is stored.
    pub fn of_bytes(name: &str, metadata: &[(&str, &str)], bytes: &[u8]) -> Self {
        let digest = format!("SHA-256={}", URL_SAFE.encode(digest(&SHA256, bytes)));
        Self::new(
            name,
            metadata,
            String::new(),
            bytes.len() as u64,
            bytes.len().div_ceil(CHUNK) as u64,
            digest,
        )
    }

    fn new(
        name: &str,
        metadata: &[(&str, &str)],
        chunks_id: String,
        size: u64,
        chunks: u64,
        digest: String,
    ) -> Self {
        Self {
            name: name.to_owned(),
            bucket: FILES.to_owned(),
            chunks_id,
            size,
            chunks,
            digest,
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

    /// SHA-256 in lower-case hex.
    pub fn sha256(&self) -> String {
        let raw = self
            .digest
            .strip_prefix("SHA-256=")
            .and_then(|d| URL_SAFE.decode(d).ok())
            .unwrap_or_default();
        hex(&raw)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// Why a file was not stored.
#[derive(Debug)]
pub enum PutError {
    /// The source broke off; nothing is left behind.
    Source(std::io::Error),
    /// Longer than allowed; nothing is left behind.
    TooLarge(u64),
    Publish(PublishError),
}

impl std::fmt::Display for PutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(e) => write!(f, "the upload broke off: {e}"),
            Self::TooLarge(limit) => write!(f, "longer than the {limit} bytes allowed"),
            Self::Publish(e) => write!(f, "the object store refuses: {e}"),
        }
    }
}

impl std::error::Error for PutError {}

impl Bus {
    /// Stores what `source` yields under `name`, at most `limit` bytes. An older object of the name is replaced.
    pub async fn put_object(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
    ) -> Result<Object, PutError> {
        // Dropped half-way (the client went away, the handler timed out) as well as failed: the chunks go.
        let chunks_id = event::new_id();
        let mut upload = Upload {
            bus: self.clone(),
            chunks_id: chunks_id.clone(),
            in_flight: FuturesOrdered::new(),
            done: false,
        };
        let (size, chunks, digest) = upload.chunks(source, limit).await?;
        let old = self.object(name).await.ok().flatten();
        let object = Object::new(name, metadata, chunks_id, size, chunks, digest);
        let put = self.put_meta(&object).await;
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

    async fn put_meta(&self, object: &Object) -> Result<(), PublishError> {
        let subject = meta_subject(&object.name);
        let headers = vec![Header {
            name: "Nats-Rollup".into(),
            value: "sub".into(),
        }];
        let payload = json!(object).to_string().into();
        self.publish(&Envelope {
            subject,
            headers,
            payload,
        })
        .await
        .map(|_| ())
    }

    /// What is stored under `name`; `None` when there is nothing, or no longer.
    pub async fn object(&self, name: &str) -> Result<Option<Object>, BusError> {
        let request = format!("$JS.API.DIRECT.GET.OBJ_{FILES}.{}", meta_subject(name));
        let answer = self
            .client
            .request(request, Bytes::new())
            .await
            .map_err(|e| failed("object store", e))?;
        let payload = if answer.status == Some(async_nats::StatusCode::NOT_FOUND) {
            // Any replica may have answered, and one that lags behind does not know; the leader does.
            let asked = json!({ "last_by_subj": meta_subject(name) });
            match self
                .api(&format!("STREAM.MSG.GET.OBJ_{FILES}"), &asked)
                .await
            {
                Ok(found) => STANDARD
                    .decode(found["message"]["data"].as_str().unwrap_or_default())
                    .unwrap_or_default()
                    .into(),
                Err(e) if e.is_not_found() => return Ok(None),
                Err(e) => return Err(failed("object store", e)),
            }
        } else {
            answer.payload
        };
        let object: Object =
            serde_json::from_slice(&payload).map_err(|e| failed("object store", e))?;
        Ok(Some(object).filter(|object| !object.deleted))
    }

    /// Deletes; what is not there is deleted already.
    pub async fn delete_object(&self, name: &str) -> Result<(), BusError> {
        let Some(mut object) = self.object(name).await? else {
            return Ok(());
        };
        let chunks_id = object.chunks_id.clone();
        object.deleted = true;
        (object.size, object.chunks, object.digest) = (0, 0, String::new());
        self.put_meta(&object)
            .await
            .map_err(|e| failed("object store", e))?;
        self.purge_chunks(&chunks_id).await;
        Ok(())
    }

    async fn purge_chunks(&self, chunks_id: &str) {
        let filter = json!({ "filter": format!("$O.{FILES}.C.{chunks_id}") });
        if let Err(e) = self
            .api(&format!("STREAM.PURGE.OBJ_{FILES}"), &filter)
            .await
        {
            tracing::warn!(error = %e, chunks_id, "cannot remove chunks of a replaced or aborted object");
        }
    }

    /// The bytes of an object in order, `range` of them. A whole read checks the digest and ends in an error if it
    /// does not match. Takes a few chunks of memory, whatever the size.
    pub fn read_object(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
        let reader = Reader {
            bus: self.clone(),
            object: object.clone(),
            whole: range == (0..object.size),
            range,
            sequence: 1,
            offset: 0,
            sha: Context::new(&SHA256),
            ready: Vec::new(),
        };
        futures::stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|part| (part, reader)))
        })
    }
}

fn meta_subject(name: &str) -> String {
    format!("$O.{FILES}.M.{}", URL_SAFE.encode(name))
}

/// Chunks on their way into the store. Unless it is `done`, what came of it is taken back when it is dropped.
struct Upload {
    bus: Bus,
    chunks_id: String,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<(), PublishError>>>,
    done: bool,
}

impl Upload {
    async fn chunks(
        &mut self,
        mut source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        limit: u64,
    ) -> Result<(u64, u64, String), PutError> {
        let (mut sha, mut size, mut chunks) = (Context::new(&SHA256), 0u64, 0u64);
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
        Ok((
            size,
            chunks,
            format!("SHA-256={}", URL_SAFE.encode(sha.finish())),
        ))
    }

    fn send(&mut self, payload: Bytes) {
        let (bus, subject) = (self.bus.clone(), format!("$O.{FILES}.C.{}", self.chunks_id));
        let envelope = Envelope {
            subject,
            headers: Vec::new(),
            payload,
        };
        self.in_flight
            .push_back(async move { bus.publish(&envelope).await.map(|_| ()) }.boxed());
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if self.done {
            return;
        }
        let (bus, chunks_id, in_flight) = (
            self.bus.clone(),
            std::mem::take(&mut self.chunks_id),
            std::mem::take(&mut self.in_flight),
        );
        runtime.spawn(async move {
            // The server works off publishes and purges in separate queues: a chunk still on its way would outlive a
            // purge that was sent after it.
            in_flight.for_each(|_| std::future::ready(())).await;
            bus.purge_chunks(&chunks_id).await;
        });
    }
}

struct Reader {
    bus: Bus,
    object: Object,
    range: Range<u64>,
    whole: bool,
    /// Next sequence to ask the stream for.
    sequence: u64,
    /// Bytes of the object that have passed.
    offset: u64,
    sha: Context,
    ready: Vec<Bytes>,
}

impl Reader {
    /// The next part that lies in the range.
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
            let (start, end) = (self.range.start.max(from), self.range.end.min(self.offset));
            if start < end {
                return Ok(Some(
                    chunk.slice((start - from) as usize..(end - from) as usize),
                ));
            }
        }
    }

    fn finish(&mut self) -> std::io::Result<Option<Bytes>> {
        let digest = || format!("SHA-256={}", URL_SAFE.encode(self.sha.clone().finish()));
        if std::mem::take(&mut self.whole) && self.object.size > 0 && digest() != self.object.digest
        {
            return Err(std::io::Error::other(format!(
                "object {} does not match its digest",
                self.object.name
            )));
        }
        Ok(None)
    }

    /// One batched direct get: up to a window of chunks for one request, no consumer to create or forget.
    async fn fetch(&mut self) -> std::io::Result<()> {
        let failed =
            |e: &dyn std::fmt::Display| std::io::Error::other(format!("object store: {e}"));
        let client = &self.bus.client;
        let inbox = client.new_inbox();
        let mut answers = client
            .subscribe(inbox.clone())
            .await
            .map_err(|e| failed(&e))?;
        let subject = format!("$O.{FILES}.C.{}", self.object.chunks_id);
        let query = json!({ "seq": self.sequence, "next_by_subj": subject, "batch": WINDOW });
        let request = format!("$JS.API.DIRECT.GET.OBJ_{FILES}");
        client
            .publish_with_reply(request, inbox, query.to_string().into())
            .await
            .map_err(|e| failed(&e))?;
        let mut chunks = Vec::with_capacity(WINDOW);
        loop {
            let answer = tokio::time::timeout(QUIET, answers.next())
                .await
                .map_err(|e| failed(&e))?;
            let answer = answer.ok_or_else(|| failed(&"connection closed"))?;
            if answer.status.is_some() {
                break; // 204 end of batch, 404 no more
            }
            let sequence = headers(&answer)
                .find(|(name, _)| *name == "Nats-Sequence")
                .and_then(|(_, s)| s.parse::<u64>().ok());
            self.sequence = sequence.ok_or_else(|| failed(&"no sequence"))? + 1;
            chunks.push(answer.payload);
        }
        chunks.reverse();
        self.ready = chunks;
        Ok(())
    }
}
