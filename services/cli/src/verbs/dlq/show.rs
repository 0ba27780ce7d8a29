//! `oncue dlq show`: everything there is to know of one letter.

use std::fmt::Write as _;

use oncue_admin::dead_letters::{self, Letter};
use oncue_core::bus::Bus;
use oncue_proto::event;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_proto::{Catalog, Entry};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, DIM, NAME, paint, remark, say};
use crate::up::Viewer;
use crate::when;

use super::target::Selection;

/// Bytes of a payload shown in hexadecimal.
const MAX_HEX: usize = 1024;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    let bus = settings.bus().await?;
    let letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    let mut chosen = args.selection.choose(&letters)?;
    // The latest: it tells how things are with the code of now.
    let Some(letter) = chosen.pop() else {
        return args.selection.none(&letters, settings, &bus).await;
    };
    // As the console has it, or else the viewer of `oncue up`.
    let viewer = match &settings.config.console.traces {
        Some(named) => named.clone(),
        None => Viewer::of_environment()?.ui(),
    };
    say(page(&letter, &viewer));
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

/// Everything but the payload, a line for each fact that is there; `viewer` shows traces.
fn page(letter: &Letter, viewer: &str) -> String {
    let inner = &letter.content;
    let age = when::ago(letter.at(), event::now_ms());
    let mut out = format!(
        "{} of group {}, set aside {age} ago",
        paint(BOLD, format_args!("#{}", letter.number)),
        paint(BOLD, &letter.group)
    );
    let timed = if inner.timed { "" } else { " (the stream's)" };
    let message = clean(&inner.message);
    let attempts = times(inner.attempts);
    let redrives = times(inner.redrives);
    let accepted = time(inner.accepted_at.as_ref());
    let envelope = letter.envelope();
    let mut lines = vec![
        ("function", paint(NAME, &inner.function)),
        (
            "reason",
            format!("{}: {message}", paint(BAD, &inner.reason)),
        ),
        ("where", inner.site.clone()),
        ("tried", format!("{attempts}, redriven {redrives}")),
        ("event", clean(&inner.event_id)),
        ("type", clean(&inner.event_type)),
        ("key", clean(&inner.key)),
        ("flow", clean(&inner.flow_id)),
        ("time", format!("{}{timed}", time(inner.time.as_ref()))),
        (
            "accepted",
            format!("{accepted} as {}:{}", inner.stream, inner.sequence),
        ),
        ("set aside", time(inner.at.as_ref())),
        (
            "trace",
            letter
                .trace_id()
                .map(|id| format!("{}/trace/{id}", viewer.trim_end_matches('/')))
                .unwrap_or_default(),
        ),
        ("subject", clean(&envelope.subject)),
    ];
    lines.extend(envelope.headers.iter().map(|header| {
        let shown = format!("{}: {}", clean(&header.name), clean(&header.value));
        ("header", shown)
    }));
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(out, "\n{} {value}", paint(DIM, format_args!("{name:<10}")));
    }
    out
}

fn time(time: Option<&pbjson_types::Timestamp>) -> String {
    event::format_time(when::ms(time))
}

fn times(n: u32) -> String {
    if n == 1 {
        "once".to_owned()
    } else {
        format!("{n} times")
    }
}

/// Text of others without control characters: it must not steer the terminal.
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

fn title(note: &str) -> String {
    paint(DIM, format_args!("payload{note}"))
}

/// Payload in the best form there is: by its type, as the JSON it may be, in hexadecimal, or why there is none.
async fn payload(letter: &Letter, bus: &Bus, catalog: &Catalog) -> String {
    match dead_letters::complete(bus, &letter.content).await {
        Err(why) => format!("{}\n{}", title(""), paint(BAD, why)),
        Ok(letter) => match json(&letter, catalog) {
            Ok(json) => format!("{}\n{json}", title("")),
            Err(why)
                if catalog
                    .get(&letter.event_type)
                    .is_ok_and(Entry::is_sensitive) =>
            {
                title(&format!(" ({})", clean(&why)))
            }
            Err(why) => format!(
                "{}\n{}",
                title(&format!(" ({})", clean(&why))),
                raw(&letter)
            ),
        },
    }
}

fn json(letter: &DeadLetter, catalog: &Catalog) -> Result<String, String> {
    let incoming = dead_letters::message_of(letter).read(&letter.stream, 0)?;
    let entry = catalog.get(&incoming.meta.ty).map_err(|e| e.to_string())?;
    let json = entry
        .to_view(incoming.format, &incoming.payload)
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
    let mut lines: Vec<String> = bytes[..bytes.len().min(MAX_HEX)]
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
    if bytes.len() > MAX_HEX {
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
