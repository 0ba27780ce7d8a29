//! `oncue audit`: every function's program looks up every event of its stream, and the sums must come out even.

use std::collections::BTreeMap;

use anstyle::Style;
use oncue_admin::audit::{self, AuditOutcome, FunctionAudit};
use oncue_core::model::audit::Audit;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, CHANGED, DIM, NAME, paint, remark, say};
use crate::terminal::table::{self, Cell, number, text};

/// Ids of lost events that are listed for each function.
const MAX_LOST_IDS: usize = 10;

/// Codes at the end of `oncue audit --help`.
const EXIT_CODES: &str = "Exit codes:
  0  every event is accounted for; dead letters and pending events are
  1  events are lost, were removed, or have outputs in no stream; or a function could not be audited
  4  NATS or Redis does not answer";

#[derive(clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    /// Functions to audit. Default: all of oncue.toml.
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, settings: &Settings) -> Result<u8, Failure> {
    let names: Vec<String> = if args.functions.is_empty() {
        settings.config.functions.keys().cloned().collect()
    } else {
        args.functions
    };
    if names.is_empty() {
        return Err(Failure::usage(
            "oncue.toml names no function; name those to audit",
        ));
    }
    let bus = settings.bus().await?;
    // Each program would find that out by itself, and say that something is wrong with its function.
    settings.store().await?;
    let audits = audit::audit(&names, &bus, &settings.config, &settings.bin).await;
    if args.json {
        say(json!(audits.iter().map(whole).collect::<Vec<_>>()));
    } else {
        show(&audits);
    }
    tell_gaps(settings).await;
    let reasons = audits.iter().flat_map(|audit| {
        let reasons = audit.why_bad().into_iter();
        reasons.map(move |why| format!("{}: {why}", audit.function))
    });
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() {
        return Ok(exit::OK);
    }
    // In JSON the sums say it.
    if !args.json {
        say(format!("Exit code 1: {}.", reasons.join("; ")));
    }
    Ok(exit::FAILED)
}

/// Names what a restore did not bring back: no audit of what is there can.
async fn tell_gaps(settings: &Settings) {
    let gaps = match settings.store().await {
        Ok(store) => store.gaps().await.map_err(|e| e.to_string()),
        Err(failure) => Err(failure.what),
    };
    let gaps = gaps.unwrap_or_else(|why| {
        remark(format_args!(
            "whether a restore has left something out cannot be told: {why}"
        ));
        BTreeMap::new()
    });
    for (stream, gap) in gaps {
        remark(format_args!(
            "{stream}: sequences {} to {} came after the backup of {} that was restored, and are gone",
            gap.from,
            gap.to,
            event::format_time(gap.backup)
        ));
    }
}

fn whole(audit: &FunctionAudit) -> Value {
    let name = &audit.function;
    match &audit.outcome {
        AuditOutcome::Done(audit) => json!(audit),
        AuditOutcome::NotStarted => json!({ "function": name, "error": null, "started": false }),
        AuditOutcome::Failed(why) => json!({ "function": name, "error": why.to_string() }),
    }
}

/// Prints the sums first, then the ids of what is lost, then what could not be audited and what the words mean.
fn show(audits: &[FunctionAudit]) {
    let done: Vec<&Audit> = audits.iter().filter_map(FunctionAudit::done).collect();
    if !done.is_empty() {
        let head = [
            "FUNCTION",
            "ACCEPTED",
            "= APPLIED",
            "+ DEAD",
            "+ PENDING",
            "LOST",
            "REMOVED",
            "EXPIRED",
        ];
        let rows: Vec<Vec<Cell>> = done.iter().map(|audit| row(audit)).collect();
        say(table::render(&head, &rows));
    }
    for audit in done.iter().filter(|audit| audit.lost > 0) {
        say(lost(audit));
    }
    for audit in done.iter().filter(|audit| audit.waiting_outputs > 0) {
        remark(format_args!(
            "{}: {} the outputs of {} commits are in no stream; `oncue doctor` says why",
            audit.function,
            paint(BAD, "waiting:"),
            audit.waiting_outputs
        ));
    }
    for removed in done.iter().flat_map(|audit| &audit.removed) {
        remark(format_args!(
            "{}: {} {removed}",
            removed.function,
            paint(BAD, "removed:")
        ));
    }
    for audit in audits {
        let name = &audit.function;
        match &audit.outcome {
            AuditOutcome::Done(_) => {}
            AuditOutcome::NotStarted => remark(format_args!(
                "{name}: it has no consumer yet, so it has acted on nothing"
            )),
            AuditOutcome::Failed(why) => remark(format_args!(
                "{name}: {} {why}",
                paint(BAD, "cannot be audited:")
            )),
        }
    }
    if done.iter().any(|audit| audit.expired > 0) {
        remark(
            "EXPIRED: older than the horizon, their seen-marks may be gone; nothing can be said of them",
        );
    }
    if done.iter().any(|audit| audit.removed_messages() > 0) {
        remark(
            "REMOVED: taken out of the stream too early, some of them maybe of types that are not the function's; their \
             senders must send them again, and `oncue recover nats` publishes what Redis has kept and takes the rest for lost",
        );
    }
    if done.iter().any(|audit| audit.lost > 0) {
        remark(
            "LOST: acked without an effect; `oncue recover redis --since T` delivers them again",
        );
    }
}

/// Ids of the first lost events of a function.
fn lost(audit: &Audit) -> String {
    let mut text = format!("{} {}", audit.function, paint(BAD, "has lost:"));
    for id in audit.lost_ids.iter().take(MAX_LOST_IDS) {
        text.extend(["\n  ", id]);
    }
    let more = audit.lost.saturating_sub(MAX_LOST_IDS as u64);
    if more > 0 {
        text.extend(["\n  and ", &more.to_string(), " more"]);
    }
    text
}

/// A number in a colour, unless it is 0.
fn coloured(n: u64, style: Style) -> Cell {
    number(n).style(if n > 0 { style } else { DIM })
}

fn row(audit: &Audit) -> Vec<Cell> {
    vec![
        text(&audit.function).style(NAME),
        number(audit.accepted),
        number(audit.applied),
        coloured(audit.dead, CHANGED),
        coloured(audit.pending, CHANGED),
        coloured(audit.lost, BAD),
        coloured(audit.removed_messages(), BAD),
        coloured(audit.expired, CHANGED),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stand_in_one_row() {
        let audit = Audit {
            function: "f".into(),
            accepted: 5,
            applied: 3,
            dead: 1,
            pending: 1,
            ..Audit::default()
        };
        let shown: Vec<String> = vec![table::render(&[""; 8], &[row(&audit)])];
        let plain = anstream::adapter::strip_str(&shown[0]).to_string();
        let words: Vec<&str> = plain.split_whitespace().collect();
        assert_eq!(words, ["f", "5", "3", "1", "1", "0", "0", "0"]);
    }
}
