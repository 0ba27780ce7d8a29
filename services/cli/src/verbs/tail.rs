//! `oncue tail [TYPE]`: prints events as they pass, decoded, a line each.
//!
//! Reads through a short-lived consumer of its own without acknowledgements: a plain subscription would miss what
//! message schedules publish, and no worker notices.

mod reader;
pub mod watch;

use std::sync::Arc;

use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_proto::Catalog;
use oncue_proto::event::stream_of_type;
use tokio::sync::mpsc;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{remark, say, stdout_gone};
use crate::verbs::ps::streams;

use self::reader::{EventFilter, EventReader};
use self::watch::{StartPoint, StreamMessage, Watch};

/// Messages of all streams that were read and not yet printed.
/// Bounds the memory: a terminal that is slow lets the streams wait, and they have the messages anyway.
const MAX_UNPRINTED: usize = 1024;

#[derive(clap::Args)]
pub struct Args {
    /// Event type (web.page.viewed), the beginning of one (web), or dlq for dead letters. Default: every event.
    #[arg(value_name = "TYPE")]
    ty: Option<String>,
    /// Only events about this key.
    #[arg(long)]
    key: Option<String>,
    /// Only events of this flow; the beginning of its id is enough.
    #[arg(long)]
    flow: Option<String>,
    /// Where to begin: `new`, `start`, how long ago (`10min`) or a time (`2026-01-31T12:00:00Z`).
    #[arg(long, default_value = "new", value_name = "START")]
    from: String,
    /// Stop after this many.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, settings: &Settings) -> Result<u8, Failure> {
    let from = StartPoint::parse(&args.from).map_err(Failure::usage)?;
    let catalog = settings.catalog().await?;
    // A remark: events may come from somebody whose contract is not known here.
    if let Some(ty) = &args.ty
        && !is_known(&catalog, ty)
        && let Err(unknown) = catalog.get(ty)
    {
        remark(unknown);
    }
    let bus = settings.bus().await?;
    let streams = match args.ty.as_deref().map(stream_of_type) {
        Some(stream) => vec![stream.to_owned()],
        // Dead letters are about events, not among them: asked for by name.
        None => streams(&bus)
            .await?
            .into_iter()
            .filter(|s| s != DLQ)
            .collect(),
    };
    if streams.is_empty() {
        return Err(Failure::new(exit::SILENT, "there is no event stream yet")
            .advise("make them with `oncue apply` or `oncue up`"));
    }
    let (sender, mut messages) = mpsc::channel(MAX_UNPRINTED);
    let mut watches = Vec::new();
    for stream in streams {
        let filters = subjects(args.ty.as_deref(), &stream);
        watches.push(Watch::start(&bus, &stream, &filters, &from, sender.clone()).await?);
    }
    drop(sender); // so that the channel ends with the last watch
    let reader = EventReader {
        catalog: Arc::new(catalog),
        filter: EventFilter {
            key: args.key,
            flow: args.flow,
        },
        json: args.json,
    };
    let ended = tokio::select! {
        ended = show(&reader, &mut messages, args.count) => ended,
        () = stdout_gone() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // Also after an error: the server need not wait for a consumer that nobody reads.
    for watch in watches {
        watch.close(&bus).await;
    }
    ended.map(|()| exit::OK)
}

/// Prints until `count` lines are printed; messages that the filter leaves out do not count.
async fn show(
    reader: &EventReader,
    messages: &mut mpsc::Receiver<StreamMessage>,
    count: Option<u64>,
) -> Result<(), Failure> {
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(message) = messages.recv().await else {
            return Err(Failure::new(
                exit::SILENT,
                "the stream is gone, or the server with it",
            ));
        };
        if let Some(line) = reader.read(&message) {
            say(line);
            left -= 1;
        }
    }
    Ok(())
}

/// Subjects of a type or its beginning, with everything below it: a type's subject may end with a key.
fn subjects(ty: Option<&str>, stream: &str) -> Vec<String> {
    match ty {
        Some(ty) if ty.contains('.') => vec![ty.to_owned(), format!("{ty}.>")],
        _ => vec![format!("{stream}.>")],
    }
}

/// Whether the contract has a type of this beginning, or one that it begins with: a key may stand behind a type. Subjects
/// of the platform, and those with wildcards, are taken as they are.
fn is_known(catalog: &Catalog, ty: &str) -> bool {
    let of_platform = [DLQ, TIMER].contains(&stream_of_type(ty)) || ty.contains(".redrive");
    of_platform
        || ty.contains(['*', '>'])
        || catalog
            .entries()
            .any(|known| is_below(&known.ty, ty) || is_below(ty, &known.ty))
}

/// Whether a type or subject is another one, or goes on where that ends.
fn is_below(ty: &str, beginning: &str) -> bool {
    ty.strip_prefix(beginning)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_type_begins_with_is_unknown() {
        let catalog = Catalog::builtin()
            .with(oncue_app_events::DESCRIPTORS)
            .unwrap();
        for known in [
            "web",
            "web.page",
            "web.page.viewed",
            "web.page.viewed.L2hvbWU",
            "web.*.viewed",
            "web.redrive.app_count-views",
            "dlq",
            "dlq.count-views",
        ] {
            assert!(is_known(&catalog, known), "{known}");
        }
        for unknown in ["web.page.viewd", "we", "web.pag", "shop.order.placed"] {
            assert!(!is_known(&catalog, unknown), "{unknown}");
        }
    }

    #[test]
    fn a_type_or_its_beginning_selects_subjects() {
        assert_eq!(
            subjects(Some("web.page.viewed"), "web"),
            ["web.page.viewed", "web.page.viewed.>"]
        );
        assert_eq!(
            subjects(Some("dlq.count-views"), "dlq"),
            ["dlq.count-views", "dlq.count-views.>"]
        );
        assert_eq!(subjects(Some("web"), "web"), ["web.>"]);
        assert_eq!(subjects(None, "files"), ["files.>"]);
    }
}
