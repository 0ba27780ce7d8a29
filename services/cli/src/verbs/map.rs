//! `oncue map`: the topology as declared, functions and the types between them; with `--drift`, where that and what
//! happens differ.

pub mod formats;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use oncue_admin::drift::{self, Kind, Observed};
use oncue_admin::topology::Topology;
use oncue_proto::event;
use serde_json::json;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, GOOD, NAME, paint, remark, say};

#[derive(clap::Args)]
pub struct Args {
    /// How the map is written.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Name what is declared and does not happen, and what happens and is not declared. Exit code 1 if there is any.
    #[arg(long)]
    drift: bool,
    /// A function is used if it acted on an event within this many days.
    #[arg(long, value_name = "N", default_value_t = 7, requires = "drift")]
    days: u64,
    /// Findings of this kind are not named; may be given several times.
    #[arg(long, value_parser = kinds(), value_name = "KIND", requires = "drift")]
    ignore: Vec<Kind>,
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::word)).try_map(|word| {
        Kind::ALL
            .into_iter()
            .find(|kind| kind.word() == word)
            .ok_or("no such kind")
    })
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A tree for people.
    Text,
    /// A flowchart for Mermaid.
    Mermaid,
    /// A graph for Graphviz.
    Dot,
    /// Everything known, for programs.
    Json,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let bus = settings.bus().await;
    let store = settings.store().await;
    for away in [bus.as_ref().err(), store.as_ref().err()]
        .into_iter()
        .flatten()
    {
        // Drift compares with what was seen: without a server everything would seem unused.
        if args.drift {
            return Err(Failure::silent(&away.what));
        }
        remark(format_args!(
            "{}: the map shows what the others know",
            away.what
        ));
    }
    let bus = bus.ok();
    let store = store.ok();
    let topology = settings.topology(bus.as_ref(), store.as_ref()).await?;
    if let (true, Some(bus), Some(store)) = (args.drift, &bus, &store) {
        let catalog = settings.catalog().await?;
        let observed = Observed::read(&catalog, &topology, bus, store)
            .await
            .map_err(Failure::silent)?;
        return Ok(drift(args, &topology, &observed));
    }
    say(match args.format {
        Format::Text => formats::text(&topology),
        Format::Mermaid => formats::mermaid(&topology),
        Format::Dot => formats::dot(&topology),
        Format::Json => formats::json(&topology).to_string(),
    });
    Ok(exit::OK)
}

fn drift(args: &Args, topology: &Topology, observed: &Observed) -> u8 {
    let mut findings = drift::findings(topology, observed, event::now_ms(), args.days);
    findings.retain(|finding| !args.ignore.contains(&finding.kind));
    if args.format == Format::Json {
        say(json!(findings));
    } else if findings.is_empty() {
        say(paint(GOOD, "declared and observed agree"));
    }
    if args.format != Format::Json {
        for finding in &findings {
            say(format_args!(
                "{} {}",
                paint(BAD, format_args!("{:<13}", finding.kind.word())),
                finding.what
            ));
            say(format_args!("{:14}{}", "", paint(DIM, &finding.advice)));
        }
        if observed.edges.is_empty() {
            let what = "nothing has been observed here yet, so use and undeclared edges were not looked at";
            remark(paint(NAME, what));
        }
    }
    if findings.is_empty() {
        exit::OK
    } else {
        exit::FAILED
    }
}
