//! Positions of events in their streams, by their seen-marks: for people who look for an id.

use std::ops::RangeInclusive;

use super::Store;
use crate::store::{Mark, StoreError, StreamPosition};
use oncue_proto::event::{self, PARTITIONS};

/// Buckets of marks looked at in one round trip.
///
/// Of 256 partitions, so 16 stretches of time in each round trip.
const BUCKETS_AT_A_TIME: usize = 4096;

impl Store {
    /// Positions of the events of these ids, in order, as far as `function` is done with them and their time is one of
    /// `times` (Unix ms); `horizon` is that of the stream, in milliseconds. Looks into every bucket of every partition:
    /// for people who ask, not for programs.
    pub async fn places(
        &self,
        ids: &[String],
        function: &str,
        times: RangeInclusive<u64>,
        horizon: u64,
    ) -> Result<Vec<Option<StreamPosition>>, StoreError> {
        let hashes: Vec<Vec<u8>> = ids
            .iter()
            .map(|id| event::hash(&[id.as_bytes()]).to_vec())
            .collect();
        let mut buckets = Mark::buckets(times, horizon);
        let mut places = vec![None; ids.len()];
        // The newest buckets first, since people look for events of the last hours, and no further once all are found.
        while places.contains(&None) {
            let mut pipe = redis::pipe();
            for bucket in buckets
                .by_ref()
                .take(BUCKETS_AT_A_TIME / PARTITIONS as usize)
            {
                for partition in 0..PARTITIONS {
                    pipe.cmd("HMGET")
                        .arg(format!("{{p{partition}}}:d:{function}:{bucket}"))
                        .arg(&hashes);
                }
            }
            if pipe.is_empty() {
                break;
            }
            let marks: Vec<Vec<Option<Vec<u8>>>> = pipe.query_async(&mut self.connection()).await?;
            for marks in marks {
                // Copies of an event may have left several marks; any of them says where it stands.
                for (place, mark) in places.iter_mut().zip(marks) {
                    *place = place.or(mark.and_then(|mark| StreamPosition::of_mark(&mark)));
                }
            }
        }
        Ok(places)
    }
}
