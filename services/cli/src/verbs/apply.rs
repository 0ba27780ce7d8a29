//! `oncue apply`: makes the layout on both servers what the functions and oncue.toml want, and prints the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};

use anstyle::Style;
use oncue_admin::AdminError;
use oncue_admin::changes::owners;
use oncue_admin::changes::set_aside::Withdrawal;
use oncue_admin::changes::waiting::Waiter;
use oncue_admin::changes::{self, Obstacle};
use oncue_admin::consumers::{self, Consumer};
use oncue_core::bus::Bus;
use oncue_core::bus::layout::{self, Mode, Outcome, ScheduleChange, Wanted};
use oncue_core::config::Config;
use oncue_core::contract;
use oncue_core::model::history::Held;
use oncue_core::model::manifest::Manifest;
use oncue_core::secret;
use oncue_core::store::{Store, StoreError};
use oncue_proto::Catalog;
use oncue_proto::event::{PARTITIONS, stream_of_type};
use serde::Serialize;
use serde_json::Value;

use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::paint::{BAD, CHANGED, DIM, GOOD, paint, say};
use crate::trial;

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Args {
    /// Change nothing; say what would change. Exit code 3 if anything would.
    #[arg(long)]
    dry_run: bool,
    /// Also remove this app's schedules that oncue.toml does not have any more.
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    consent: Consent,
    /// Let programs in even if they cannot read samples of the rows and events that are there.
    #[arg(long)]
    anyway: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Consent to changes that not every event survives.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Consent {
    /// Make dead letters of the events that wait for this function and that its new program does not act on.
    #[arg(long, value_name = "FUNCTION")]
    pub set_aside: Vec<String>,
    /// Take a contract that cannot read all that the one before it wrote. What it cannot read is dropped unseen, or becomes
    /// a dead letter.
    #[arg(long)]
    pub break_contract: bool,
}

/// Section `[streams.objects]`: about the bucket of files, no domain.
pub const OBJECTS: &str = "objects";

/// One part of the layout: how it was found and what became of it. Printed as it is by `--json`.
#[derive(Debug, Serialize)]
pub struct Change {
    /// `stream web`, `consumer web/count-views`, `redis library oncue_...`, `schedule ...`.
    pub what: String,
    pub action: ChangeAction,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Difference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// App that it is of, where that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Command that does something about it, where that is left to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

/// Result for one part; a dry run says what would be done in the same words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    Same,
    Create,
    Change,
    Remove,
    /// Nothing in oncue.toml asks for it, and it stays.
    Kept,
    /// Of another app, which alone changes it.
    Foreign,
    /// The server does not allow the change, or does not answer.
    Refused,
}

/// Field of a configuration that is not as wanted; null for one the server left out.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub field: String,
    pub is: Value,
    pub should: Value,
}

impl Change {
    fn new(what: impl Into<String>, action: ChangeAction) -> Self {
        Self {
            what: what.into(),
            action,
            fields: Vec::new(),
            error: None,
            owner: None,
            way_out: None,
        }
    }

    /// Whether another run would do something.
    fn is_due(&self) -> bool {
        use ChangeAction::{Foreign, Kept, Same};
        !matches!(self.action, Same | Kept | Foreign)
    }

    fn refused(what: impl Into<String>, why: impl Display) -> Self {
        Self {
            error: Some(why.to_string()),
            ..Self::new(what, ChangeAction::Refused)
        }
    }
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    args.consent.check(&names)?;
    // A schedule of an unknown type is refused before anything is changed.
    let contracts = settings.contracts().await?.programs;
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    // Whoever breaks a contract knows that not every event is read.
    let tried = if args.anyway || args.consent.break_contract {
        Ok(())
    } else {
        trial::refuse_unreadable(settings, &names).await
    };
    let dry_run = args.dry_run || tried.is_err();
    let mode = match (dry_run, args.prune) {
        (true, _) => Mode::Look,
        (false, false) => Mode::Apply,
        (false, true) => Mode::Prune,
    };
    let layout = Layout {
        config: &settings.config,
        manifests: &manifests,
        contracts: &contracts,
        mode,
        consent: &args.consent,
    };
    let changes = layout.carry_out(&bus, &store).await;
    if args.json {
        say(serde_json::json!({ "dry_run": dry_run, "changes": changes }));
    } else {
        for change in &changes {
            say(line(change));
        }
        say(paint(DIM, summary(&changes, dry_run)));
    }
    tried?;
    Ok(verdict(&changes, dry_run))
}

