//! Messages that are taken out of a stream before a function is done with them: by an operator's purge, a deletion, a limit
//! that somebody set. The server moves its consumers over the hole, so nothing there tells of it afterwards.
//!
//! Therefore Redis remembers how far each function is. What is missing from the stream behind that was removed before its
//! time, since Oncue itself purges nothing that a function needs, and says how far all are before it purges anything.

use crate::bus::info::StreamState;
use crate::bus::{Bus, BusError};
use crate::store::{Progress, Removed, Store};
use oncue_proto::event;

/// Looks how far a function is, keeps that, and keeps on record what was removed before it was done with it. Returns what
/// this look has found.
///
/// # Errors
///
/// A server does not answer. A function without a consumer is no error: it is nowhere.
pub async fn watch_removed(
    bus: &Bus,
    store: &Store,
    stream: &str,
    function: &str,
) -> Result<Option<Removed>, BusError> {
    let Some(look) = Look::take(bus, store, stream, function).await? else {
        return Ok(None);
    };
    let found = look.removed(look.progress.reached);
    if let (Some(removed), Some(known)) = (&found, look.known) {
        let recorded = store.record_removed(known, removed).await;
        recorded.map_err(|e| BusError(e.message))?;
    }
    let kept = store.know_progress(&look.progress).await;
    kept.map_err(|e| BusError(e.message))?;
    Ok(found)
}

/// Remembers how far every function of the app is that acts on a stream: to be done before anything is purged there.
///
/// # Errors
///
/// A server does not answer; then nothing may be purged.
pub async fn watch_all_removed(bus: &Bus, store: &Store, stream: &str) -> Result<(), BusError> {
    let consumers = bus.function_consumers(stream).await;
    for consumer in consumers.map_err(|e| BusError(e.to_string()))? {
        watch_removed(bus, store, stream, &consumer.name).await?;
    }
    Ok(())
}

/// What was removed before a function was done with it, as far as nobody has kept that on record yet. Changes nothing.
///
/// # Errors
///
/// A server does not answer.
pub async fn find_removed(
    bus: &Bus,
    store: &Store,
    stream: &str,
    function: &str,
) -> Result<Option<Removed>, BusError> {
    let look = Look::take(bus, store, stream, function).await?;
    // All that is missing, however far the function has come meanwhile: nobody looks again before this is shown.
    Ok(look.and_then(|look| look.removed(u64::MAX)))
}

/// One look at a function and its stream.
struct Look {
    progress: Progress,
    /// Sequence up to which it was known to be done; `None` if nobody has looked before.
    known: Option<u64>,
    stream: StreamState,
}

impl Look {
    async fn take(
        bus: &Bus,
        store: &Store,
        stream: &str,
        function: &str,
    ) -> Result<Option<Self>, BusError> {
        // The order counts. What comes after the first answer is beyond what an idle consumer is done with; what was
        // removed before the third is missing in it; and whoever purges has said before how far all are.
        let before = bus.stream_info(stream).await;
        let before = before.map_err(|e| BusError(format!("stream {stream}: {e}")))?;
        let consumer = match bus.consumer_info(stream, function).await {
            Ok(consumer) => consumer,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(BusError(e.to_string())),
        };
        let after = bus.stream_with_deleted(stream).await;
        let after = after.map_err(|e| BusError(format!("stream {stream}: {e}")))?;
        let progress = Progress {
            stream: stream.to_owned(),
            created: before.created_ms().unwrap_or(0),
            function: function.to_owned(),
            reached: if consumer.is_idle() {
                before.state.last_seq
            } else {
                consumer.ack_floor.stream_seq
            },
        };
        let known = store.known_progress(&progress).await;
        let known = known.map_err(|e| BusError(e.message))?;
        Ok((after.created_ms() == before.created_ms()).then_some(Self {
            progress,
            known,
            stream: after.state,
        }))
    }

    /// What is missing behind the sequence that was known, up to `to`.
    fn removed(&self, to: u64) -> Option<Removed> {
        let known = self.known?;
        let missing = missing(&self.stream, known, to)?;
        let Progress {
            stream,
            created,
            function,
            ..
        } = &self.progress;
        Some(Removed {
            stream: stream.clone(),
            created: *created,
            function: function.clone(),
            from: missing.from,
            to: missing.to,
            messages: missing.messages,
            found: event::now_ms(),
        })
    }
}

/// Sequences that are missing from a stream.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    from: u64,
    to: u64,
    messages: u64,
}

/// Sequences above `known` and up to `to` that a stream had and has not; `None` if there are none.
fn missing(stream: &StreamState, known: u64, to: u64) -> Option<Missing> {
    // A stream that is empty says that its first message will be the one after the last.
    let front = (known + 1)..stream.first_seq.min(to.saturating_add(1));
    let inside = stream.deleted.iter().copied();
    let inside = inside
        .filter(|sequence| *sequence > known && *sequence <= to && *sequence >= stream.first_seq);
    let mut found: Option<Missing> = (!front.is_empty()).then(|| Missing {
        from: front.start,
        to: front.end - 1,
        messages: front.end - front.start,
    });
    for sequence in inside {
        let missing = found.get_or_insert(Missing {
            from: sequence,
            to: sequence,
            messages: 0,
        });
        missing.to = sequence;
        missing.messages += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(first_seq: u64, last_seq: u64, deleted: &[u64]) -> StreamState {
        let state =
            serde_json::json!({ "first_seq": first_seq, "last_seq": last_seq, "deleted": deleted });
        serde_json::from_value(state).expect("a state")
    }

    #[test]
    fn what_is_missing_behind_the_known_place_counts() {
        let whole = stream(1, 20, &[]);
        assert_eq!(missing(&whole, 5, u64::MAX), None);
        // Purged up to where the function was done.
        assert_eq!(missing(&stream(6, 20, &[]), 5, u64::MAX), None);
        let front = Missing {
            from: 6,
            to: 8,
            messages: 3,
        };
        assert_eq!(missing(&stream(9, 20, &[]), 5, u64::MAX), Some(front));
        let both = Missing {
            from: 6,
            to: 12,
            messages: 5,
        };
        let torn = stream(9, 20, &[11, 12]);
        assert_eq!(missing(&torn, 5, 15), Some(both));
        assert_eq!(missing(&torn, 12, 15), None);
        assert_eq!(missing(&torn, 10, 11).expect("one").messages, 1);
        // Emptied.
        assert_eq!(
            missing(&stream(21, 20, &[]), 5, 20).expect("all").messages,
            15
        );
        assert_eq!(missing(&stream(21, 20, &[]), 20, 20), None);
    }
}
