//! Reading bodies from clients nobody has to trust: bounded in size, and in how slowly they may come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use oncue_http::shares::{Full, Share, Shares};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Client, check_length, too_large};
use crate::problem::{BUSY, MALFORMED, Problem, SLOW, TOO_MANY};

/// Bytes read and thrown away after a refusal: a connection closed while the client still writes takes the answer
/// with it.
const LINGER_BYTES: usize = 8 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A body that must keep coming. Only waiting for the client counts, not what we do in between.
pub struct Incoming {
    /// None once it has ended, well or not.
    body: Option<BodyDataStream>,
    pace: Pace,
    /// Waiting left until the next progress.
    left: Duration,
    /// Bytes since the last progress.
    since: usize,
    /// Whether to read on after a refusal.
    lingers: bool,
}

/// Slowest way in which a body may come. Who sends a byte now and then only holds a connection, or a place for an upload.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes that have to come in one `allowance` of waiting, unless the body ends with them.
    bytes: usize,
    allowance: Duration,
}

impl Pace {
    /// So many bytes a second, taken over `allowance`.
    pub fn new(bytes_per_second: u64, allowance: Duration) -> Self {
        let bytes = bytes_per_second as f64 * allowance.as_secs_f64();
        Self {
            bytes: bytes as usize,
            allowance,
        }
    }
}

/// A whole body, with its share of the memory, which is given back when it is dropped.
pub struct WholeBody {
    pub bytes: Bytes,
    _share: Share,
}

impl Incoming {
    pub fn new(body: Body, headers: &HeaderMap, pace: Pace) -> Self {
        // Such a client has not begun to send, and a refusal is just what it waits for.
        let lingers = !headers.contains_key(header::EXPECT);
        Self {
            body: Some(body.into_data_stream()),
            left: pace.allowance,
            pace,
            since: 0,
            lingers,
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let started = Instant::now();
        let Ok(part) = timeout(self.left, self.body.as_mut()?.next()).await else {
            self.body = None;
            return Some(Err(io::ErrorKind::TimedOut.into()));
        };
        self.left = self.left.saturating_sub(started.elapsed());
        match part {
            Some(Ok(part)) => {
                self.since += part.len();
                if self.since >= self.pace.bytes {
                    self.since = 0;
                    self.left = self.pace.allowance;
                }
                Some(Ok(part))
            }
            Some(Err(e)) => {
                self.body = None;
                Some(Err(io::Error::other(e)))
            }
            None => {
                self.body = None;
                None
            }
        }
    }

    /// All of it, at most `limit` bytes, each of them a part of `memory`. Only bytes that have come take some, so a
    /// client cannot hold memory with what it has not sent.
    pub async fn read(
        mut self,
        head: &Parts,
        limit: u64,
        memory: &Arc<Shares>,
    ) -> Result<WholeBody, Problem> {
        check_length(&head.headers, limit)?;
        let client = Client::of(&head.extensions);
        let mut read = BytesMut::new();
        let mut share = memory.take_some(client, 0).map_err(memory_full)?;
        while let Some(part) = self.next().await {
            let part = part.map_err(|e| broken(&e))?;
            if (read.len() + part.len()) as u64 > limit {
                return Err(too_large(limit));
            }
            share.grow(part.len()).map_err(memory_full)?;
            read.extend_from_slice(&part);
        }
        Ok(WholeBody {
            bytes: read.freeze(),
            _share: share,
        })
    }

    /// Part after part.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Unpin + Send {
        Box::pin(futures_util::stream::unfold(self, |mut body| async move {
            body.next().await.map(|part| (part, body))
        }))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| self.lingers) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let mut read = 0;
            let end = Instant::now() + LINGER_TIME;
            while let Ok(Some(Ok(part))) = timeout_at(end, body.next()).await {
                read += part.len();
                if read > LINGER_BYTES {
                    break;
                }
            }
        });
    }
}

fn memory_full(full: Full) -> Problem {
    match full {
        Full::All => {
            let why = "too many bytes of other requests are in hand; nothing was taken";
            Problem::new(BUSY, why)
        }
        Full::Client => {
            let why =
                "too many bytes of other requests of this address are in hand; nothing was taken";
            Problem::new(TOO_MANY, why)
        }
    }
}

/// Problem of a body that ended before its end.
pub fn broken(e: &io::Error) -> Problem {
    if e.kind() == io::ErrorKind::TimedOut {
        return Problem::new(SLOW, "nothing or too little came for too long");
    }
    Problem::new(MALFORMED, format!("the body broke off: {e}"))
}
