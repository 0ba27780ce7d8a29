//! `oncue dlq redrive --dry-run`, in words: the function's own program runs its handler on the letter and on the row
//! as it is now, commits nothing, and says what would have come of it.

use std::fmt::Write as _;

use oncue_admin::dead_letters::{Bench, Letter, LetterError, Network, attempt};
use oncue_core::bus::Bus;
use oncue_core::model::dry_run::{DryRun, EmittedEvent};
use oncue_proto::{Catalog, Format};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, GOOD, NAME, brief, paint, say};

/// Characters of a value; longer ones are cut.
const MAX_VALUE: usize = 200;

/// One letter after the other: each is a process, and the lines are read in order.
pub async fn run(
    letters: &[Letter],
    bus: &Bus,
    settings: &Settings,
    network: Network,
) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let bench = Bench {
        bus,
        store: &settings.store().await?,
        config: &settings.config,
        bin: &settings.bin,
        network,
    };
    let mut failed = 0;
    for letter in letters {
        let answer = attempt(letter, &bench).await;
        failed += u64::from(!answer.as_ref().is_ok_and(DryRun::is_applied));
        say(report(letter, answer, &catalog));
    }
    say(paint(
        DIM,
        format_args!(
            "{} of {} would be applied; nothing was changed",
            letters.len() as u64 - failed,
            letters.len()
        ),
    ));
    Ok(if failed > 0 { exit::FAILED } else { exit::OK })
}

/// Letter and what would come of it, a paragraph.
fn report(letter: &Letter, answer: Result<DryRun, LetterError>, catalog: &Catalog) -> String {
    let mut out = format!(
        "{} {} {}",
        paint(BOLD, format_args!("#{}", letter.number)),
        paint(NAME, &letter.content.function),
        paint(DIM, &letter.content.event_id)
    );
    for line in lines(answer, catalog) {
        let _ = write!(out, "\n  {line}");
    }
    out
}

/// Outcome, changes and events, a line each.
fn lines(answer: Result<DryRun, LetterError>, catalog: &Catalog) -> Vec<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return vec![format!("{} {why}", paint(BAD, "cannot be tried:"))],
    };
    let mut lines = vec![match answer.outcome.as_str() {
        "applied" => paint(GOOD, "would be applied"),
        "dead" => {
            let again = paint(BAD, "would be set aside again:");
            format!("{again} {}", failure(&answer))
        }
        _ => format!("{} {}", paint(BAD, "would fail:"), failure(&answer)),
    }];
    if !answer.hint.is_empty() {
        lines.push(paint(DIM, &answer.hint));
    }
    for (field, value) in &answer.set {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        lines.push(format!(
            "{} {field} = {}",
            paint(CHANGED, "set   "),
            brief(&value, MAX_VALUE)
        ));
    }
    for field in &answer.del {
        lines.push(format!("{} {field}", paint(CHANGED, "remove")));
    }
    for operation in &answer.operations {
        lines.push(format!(
            "{} {}",
            paint(CHANGED, "change"),
            brief(operation, MAX_VALUE)
        ));
    }
    for EmittedEvent { ty, key, payload } in &answer.emits {
        lines.push(format!(
            "{} {ty} {} {}",
            paint(CHANGED, "emit  "),
            paint(NAME, key),
            decoded(catalog, ty, &payload.0)
        ));
    }
    if answer.is_applied()
        && answer.set.len() + answer.del.len() + answer.operations.len() + answer.emits.len() == 0
    {
        lines.push(paint(DIM, "no change, no events"));
    }
    lines
}

fn failure(
    DryRun {
        reason,
        message,
        site,
        ..
    }: &DryRun,
) -> String {
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!("{reason}: ")
    };
    let site = if site.is_empty() {
        String::new()
    } else {
        paint(DIM, format_args!(" at {site}"))
    };
    format!("{reason}{}{site}", brief(message, MAX_VALUE))
}

/// Payload as its type has it; how many bytes it is where nobody knows the type.
fn decoded(catalog: &Catalog, ty: &str, bytes: &[u8]) -> String {
    let json = catalog
        .get(ty)
        .and_then(|entry| entry.to_view(Format::Protobuf, bytes));
    json.map_or_else(
        |e| format!("({} bytes: {e})", bytes.len()),
        |json| brief(&json.to_string(), MAX_VALUE),
    )
}

#[cfg(test)]
mod tests {
    use oncue_admin::program::ProgramError;
    use oncue_proto::oncue::v1::DeadLetter;

    use super::*;

    fn shown(answer: &str) -> String {
        let letter = DeadLetter {
            function: "f".into(),
            event_id: "e".into(),
            ..DeadLetter::default()
        };
        let letter = Letter {
            number: 3,
            content: letter,
            group: "g".into(),
            traceparent: None,
        };
        let report = report(
            &letter,
            serde_json::from_str(answer).map_err(|e| ProgramError::from(e).into()),
            &Catalog::builtin()
                .with(oncue_app_events::DESCRIPTORS)
                .unwrap(),
        );
        anstream::adapter::strip_str(&report).to_string()
    }

    #[test]
    fn changes_and_events_are_shown_in_words() {
        let text = shown(
            r#"{"outcome":"applied","set":{"count":"2"},"del":["old"],"operations":["hits Add"],
                "emits":[{"type":"web.page.milestone","key":"/a","payload":"CgIvYRAK"}]}"#,
        );
        assert!(
            text.contains(
                "#3 f e\n  would be applied\n  set    count = 2\n  remove old\n  change hits Add"
            ),
            "{text}"
        );
        assert!(
            text.contains(r#"emit   web.page.milestone /a {"page":"/a","views":"10"}"#),
            "{text}"
        );
    }

    #[test]
    fn failures_are_shown_with_their_place() {
        let text = shown(r#"{"outcome":"retry","message":"not\nyet","site":"a.rs:7"}"#);
        assert_eq!(text, "#3 f e\n  would fail: not yet at a.rs:7");
        assert!(
            shown(r#"{"outcome":"dead","reason":"decode","message":"m"}"#)
                .contains("set aside again: decode: m")
        );
        assert!(shown("garbage").contains("cannot be tried"));
    }
}
