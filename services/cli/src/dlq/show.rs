//! `oncue dlq show`: everything there is to know of one letter.

use std::fmt::Write as _;

use oncue_admin::dead_letters::{self, Letter};
use oncue_core::bus::Bus;
use oncue_proto::Catalog;
use oncue_proto::event::{self, Origin};
use oncue_proto::oncue::v1::DeadLetter;

use crate::exit::{self, Failure};
use crate::paint::{BAD, BOLD, DIM, NAME, paint, remark, say};
use crate::settings::Settings;
use crate::when;

use super::target::Selection;

const TRACE_UI: &str = "http://127.0.0.1:16686";
/// Bytes of a payload shown in hexadecimal.
const HEX: usize = 1024;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let bus = settings.bus().await?;
    let mut chosen = args
        .selection
        .choose(&dead_letters::all(&bus).await.map_err(Failure::silent)?)?;
    let Some(letter) = chosen.pop() else {
        say("no such dead letters");
        return Ok(exit::OK);
    };
    say(page(&letter));
    say(payload(&letter, &bus, &catalog).await);
    if !chosen.is_empty() {
        let others: Vec<String> = chosen
            .iter()
            .rev()
            .take(10)
            .map(|other| format!("#{}", other.number))
            .collect();
        let more = if chosen.len() > others.len() {
            " ..."
        } else {
            ""
        };
        remark(format_args!(
            "the latest of {}; the others: {}{more}",
            chosen.len() + 1,
            others.join(" ")
        ));
    }
    Ok(exit::OK)
}

fn page(letter: &Letter) -> String {
    let inner = &letter.content;
    let time = |time: Option<&pbjson_types::Timestamp>| event::format_time(when::ms(time));
    let age = when::ago(when::ms(inner.at.as_ref()), event::now_ms());
    let times = |n: u32| {
        if n == 1 {
            "once".to_owned()
        } else {
            format!("{n} times")
        }
    };
    let mut out = format!(
        "{} of group {}, set aside {age} ago",
        paint(BOLD, format_args!("#{}", letter.number)),
        paint(BOLD, &letter.group)
    );
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = write!(out, "\n{} {value}", paint(DIM, format_args!("{name:<10}")));
        }
    };
    line("function", paint(NAME, &inner.function));
    line(
        "reason",
        format!("{}: {}", paint(BAD, &inner.reason), clean(&inner.message)),
    );
    line("where", inner.site.clone());
    line(
        "tried",
        format!(
            "{}, redriven {}",
            times(inner.attempts),
            times(inner.redrives)
        ),
    );
    line("event", clean(&inner.event_id));
    line("type", clean(&inner.event_type));
    line("key", clean(&inner.key));
    line("flow", clean(&inner.flow_id));
    line(
        "time",
        format!(
            "{}{}",
            time(inner.time.as_ref()),
            if inner.timed { "" } else { " (the stream's)" }
        ),
    );
    line(
        "accepted",
        format!(
            "{} as {}:{}",
            time(inner.accepted_at.as_ref()),
            inner.stream,
            inner.sequence
        ),
    );
    line("set aside", time(inner.at.as_ref()));
    line(
        "trace",
        letter.trace_id().map(trace_link).unwrap_or_default(),
    );
    let envelope = letter.envelope();
    line("subject", clean(&envelope.subject));
    for header in &envelope.headers {
        line(
            "header",
            format!("{}: {}", clean(&header.name), clean(&header.value)),
        );
    }
    out
}

fn trace_link(id: &str) -> String {
    let base = std::env::var("ONCUE_TRACE_UI")
        .ok()
        .filter(|base| !base.is_empty());
    format!(
        "{}/trace/{id}",
        base.as_deref().unwrap_or(TRACE_UI).trim_end_matches('/')
    )
}

/// What others have written must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

async fn payload(letter: &Letter, bus: &Bus, catalog: &Catalog) -> String {
    let title = |note: &str| paint(DIM, format_args!("payload{note}"));
    match dead_letters::complete(bus, &letter.content).await {
        Err(why) => format!("{}\n{}", title(""), paint(BAD, why)),
        Ok(letter) => match json(&letter, catalog) {
            Ok(json) => format!("{}\n{json}", title("")),
            Err(why) => format!(
                "{}\n{}",
                title(&format!(" ({})", clean(&why))),
                raw(&letter)
            ),
        },
    }
}

fn json(letter: &DeadLetter, catalog: &Catalog) -> Result<String, String> {
    let envelope = letter.envelope.clone().unwrap_or_default();
    let origin = Origin {
        stream: &letter.stream,
        stream_created: 0,
        sequence: letter.sequence,
        published: when::ms(letter.accepted_at.as_ref()),
        subject: &envelope.subject,
    };
    let headers = envelope
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_str()));
    let incoming =
        event::read(headers, envelope.payload.clone(), &origin).map_err(|e| e.message)?;
    let entry = catalog.get(&incoming.meta.ty).map_err(|e| e.to_string())?;
    let json = entry
        .to_json(incoming.format, &incoming.payload)
        .map_err(|e| e.to_string())?;
    serde_json::to_string_pretty(&json).map_err(|e| e.to_string())
}

/// JSON of a kind nobody knows, or the bytes.
fn raw(letter: &DeadLetter) -> String {
    let payload = letter.envelope.clone().unwrap_or_default().payload;
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&payload) {
        return serde_json::to_string_pretty(&json).unwrap_or_default();
    }
    hex(&payload)
}

/// Sixteen bytes a line, with their characters.
fn hex(bytes: &[u8]) -> String {
    let mut lines: Vec<String> = bytes[..bytes.len().min(HEX)]
        .chunks(16)
        .enumerate()
        .map(|(at, chunk)| {
            let codes: String = chunk.iter().map(|byte| format!("{byte:02x} ")).collect();
            let text: String = chunk
                .iter()
                .map(|b| {
                    if (0x20..0x7f).contains(b) {
                        *b as char
                    } else {
                        '.'
                    }
                })
                .collect();
            format!("{:06x}  {codes:<48} {text}", at * 16)
        })
        .collect();
    if bytes.len() > HEX {
        lines.push(format!("... {} bytes in all", bytes.len()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::Envelope;

    use super::*;

    fn letter(payload: &'static [u8]) -> DeadLetter {
        let envelope = Envelope {
            subject: "web.page.viewed".into(),
            headers: Vec::new(),
            payload: payload.into(),
        };
        DeadLetter {
            stream: "web".into(),
            envelope: Some(envelope),
            ..DeadLetter::default()
        }
    }

    #[test]
    fn a_payload_is_shown_decoded_or_as_it_is() {
        let catalog = Catalog::builtin()
            .with(oncue_app_events::DESCRIPTORS)
            .unwrap();
        assert!(
            json(&letter(br#"{"page":"/a"}"#), &catalog)
                .unwrap()
                .contains("\n  \"page\": \"/a\"")
        );
        assert!(json(&letter(b"\xff\x01"), &catalog).is_err());
        assert_eq!(
            raw(&letter(b"\xff\x1bA")),
            format!("000000  {:<48} ..A", "ff 1b 41")
        );
        assert_eq!(raw(&letter(b"[1]")), "[\n  1\n]");
        assert!(hex(&[0; 2000]).ends_with("... 2000 bytes in all"));
    }

    #[test]
    fn nothing_in_a_letter_steers_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
