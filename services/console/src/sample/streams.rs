//! Streams, their consumers, and what their traffic is made of.

use std::collections::BTreeMap;

use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::DLQ;
use oncue_core::bus::{Bus, Slice, StoredMessage};
use oncue_proto::event;

/// Messages looked at in one stream, and at most so many bytes of them.
const LOOKED_AT: u64 = 64;
const BYTES: usize = 128 << 10;

/// One stream as it stands.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub name: String,
    pub last: u64,
    pub messages: u64,
    pub bytes: u64,
}

/// One durable consumer: whoever listens, whether a function of ours or not.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    pub function: String,
    pub stream: String,
    /// Types its filters name.
    pub triggers: Vec<String>,
    /// Events not yet handed to any worker.
    pub pending: u64,
    /// Events handed out and not yet acknowledged.
    pub in_hand: u64,
    pub redelivered: u64,
    /// Deliveries so far.
    pub delivered: u64,
    /// Everything up to here is acknowledged.
    pub acked: u64,
}

/// What a stream took since the last look, told from its last messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mix {
    pub stream: String,
    /// Messages taken since.
    pub taken: u64,
    /// Source and type of those looked at, and how many.
    pub shares: BTreeMap<(String, String), u64>,
}

/// Every stream with events; buckets and key-value stores have none.
pub async fn list(bus: &Bus) -> Result<Vec<Stream>, String> {
    let streams = bus.streams().await.map_err(|e| e.to_string())?;
    let named = streams.into_iter().filter(|info| {
        !info.config.name.starts_with("OBJ_") && !info.config.name.starts_with("KV_")
    });
    Ok(named
        .map(|info| Stream {
            name: info.config.name,
            last: info.state.last_seq,
            messages: info.state.messages,
            bytes: info.state.bytes,
        })
        .collect())
}

pub async fn consumers(bus: &Bus, stream: &Stream) -> Result<Vec<Consumer>, String> {
    match bus.consumers(&stream.name).await {
        Ok(list) => Ok(list
            .iter()
            .filter_map(|info| consumer(&stream.name, info))
            .collect()),
        // Gone since the streams were listed.
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        Err(e) => Err(format!("consumers of {}: {e}", stream.name)),
    }
}

fn consumer(stream: &str, info: &ConsumerInfo) -> Option<Consumer> {
    let mut triggers: Vec<String> = info.config.filters().filter_map(type_of_filter).collect();
    triggers.sort();
    triggers.dedup();
    Some(Consumer {
        function: info.config.durable_name.clone()?,
        stream: stream.to_owned(),
        triggers,
        pending: info.num_pending,
        in_hand: info.num_ack_pending,
        redelivered: info.num_redelivered,
        delivered: info.delivered.consumer_seq,
        acked: info.ack_floor.stream_seq,
    })
}

/// `a.b.c`, `a.b.c.*` and `a.b.c.key` are of type `a.b.c`; what is redriven is of no type of its own.
fn type_of_filter(filter: &str) -> Option<String> {
    let ty = event::type_of_subject(filter)
        .trim_end_matches(".>")
        .trim_end_matches(".*");
    (!ty.is_empty() && ty.split('.').nth(1) != Some("redrive")).then(|| ty.to_owned())
}

/// Nothing where nothing was taken, or where it is the first look: what was there before is no traffic.
pub async fn mix(bus: &Bus, stream: &Stream, before: Option<u64>) -> Option<Mix> {
    let taken = stream
        .last
        .checked_sub(before?)
        .filter(|taken| *taken > 0)?;
    let from = stream.last + 1 - taken.min(LOOKED_AT);
    let slice = Slice {
        from,
        since: None,
        subject: ">",
        messages: LOOKED_AT as usize,
        bytes: BYTES,
    };
    let found = bus
        .read_slice(&stream.name, &slice)
        .await
        .inspect_err(|e| tracing::debug!(error = %e, "mix"))
        .ok()?;
    let mut mix = Mix {
        stream: stream.name.clone(),
        taken,
        shares: BTreeMap::new(),
    };
    for found in &found {
        *mix.shares.entry(origin(found)).or_default() += 1;
    }
    Some(mix)
}

/// Who sent it, and its type. Of an event that is one JSON body whole, the subject says the type and nobody the source.
fn origin(found: &StoredMessage) -> (String, String) {
    let text = |name: &str| found.header(name).and_then(event::percent_decode);
    let ty = text("ce-type").unwrap_or_else(|| event::type_of_subject(&found.subject).to_owned());
    (text("ce-source").unwrap_or_default(), ty)
}

/// Letters that lie in the stream of dead letters, by function.
pub async fn letters(bus: &Bus) -> Result<BTreeMap<String, u64>, String> {
    let subjects = match bus.stream_subjects(DLQ, &format!("{DLQ}.*")).await {
        Ok(subjects) => subjects,
        Err(e) if e.is_not_found() => return Ok(BTreeMap::new()),
        Err(e) => return Err(format!("stream {DLQ}: {e}")),
    };
    let function = |subject: &str| {
        subject
            .strip_prefix(DLQ)?
            .strip_prefix('.')
            .map(str::to_owned)
    };
    Ok(subjects
        .iter()
        .filter_map(|(subject, count)| Some((function(subject)?, *count)))
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn filters_name_types() {
        let ty = |filter| type_of_filter(filter);
        assert_eq!(ty("web.page.viewed").as_deref(), Some("web.page.viewed"));
        assert_eq!(ty("web.page.viewed.*").as_deref(), Some("web.page.viewed"));
        assert_eq!(ty("web.>").as_deref(), Some("web"));
        assert_eq!(ty("web.redrive.count-views"), None);
    }

    #[test]
    fn only_durable_consumers_count() {
        let info = json!({ "config": { "durable_name": "f", "filter_subjects": ["a.b.c", "a.b.c.*", "a.redrive.f"] },
            "num_pending": 5, "num_ack_pending": 2, "delivered": { "consumer_seq": 9 } });
        let read = consumer("a", &serde_json::from_value(info.clone()).unwrap()).unwrap();
        assert_eq!(
            (
                read.function.as_str(),
                read.triggers,
                read.pending,
                read.delivered
            ),
            ("f", vec!["a.b.c".into()], 5, 9)
        );
        assert!(
            consumer(
                "a",
                &serde_json::from_value(json!({ "config": { "filter_subject": "a.>" } }).clone())
                    .unwrap()
            )
            .is_none()
        );
    }
}
