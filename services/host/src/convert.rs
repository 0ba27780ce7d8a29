//! Runs and answers, between the worker's types and those of the wire.

use std::collections::HashMap;
use std::time::Duration;

use oncue::foreign::{
    Foreign, ForeignAnswer, ForeignEffects, ForeignFailure, ForeignOutcome, ForeignRun, Lost,
    RunPurpose,
};
use oncue_core::config::{Limits, Span};
use oncue_core::model::manifest::FileUse;
use oncue_core::store::{Change, Op};
use oncue_proto::{Catalog, Draft, Entry, Format, KeyReader, merge_sets};
use parking_lot::Mutex;

use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::protocol::operation::Change as WireChange;

/// Names of a kind that a child may bring in its life: they end in metrics and stay in memory.
const MAX_NAMES: usize = 256;
/// Longest `file:line`, characters.
const MAX_PLACE: usize = 300;
/// Longest time before a failed event is tried again, whatever its handler asks for.
const MAX_DELAY: Duration = Duration::from_hours(1);
/// Classes that say who was at fault; an author's exception may not be called so.
const OWN_CLASSES: [&str; 5] = ["redis", "platform", "crash", "protocol", "row"];

/// A function as its child has described it, and how its outputs are read.
#[derive(Debug)]
pub struct Description {
    pub manifest: wire::Manifest,
    /// Encoded descriptor set.
    pub contract: Vec<u8>,
    pub limits: Limits,
    emits: HashMap<String, Emitted>,
    classes: Names,
    tables: Names,
}

/// Names that are kept for the rest of this process.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, &'static str>>);

impl Names {
    /// Names that are known from the start, however many.
    fn of(known: &[String]) -> Self {
        let kept = known.iter().map(|name| (name.clone(), leaked(name)));
        Self(Mutex::new(kept.collect()))
    }

    /// The name for good; `None` for a new one once there are too many.
    fn keep(&self, name: &str) -> Option<&'static str> {
        let mut names = self.0.lock();
        if let Some(known) = names.get(name) {
            return Some(known);
        }
        if names.len() >= MAX_NAMES {
            return None;
        }
        let kept = leaked(name);
        names.insert(name.to_owned(), kept);
        Some(kept)
    }
}

fn leaked(name: &str) -> &'static str {
    name.to_owned().leak()
}

/// An event type that a function may emit.
#[derive(Debug)]
struct Emitted {
    ty: &'static str,
    entry: Entry,
    key: KeyReader,
}

impl Description {
    /// Checks that the contract has what the manifest names.
    ///
    /// # Errors
    /// A sentence for the author.
    pub fn new(manifest: wire::Manifest, contract: Vec<u8>) -> Result<Self, String> {
        let catalog = catalog(&contract).map_err(|e| format!("its contract: {e}"))?;
        let mut emits = HashMap::new();
        for ty in &manifest.emits {
            let entry = catalog
                .get(ty)
                .map_err(|e| format!("it emits {ty}: {e}"))?
                .clone();
            let emitted = Emitted {
                ty: ty.clone().leak(),
                key: entry.key_reader(None)?,
                entry,
            };
            emits.insert(ty.clone(), emitted);
        }
        Ok(Self {
            limits: limits(&manifest),
            classes: Names::default(),
            tables: Names::of(&manifest.changes),
            manifest,
            contract,
            emits,
        })
    }

    /// Event types of its contract.
    pub fn catalog(&self) -> Catalog {
        // Looked at when it was made.
        catalog(&self.contract).unwrap_or_default()
    }

    /// The function for the worker, but for the way to its handler.
    pub fn foreign(&self, call: oncue::foreign::ForeignCall) -> Foreign {
        let manifest = &self.manifest;
        Foreign {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            triggers: manifest.triggers.clone(),
            emits: manifest.emits.clone(),
            key: Some(manifest.key.clone()).filter(|key| !key.is_empty()),
            table: manifest.table.clone(),
            row_version: manifest.row_version.max(1),
            changes: manifest.declares.then(|| manifest.changes.clone()),
            files: match manifest.files() {
                wire::manifest::FileUse::None => FileUse::None,
                wire::manifest::FileUse::Read => FileUse::Read,
                wire::manifest::FileUse::Write => FileUse::Write,
            },
            at_most_once: manifest.at_most_once,
            limits: self.limits.clone(),
            side_by_side: usize::MAX,
            contract: self.contract.clone(),
            call,
        }
    }

