//! Looks at the consumers as rarely as will do. While nothing new is in a stream, a function that had nothing to do
//! has nothing to do: so one small question a second per stream stands for all of its functions. Those that sleep are
//! woken by the event itself; that they are looked at as well is for events that came another way, or while nobody
//! listened.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::{ApiError, Bus};
use tokio::time::timeout;

use super::scale::Sample;

/// Consumers asked for one by one; more are read by the page, 256 in one answer.
const FEW_CONSUMERS: usize = 8;
/// Interval for a sleeper whose stream is busy with other things.
/// An event of its own would wake it at once; this is for events that came while nobody listened.
const SLEEPER_INTERVAL: Duration = Duration::from_secs(5);
/// Interval for everybody, whatever the stream says: a consumer that was rewound has new work and no new event.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);

/// Time that the look at a stream may take: an event that wakes a function does not wait longer for it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// A function to look at.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: String,
    pub stream: String,
    pub awake: bool,
}

pub struct Sampler {
    bus: Bus,
    seen: BTreeMap<String, Seen>,
}

struct Seen {
    sample: Sample,
    /// End of the stream, read before the sample.
    end: u64,
    at: Duration,
}

impl Sampler {
    pub fn new(bus: Bus) -> Self {
        Self {
            bus,
            seen: BTreeMap::new(),
        }
    }

    /// Samples known now of all that are awake, and news of those that are not. A stream that does not answer keeps no other from
    /// being looked at; the error is of all that did not.
    pub async fn look(
        &mut self,
        subjects: &[Subject],
        now: Duration,
    ) -> (Vec<(String, Sample)>, Option<String>) {
        let mut streams: BTreeMap<&str, Vec<&Subject>> = BTreeMap::new();
        for subject in subjects {
            streams.entry(&subject.stream).or_default().push(subject);
        }
        let mut found = Vec::new();
        let mut failed = None;
        for (stream, subjects) in streams {
            match timeout(STREAM_TIMEOUT, self.look_at(stream, subjects, now)).await {
                Ok(Ok(samples)) => found.extend(samples),
                Ok(Err(e)) => failed = Some(format!("stream {stream}: {e}")),
                Err(_) => failed = Some(format!("stream {stream} does not answer")),
            }
        }
        (found, failed)
    }

    async fn look_at(
        &mut self,
        stream: &str,
        subjects: Vec<&Subject>,
        now: Duration,
    ) -> Result<Vec<(String, Sample)>, ApiError> {
        let mut found = Vec::new();
        // Read before the consumers: an event that comes in between is then seen twice rather than not at all.
        let end = self.bus.stream_info(stream).await?.state.last_seq;
        let (due, quiet): (Vec<&Subject>, Vec<&Subject>) = subjects
            .into_iter()
            .partition(|s| is_due(self.seen.get(&s.name), s.awake, end, now));
        for (name, sample) in ask(&self.bus, stream, &due).await? {
            self.seen.insert(
                name.clone(),
                Seen {
                    sample,
                    end,
                    at: now,
                },
            );
            found.push((name, sample));
        }
        // What was known still holds, and the autoscaler needs a sample to count the time without work.
        let awake = quiet.into_iter().filter(|subject| subject.awake);
        found.extend(awake.filter_map(|subject| {
            let seen = self.seen.get(&subject.name)?;
            Some((subject.name.clone(), seen.sample))
        }));
        Ok(found)
    }

    /// One function as it is this moment.
    pub async fn fresh(&self, stream: &str, name: &str) -> Result<Sample, ApiError> {
        info(&self.bus, stream, name).await
    }
}

fn is_due(seen: Option<&Seen>, awake: bool, end: u64, now: Duration) -> bool {
    let Some(seen) = seen else { return true };
    let since = now.saturating_sub(seen.at);
    let unchanged = seen.end == end && seen.sample.is_quiet();
    since >= LONGEST_INTERVAL || (!unchanged && (awake || since >= SLEEPER_INTERVAL))
}

/// Samples of the subjects that have a consumer.
async fn ask(
    bus: &Bus,
    stream: &str,
    subjects: &[&Subject],
) -> Result<Vec<(String, Sample)>, ApiError> {
    if subjects.len() <= FEW_CONSUMERS {
        return Ok(
            try_join_all(subjects.iter().map(|s| one(bus, stream, &s.name)))
                .await?
                .into_iter()
                .flatten()
                .collect(),
        );
    }
    let consumers = bus.function_consumers(stream).await?;
    let named = consumers
        .iter()
        .filter(|consumer| subjects.iter().any(|s| s.name == consumer.name));
    Ok(named
        .map(|consumer| (consumer.name.clone(), sample_of(consumer)))
        .collect())
}

async fn one(bus: &Bus, stream: &str, name: &str) -> Result<Option<(String, Sample)>, ApiError> {
    match info(bus, stream, name).await {
        Ok(sample) => Ok(Some((name.to_owned(), sample))),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

async fn info(bus: &Bus, stream: &str, name: &str) -> Result<Sample, ApiError> {
    let consumer = bus.consumer_info(stream, name).await?;
    Ok(sample_of(&consumer))
}

fn sample_of(consumer: &ConsumerInfo) -> Sample {
    Sample {
        lag: consumer.num_pending,
        in_flight: consumer.num_ack_pending,
        // Counts deliveries and not messages, so a run that was tried again counts as work too.
        delivered: consumer.delivered.consumer_seq,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nobody_is_asked_for_what_cannot_have_changed() {
        let seconds = Duration::from_secs;
        let seen = |lag| Seen {
            sample: Sample {
                lag,
                ..Sample::default()
            },
            end: 7,
            at: seconds(100),
        };
        assert!(
            is_due(None, true, 7, seconds(100)) && is_due(None, false, 7, seconds(100)),
            "never seen"
        );
        for awake in [true, false] {
            assert!(
                !is_due(Some(&seen(0)), awake, 7, seconds(129)),
                "nothing new, nothing to do"
            );
            assert!(
                is_due(Some(&seen(0)), awake, 7, seconds(130)),
                "now and then all the same"
            );
        }
        assert!(
            is_due(Some(&seen(1)), true, 7, seconds(101)),
            "there was work to do"
        );
        assert!(
            is_due(Some(&seen(0)), true, 8, seconds(101)),
            "there is something new"
        );
        assert!(
            !is_due(Some(&seen(0)), false, 8, seconds(101)),
            "an event would have woken it"
        );
        assert!(
            is_due(Some(&seen(0)), false, 8, seconds(105)),
            "but not every event can"
        );
    }

    #[test]
    fn a_consumer_is_read() {
        let info = json!({ "num_pending": 7, "num_ack_pending": 2, "delivered": { "consumer_seq": 9, "stream_seq": 5 } });
        assert_eq!(
            sample_of(&serde_json::from_value(info).expect("a consumer")),
            Sample {
                lag: 7,
                in_flight: 2,
                delivered: 9
            }
        );
    }
}
