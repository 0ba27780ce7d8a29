//! Messages that are taken out of a stream before a function is done with them: by an operator's purge, a deletion, a limit
//! that somebody set. The server moves its consumers over the hole, so nothing there tells of it afterwards.
//!
//! Therefore Redis remembers how far each function is. What is missing from the stream behind that was removed before its
//! time, since Oncue itself purges nothing that a function needs, and says how far all are before it purges anything.

use std::ops::RangeInclusive;

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

/// Messages that were removed before a function was done with them, as far as nobody has kept that on record yet. Changes nothing.
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
    /// Part that a restore did not bring back, which is named as that.
    gap: RangeInclusive<u64>,
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
        let gaps = store.gaps().await.map_err(|e| BusError(e.message))?;
        let gap = gaps.get(stream).map(|gap| gap.from..=gap.to);
        Ok((after.created_ms() == before.created_ms()).then_some(Self {
            progress,
            known,
            stream: after.state,
            gap: gap.unwrap_or(RangeInclusive::new(1, 0)),
        }))
    }

    /// Messages missing behind the sequence that was known, up to `to`.
    fn removed(&self, to: u64) -> Option<Removed> {
        let known = self.known?;
        let missing = missing(&self.stream, known, to, &self.gap)?;
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

/// Sequences above `known` and up to `to` that a stream had and has not, but for those of the gap; `None` if there are none.
fn missing(
    stream: &StreamState,
    known: u64,
    to: u64,
    gap: &RangeInclusive<u64>,
) -> Option<Missing> {
    // A stream that is empty says that its first message will be the one after the last.
    let front = known + 1..stream.first_seq.min(to.saturating_add(1));
    let before = front.start..front.end.min(*gap.start());
    let behind = front.start.max(gap.end() + 1)..front.end;
    let parts = if gap.is_empty() {
        [front, 0..0]
    } else {
        [before, behind]
    };
    let inside = stream.deleted.iter().copied();
    let inside = inside.filter(|sequence| {
        let is_behind = *sequence > known && *sequence >= stream.first_seq;
        is_behind && *sequence <= to && !gap.contains(sequence)
    });
    let parts = parts
        .into_iter()
        .chain(inside.map(|sequence| sequence..sequence + 1));
    parts
        .filter(|part| !part.is_empty())
        .map(|part| Missing {
            from: part.start,
            to: part.end - 1,
            messages: part.end - part.start,
        })
        .reduce(|missing, part| Missing {
            from: missing.from,
            to: part.to,
            messages: missing.messages + part.messages,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: RangeInclusive<u64> = RangeInclusive::new(1, 0);

    fn stream(first_seq: u64, last_seq: u64, deleted: &[u64]) -> StreamState {
        let state =
            serde_json::json!({ "first_seq": first_seq, "last_seq": last_seq, "deleted": deleted });
        serde_json::from_value(state).expect("a state")
    }

    #[test]
    fn what_is_missing_behind_the_known_place_counts() {
        let whole = stream(1, 20, &[]);
        assert_eq!(missing(&whole, 5, u64::MAX, &NONE), None);
        // Purged up to where the function was done.
        assert_eq!(missing(&stream(6, 20, &[]), 5, u64::MAX, &NONE), None);
        let front = Missing {
            from: 6,
            to: 8,
            messages: 3,
        };
        assert_eq!(
            missing(&stream(9, 20, &[]), 5, u64::MAX, &NONE),
            Some(front)
        );
        let both = Missing {
            from: 6,
            to: 12,
            messages: 5,
        };
        let torn = stream(9, 20, &[11, 12]);
        assert_eq!(missing(&torn, 5, 15, &NONE), Some(both));
        assert_eq!(missing(&torn, 12, 15, &NONE), None);
        assert_eq!(missing(&torn, 10, 11, &NONE).expect("one").messages, 1);
        // Emptied.
        assert_eq!(
            missing(&stream(21, 20, &[]), 5, 20, &NONE)
                .expect("all")
                .messages,
            15
        );
        assert_eq!(missing(&stream(21, 20, &[]), 20, 20, &NONE), None);
    }

    #[test]
    fn what_a_restore_left_out_is_named_elsewhere() {
        fn found(gap: RangeInclusive<u64>) -> Option<u64> {
            let torn = stream(9, 20, &[11, 12, 13]);
            missing(&torn, 5, 20, &gap).map(|missing| missing.messages)
        }
        assert_eq!(found(NONE), Some(6));
        assert_eq!(found(11..=12), Some(4));
        assert_eq!(found(7..=12), Some(2));
        assert_eq!(found(6..=13), None);
        assert_eq!(found(1..=30), None);
    }
}
