//! Streams of the app as people look at them: how much each holds of what it may, and its messages a page at a time, the newest
//! first.
//!
//! Messages are read without a consumer, so that nobody's position changes. Only streams of this app with events, letters or timers
//! are read: what other apps keep is decoded by contracts that are not known here, and buckets hold secrets.

use oncue_core::app::AppName;
use oncue_core::bus::info::StreamInfo;
use oncue_core::bus::layout::{DLQ, TIMER, VALUES};
use oncue_core::bus::{Bus, ReadBatch, Slice, StoredMessage};
use serde::Serialize;

use crate::AdminError;

/// Header in which the server says which schedule has fired a message [NATS ADR-51].
pub(crate) const SCHEDULER: &str = "Nats-Scheduler";
/// Questions to the server for one page: enough for any stream, unless what is wanted is very rare.
const MAX_QUESTIONS: usize = 400;
/// Sequences that one question spans at most.
const WIDEST: u64 = 1 << 40;
/// Messages of one answer at least, where most of them may not be wanted.
const LEAST_ANSWER: usize = 50;
/// Subjects that are counted of a stream; the server names 100,000.
const MAX_SUBJECTS: usize = 200;

/// Kind of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Events of a domain.
    Events,
    /// Dead letters.
    Letters,
    /// Schedules, delayed events, and what they fire.
    Timers,
    /// Files of an app.
    Files,
    /// Contracts and secrets of all apps.
    Values,
}

impl StreamKind {
    /// Kind by the name of the stream.
    pub fn of(name: &str) -> Self {
        match name {
            DLQ => Self::Letters,
            TIMER => Self::Timers,
            VALUES => Self::Values,
            name if name.starts_with("KV_") => Self::Values,
            name if name.starts_with("OBJ_") => Self::Files,
            _ => Self::Events,
        }
    }

    /// Whether it holds messages that people may look at.
    pub fn is_shown(self) -> bool {
        matches!(self, Self::Events | Self::Letters | Self::Timers)
    }
}

/// Stream in a list.
#[derive(Debug, Clone, Serialize)]
pub struct StreamView {
    pub name: String,
    pub kind: StreamKind,
    /// App that declares it, where that is another one.
    pub other_app: Option<String>,
    /// Whether its messages may be looked at here.
    pub shown: bool,
    pub messages: u64,
    pub bytes: u64,
    /// Most bytes it may hold; `None` for any number.
    pub max_bytes: Option<u64>,
    pub first: StreamEnd,
    pub last: StreamEnd,
    pub consumers: u64,
    pub replicas: u64,
}

/// First or last message of a stream.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamEnd {
    pub sequence: u64,
    /// Unix milliseconds; 0 for a stream without messages.
    pub at: u64,
}

impl StreamView {
    /// View of a stream for an app.
    pub fn of(info: &StreamInfo, app: &AppName) -> Self {
        let config = &info.config;
        let state = &info.state;
        let kind = StreamKind::of(&config.name);
        let other_app = config.owner().filter(|owner| *owner != app.as_str());
        // All apps share them, each by subjects of its own.
        let is_shared = [DLQ, TIMER, VALUES].contains(&config.name.as_str());
        let other_app = other_app.filter(|_| !is_shared).map(str::to_owned);
        let is_empty = state.messages == 0;
        Self {
            name: config.name.clone(),
            kind,
            shown: kind.is_shown() && other_app.is_none(),
            other_app,
            messages: state.messages,
            bytes: state.bytes,
            max_bytes: u64::try_from(config.max_bytes).ok(),
            first: StreamEnd {
                sequence: state.first_seq,
                at: if is_empty { 0 } else { state.first_ms() },
            },
            last: StreamEnd {
                sequence: state.last_seq,
                at: if is_empty { 0 } else { state.last_ms() },
            },
            consumers: state.consumer_count,
            replicas: config.num_replicas,
        }
    }
}

/// Every stream of the account, those with events first.
///
/// # Errors
/// NATS does not answer.
pub async fn list(bus: &Bus) -> Result<Vec<StreamView>, AdminError> {
    let streams = bus.streams().await;
    let streams = streams.map_err(|e| AdminError::api("streams", e))?;
    let views = streams.iter().map(|info| StreamView::of(info, bus.app()));
    let mut views: Vec<StreamView> = views.collect();
    views.sort_by(|a, b| (!a.shown, a.kind as u8, &a.name).cmp(&(!b.shown, b.kind as u8, &b.name)));
    Ok(views)
}

/// A stream; `None` where there is none.
///
/// # Errors
/// NATS does not answer.
pub async fn one(bus: &Bus, name: &str) -> Result<Option<StreamView>, AdminError> {
    match bus.stream_info(name).await {
        Ok(info) => Ok(Some(StreamView::of(&info, bus.app()))),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(AdminError::api(format!("stream {name}"), e)),
    }
}

/// Subject with the number of its messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubjectCount {
    pub subject: String,
    pub messages: u64,
}

/// Subjects of a stream, those with the most messages first, and at most 200 of them; of a shared stream those of this app.
///
/// # Errors
/// NATS does not answer.
pub async fn subjects(bus: &Bus, stream: &str) -> Result<Vec<SubjectCount>, AdminError> {
    let found = bus.stream_subjects(stream, ">").await;
    let found = found.map_err(|e| AdminError::api(format!("stream {stream}"), e))?;
    let own = found
        .into_iter()
        .filter(|(subject, _)| is_own(bus.app(), subject));
    let mut counts: Vec<SubjectCount> = own
        .map(|(subject, messages)| SubjectCount { subject, messages })
        .collect();
    counts.sort_by(|a, b| (b.messages, &a.subject).cmp(&(a.messages, &b.subject)));
    counts.truncate(MAX_SUBJECTS);
    Ok(counts)
}

