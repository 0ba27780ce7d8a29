//! `oncue dlq ls`: what lies there, by cause or letter by letter.

use std::collections::BTreeMap;

use oncue_admin::dead_letters::{self, GroupOwner, Letter, LetterFilter, LetterGroup, grouped};
use oncue_proto::event;
use serde_json::json;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, DIM, NAME, brief, remark, say, width};
use crate::terminal::table::{self, Cell, number, text};
use crate::when;

use super::target::check_function;

/// Characters of a message where nothing cuts the table: it may quote a whole payload.
const MAX_MESSAGE: usize = 200;

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
    let filter = LetterFilter {
        function: args.function.clone(),
        reason: args.reason.clone(),
    };
    let mut letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    if let Some(function) = &args.function
        && !letters.iter().any(|letter| filter.passes(letter))
    {
        check_function(function, &letters, settings, &bus).await?;
    }
    letters.retain(|letter| filter.passes(letter));
    let now = event::now_ms();
    // Without Redis nobody is known to see to anything.
    let owners = match settings.store().await {
        Ok(store) => dead_letters::owners(&store).await.unwrap_or_default(),
        Err(_) => Owners::new(),
    };
    match (args.json, args.each) {
        (true, true) => say(json!(letters.iter().map(letter_json).collect::<Vec<_>>())),
        (true, false) => {
            let groups = grouped(&letters);
            let groups = groups
                .iter()
                .map(|group| group_json(group, owners.get(group.name)));
            say(json!(groups.collect::<Vec<_>>()));
        }
        (false, _) if letters.is_empty() => say("no dead letters"),
        (false, true) => say(each(&letters, now)),
        (false, false) => {
            say(by_group(&grouped(&letters), &owners, now));
            remark(
                "see one with `oncue dlq show GROUP`; give them back with `oncue dlq redrive GROUP` (try --dry-run)",
            );
        }
    }
    Ok(exit::OK)
}

/// Owner of each group that has one.
type Owners = BTreeMap<String, GroupOwner>;

fn by_group(groups: &[LetterGroup<'_>], owners: &Owners, now: u64) -> String {
    let mut head = vec![
        "GROUP", "FUNCTION", "REASON", "WHERE", "COUNT", "FIRST", "LAST",
    ];
    // A column only where somebody does.
    let is_taken = groups.iter().any(|group| owners.contains_key(group.name));
    if is_taken {
        head.push("OWNER");
    }
    head.push("MESSAGE");
    let rows = groups.iter().map(|group| {
        let mut row = group_row(group, now);
        if is_taken {
            let owner = owners.get(group.name).map(|owner| owner.who.as_str());
            row.insert(row.len() - 1, text(owner.unwrap_or("-")));
        }
        row
    });
    table::render_within(&head, rows.collect(), width())
}

fn group_row(group: &LetterGroup<'_>, now: u64) -> Vec<Cell> {
    let latest = group.latest();
    let (first, last) = group.span();
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
        text(when::ago(first, now)).right(),
        text(when::ago(last, now)).right(),
        text(brief(&latest.content.message, MAX_MESSAGE)),
    ]
}

fn each(letters: &[Letter], now: u64) -> String {
    let head = [
        "LETTER", "GROUP", "FUNCTION", "REASON", "EVENT", "KEY", "ATTEMPTS", "REDRIVES", "AGE",
    ];
    table::render(
        &head,
        &letters
            .iter()
            .map(|letter| letter_row(letter, now))
            .collect::<Vec<_>>(),
    )
}

fn letter_row(letter: &Letter, now: u64) -> Vec<Cell> {
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
        text(when::ago(letter.at(), now)).right(),
    ]
}

fn group_json(group: &LetterGroup<'_>, owner: Option<&GroupOwner>) -> serde_json::Value {
    let (first, last) = group.span();
    let latest = &group.latest().content;
    json!({
        "group": group.name,
        "function": latest.function,
        "reason": latest.reason,
        "site": latest.site,
        "count": group.letters.len(),
        "first": event::format_time(first),
        "last": event::format_time(last),
        "message": latest.message,
        "owner": owner,
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
        "at": event::format_time(letter.at()),
        "stream": inner.stream,
        "sequence": inner.sequence,
        "trace": letter.trace_id(),
    })
}
