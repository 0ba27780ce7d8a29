//! `oncue dlq ls`: what lies there, by cause or letter by letter.

use oncue_admin::dead_letters::{self, Group, Letter, grouped};
use oncue_proto::event;
use serde_json::json;

use crate::exit::{self, Failure};
use crate::paint::{BAD, BOLD, DIM, NAME, brief, remark, say, width};
use crate::settings::Settings;
use crate::table::{self, Cell, number, text};
use crate::when;

/// Where nothing cuts the table, a message is still cut somewhere: it may quote a whole payload.
const LONGEST: usize = 200;

#[derive(clap::Args)]
pub struct Args {
    /// Only letters of this function.
    #[arg(long, value_name = "F")]
    function: Option<String>,
    /// Only letters with this class of reason.
    #[arg(long, value_name = "R")]
    reason: Option<String>,
    /// One line for each letter.
    #[arg(long)]
    each: bool,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await?;
    let fits =
        |wanted: &Option<String>, is: &String| wanted.as_ref().is_none_or(|wanted| wanted == is);
    let mut letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    letters.retain(|l| {
        fits(&args.function, &l.content.function) && fits(&args.reason, &l.content.reason)
    });
    let now = event::now_ms();
    match (args.json, args.each) {
        (true, true) => say(json!(letters.iter().map(letter_json).collect::<Vec<_>>())),
        (true, false) => say(json!(
            grouped(&letters).iter().map(group_json).collect::<Vec<_>>()
        )),
        (false, _) if letters.is_empty() => say("no dead letters"),
        (false, true) => say(each(&letters, now)),
        (false, false) => {
            say(by_group(&grouped(&letters), now));
            remark(
                "see one with `oncue dlq show GROUP`; give them back with `oncue dlq redrive GROUP` (try --dry-run)",
            );
        }
    }
    Ok(exit::OK)
}

fn at(letter: &Letter) -> u64 {
    when::ms(letter.content.at.as_ref())
}

fn by_group(groups: &[Group<'_>], now: u64) -> String {
    let row = |group: &Group<'_>| -> Vec<Cell> {
        let times = || group.letters.iter().map(|letter| at(letter));
        let latest = group.letters[group.letters.len() - 1];
        vec![
            text(group.name).style(BOLD),
            text(&latest.content.function).style(NAME),
            text(&latest.content.reason).style(BAD),
            text(if latest.content.site.is_empty() {
                "-"
            } else {
                &latest.content.site
            }),
            number(group.letters.len() as u64),
            text(when::ago(times().min().unwrap_or(0), now)).right(),
            text(when::ago(times().max().unwrap_or(0), now)).right(),
            text(brief(&latest.content.message, LONGEST)),
        ]
    };
    let head = [
        "GROUP", "FUNCTION", "REASON", "WHERE", "COUNT", "FIRST", "LAST", "MESSAGE",
    ];
    table::render_within(&head, groups.iter().map(row).collect(), width())
}

fn each(letters: &[Letter], now: u64) -> String {
    let row = |letter: &Letter| -> Vec<Cell> {
        let inner = &letter.content;
        vec![
            text(format!("#{}", letter.number)).right().style(BOLD),
            text(&letter.group),
            text(&inner.function).style(NAME),
            text(&inner.reason).style(BAD),
            text(brief(&inner.event_id, 48)),
            text(brief(&inner.key, 32)),
            number(inner.attempts.into()),
            number(inner.redrives.into()).style(if inner.redrives > 0 { BAD } else { DIM }),
            text(when::ago(at(letter), now)).right(),
        ]
    };
    let head = [
        "LETTER", "GROUP", "FUNCTION", "REASON", "EVENT", "KEY", "ATTEMPTS", "REDRIVES", "AGE",
    ];
    table::render(&head, &letters.iter().map(row).collect::<Vec<_>>())
}

fn group_json(group: &Group<'_>) -> serde_json::Value {
    let times = || group.letters.iter().map(|letter| at(letter));
    let time = |ms: Option<u64>| event::format_time(ms.unwrap_or(0));
    let latest = &group.letters[group.letters.len() - 1].content;
    json!({
        "group": group.name,
        "function": latest.function,
        "reason": latest.reason,
        "site": latest.site,
        "count": group.letters.len(),
        "first": time(times().min()),
        "last": time(times().max()),
        "message": latest.message,
        "letters": group.letters.iter().map(|letter| letter.number).collect::<Vec<_>>(),
    })
}

fn letter_json(letter: &Letter) -> serde_json::Value {
    let inner = &letter.content;
    json!({
        "number": letter.number,
        "group": letter.group,
        "function": inner.function,
        "reason": inner.reason,
        "message": inner.message,
        "site": inner.site,
        "event": inner.event_id,
        "type": inner.event_type,
        "flow": inner.flow_id,
        "key": inner.key,
        "attempts": inner.attempts,
        "redrives": inner.redrives,
        "at": event::format_time(at(letter)),
        "stream": inner.stream,
        "sequence": inner.sequence,
        "trace": letter.trace_id(),
    })
}
