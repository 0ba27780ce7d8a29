//! `oncue audit`: every function's program looks up every event of its stream, and the sums must come out even.

use futures::{StreamExt as _, stream};
use oncue_admin::program;
use oncue_core::bus::Bus;
use oncue_core::model::audit::Audit;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::paint::{BAD, CHANGED, DIM, NAME, paint, remark, say};
use crate::settings::Settings;
use crate::table::{self, Cell, number, text};

/// Programs at a time: each reads a whole stream.
const AT_ONCE: usize = 4;
/// Ids of lost events that are listed for each function.
const LISTED: usize = 10;

#[derive(clap::Args)]
pub struct Args {
    /// Functions to audit. Default: all of oncue.toml.
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

enum Audited {
    Done(Audit),
    /// It has no consumer yet, so it has seen no event.
    NotStarted,
    Failed(String),
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
    let audits = stream::iter(&names)
        .map(|name| audit(name, &bus, settings))
        .buffered(AT_ONCE);
    let audits: Vec<(&String, Audited)> =
        names.iter().zip(audits.collect::<Vec<_>>().await).collect();
    if args.json {
        say(json!(
            audits
                .iter()
                .map(|(name, audited)| whole(name, audited))
                .collect::<Vec<_>>()
        ));
    } else {
        show(&audits);
    }
    let bad = |audited: &Audited| match audited {
        Audited::Done(audit) => audit.lost > 0,
        Audited::NotStarted => false,
        Audited::Failed(_) => true,
    };
    Ok(if audits.iter().any(|(_, audited)| bad(audited)) {
        exit::FAILED
    } else {
        exit::OK
    })
}

async fn audit(name: &str, bus: &Bus, settings: &Settings) -> Audited {
    let manifest = match program::manifest(&settings.bin, name).await {
        Ok(manifest) => manifest,
        Err(why) => return Audited::Failed(why),
    };
    match bus
        .api(
            &format!("CONSUMER.INFO.{}.{name}", manifest.stream),
            &Value::Null,
        )
        .await
    {
        Ok(_) => {}
        Err(e) if e.is_not_found() => return Audited::NotStarted,
        Err(e) => return Audited::Failed(e.to_string()),
    }
    match program::ask(&settings.bin, &settings.config, name, "--audit", &[]).await {
        Ok(audit) => Audited::Done(audit),
        Err(why) => Audited::Failed(why),
    }
}

fn whole(name: &str, audited: &Audited) -> Value {
    match audited {
        Audited::Done(audit) => json!(audit),
        Audited::NotStarted => json!({ "function": name, "error": null, "started": false }),
        Audited::Failed(why) => json!({ "function": name, "error": why }),
    }
}

fn show(audits: &[(&String, Audited)]) {
    let done: Vec<&Audit> = audits
        .iter()
        .filter_map(|(_, audited)| match audited {
            Audited::Done(audit) => Some(audit),
            _ => None,
        })
        .collect();
    if !done.is_empty() {
        let head = [
            "FUNCTION",
            "ACCEPTED",
            "= APPLIED",
            "+ DEAD",
            "+ PENDING",
            "LOST",
            "EXPIRED",
        ];
        say(table::render(
            &head,
            &done.iter().map(|audit| row(audit)).collect::<Vec<_>>(),
        ));
    }
    for audit in done.iter().filter(|audit| audit.lost > 0) {
        let ids = audit
            .lost_ids
            .iter()
            .take(LISTED)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n  ");
        let more = audit.lost.saturating_sub(LISTED as u64);
        let more = if more > 0 {
            format!("\n  and {more} more")
        } else {
            String::new()
        };
        say(format_args!(
            "{} {}\n  {ids}{more}",
            audit.function,
            paint(BAD, "has lost:")
        ));
    }
    for (name, audited) in audits {
        match audited {
            Audited::Done(_) => {}
            Audited::NotStarted => remark(format_args!(
                "{name}: it has no consumer yet, so it has acted on nothing"
            )),
            Audited::Failed(why) => remark(format_args!(
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
    if done.iter().any(|audit| audit.lost > 0) {
        remark(
            "LOST: acked without an effect; `oncue recover redis --since T` delivers them again",
        );
    }
}

fn row(audit: &Audit) -> Vec<Cell> {
    let some = |n: u64, style| number(n).style(if n > 0 { style } else { DIM });
    vec![
        text(&audit.function).style(NAME),
        number(audit.accepted),
        number(audit.applied),
        some(audit.dead, CHANGED),
        some(audit.pending, CHANGED),
        some(audit.lost, BAD),
        some(audit.expired, CHANGED),
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
        let shown: Vec<String> = vec![table::render(&[""; 7], &[row(&audit)])];
        let plain = anstream::adapter::strip_str(&shown[0]).to_string();
        let words: Vec<&str> = plain.split_whitespace().collect();
        assert_eq!(words, ["f", "5", "3", "1", "1", "0", "0"]);
    }
}
