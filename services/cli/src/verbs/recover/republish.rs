//! `oncue recover nats`: outputs stay in Redis for a while after they were published, and are published again from
//! there under the same ids. What the stream still knows is a duplicate, what only its consumers know is skipped by
//! them.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use oncue_admin::consumers;
use oncue_core::bus::layout::Mode;
use oncue_core::bus::{Bus, PubAck, PublishError};
use oncue_core::store::{Store, StoredOutputs, Unpublished};
use oncue_proto::event;
use oncue_proto::oncue::v1::{Envelope, Outbox};
use prost::Message as _;

use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{CHANGED, DIM, number, paint, progress, remark, say};
use crate::terminal::table::{self, text};
use crate::verbs::apply::{Consent, Layout};
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
    // Streams that are gone have to be there first.
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    let contracts = settings.contracts().await?.programs;
    let layout = Layout {
        config: &settings.config,
        manifests: &manifests,
        contracts: &contracts,
        mode: Mode::Apply,
        consent: &Consent::default(),
    };
    let changed = layout.make(&bus, &store).await.map_err(|e| {
        e.advise("nothing was published; mend what is refused, then run this again")
    })?;
    changed.iter().for_each(say);
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
        return Err(
            Failure::failed(what).advise("it can be run again: what is there already stays once")
        );
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
    for function in emitters(bus, store).await? {
        progress(&function);
        again(&function, since, bus, store, &mut tally).await?;
    }
    progress("");
    Ok(tally)
}

/// Publishes outputs that were committed and in no stream yet, which workers would only take up after a while.
pub async fn unpublished(bus: &Bus, store: &Store) -> Result<Republished, Failure> {
    let mut tally = Republished::default();
    let now = event::now_ms();
    for function in emitters(bus, store).await? {
        let mut passed = 0;
        loop {
            let left = store.unpublished(&function, now, passed).await;
            let left = left.map_err(Failure::silent)?;
            if left.is_empty() {
                break;
            }
            for Unpublished { outbox_key, frames } in left {
                let refused = tally.refused + tally.unreadable;
                publish(frames, bus, &mut tally).await;
                // What was refused stays as it was, for the workers.
                if refused == tally.refused + tally.unreadable {
                    let marked = store.published(&[outbox_key], true).await;
                    marked.map_err(Failure::silent)?;
                } else {
                    passed += 1;
                }
            }
        }
    }
    Ok(tally)
}

/// Functions of the app that may have made outputs: those that are registered, and those that have a consumer, should Redis
/// have lost its registry.
async fn emitters(bus: &Bus, store: &Store) -> Result<BTreeSet<String>, Failure> {
    let registered = store.registered().await.map_err(Failure::silent)?;
    let consumers = consumers::all(bus).await.map_err(Failure::silent)?;
    Ok(registered
        .into_iter()
        .chain(consumers.into_keys())
        .collect())
}

/// All kept outputs of one function.
async fn again(
    function: &str,
    since: u64,
    bus: &Bus,
    store: &Store,
    tally: &mut Republished,
) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let kept = store
            .kept(function, since, from)
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