    /// An answer for the worker. `count` events were asked for.
    ///
    /// # Errors
    /// Of the outer one: a sentence that says which rule the answer breaks.
    pub fn answer(
        &self,
        result: wire::RunResult,
        count: usize,
        timeout: Duration,
    ) -> Result<Result<ForeignAnswer, Lost>, String> {
        if let Some(failure) = result.failure {
            return Ok(Err(Lost::Row(failure.text)));
        }
        if result.events.len() != count {
            return Err(results_of(result.events.len(), count, result.number));
        }
        let mut events = Vec::with_capacity(count);
        for event in result.events {
            let outcome = event
                .outcome
                .ok_or_else(|| format!("an event of run {} has no outcome", result.number))?;
            events.push(ForeignOutcome {
                result: self.outcome(outcome, timeout),
                took: Duration::from_micros(event.micros),
            });
        }
        let set = result.set.into_iter();
        Ok(Ok(ForeignAnswer {
            set: set
                .map(|field| (field.name, field.value.to_vec()))
                .collect(),
            deleted: result.deleted,
            events,
        }))
    }

    fn outcome(
        &self,
        outcome: Outcome,
        timeout: Duration,
    ) -> Result<ForeignEffects, ForeignFailure> {
        match outcome {
            Outcome::Done(done) => {
                let mut effects = ForeignEffects::default();
                for output in done.outputs {
                    effects.drafts.push(self.draft(output)?);
                }
                for operation in done.operations {
                    effects.ops.push(self.op(operation)?);
                }
                Ok(effects)
            }
            Outcome::Retry(failure) => Err(self.failure(failure, false, timeout)),
            Outcome::Reject(failure) => Err(self.failure(failure, true, timeout)),
        }
    }

    fn failure(&self, failure: wire::Failure, rejected: bool, timeout: Duration) -> ForeignFailure {
        let class = failure.class.as_str();
        let class = match class {
            "" if rejected => "rejected",
            "" => "error",
            own if OWN_CLASSES.contains(&own) => "error",
            other => self.classes.keep(other).unwrap_or("error"),
        };
        // Shown where an author's words are not, so in the host's.
        let text = if class == "timeout" {
            format!("still running after {} ms", timeout.as_millis())
        } else {
            failure.text
        };
        ForeignFailure {
            rejected,
            class,
            text,
            place: failure.place.chars().take(MAX_PLACE).collect(),
            not_before: Duration::from_millis(failure.delay_ms).min(MAX_DELAY),
        }
    }

    /// An event that follows.
    fn draft(&self, output: wire::Output) -> Result<Draft, ForeignFailure> {
        let Some(emitted) = self.emits.get(&output.r#type) else {
            let known: Vec<&str> = self.emits.keys().map(String::as_str).collect();
            return Err(rejection(format!(
                "it emitted {:?}, and its manifest names {}",
                output.r#type,
                if known.is_empty() {
                    "no event".to_owned()
                } else {
                    known.join(", ")
                }
            )));
        };
        let format = if output.content_type.is_empty() {
            Some(Format::Protobuf)
        } else {
            Format::of_media_type(&output.content_type)
        };
        let payload = match format {
            Some(Format::Protobuf) => output.payload,
            Some(Format::Json) => emitted
                .entry
                .to_protobuf_discreetly(Format::Json, &output.payload)
                .map_err(|e| rejection(format!("it emitted a {}: {e}", emitted.ty)))?
                .into(),
            None => {
                return Err(rejection(format!(
                    "it emitted a {} as {}, and only protobuf and JSON are known",
                    emitted.ty, output.content_type
                )));
            }
        };
        let key = match emitted.key.read(&payload) {
            Ok(key) => key,
            // Said as for any function, where the outputs are prepared.
            Err(oncue_proto::CatalogError::EmptyKey(_)) => String::new(),
            Err(e) => return Err(rejection(format!("it emitted a {}: {e}", emitted.ty))),
        };
        Ok(Draft {
            ty: emitted.ty,
            key,
            keyed: !emitted.entry.key_field.is_empty(),
            payload,
            delay: Some(Duration::from_millis(output.delay_ms)).filter(|delay| !delay.is_zero()),
        })
    }

