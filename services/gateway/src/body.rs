//! Reading bodies from clients nobody has to trust: bounded in size, and in how slowly they may come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit as Held, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::problem::{BUSY, MALFORMED, Problem, SLOW};
use crate::request::{check_length, too_large};

/// What has to come in one [`Guards::body`](crate::server::Guards) of waiting, unless the body ends with it. A phone at the
/// edge of its network sends more; who sends a byte now and then only holds a place.
const PROGRESS: usize = 4 << 10;
/// What is read and thrown away after a refusal: a connection closed while the client still writes takes the answer with it.
const LINGER_BYTES: usize = 8 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// A body that must keep coming. Only waiting for the client counts, not what we do in between.
pub struct Incoming {
    body: Option<BodyDataStream>,
    patience: Duration,
    left: Duration,
    since: usize,
    lingers: bool,
}

impl Incoming {
    pub fn new(body: Body, headers: &HeaderMap, patience: Duration) -> Self {
        // Such a client has not begun to send, and a refusal is just what it waits for.
        let lingers = !headers.contains_key(header::EXPECT);
        Self {
            body: Some(body.into_data_stream()),
            patience,
            left: patience,
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
                if self.since >= PROGRESS {
                    (self.since, self.left) = (0, self.patience);
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

    /// All of it, at most `limit` bytes, and the room it takes, which is to be kept as long as it is. Only what has come
    /// takes room, so a client cannot hold what it has not sent.
    pub async fn read(
        mut self,
        headers: &HeaderMap,
        limit: u64,
        room: &Arc<Semaphore>,
    ) -> Result<(Bytes, Option<Held>), Problem> {
        check_length(headers, limit)?;
        let (mut read, mut held) = (BytesMut::new(), None::<Held>);
        while let Some(part) = self.next().await {
            let part = part.map_err(|e| broken(&e))?;
            if (read.len() + part.len()) as u64 > limit {
                return Err(too_large(limit));
            }
            let full = |_| {
                Problem::new(
                    BUSY,
                    "too many bytes of other requests are in hand; nothing was taken",
                )
            };
            let more = room
                .clone()
                .try_acquire_many_owned(part.len() as u32)
                .map_err(full)?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
            read.extend_from_slice(&part);
        }
        Ok((read.freeze(), held))
    }

    /// Part after part.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Unpin + Send {
        Box::pin(futures::stream::unfold(self, |mut body| async move {
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
            let (mut read, end) = (0, Instant::now() + LINGER);
            while let Ok(Some(Ok(part))) = timeout_at(end, body.next()).await {
                read += part.len();
                if read > LINGER_BYTES {
                    break;
                }
            }
        });
    }
}

pub fn broken(e: &io::Error) -> Problem {
    if e.kind() == io::ErrorKind::TimedOut {
        return Problem::new(SLOW, "nothing or too little came for too long");
    }
    Problem::new(MALFORMED, format!("the body broke off: {e}"))
}