impl Consent {
    /// Refuses names of no function.
    ///
    /// # Errors
    /// A mistake in the command.
    pub fn check(&self, functions: &[String]) -> Result<(), Failure> {
        match self.set_aside.iter().find(|name| !functions.contains(name)) {
            None => Ok(()),
            Some(unknown) => Err(Failure::usage(format_args!(
                "--set-aside {unknown}: oncue.toml has no such function"
            ))),
        }
    }
}

/// Exit code. A refusal counts more than a difference: it will still be there after the next run.
fn verdict(changes: &[Change], dry_run: bool) -> u8 {
    if changes.iter().any(|c| c.action == ChangeAction::Refused) {
        exit::FAILED
    } else if dry_run && changes.iter().any(Change::is_due) {
        exit::DIFFERENT
    } else {
        exit::OK
    }
}

/// Layout as it should be, and how far it may be made so.
pub struct Layout<'p> {
    pub config: &'p Config,
    pub manifests: &'p [Manifest],
    /// Descriptor sets of the programs, by function.
    pub contracts: &'p BTreeMap<String, Vec<u8>>,
    pub mode: Mode,
    pub consent: &'p Consent,
}

impl Layout<'_> {
    /// Compares the whole layout with what is there and, as the mode allows, makes it so. A part that fails does not keep
    /// the others from being made. Streams come first, since consumers and schedules live on them.
    pub async fn carry_out(&self, bus: &Bus, store: &Store) -> Vec<Change> {
        let mut changes = Vec::new();
        for wanted in streams(self.config, self.manifests, self.contracts) {
            changes.push(match bus.ensure(&wanted, self.mode).await {
                Ok(outcome) => from_outcome(wanted.name, outcome),
                Err(e) => Change::refused(wanted.name, e),
            });
        }
        changes.push(library(store, self.mode).await);
        if self.mode != Mode::Look
            && let Err(e) = secret::id_secret(bus, store).await
        {
            changes.push(Change::refused("secret", e));
            return changes;
        }
        let stored = match contract::stored(bus).await {
            Ok(stored) => stored,
            Err(e) => {
                changes.push(Change::refused("contracts", e));
                return changes;
            }
        };
        for manifest in self.manifests {
            match self.contract_of(manifest, &stored) {
                Some(refused) => changes.push(refused),
                None => changes.push(self.function(manifest, &stored, bus, store).await),
            }
        }
        match bus.ensure_schedules(self.config, self.mode).await {
            Ok(touched) => changes.extend(schedules(self.config, touched, self.mode)),
            Err(e) => changes.push(Change::refused("schedules", e)),
        }
        let known = self.manifests.iter().map(|manifest| manifest.name.as_str());
        let known = known.chain(self.config.functions.keys().map(String::as_str));
        match orphans(bus, &known.collect()).await {
            Ok(orphans) => changes.extend(orphans),
            Err(e) => changes.push(Change::refused("consumers", e)),
        }
        changes
    }

    /// Makes it all as it should be. Returns what was changed, a line each.
    ///
    /// # Errors
    /// Something is refused, with the reasons.
    pub async fn make(&self, bus: &Bus, store: &Store) -> Result<Vec<String>, Failure> {
        let changes = self.carry_out(bus, store).await;
        let told = changes
            .iter()
            .filter(|c| !matches!(c.action, ChangeAction::Same | ChangeAction::Foreign));
        let (refused, changed): (Vec<&Change>, Vec<&Change>) =
            told.partition(|c| c.action == ChangeAction::Refused);
        if refused.is_empty() {
            return Ok(changed.into_iter().map(line).collect());
        }
        let refused: Vec<String> = refused.into_iter().map(line).collect();
        Err(Failure::failed(format_args!(
            "not everything is as it should be\n{}",
            refused.join("\n")
        )))
    }

    /// Refusal of a contract that breaks what this program, or another one of the app, has written.
    fn contract_of(
        &self,
        manifest: &Manifest,
        stored: &BTreeMap<String, Vec<u8>>,
    ) -> Option<Change> {
        let program = self.contracts.get(&manifest.name)?;
        if self.consent.break_contract || stored.get(&manifest.name) == Some(program) {
            return None;
        }
        let what = format!("contract of {}", manifest.name);
        match changes::breaks(stored.values(), program) {
            Ok(breaks) if breaks.is_empty() => None,
            Ok(breaks) => {
                let breaks: Vec<String> = breaks.iter().map(|b| format!("\n    {b}")).collect();
                let why = format!(
                    "events that were written with the contract before it would be read wrong{}\n    mend the contract, or \
                     say `oncue apply --break-contract` if nobody needs those events",
                    breaks.concat()
                );
                Some(Change::refused(what, why))
            }
            Err(e) => Some(Change::refused(what, e)),
        }
    }

    /// Lets the new program of a function in: compares it with what waits, changes the consumer, notes from which event on
    /// it holds, stores its contract, and has flows wait for it from now on, whether it has ever run or not.
    async fn function(
        &self,
        manifest: &Manifest,
        stored: &BTreeMap<String, Vec<u8>>,
        bus: &Bus,
        store: &Store,
    ) -> Change {
        let wanted = manifest.consumer(self.config);
        let what = wanted.name.clone();
        let prepared = self.prepare(manifest, bus, store).await;
        let held = match prepared {
            Ok(Ready::Holds(held)) => held,
            Ok(Ready::Not(obstacle)) => {
                return Change {
                    way_out: Some(obstacle.way_out(&manifest.name)),
                    ..Change::refused(what, format_args!("{} {obstacle}", manifest.name))
                };
            }
            Err(e) => return Change::refused(what, e),
        };
        let change = match bus.ensure(&wanted, self.mode).await {
            Ok(outcome) => from_outcome(what, outcome),
            Err(e) => return Change::refused(what, e),
        };
        if self.mode == Mode::Look {
            return change;
        }
        match self.note(manifest, held, stored, bus, store).await {
            Ok(()) => change,
            Err(e) => Change::refused(change.what, e),
        }
    }

    /// Finds the place from which the new program holds, once nothing stands in its way.
    async fn prepare(
        &self,
        manifest: &Manifest,
        bus: &Bus,
        store: &Store,
    ) -> Result<Ready, AdminError> {
        let function = &manifest.name;
        let owner = owners::other_owner(manifest, self.manifests, self.config, store).await?;
        if let Some(owned) = owner {
            return Ok(Ready::Not(owned));
        }
        let consumer = match bus.consumer_info(&manifest.stream, function).await {
            Ok(consumer) => consumer,
            // New, or on a stream that is not there either.
            Err(e) if e.is_not_found() => {
                let elsewhere = changes::elsewhere(manifest, bus).await?;
                return Ok(elsewhere.map_or(Ready::Holds(0), Ready::Not));
            }
            Err(e) => return Err(AdminError::api(function, e)),
        };
        let info = bus.stream_info(&manifest.stream).await;
        let info = info.map_err(|e| AdminError::api(&manifest.stream, e))?;
        let horizon = self.config.stream(&manifest.stream).horizon.0;
        let waiter = Waiter {
            function,
            stream: &manifest.stream,
            created: info.created_ms().unwrap_or(0),
            floor: consumer.ack_floor.stream_seq,
            horizon: horizon.as_millis() as u64,
        };
        let history = store.history(function).await?;
        let found = changes::obstacles(manifest, &history, &consumer, waiter, bus, store).await?;
        let may_set_aside = self.mode != Mode::Look && self.consent.set_aside.contains(function);
        for obstacle in found {
            match &obstacle {
                Obstacle::GivenUp(waiting) if may_set_aside => {
                    let secret = secret::id_secret(bus, store).await?;
                    let aside = Withdrawal {
                        bus,
                        store,
                        config: self.config,
                        secret: &secret,
                        why: "the function does not act on events of this type any more",
                    };
                    let subjects: Vec<String> = waiting.keys().cloned().collect();
                    aside.all(waiter, &subjects).await?;
                }
                _ => return Ok(Ready::Not(obstacle)),
            }
        }
        // Read before the look at what waits: all up to here has been looked at.
        Ok(Ready::Holds(info.state.last_seq + 1))
    }

    async fn note(
        &self,
        manifest: &Manifest,
        from: u64,
        stored: &BTreeMap<String, Vec<u8>>,
        bus: &Bus,
        store: &Store,
    ) -> Result<(), AdminError> {
        let function = &manifest.name;
        let info = bus.stream_info(&manifest.stream).await;
        let info = info.map_err(|e| AdminError::api(&manifest.stream, e))?;
        let mut history = store.history(function).await?;
        let held = Held::of(manifest, info.created_ms().unwrap_or(0), from);
        if history.begin(held, info.state.first_seq) {
            store.note(function, &history).await?;
        }
        if let Some(program) = self.contracts.get(function)
            && stored.get(function) != Some(program)
        {
            contract::store(bus, function, program.clone()).await?;
        }
        Ok(store.register(manifest).await?)
    }
}