/// Whether a subject is none of another app, in a stream that apps share.
pub fn is_own(app: &AppName, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    let owner = match (tokens.next(), tokens.next()) {
        (Some(DLQ), owner) => owner,
        (Some(TIMER), Some("schedule" | "delayed")) => tokens.next(),
        _ => None,
    };
    owner.is_none_or(|owner| owner == app.as_str())
}

/// Whether a message is none of another app, in a stream that apps share: what a schedule or a delay has fired says whose it was.
pub fn is_of(app: &AppName, message: &StoredMessage) -> bool {
    let scheduler = message.header(SCHEDULER);
    is_own(app, &message.subject) && scheduler.is_none_or(|subject| is_own(app, subject))
}

/// Messages that are wanted of a stream, from the newest on.
#[derive(Debug, Clone, Copy)]
pub struct Newest<'n> {
    /// Subject; may hold wildcards.
    pub subject: &'n str,
    /// Only messages below this sequence; `None` for all.
    pub below: Option<u64>,
    /// Most messages.
    pub most: usize,
    /// Most questions to the server, for what is wanted may be rare.
    pub questions: usize,
}

/// Page of the messages of a stream.
#[derive(Debug, Clone, Default)]
pub struct MessagePage {
    /// Newest first.
    pub messages: Vec<StoredMessage>,
    /// Sequence below which the next page begins; `None` where nothing is left.
    pub next: Option<u64>,
}

/// Newest messages of a stream that are `wanted`, read backwards. A piece of the stream is asked for that gets narrower where it
/// holds more than fits, and wider where it holds little: the server finds subjects by its index, so a million events cost some dozens
/// of small questions.
///
/// # Errors
/// NATS does not answer; a 404 of [`AdminError::Api`] where there is no such stream.
pub async fn newest(
    bus: &Bus,
    stream: &str,
    asked: &Newest<'_>,
    wanted: impl Fn(&StoredMessage) -> bool,
) -> Result<MessagePage, AdminError> {
    let info = bus.stream_info(stream).await;
    let state = info
        .map_err(|e| AdminError::api(format!("stream {stream}"), e))?
        .state;
    let first = state.first_seq.max(1);
    let mut end = asked.below.unwrap_or(u64::MAX).min(state.last_seq + 1);
    let mut width = asked.most as u64;
    let room = asked.most.max(LEAST_ANSWER);
    let mut page = MessagePage::default();
    for _ in 0..asked.questions.min(MAX_QUESTIONS) {
        if end <= first || page.messages.len() >= asked.most {
            break;
        }
        let begin = end.saturating_sub(width).max(first);
        let slice = Slice {
            from: begin,
            since: None,
            subject: asked.subject,
            messages: room + 1,
            bytes: 0,
        };
        let ReadBatch { messages, left } = bus.read_batch(stream, &slice).await?;
        let mut batch = messages;
        // Many megabytes: the server has ended before it came to where this page begins.
        let reached = batch.last().map_or(0, |last| last.sequence);
        let is_cut = left > 0 && batch.len() <= room && reached + 1 < end;
        // A slice has no end of its own; what lies beyond was looked at before.
        batch.retain(|found| found.sequence < end);
        if batch.len() > room || (is_cut && end - begin > 1) {
            width = (end - begin).div_ceil(2);
            continue;
        }
        page.messages
            .extend(batch.into_iter().rev().filter(&wanted));
        end = begin;
        width = (width * 4).min(WIDEST);
    }
    page.messages.truncate(asked.most);
    let last = page.messages.last().map(|message| message.sequence);
    // Of a full page what lies below its last message is left.
    let next = match last {
        Some(last) if page.messages.len() == asked.most => last,
        _ => end,
    };
    page.next = (next > first).then_some(next);
    Ok(page)
}

/// Sequence below which lies what a stream had taken up to a moment, Unix milliseconds.
///
/// # Errors
/// NATS does not answer.
pub async fn below_time(bus: &Bus, stream: &str, time: u64) -> Result<Option<u64>, AdminError> {
    let found = bus.first_since(stream, time.saturating_add(1)).await;
    found.map_err(|e| AdminError::api(format!("stream {stream}"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_apps_keep_in_shared_streams_is_theirs() {
        let app: AppName = "shop".parse().expect("a name");
        for own in [
            "dlq.shop.f",
            "timer.schedule.shop.x",
            "timer.delayed.shop.f.1",
            "timer.due.web.page.viewed",
            "web.page.viewed",
        ] {
            assert!(is_own(&app, own), "{own}");
        }
        for other in [
            "dlq.bank.f",
            "timer.schedule.bank.x",
            "timer.delayed.bank.f.1",
        ] {
            assert!(!is_own(&app, other), "{other}");
        }
    }

    #[test]
    fn a_stream_is_known_by_its_name() {
        assert_eq!(StreamKind::of("web"), StreamKind::Events);
        assert!(StreamKind::of("dlq").is_shown() && StreamKind::of("timer").is_shown());
        assert!(
            !StreamKind::of("KV_oncue").is_shown() && !StreamKind::of("OBJ_shop_files").is_shown()
        );
    }
}
