//! `FUNCTION --try`: what the function would do with a dead letter now. Only its own binary can tell, and a handler may do
//! anything; so its process is kept off the network by whoever starts it, and holds no connection. Row and files come from
//! the program that asks, over stdin and stdout; see [`oncue_core::model::dry_run`].

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use oncue_proto::Draft;
use oncue_proto::event::{self, Origin};
use oncue_proto::oncue::v1::DeadLetter;
use prost::Message as _;

use crate::context::Context;
use crate::files::FileStore;
use crate::foreign::{
    ForeignAnswer, ForeignEvent, ForeignFiles, ForeignRun, Keyed, Lost, RunPurpose,
};
use crate::function::Erased;
use crate::inspect::InspectError;
use crate::operator::{Operator, hear, say};
use crate::state::{AnyRow, author_fields, stored_version};
use crate::worker::effects::panic_text;
use crate::worker::watchdog::take_panic_site;
use oncue_core::config::Config;
use oncue_core::model::dry_run::{Binary, DryRun, EmittedEvent, Question, TriedLetter};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Fields, Op};

/// Runs the handler on the dead letter from stdin and on the row as it is now, and says on stdout what would come of it.
///
/// # Errors
///
/// The function runs at most once, stdin holds no dead letter, the program that asks does not answer, or the row cannot be
/// read.
pub(crate) async fn dry_run(
    function: &Erased,
    manifest: &Manifest,
    config: &Config,
) -> Result<(), InspectError> {
    if function.at_most_once {
        return Err(format!(
            "{} runs at most once on an event, so it cannot be tried",
            function.name
        )
        .into());
    }
    let tried: TriedLetter = hear().map_err(|why| format!("no letter on stdin: {why}"))?;
    let letter = DeadLetter::decode(&tried.letter.0[..])?;
    let operator = Operator::default();
    let timeout = manifest.limits(config).timeout.0;
    say(&Question::Begun {
        timeout_ms: timeout.as_millis() as u64,
    })?;
    let envelope = letter.envelope.clone().unwrap_or_default();
    let origin = Origin {
        stream: &letter.stream,
        stream_created: tried.stream_created,
        sequence: letter.sequence,
        published: letter.accepted_at.as_ref().map_or(0, |at| {
            at.seconds as u64 * 1000 + at.nanos as u64 / 1_000_000
        }),
        subject: &envelope.subject,
    };
    let headers = envelope
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_str()));
    let incoming = match event::read(headers, envelope.payload.clone(), &origin) {
        Ok(incoming) => incoming,
        Err(e) => return Ok(finish(unreadable(e.reason, e.message))?),
    };
    let event = match (function.decode)(&incoming.meta.ty, incoming.format, &incoming.payload) {
        Ok(event) => event,
        Err(e) => return Ok(finish(unreadable("decode", e.0))?),
    };
    let key = (function.key)(&event);
    let mut fields = Vec::new();
    if !function.table.is_empty() {
        let row = operator.row(function.table, &key).await?;
        fields = row
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect();
    }
    if let Some(call) = &function.foreign {
        let run = ForeignRun {
            key: key.into(),
            row_version: stored_version(&fields, function.row_version)?,
            fields: author_fields(&fields),
            events: vec![ForeignEvent {
                meta: incoming.meta.into(),
                payload: event
                    .downcast::<Keyed>()
                    .map(|keyed| keyed.payload)
                    .unwrap_or_default(),
                attempt: 1,
                ids: None,
            }],
            purpose: RunPurpose::DryRun,
            timeout,
            files: ForeignFiles::new(FileStore::Operator(operator), function.declared()),
        };
        return Ok(finish(elsewhere(call(run).await))?);
    }
    let mut state = (function.open)(&fields)?;
    let context = Context::new(
        incoming.meta.into(),
        key.into(),
        function.declared(),
        1,
        FileStore::Operator(operator),
    );
    let call = AssertUnwindSafe((function.call)(event, state.as_mut(), &context)).catch_unwind();
    let outcome = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(Ok(drafts))) => {
            state.keep();
            applied(state.as_ref(), &context, &drafts)?
        }
        Ok(Ok(Err(error))) => {
            let outcome = if error.rejected { "dead" } else { "retry" };
            failed(outcome, error.message, error.site)
        }
        Ok(Err(panic)) => {
            let message = format!("panicked: {}", panic_text(panic.as_ref()));
            failed("retry", message, take_panic_site())
        }
        Err(_) => failed(
            "retry",
            format!("still running after {timeout:?}"),
            String::new(),
        ),
    };
    Ok(finish(outcome)?)
}

/// Says what would come of it.
fn finish(outcome: DryRun) -> std::io::Result<()> {
    say(&Question::Finished(outcome))
}

/// Outcome of a run in another process.
fn elsewhere(answered: Result<ForeignAnswer, Lost>) -> DryRun {
    let answer = match answered.and_then(|answer| answer.of_events(1)) {
        Ok(answer) => answer,
        Err(lost) => return failed("retry", lost.text().to_owned(), String::new()),
    };
    let outcome = answer.events.into_iter().next();
    match outcome.map(|outcome| outcome.result) {
        Some(Ok(effects)) => done(answer.set, answer.deleted, &effects.ops, &effects.drafts),
        Some(Err(failure)) if failure.rejected => failed("dead", failure.text, failure.place),
        Some(Err(failure)) => failed("retry", failure.text, failure.place),
        None => DryRun::default(),
    }
}

/// Outcome for an event that does not come to its handler.
fn unreadable(reason: &str, message: String) -> DryRun {
    DryRun {
        outcome: "dead".into(),
        reason: reason.to_owned(),
        message,
        ..DryRun::default()
    }
}

/// Outcome of a run that failed.
fn failed(outcome: &str, message: String, site: String) -> DryRun {
    DryRun {
        outcome: outcome.to_owned(),
        message,
        site,
        ..DryRun::default()
    }
}

/// Outcome of a run that went well: fields set and deleted, blind operations, and events that would follow.
fn applied(
    state: &dyn AnyRow,
    context: &Context,
    drafts: &[Draft],
) -> Result<DryRun, InspectError> {
    let (set, del) = state.changes()?;
    Ok(done(set, del, &context.take_ops(), drafts))
}

/// Outcome of a run that went well, by its effects.
fn done(set: Fields, del: Vec<String>, ops: &[Op], drafts: &[Draft]) -> DryRun {
    let set = set
        .into_iter()
        .map(|(field, value)| (field, String::from_utf8_lossy(&value).into()));
    let operations = ops.iter().map(|op| format!("{} {:?}", op.table, op.change));
    let emits = drafts.iter().map(|draft| EmittedEvent {
        ty: draft.ty.to_owned(),
        key: draft.key.clone(),
        payload: Binary(draft.payload.to_vec()),
    });
    DryRun {
        outcome: "applied".into(),
        set: set.collect(),
        del,
        operations: operations.collect(),
        emits: emits.collect(),
        ..DryRun::default()
    }
}
