//! Streams that apps on the same servers share, of which a backup brings back what is of its own app alone.

use std::collections::BTreeSet;
use std::io::Read;

use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::{DLQ, TIMER, VALUES};
use oncue_core::bus::{Bus, BusError, Slice};
use serde_json::{Value, json};

use super::due::{self, Taken};
use super::{BackupError, News, SavedStream, is_bucket, skip_to};
use crate::AdminError;

/// Such streams; whoever came first owns them.
const SHARED: [&str; 3] = [DLQ, TIMER, VALUES];
/// Messages in one question, and under way at a time.
const AT_ONCE: usize = 256;

/// Whether apps share a stream of this name.
pub(super) fn is_shared(stream: &str) -> bool {
    SHARED.contains(&stream)
}

/// Names of the apps that a shared stream holds something of, by its subjects.
pub(super) async fn apps_in(bus: &Bus, stream: &str) -> Result<BTreeSet<String>, AdminError> {
    let subjects = bus.stream_subjects(stream, ">").await;
    let subjects = subjects.map_err(|e| AdminError::api(stream, e))?;
    let apps = subjects.keys().filter_map(|subject| app_of(subject));
    Ok(apps.map(str::to_owned).collect())
}

/// App in a subject of a shared stream: `dlq.APP.FUNCTION`, `dlq.letter.dropped.APP`, `timer.delayed.APP...`, `timer.schedule.APP...`,
/// `STREAM.redrive.APP_FUNCTION`, `$KV.oncue.APP...`. Events such as `timer.function.fired` are of nobody.
fn app_of(subject: &str) -> Option<&str> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        [_, "redrive", consumer] => consumer.split('_').next(),
        ["dlq", "letter", "dropped", app]
        | ["timer", "delayed" | "schedule", app, ..]
        | ["$KV", _, app, ..]
        | ["dlq", app, _] => Some(app),
        _ => None,
    }
}

/// Number of messages in a stream [beside] that functions of the app had not handled.
pub(super) async fn waiting(bus: &Bus, beside: &str) -> Result<u64, AdminError> {
    let consumers = bus.function_consumers(beside).await;
    let consumers = consumers.map_err(|e| AdminError::api(beside, e))?;
    Ok(consumers.iter().map(ConsumerInfo::lag).sum())
}

/// Removes what a shared stream holds of an app.
pub(super) async fn purge_of(bus: &Bus, stream: &str, app: &str) -> Result<(), AdminError> {
    let redriven = bus.stream_subjects(stream, "*.redrive.*").await;
    let redriven = redriven.map_err(|e| AdminError::api(stream, e))?;
    let redriven = redriven.into_keys();
    let own = redriven.filter(|subject| app_of(subject) == Some(app));
    let filters = match stream {
        DLQ => vec![format!("dlq.{app}.*"), format!("dlq.letter.dropped.{app}")],
        TIMER => vec![
            format!("timer.delayed.{app}.>"),
            format!("timer.schedule.{app}.>"),
        ],
        _ => vec![format!("$KV.*.{app}"), format!("$KV.*.{app}.>")],
    };
    for filter in filters.into_iter().chain(own) {
        let purge = bus
            .api(
                &format!("STREAM.PURGE.{stream}"),
                &json!({ "filter": filter }),
            )
            .await;
        purge.map_err(|e| AdminError::api(stream, e))?;
    }
    Ok(())
}

/// Takes what is of other apps out of a shared stream that has just been put back: they have backups of their own.
pub(super) async fn purge_others(bus: &Bus, stream: &str) -> Result<(), AdminError> {
    let apps = apps_in(bus, stream).await?;
    for other in apps.iter().filter(|app| *app != bus.app().as_str()) {
        purge_of(bus, stream, other).await?;
    }
    Ok(())
}

/// Puts a saved stream back beside the one of its name, which is there already with what others have in it, and returns how it is
/// called there. Nobody but nats-server reads its snapshots.
pub(super) async fn beside(
    bus: &Bus,
    saved: &SavedStream,
    file: impl Read,
) -> Result<String, BackupError> {
    let name = format!("restore-{}-{}", bus.app(), saved.name);
    remove(bus, &name).await?;
    bus.restore_snapshot(&name, &saved.snapshot.renamed(&name), file)
        .await?;
    Ok(name)
}

/// Copies what is of the app from a stream [beside] into the one of its own name, and removes it. Returns how many messages
/// that were.
pub(super) async fn merge(
    bus: &Bus,
    beside: &str,
    saved: &SavedStream,
    taken: &Taken,
    report: News<'_>,
) -> Result<u64, BackupError> {
    if !is_bucket(&saved.name) {
        // Its numbers go on behind those of the saved one, by which others know what they have taken.
        skip_to(bus, &saved.name, saved.last, report).await?;
    }
    let copied = copy(bus, beside, &saved.name, taken).await;
    remove(bus, beside).await?;
    copied
}

/// Removes a stream, if it is there.
async fn remove(bus: &Bus, stream: &str) -> Result<(), AdminError> {
    let deleted = bus
        .api(&format!("STREAM.DELETE.{stream}"), &Value::Null)
        .await;
    match deleted {
        Err(e) if !e.is_not_found() => Err(AdminError::api(stream, e)),
        _ => Ok(()),
    }
}

async fn copy(bus: &Bus, from: &str, to: &str, taken: &Taken) -> Result<u64, BackupError> {
    let mut copied = 0;
    let mut next = 1;
    loop {
        let slice = Slice {
            from: next,
            since: None,
            subject: ">",
            messages: AT_ONCE,
            bytes: 0,
        };
        let batch = bus.read_batch(from, &slice).await?;
        let Some(last) = batch.messages.last() else {
            return Ok(copied);
        };
        next = last.sequence + 1;
        let own = batch.messages.into_iter();
        let own = own.filter(|message| {
            let subject = &message.subject;
            app_of(subject) == Some(bus.app().as_str()) || taken.is_open(subject, message.sequence)
        });
        let own = own.map(|message| due::again(message).into());
        for stored in bus.publish_each(own.collect()).await {
            stored.map_err(|e| BusError(format!("{to}: {e}")))?;
            copied += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_of_a_shared_stream_tells_whose_it_is() {
        for (subject, app) in [
            ("dlq.shop.count", Some("shop")),
            ("dlq.letter.dropped.shop", Some("shop")),
            ("dlq.redrive.shop_count", Some("shop")),
            ("timer.redrive.shop_count", Some("shop")),
            ("timer.schedule.shop.nightly", Some("shop")),
            ("timer.delayed.shop.count.e1", Some("shop")),
            ("$KV.oncue.shop.contract.count", Some("shop")),
            ("timer.function.fired", None),
            ("timer.function.fired.p17", None),
        ] {
            assert_eq!(app_of(subject), app, "{subject}");
        }
    }
}