/// Whether a program may take over.
enum Ready {
    /// From this sequence of its stream on.
    Holds(u64),
    Not(Obstacle),
}

/// All parts of the layout: streams, the bucket, and a consumer for each function.
pub fn plan(
    config: &Config,
    manifests: &[Manifest],
    contracts: &BTreeMap<String, Vec<u8>>,
) -> Vec<Wanted> {
    let consumers = manifests.iter().map(|m| m.consumer(config));
    streams(config, manifests, contracts)
        .into_iter()
        .chain(consumers)
        .collect()
}

/// Streams of all domains that a function, a contract or oncue.toml names, and the bucket.
fn streams(
    config: &Config,
    manifests: &[Manifest],
    contracts: &BTreeMap<String, Vec<u8>>,
) -> Vec<Wanted> {
    let mut domains: BTreeSet<String> = manifests.iter().flat_map(Manifest::domains).collect();
    // Also those that only clients publish to so far.
    let mut catalog = Catalog::builtin();
    for set in contracts.values() {
        // One that cannot be read is refused with its function.
        let _ = catalog.add(set);
    }
    let types = catalog.entries().map(|entry| stream_of_type(&entry.ty));
    domains.extend(types.map(str::to_owned));
    domains.extend(
        config
            .streams
            .keys()
            .filter(|name| *name != OBJECTS)
            .cloned(),
    );
    domains.extend(
        config
            .schedules
            .iter()
            .map(|s| stream_of_type(&s.ty()).to_owned()),
    );
    domains.insert(layout::DLQ.to_owned());
    // Every other one sources from it, so it is there first.
    domains.remove(layout::TIMER);
    let domains: Vec<String> = [layout::TIMER.to_owned()]
        .into_iter()
        .chain(domains)
        .collect();
    let streams = domains
        .iter()
        .map(|domain| layout::stream(&config.app, domain, &config.stream(domain)));
    let bucket = layout::bucket(&config.app, &config.bucket());
    let streams = streams.chain([bucket]);
    // No worker starts without what is in it, so it outlives what the rest outlives.
    let copies = config.most_copies();
    let values = (copies > 1).then(|| layout::values(&config.app).with_copies(copies));
    streams.chain(values).collect()
}

