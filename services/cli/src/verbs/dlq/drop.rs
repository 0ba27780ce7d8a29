//! `oncue dlq drop` and `dropped`: a letter is given up only with a name and a reason on record.

use oncue_admin::dead_letters::{self, LetterError, give_up};
use oncue_proto::event;
use oncue_proto::oncue::v1::DeadLetterDropped;
use serde_json::json;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{BAD, BOLD, NAME, brief, number, remark, say, width};
use crate::terminal::table::{self, Cell, text};
use crate::when;
use crate::who::who;

use super::target::Selection;

/// Source of the records, as CloudEvents have it.
pub(super) const SOURCE: &str = "/oncue/cli";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Why; it stays on record.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(clap::Args)]
pub struct ListArgs {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

const FULL: &str = "if the stream dlq is full, it cannot take the record: raise its max_bytes and run `oncue apply`";

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.why.trim().is_empty() {
        return Err(Failure::usage("--why must say why"));
    }
    let bus = settings.bus().await?;
    let letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    let chosen = args.selection.choose(&letters)?;
    if chosen.is_empty() {
        return args.selection.none(&letters, settings, &bus).await;
    }
    if chosen.len() > 1 {
        confirm::ask(
            &format!("Drop {} letters for good?", chosen.len()),
            args.yes,
        )?;
    }
    let who = who();
    let why = args.why.trim();
    let store = settings.store().await?;
    let mut dropped = 0;
    // One by one: what was dropped before a failure is on record and stays dropped.
    for letter in &chosen {
        match give_up(letter, why, &who, SOURCE, &bus, &store).await {
            Ok(()) => dropped += 1,
            Err(
                e @ (LetterError::Gone(_) | LetterError::Applied(_) | LetterError::UnderWay(_)),
            ) => remark(e),
            Err(e) => {
                let number = letter.number;
                return Err(
                    Failure::failed(format_args!("#{number} is still there: {e}")).advise(FULL),
                );
            }
        }
    }
    say(format_args!(
        "{} dropped; `oncue dlq dropped` lists them",
        number(dropped)
    ));
    // Whoever meant them was told why they were not.
    if dropped < chosen.len() as u64 {
        return Ok(exit::FAILED);
    }
    Ok(exit::OK)
}

pub async fn list(args: &ListArgs, settings: &Settings) -> Result<u8, Failure> {
    let records = dead_letters::dropped(&settings.bus().await?)
        .await
        .map_err(Failure::silent)?;
    if args.json {
        say(json!(records.iter().map(whole).collect::<Vec<_>>()));
    } else if records.is_empty() {
        say("no letter was dropped");
    } else {
        let head = ["AGE", "FUNCTION", "REASON", "EVENT", "WHO", "WHY"];
        say(table::render_within(
            &head,
            records.iter().map(row).collect(),
            width(),
        ));
    }
    Ok(exit::OK)
}

fn whole(record: &DeadLetterDropped) -> serde_json::Value {
    json!({
        "at": event::format_time(when::ms(record.at.as_ref())),
        "function": record.function,
        "reason": record.reason,
        "message": record.message,
        "event": record.event_id,
        "type": record.event_type,
        "flow": record.flow_id,
        "who": record.who,
        "why": record.why,
    })
}

fn row(record: &DeadLetterDropped) -> Vec<Cell> {
    vec![
        text(when::ago(when::ms(record.at.as_ref()), event::now_ms())).right(),
        text(&record.function).style(NAME),
        text(&record.reason).style(BAD),
        text(brief(&record.event_id, 48)),
        text(brief(&record.who, 48)).style(BOLD),
        text(brief(&record.why, 200)),
    ]
}
