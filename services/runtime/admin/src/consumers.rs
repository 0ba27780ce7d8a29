//! Event streams and the durable consumers on them: what the bus knows of every function. No program has to be asked,
//! so it works from any machine, and for functions that nobody runs.
//!
//! A function's consumer is durable, is called `APP_FUNCTION`, and stands on the stream of the function's domain.
//! Filters are the types the function acts on, each with and without a key in the subject, and
//! `DOMAIN.redrive.APP_FUNCTION` for events that are given back to this function alone. Consumers of other apps, and of
//! nobody we know, are [`others`].
//!
//! Consumers tell how far a function has come, not what came of it: an acked event may have been applied,
//! dead-lettered, or passed over as a duplicate. That is what seen-marks ([`crate::flows`]) and audits
//! ([`crate::audit`]) are for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::AdminError;
use oncue_core::app::AppName;
use oncue_core::bus::info::{ConsumerInfo, StreamInfo};
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, Slice, StoredMessage};
use oncue_proto::event;

/// Prefixes of the streams behind object stores and key-value buckets, which hold no events.
/// The server makes them itself and lists them among the others.
const BUCKETS: [&str; 2] = ["OBJ_", "KV_"];

/// A durable consumer: the share of a stream of one of the app's functions, whether anybody runs it or not.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    /// The function, which the durable name tells.
    /// Two consumers of one name on different streams count as one in maps by function, the later stream's.
    pub function: String,
    /// The domain of the function's triggers.
    pub stream: String,
    /// State as the server told it.
    /// Lag, redeliveries and filters are as of the answer; the server sends no news of its own.
    pub info: ConsumerInfo,
}

impl Consumer {
    /// `None` for a consumer without a durable name, of somebody who only looks on, and for one of another app.
    pub fn of(app: &AppName, stream: &str, info: ConsumerInfo) -> Option<Self> {
        let durable = info.config.durable_name.as_deref()?;
        Some(Self {
            function: app.function_of(durable)?.to_owned(),
            stream: stream.to_owned(),
            info,
        })
    }

    /// Event types its filters name, sorted.
    /// Filters of a whole domain (`web.>`) stand here as the domain. Empty for a consumer without filters, which
    /// takes all of its stream.
    pub fn triggers(&self) -> Vec<String> {
        let types: BTreeSet<String> = self
            .info
            .config
            .filters()
            .filter_map(type_of_filter)
            .collect();
        types.into_iter().collect()
    }

    /// Whether it ever got, or will get, a message of its stream. Filters may have been other ones when the message
    /// came; of that the server keeps no record. False for a consumer without filters: functions always have some, so
    /// it is somebody else's.
    pub fn acts_on(&self, message: &StoredMessage) -> bool {
        let config = &self.info.config;
        // One that began with new events got none from before its time.
        message.time >= self.info.began_ms()
            && config
                .filters()
                .any(|filter| subject_matches(filter, &message.subject))
    }
}