/// Outcome of the runtime in the words of this report.
fn from_outcome(what: String, outcome: Outcome) -> Change {
    match outcome {
        Outcome::Same => Change::new(what, ChangeAction::Same),
        Outcome::Foreign(app) => Change {
            owner: Some(app),
            ..Change::new(what, ChangeAction::Foreign)
        },
        Outcome::Created => Change::new(what, ChangeAction::Create),
        Outcome::Different(fields) => {
            let fields = fields
                .into_iter()
                .map(|d| Difference {
                    field: d.field,
                    is: d.is,
                    should: d.should,
                })
                .collect();
            Change {
                fields,
                ..Change::new(what, ChangeAction::Change)
            }
        }
    }
}

/// Function library in Redis, and the partition count it was laid out with.
enum LibraryState {
    Loaded,
    Missing,
    /// Laid out by a version with this other partition count: keys would be looked for in the wrong place.
    OtherPartitions(u32),
}

/// Function library in Redis as one more part of the layout.
async fn library(store: &Store, mode: Mode) -> Change {
    let what = format!("redis library {}", store.library_name());
    match load_library(store, mode).await {
        Ok(LibraryState::Loaded) => Change::new(what, ChangeAction::Same),
        Ok(LibraryState::Missing) => Change::new(what, ChangeAction::Create),
        Ok(LibraryState::OtherPartitions(found)) => {
            let difference = Difference {
                field: "partitions".into(),
                is: found.into(),
                should: PARTITIONS.into(),
            };
            Change {
                fields: vec![difference],
                ..Change::refused(
                    what,
                    "this Redis belongs to a layout with another partition count; use an empty one",
                )
            }
        }
        Err(e) => Change::refused(what, e),
    }
}

