//! `oncue recover nats`: outputs stay in Redis for a while after they were published, and are published again from
//! there under the same ids. What the stream still knows is a duplicate, what only its consumers know is skipped by
//! them.

use futures::{StreamExt as _, stream};
use oncue_core::bus::{Bus, PubAck, PublishError};
use oncue_core::store::{Store, StoredOutputs, Unpublished};
use oncue_proto::event::{self, PARTITIONS};
use oncue_proto::oncue::v1::{Envelope, Outbox};
use prost::Message as _;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{CHANGED, DIM, number, paint, progress, remark, say};
use crate::terminal::table::{self, text};
use crate::when;

/// Publishes under way at a time.
/// Bounds what is under way, not what is lost: every output has its id, so this may be run again.
const CONCURRENT_PUBLISHES: usize = 64;

#[derive(clap::Args)]
pub struct Args {
    /// Only what was published since: a time (2026-01-31T12:00:00Z) or a duration ago (15m). Default: all that is
    /// kept.
    #[arg(long, value_name = "T", value_parser = when::since)]
    since: Option<u64>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Outcome of all partitions, by what the stream said of each output.
#[derive(Default)]
pub struct Republished {
    pub new: u64,
    pub duplicates: u64,
    pub unreadable: u64,
    /// How many could not be published, and why the first could not.
    pub refused: u64,
    pub why: Option<String>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let since = args
        .since
        .map_or_else(|| "all that is kept".to_owned(), event::format_time);
    confirm::ask(&format!("Publish outputs again ({since})?"), args.yes)?;
    let tally = all(args.since.unwrap_or(0), &bus, &store).await?;
    say(table::render(
        &["OUTPUTS", ""],
        &[
            vec![text("published again"), table::number(tally.new)],
            vec![text("still known to NATS"), table::number(tally.duplicates)],
        ],
    ));
    if tally.unreadable > 0 {
        remark(format_args!(
            "{} outboxes in Redis cannot be read",
            number(tally.unreadable)
        ));
    }
    if let Some(why) = tally.why {
        let what = format!(
            "{} outputs could not be published; the first: {why}",
            number(tally.refused)
        );
        return Err(Failure::failed(what)
            .advise("if streams are missing, `oncue apply` makes them; then run this again"));
    }
    // What the streams hold now is all there is; workers start on it again.
    store.forget_streams().await.map_err(Failure::silent)?;
    store.forget_progress().await.map_err(Failure::silent)?;
    store.forget_removed().await.map_err(Failure::silent)?;
    let keep = humantime::format_duration(settings.config.keep_outputs.0);
    remark(paint(
        DIM,
        format_args!(
            "Outputs are kept for {keep}. Events from outside are not: what NATS lost of them, their senders must send again."
        ),
    ));
    Ok(if tally.unreadable > 0 {
        exit::FAILED
    } else {
        exit::OK
    })
}

/// All outputs that Redis has kept and that were published since.
pub async fn all(since: u64, bus: &Bus, store: &Store) -> Result<Republished, Failure> {
    let mut tally = Republished::default();
    // Partition by partition: outboxes are listed by partition, and progress can be told.
    for partition in 0..PARTITIONS {
        progress(format_args!("partition {} of {PARTITIONS}", partition + 1));
        again(partition, since, bus, store, &mut tally).await?;
    }
    progress("");
    Ok(tally)
}

/// Publishes outputs that were committed and in no stream yet, which workers would only take up after a while.
pub async fn unpublished(bus: &Bus, store: &Store) -> Result<Republished, Failure> {
    let mut tally = Republished::default();
    let left = store.unpublished(0..PARTITIONS, event::now_ms()).await;
    for Unpublished { outbox_key, frames } in left.map_err(Failure::silent)? {
        let refused = tally.refused + tally.unreadable;
        publish(frames, bus, &mut tally).await;
        // What was refused stays as it was, for the workers.
        if refused == tally.refused + tally.unreadable {
            let marked = store.published(&[outbox_key], true).await;
            marked.map_err(Failure::silent)?;
        }
    }
    Ok(tally)
}

/// All kept outputs of one partition.
async fn again(
    partition: u32,
    since: u64,
    bus: &Bus,
    store: &Store,
    tally: &mut Republished,
) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let kept = store
            .kept(partition, since, from)
            .await
            .map_err(Failure::silent)?;
        if kept.is_empty() {
            return Ok(());
        }
        from += kept.len();
        let frames = kept.into_iter().flat_map(|kept| kept.frames);
        publish(frames, bus, tally).await;
    }
}

/// Publishes the outputs of some events.
async fn publish(
    frames: impl IntoIterator<Item = StoredOutputs>,
    bus: &Bus,
    tally: &mut Republished,
) {
    let mut outputs: Vec<Envelope> = Vec::new();
    for frame in frames {
        match Outbox::decode(frame.outputs) {
            Ok(outbox) => outputs.extend(outbox.outputs),
            // Counted and gone on from: one that is broken must not keep the others from being published.
            Err(_) => tally.unreadable += 1,
        }
    }
    let mut acks = stream::iter(&outputs)
        .map(|output| bus.publish(output))
        .buffer_unordered(CONCURRENT_PUBLISHES);
    while let Some(ack) = acks.next().await {
        tally.count(ack);
    }
}

impl Republished {
    fn count(&mut self, ack: Result<PubAck, PublishError>) {
        match ack {
            Ok(ack) if ack.duplicate => self.duplicates += 1,
            Ok(_) => self.new += 1,
            Err(e) => {
                self.refused += 1;
                self.why.get_or_insert_with(|| paint(CHANGED, e));
            }
        }
    }
}