/// End of a pause from now on, Unix milliseconds. One without a span ends when somebody resumes it; the server wants an end,
/// and gets one in a hundred years.
pub fn pause_end(span: Option<Duration>) -> u64 {
    let span = span.unwrap_or(Duration::from_hours(100 * 365 * 24));
    event::now_ms().saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// Every stream with events, by name, with its state. Streams behind object stores and buckets are left out; those of
/// dead letters and of timers are not. One question for 256 streams.
///
/// # Errors
/// [`AdminError::Api`]: JetStream does not answer within 10 s, or refuses.
pub async fn event_streams(bus: &Bus) -> Result<Vec<StreamInfo>, AdminError> {
    let mut streams = bus
        .streams()
        .await
        .map_err(|e| AdminError::api("streams", e))?;
    streams.retain(|stream| {
        !BUCKETS
            .iter()
            .any(|prefix| stream.config.name.starts_with(prefix))
    });
    streams.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    Ok(streams)
}

/// The app's durable consumers on one stream; none where the stream has gone since it was listed.
///
/// One request `CONSUMER.LIST` for 256 consumers. Ephemeral ones, of people who look on, are left out.
///
/// # Errors
/// [`AdminError::Api`] of anything but a missing stream.
pub async fn of_stream(bus: &Bus, stream: &str) -> Result<Vec<Consumer>, AdminError> {
    match bus.consumers(stream).await {
        Ok(infos) => Ok(infos
            .into_iter()
            .filter_map(|info| Consumer::of(bus.app(), stream, info))
            .collect()),
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        Err(e) => Err(AdminError::api(format!("consumers of {stream}"), e)),
    }
}

/// The app's durable consumers on these streams, by function. All streams are asked at once.
/// Fails with the first stream that cannot be asked.
pub async fn of_streams(
    bus: &Bus,
    streams: &[StreamInfo],
) -> Result<BTreeMap<String, Consumer>, AdminError> {
    let asked = streams
        .iter()
        .map(|stream| of_stream(bus, &stream.config.name));
    let consumers = try_join_all(asked).await?.into_iter().flatten();
    Ok(consumers
        .map(|consumer| (consumer.function.clone(), consumer))
        .collect())
}

/// Every durable consumer of the app, by function. One question for all streams and one for each.
/// Two round trips in sequence, however many streams there are.
pub async fn all(bus: &Bus) -> Result<BTreeMap<String, Consumer>, AdminError> {
    of_streams(bus, &event_streams(bus).await?).await
}

/// When the stream took the oldest event that a function is not done with, Unix milliseconds; `None` where it is done with all.
///
/// One request for each filter of the consumer, all at once, and none for a consumer that has nothing to do.
///
/// # Errors
/// NATS does not answer.
pub async fn oldest_pending(bus: &Bus, consumer: &Consumer) -> Result<Option<u64>, AdminError> {
    let info = &consumer.info;
    if info.is_idle() {
        return Ok(None);
    }
    let asked = info.config.filters().map(|subject| {
        let slice = Slice {
            from: info.ack_floor.stream_seq + 1,
            since: None,
            subject,
            messages: 1,
            bytes: 0,
        };
        async move { bus.read_slice(&consumer.stream, &slice).await }
    });
    let found = try_join_all(asked).await?;
    Ok(found.iter().flatten().map(|message| message.time).min())
}

/// Types that lie in the app's event streams and that no function of any app acts on, with the number of their messages. Dead letters
/// and timers are heard by the platform.
///
/// One question for all streams, two for each. The server names 100,000 subjects of a stream at most.
///
/// # Errors
/// [`AdminError::Api`]: JetStream does not answer, or refuses.
pub async fn unheard(bus: &Bus) -> Result<BTreeMap<String, u64>, AdminError> {
    let mut unheard = BTreeMap::new();
    let streams = event_streams(bus).await?;
    let own = streams
        .iter()
        .filter(|stream| stream.config.is_of(bus.app()));
    let names = own.map(|stream| stream.config.name.as_str());
    for name in names.filter(|name| ![DLQ, TIMER].contains(name)) {
        let subjects = bus.stream_subjects(name, ">").await;
        let subjects = subjects.map_err(|e| AdminError::api(format!("stream {name}"), e))?;
        let consumers = bus.consumers(name).await;
        let consumers = consumers.map_err(|e| AdminError::api(format!("stream {name}"), e))?;
        let filters: Vec<&str> = consumers
            .iter()
            .filter(|consumer| consumer.config.durable_name.is_some())
            .flat_map(|consumer| consumer.config.filters())
            .collect();
        for (subject, count) in subjects {
            let is_heard = filters
                .iter()
                .any(|filter| subject_matches(filter, &subject));
            if let (false, Some(ty)) = (is_heard, type_of_filter(&subject)) {
                *unheard.entry(ty).or_default() += count;
            }
        }
    }
    Ok(unheard)
}

/// Event type a filter stands for: `a.b.c`, `a.b.c.*` and `a.b.c.key` are of type `a.b.c`. `None` for the subject of
/// redriven events, which are of no type of their own.
fn type_of_filter(filter: &str) -> Option<String> {
    let ty = event::type_of_subject(filter)
        .trim_end_matches(".>")
        .trim_end_matches(".*");
    (!ty.is_empty() && ty.split('.').nth(1) != Some("redrive")).then(|| ty.to_owned())
}

/// Subject matching as the server does it: `*` stands for one token, `>` for one or more at the end.
fn subject_matches(filter: &str, subject: &str) -> bool {
    let mut wanted = filter.split('.');
    let mut found = subject.split('.');
    loop {
        match (wanted.next(), found.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(found)) if token == "*" || token == found => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn consumer(info: Value) -> Option<Consumer> {
        let info = serde_json::from_value(info).expect("a consumer");
        Consumer::of(&AppName::default(), "a", info)
    }

    #[test]
    fn filters_are_matched_as_the_server_does() {
        assert!(subject_matches("web.page.viewed", "web.page.viewed"));
        assert!(subject_matches("web.page.viewed.*", "web.page.viewed.home"));
        assert!(subject_matches("files.>", "files.file.removed.x"));
        assert!(!subject_matches("files.>", "files"));
        assert!(!subject_matches("web.page.viewed.*", "web.page.viewed"));
        assert!(!subject_matches("web.page.viewed", "web.page.viewed.home"));
    }

    #[test]
    fn filters_name_types() {
        assert_eq!(
            type_of_filter("web.page.viewed").as_deref(),
            Some("web.page.viewed")
        );
        assert_eq!(
            type_of_filter("web.page.viewed.*").as_deref(),
            Some("web.page.viewed")
        );
        assert_eq!(type_of_filter("web.>").as_deref(), Some("web"));
        assert_eq!(type_of_filter("web.redrive.count-views"), None);
    }

    #[test]
    fn only_durable_consumers_count() {
        let read = consumer(
            json!({ "config": { "durable_name": "app_f", "filter_subjects": ["a.b.c", "a.b.c.*", "a.redrive.app_f"] } }),
        )
        .expect("a durable one");
        assert_eq!(read.function, "f");
        assert_eq!(read.triggers(), ["a.b.c"]);
        assert!(consumer(json!({ "config": { "filter_subject": "a.>" } })).is_none());
        let other = json!({ "config": { "durable_name": "shop_f", "filter_subject": "a.>" } });
        assert!(consumer(other).is_none());
    }

    #[test]
    fn a_consumer_of_new_events_acts_on_none_from_before_its_time() {
        let late = json!({ "created": "1970-01-01T00:00:05Z", "config": { "durable_name": "app_f", "deliver_policy": "new",
            "filter_subject": "a.b.c" } });
        let late = consumer(late).expect("a durable one");
        let mut message = StoredMessage {
            sequence: 1,
            time: 4999,
            subject: "a.b.c".into(),
            headers: Vec::new(),
            payload: Vec::new().into(),
        };
        assert!(!late.acts_on(&message));
        message.time = 5000;
        assert!(late.acts_on(&message));
    }
}