/// State the library was found in. Looking must not lay out an empty Redis; loading does, so that workers find it
/// settled.
async fn load_library(store: &Store, mode: Mode) -> Result<LibraryState, StoreError> {
    store.check().await?;
    store.check_replay().await?;
    if let Some(found) = store.partitions().await?
        && found != PARTITIONS
    {
        return Ok(LibraryState::OtherPartitions(found));
    }
    let is_there = store.is_loaded().await? && store.is_laid_out().await?;
    if mode != Mode::Look {
        store.lay_out().await?;
    }
    Ok(if is_there {
        LibraryState::Loaded
    } else {
        LibraryState::Missing
    })
}

/// Changes of the recurring schedules. The runtime names only those it touched; the rest stands as it should.
fn schedules(config: &Config, touched: Vec<ScheduleChange>, mode: Mode) -> Vec<Change> {
    let wanted = config
        .schedules
        .iter()
        .map(|schedule| format!("schedule {} {}", schedule.name(), schedule.rule()));
    let untouched = wanted.filter(|what| {
        !touched.contains(&ScheduleChange::Made(what.clone()))
            && !touched.contains(&ScheduleChange::Paused(what.clone()))
    });
    let mut changes: Vec<Change> = untouched
        .map(|what| Change::new(what, ChangeAction::Same))
        .collect();
    changes.extend(touched.into_iter().map(|change| match change {
        ScheduleChange::Made(what) => Change::new(what, ChangeAction::Create),
        ScheduleChange::Paused(what) => {
            let paused = format!("{what}, paused: it fires nothing until it is resumed");
            Change::new(paused, ChangeAction::Same)
        }
        ScheduleChange::LeftOver(what) if mode == Mode::Prune => {
            Change::new(what, ChangeAction::Remove)
        }
        ScheduleChange::LeftOver(what) => Change {
            way_out: Some("not in oncue.toml; --prune removes it".to_owned()),
            ..Change::new(what, ChangeAction::Kept)
        },
    }));
    changes
}

/// Consumers of the app whose functions are none of the `known`: events wait for them for ever.
pub async fn orphans(bus: &Bus, known: &BTreeSet<&str>) -> Result<Vec<Change>, AdminError> {
    let consumers = consumers::all(bus).await?;
    let orphans = consumers
        .into_values()
        .filter(|consumer| !known.contains(consumer.function.as_str()));
    Ok(orphans.map(|orphan| left_over(&orphan, bus)).collect())
}

fn left_over(
    Consumer {
        function, stream, ..
    }: &Consumer,
    bus: &Bus,
) -> Change {
    let name = bus.app().consumer(function);
    let way_out = format!("no function of oncue.toml; `oncue remove {function}` removes it");
    Change {
        way_out: Some(way_out),
        ..Change::new(format!("consumer {stream}/{name}"), ChangeAction::Kept)
    }
}

/// Change as text: `+ stream web`, `~ stream web` with a line per field, `= stream web`, `- schedule x`,
/// `? schedule y: what to do`, `. stream files: of app shop`, `! consumer x: why`.
pub fn line(change: &Change) -> String {
    let (sign, style): (&str, Style) = match change.action {
        ChangeAction::Same => ("=", DIM),
        ChangeAction::Create => ("+", GOOD),
        ChangeAction::Change => ("~", CHANGED),
        ChangeAction::Remove => ("-", BAD),
        ChangeAction::Kept => ("?", CHANGED),
        ChangeAction::Foreign => (".", DIM),
        ChangeAction::Refused => ("!", BAD),
    };
    let head = paint(style, format_args!("{sign} {}", change.what));
    format!("{head}{}", details(change))
}

/// Rest of the line behind the name: why and what to do, or a line for each field.
pub fn details(change: &Change) -> String {
    let mut out = String::new();
    if let Some(why) = change.error.as_ref().or(change.way_out.as_ref()) {
        let _ = write!(out, ": {why}");
    }
    if let (Some(_), Some(way_out)) = (&change.error, &change.way_out) {
        let _ = write!(out, "\n    {way_out}");
    }
    if let Some(owner) = &change.owner {
        let _ = write!(out, ": of app {owner}, left as it is");
    }
    for difference in &change.fields {
        let _ = write!(
            out,
            "\n    {}: {} -> {}",
            difference.field,
            paint(BAD, show(&difference.is)),
            paint(GOOD, show(&difference.should))
        );
    }
    out
}

