//! `oncue dlq redrive --dry-run`: the function's own program runs its handler on the letter and on the row as it is now,
//! commits nothing, and says what would have come of it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncue_admin::dead_letters::{Answer, Emitted, Letter, attempt};
use oncue_core::bus::Bus;
use oncue_proto::{Catalog, Format};

use crate::exit::{self, Failure};
use crate::paint::{BAD, BOLD, CHANGED, DIM, GOOD, NAME, brief, paint, say};
use crate::settings::Settings;

/// Longer values are cut.
const LONGEST: usize = 200;

pub async fn run(letters: &[Letter], bus: &Bus, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let mut failed = 0;
    for letter in letters {
        let answer = attempt(letter, bus, &settings.config, &settings.bin).await;
        failed += u64::from(
            !answer
                .as_ref()
                .is_ok_and(|answer| answer.outcome == "applied"),
        );
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

fn report(letter: &Letter, answer: Result<Answer, String>, catalog: &Catalog) -> String {
    let (number, function, id) = (
        letter.number,
        &letter.content.function,
        &letter.content.event_id,
    );
    let mut out = format!(
        "{} {} {}",
        paint(BOLD, format_args!("#{number}")),
        paint(NAME, function),
        paint(DIM, id)
    );
    let mut line = |text: String| {
        let _ = write!(out, "\n  {text}");
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            line(format!("{} {why}", paint(BAD, "cannot be tried:")));
            return out;
        }
    };
    match answer.outcome.as_str() {
        "applied" => line(paint(GOOD, "would be applied")),
        "dead" => line(format!(
            "{} {}",
            paint(BAD, "would be set aside again:"),
            failure(&answer)
        )),
        _ => line(format!(
            "{} {}",
            paint(BAD, "would fail:"),
            failure(&answer)
        )),
    }
    for (field, value) in &answer.set {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        line(format!(
            "{} {field} = {}",
            paint(CHANGED, "set   "),
            brief(&value, LONGEST)
        ));
    }
    for field in &answer.del {
        line(format!("{} {field}", paint(CHANGED, "remove")));
    }
    for operation in &answer.operations {
        line(format!(
            "{} {}",
            paint(CHANGED, "change"),
            brief(operation, LONGEST)
        ));
    }
    for Emitted { ty, key, payload } in &answer.emits {
        line(format!(
            "{} {ty} {} {}",
            paint(CHANGED, "emit  "),
            paint(NAME, key),
            decoded(catalog, ty, payload)
        ));
    }
    if answer.outcome == "applied"
        && answer.set.len() + answer.del.len() + answer.operations.len() + answer.emits.len() == 0
    {
        line(paint(DIM, "no change, no events"));
    }
    out
}

fn failure(
    Answer {
        reason,
        message,
        site,
        ..
    }: &Answer,
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
    format!("{reason}{}{site}", brief(message, LONGEST))
}

fn decoded(catalog: &Catalog, ty: &str, payload: &str) -> String {
    let bytes = STANDARD.decode(payload).unwrap_or_default();
    let json = catalog
        .get(ty)
        .and_then(|entry| entry.to_json(Format::Protobuf, &bytes));
    json.map_or_else(
        |e| format!("({} bytes: {e})", bytes.len()),
        |json| brief(&json.to_string(), LONGEST),
    )
}

#[cfg(test)]
mod tests {
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
            serde_json::from_str(answer).map_err(|e| e.to_string()),
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