    /// A change without a row.
    fn op(&self, operation: wire::Operation) -> Result<Op, ForeignFailure> {
        let table = operation.table;
        if table.is_empty() || table == self.manifest.table {
            return Err(rejection(format!(
                "an operation on the table {table:?}, which is the row's own or none; change the row itself"
            )));
        }
        if self.manifest.declares && !self.manifest.changes.contains(&table) {
            let name = &self.manifest.name;
            return Err(rejection(format!(
                "{name} does not declare that it changes the table {table:?}: name it in the function's `changes`"
            )));
        }
        let table = self.tables.keep(&table).ok_or_else(|| {
            rejection(format!(
                "an operation on {table:?}, beyond the {MAX_NAMES} tables that a function may change without naming them in \
                 its `changes`"
            ))
        })?;
        let change = match operation.change {
            Some(WireChange::Add(amount)) => Change::Add {
                field: amount.field,
                by: amount.by,
            },
            Some(WireChange::Max(amount)) => Change::Max {
                field: amount.field,
                to: amount.by,
            },
            Some(WireChange::SetAdd(member)) => Change::SetAdd { member },
            Some(WireChange::TopN(score)) => Change::TopN {
                member: score.member,
                score: score.score,
                limit: score.limit.max(1),
            },
            Some(WireChange::Distinct(member)) => Change::Distinct { member },
            None => return Err(rejection("an operation that this host does not know")),
        };
        Ok(Op { table, change })
    }
}

/// Results of a run that come in several frames.
#[derive(Debug, Default)]
pub struct Parts(Vec<wire::EventResult>);

impl Parts {
    /// Takes one of them; returns the whole with the last. `count` events were asked for.
    ///
    /// # Errors
    /// More events than that.
    pub fn take(
        &mut self,
        mut part: wire::RunResult,
        count: usize,
    ) -> Result<Option<wire::RunResult>, String> {
        self.0.append(&mut part.events);
        if !part.more {
            part.events = std::mem::take(&mut self.0);
            return Ok(Some(part));
        }
        if self.0.len() > count {
            return Err(results_of(self.0.len(), count, part.number));
        }
        Ok(None)
    }
}

/// Rule that an answer breaks which has too many results, or too few.
fn results_of(found: usize, count: usize, number: u64) -> String {
    format!("{found} results for the {count} events of run {number}")
}

/// Event types of a descriptor set, and the platform's own.
fn catalog(contract: &[u8]) -> Result<Catalog, oncue_proto::CatalogError> {
    let mut catalog = Catalog::default();
    catalog.add(contract)?;
    catalog.add_builtin();
    Ok(catalog)
}

/// Limits of a manifest, with the defaults in place of what it leaves out.
fn limits(manifest: &wire::Manifest) -> Limits {
    let mut limits = Limits::default();
    if manifest.concurrency > 0 {
        limits.concurrency = manifest.concurrency as usize;
    }
    if manifest.timeout_ms > 0 {
        limits.timeout = Span(Duration::from_millis(manifest.timeout_ms));
    }
    if manifest.attempts > 0 {
        limits.attempts = manifest.attempts;
    }
    limits
}

/// Rejection of an event for what its handler made of it: a second run would give the same.
fn rejection(why: impl Into<String>) -> ForeignFailure {
    ForeignFailure {
        rejected: true,
        class: "rejected",
        text: why.into(),
        place: String::new(),
        not_before: Duration::ZERO,
    }
}

/// A run as it is sent.
pub fn run(number: u64, run: &ForeignRun) -> wire::Run {
    let fields = run.fields.iter().map(|(name, value)| wire::Field {
        name: name.clone(),
        value: value.clone().into(),
    });
    let events = run.events.iter().map(|event| {
        let meta = &event.meta;
        wire::Event {
            id: meta.id.clone(),
            source: meta.source.clone(),
            r#type: meta.ty.clone(),
            time_ms: meta.time,
            payload: event.payload.clone(),
            flow: meta.flow.clone(),
            cause: meta.cause.clone(),
            hops: meta.hops,
            attempt: event.attempt,
            timeout_ms: run.timeout.as_millis() as u64,
            traceparent: event.ids.map_or_else(
                || meta.traceparent.clone().unwrap_or_default(),
                |ids| ids.traceparent(),
            ),
            tracestate: meta.tracestate.clone().unwrap_or_default(),
            baggage: meta.baggage.clone().unwrap_or_default(),
        }
    });
    wire::Run {
        number,
        key: run.key.to_string(),
        row_version: run.row_version,
        fields: fields.collect(),
        events: events.collect(),
        check: run.purpose == RunPurpose::Check,
        dry_run: run.purpose == RunPurpose::DryRun,
    }
}