/// Value of a field; an absent one is shown as such, since the server leaves out what is empty.
fn show(value: &Value) -> String {
    if value.is_null() {
        "nothing".into()
    } else {
        value.to_string()
    }
}

/// `2 created, 1 changed, 9 the same`; of a dry run it says so.
pub fn summary(changes: &[Change], dry_run: bool) -> String {
    let words = [
        (ChangeAction::Create, "created"),
        (ChangeAction::Change, "changed"),
        (ChangeAction::Remove, "removed"),
        (ChangeAction::Kept, "left over"),
        (ChangeAction::Foreign, "of other apps"),
        (ChangeAction::Refused, "refused"),
        (ChangeAction::Same, "the same"),
    ];
    let mut parts = Vec::new();
    for (action, word) in words {
        let count = changes.iter().filter(|c| c.action == action).count();
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let text = parts.join(", ");
    if dry_run {
        format!("dry run, nothing was changed: {text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn changed() -> Change {
        let difference = |field: &str, is, should| Difference {
            field: field.into(),
            is,
            should,
        };
        let fields = vec![
            difference("max_bytes", json!(1), json!(2)),
            difference("subjects", Value::Null, json!(["web.>"])),
        ];
        Change {
            fields,
            ..Change::new("stream web", ChangeAction::Change)
        }
    }

    #[test]
    fn a_difference_is_printed_field_by_field() {
        assert_eq!(
            plain(&line(&changed())),
            "~ stream web\n    max_bytes: 1 -> 2\n    subjects: nothing -> [\"web.>\"]"
        );
        assert_eq!(
            plain(&line(&Change::new("stream dlq", ChangeAction::Create))),
            "+ stream dlq"
        );
        assert_eq!(
            plain(&line(&Change::refused("consumer a/b", "no"))),
            "! consumer a/b: no"
        );
    }

    #[test]
    fn the_exit_code_tells_difference_from_refusal() {
        let same = || Change::new("a", ChangeAction::Same);
        assert_eq!(verdict(&[same()], true), exit::OK);
        assert_eq!(verdict(&[same(), changed()], true), exit::DIFFERENT);
        assert_eq!(verdict(&[same(), changed()], false), exit::OK);
        assert_eq!(
            verdict(&[changed(), Change::refused("b", "no")], true),
            exit::FAILED
        );
        assert_eq!(
            summary(&[same(), changed()], true),
            "dry run, nothing was changed: 1 changed, 1 the same"
        );
    }

    #[test]
    fn every_domain_named_anywhere_gets_a_stream() {
        let toml = "[streams.shop]\n[functions.count-views]\n[functions.tick]\n[[schedule]]\nfunction = \"tick\"\nevery = \"10s\"\n";
        let config = Config::parse(toml, None, |_| None).unwrap();
        let manifest: Manifest = serde_json::from_value(json!({
            "name": "count-views", "version": "1", "stream": "web", "triggers": ["web.page.viewed"],
            "filters": ["web.page.viewed", "web.page.viewed.*"], "table": "pages", "emits": ["mail.note.wanted"],
            "limits": { "concurrency": 1, "reserved_concurrency": 1, "timeout": "1s", "attempts": 1, "ack_wait": "1s", "start": "all" },
        }))
        .unwrap();
        let names: Vec<String> = plan(&config, &[manifest], &BTreeMap::new())
            .into_iter()
            .map(|w| w.name)
            .collect();
        let streams = [
            "timer",
            "dlq",
            "files",
            "mail",
            "shop",
            "web",
            "OBJ_app_files",
        ]
        .map(|s| format!("stream {s}"));
        assert_eq!(names[..7], streams);
        assert_eq!(names[7..], ["consumer web/app_count-views"]);
    }

    #[test]
    fn in_a_cluster_the_secret_has_as_many_copies_as_the_streams() {
        let has_values = |toml: &str| {
            let config = Config::parse(toml, None, |_| None).unwrap();
            let plan = plan(&config, &[], &BTreeMap::new());
            plan.iter().any(|wanted| wanted.name == "stream KV_oncue")
        };
        assert!(has_values("[streams.shop]\nreplicas = 3\n"));
        assert!(!has_values("[streams.shop]\n"));
    }
}
