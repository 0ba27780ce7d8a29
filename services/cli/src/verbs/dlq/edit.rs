//! `oncue dlq edit`: one letter's event, sent again with another payload.

use std::io::Read as _;

use oncue_admin::dead_letters::{self, Edit, LetterError, resend};

use super::drop::SOURCE;
use super::target::Selection;
use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::confirm;
use crate::terminal::paint::{DIM, NAME, paint, remark, say};
use crate::who::who;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Payload it gets, as JSON; `-` reads it from stdin. A field that `dlq show` shows as (sensitive) keeps what it held
    /// where that stands.
    #[arg(long, value_name = "JSON")]
    data: String,
    /// Why; it stays on record.
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.why.trim().is_empty() {
        return Err(Failure::usage("--why must say why"));
    }
    let payload = payload(&args.data)?;
    let catalog = settings.catalog().await?;
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let letters = dead_letters::all(&bus).await.map_err(Failure::silent)?;
    let chosen = args.selection.choose(&letters)?;
    let [letter] = &chosen[..] else {
        let many = chosen.len();
        return Err(Failure::usage(format_args!(
            "one letter is edited at a time, and {many} are meant; name it by its number"
        )));
    };
    let ty = &letter.content.event_type;
    let entry = catalog.get(ty).map_err(Failure::usage)?;
    let number = letter.number;
    let function = &letter.content.function;
    confirm::ask(
        &format!("Send the event of #{number} to {function} with this payload?"),
        args.yes,
    )?;
    let who = who();
    let edit = Edit {
        payload: &payload,
        why: args.why.trim(),
        who: &who,
        source: SOURCE,
    };
    let sent = resend(letter, &edit, entry, &settings.config.bounds, &bus, &store).await;
    let id = sent.map_err(|e| match e {
        LetterError::Edit(why) => Failure::usage(why),
        gone @ (LetterError::Gone(_) | LetterError::Applied(_) | LetterError::UnderWay(_)) => {
            Failure::failed(gone)
        }
        other => Failure::failed(format_args!("#{number}: {other}"))
            .advise("the same command goes on from here; nothing happens twice"),
    })?;
    say(format_args!(
        "{} {} {} {}",
        paint(DIM, "id"),
        paint(NAME, &id),
        paint(DIM, "flow"),
        letter.content.flow_id
    ));
    remark(paint(
        DIM,
        format_args!("{function} alone gets it; `oncue dlq dropped` has #{number} on record"),
    ));
    Ok(exit::OK)
}

fn payload(data: &str) -> Result<String, Failure> {
    if data != "-" {
        return Ok(data.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|e| Failure::usage(format_args!("stdin: {e}")))?;
    Ok(text)
}