/// Bytes of a run, roughly: names and numbers count as nothing.
pub fn weight(run: &ForeignRun) -> usize {
    let fields = run.fields.iter();
    let fields: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
    let events = run.events.iter();
    fields + events.map(|event| event.payload.len() + 256).sum::<usize>()
}

/// Contract of a child: what it says, or what it was given.
pub fn contract(said: &[u8], given: &[u8]) -> Vec<u8> {
    if said.is_empty() {
        given.to_vec()
    } else {
        merge_sets([said])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn description(manifest: wire::Manifest) -> Description {
        Description::new(manifest, Vec::new()).expect("a description")
    }

    fn failed(class: &str) -> wire::EventResult {
        let failure = wire::Failure {
            class: class.to_owned(),
            ..wire::Failure::default()
        };
        wire::EventResult {
            outcome: Some(Outcome::Retry(failure)),
            micros: 0,
        }
    }

    fn changed(table: &str) -> wire::EventResult {
        let change = WireChange::SetAdd("member".to_owned());
        let operation = wire::Operation {
            table: table.to_owned(),
            change: Some(change),
        };
        let done = wire::Done {
            operations: vec![operation],
            ..wire::Done::default()
        };
        wire::EventResult {
            outcome: Some(Outcome::Done(done)),
            micros: 0,
        }
    }

    fn part(events: Vec<wire::EventResult>, more: bool) -> wire::RunResult {
        wire::RunResult {
            number: 1,
            events,
            more,
            ..wire::RunResult::default()
        }
    }

    /// Outcome of the only event of a run.
    fn outcome(of: &Description, event: wire::EventResult) -> ForeignOutcome {
        let answer = of.answer(part(vec![event], false), 1, TIMEOUT);
        let mut answer = answer.expect("by the rules").expect("a row");
        answer.events.remove(0)
    }

    #[test]
    fn exceptions_of_many_names_leave_the_tables_alone() {
        let of = description(wire::Manifest {
            changes: vec!["totals".to_owned()],
            declares: true,
            ..wire::Manifest::default()
        });
        for n in 0..MAX_NAMES {
            let class = format!("Error{n}");
            let failure = outcome(&of, failed(&class)).result.expect_err("a failure");
            assert_eq!(failure.class, class);
        }
        let beyond = outcome(&of, failed("OneMore")).result;
        assert_eq!(beyond.expect_err("a failure").class, "error");
        let effects = outcome(&of, changed("totals")).result;
        assert_eq!(effects.expect("a change").ops[0].table, "totals");
    }

    #[test]
    fn as_many_tables_are_changed_as_are_declared() {
        let changes: Vec<String> = (0..2 * MAX_NAMES).map(|n| format!("t{n}")).collect();
        let of = description(wire::Manifest {
            changes: changes.clone(),
            declares: true,
            ..wire::Manifest::default()
        });
        for table in &changes {
            assert!(outcome(&of, changed(table)).result.is_ok(), "{table}");
        }
        let others = description(wire::Manifest::default());
        let refused = changes.iter().find_map(|table| {
            let result = outcome(&others, changed(table)).result;
            result.err().map(|failure| (table, failure.text))
        });
        let (table, text) = refused.expect("too many");
        assert_eq!(table, "t256");
        assert!(text.contains("`changes`"), "{text}");
    }

    #[test]
    fn a_result_in_parts_is_one_result() {
        let mut parts = Parts::default();
        let first = vec![changed("a"), changed("b")];
        assert_eq!(parts.take(part(first, true), 3), Ok(None));
        let whole = parts.take(part(vec![changed("c")], false), 3);
        let expected = vec![changed("a"), changed("b"), changed("c")];
        assert_eq!(whole, Ok(Some(part(expected, false))));
        let endless = vec![changed("a"); 4];
        let refused = parts.take(part(endless, true), 3).expect_err("too many");
        assert_eq!(refused, "4 results for the 3 events of run 1");
    }
}
