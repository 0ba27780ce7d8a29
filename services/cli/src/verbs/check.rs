//! `oncue check`: tries new programs before they are let in: their contract against the one that events were written with,
//! their triggers and keys against what waits, and their decoders against samples of what is there.

use std::path::{Path, PathBuf};

use oncue_admin::changes::{self, owners};
use oncue_core::bus::Bus;
use oncue_core::bus::layout::Mode;
use oncue_core::model::check::{Check, SAMPLES, Sample};
use oncue_core::model::manifest::Manifest;
use serde::Serialize;

use super::apply::{self, ChangeAction, Consent, Layout};
use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, GOOD, NAME, paint, remark, say};
use crate::terminal::table::{self, Cell, text};
use crate::trial;

#[derive(clap::Args)]
pub struct Args {
    /// Functions to check. Default: all of oncue.toml.
    #[arg(value_name = "FUNCTION")]
    functions: Vec<String>,
    /// Ask no server: configuration, programs, and the contract against --against.
    #[arg(long = "static")]
    without_servers: bool,
    /// Contract to compare with, as --save has written it.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write the contract of the programs, for --against of a later check.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Rows, waiting events, delayed events and dead letters to try, of each kind and function.
    #[arg(long, value_name = "N", default_value_t = SAMPLES)]
    samples: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Result of a check; printed as it is by `--json`.
#[derive(Debug, Default, Serialize)]
struct Findings {
    /// Changes of contracts, triggers, keys and rows that would lose something, a sentence each.
    refused: Vec<String>,
    /// Samples that were tried, by function.
    tried: Vec<Check>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let names: Vec<String> = if args.functions.is_empty() {
        settings.config.functions.keys().cloned().collect()
    } else {
        args.functions.clone()
    };
    if names.is_empty() {
        return Err(Failure::usage("oncue.toml names no function to check"));
    }
    let manifests = manifests::of(settings, &names).await?;
    let mut contracts = settings.contracts().await?;
    contracts.programs.retain(|name, _| names.contains(name));
    let mut findings = Findings::default();
    for manifest in &manifests {
        findings
            .refused
            .extend(unknown_triggers(manifest, &contracts.catalog));
    }
    if let Some(file) = &args.against {
        let before = read(file)?;
        for (name, program) in &contracts.programs {
            let breaks = changes::breaks([&before], program);
            let breaks = breaks.map_err(|e| Failure::usage(format_args!("{name}: {e}")))?;
            findings
                .refused
                .extend(breaks.iter().map(|b| format!("contract of {name}: {b}")));
        }
    }
    if args.without_servers {
        findings.refused.extend(owners::among(&manifests));
    } else {
        with_servers(
            args,
            &manifests,
            &contracts.programs,
            settings,
            &mut findings,
        )
        .await?;
    }
    if let Some(file) = &args.save {
        let sets = contracts.programs.values().map(Vec::as_slice);
        let written = std::fs::write(file, oncue_proto::merge_sets(sets));
        written.map_err(|e| Failure::failed(format_args!("{}: {e}", file.display())))?;
    }
    if args.json {
        say(serde_json::json!(findings));
    } else {
        show(&findings, manifests.len());
    }
    let is_bad = !findings.refused.is_empty() || findings.tried.iter().any(Check::is_bad);
    Ok(if is_bad { exit::FAILED } else { exit::OK })
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| {
        Failure::usage(format_args!("{}: {e}", file.display()))
            .advise("write it with `oncue check --static --save FILE`, from the version that runs")
    })
}

/// Types that a function acts on and no contract has; its own program brings its own.
fn unknown_triggers(manifest: &Manifest, catalog: &oncue_proto::Catalog) -> Vec<String> {
    let triggers = manifest.triggers.iter();
    let unknown = triggers.filter(|ty| catalog.get(ty).is_err());
    unknown
        .map(|ty| format!("{} acts on {ty}, which no contract has", manifest.name))
        .collect()
}

/// Compares with what is stored, and has every program try samples.
async fn with_servers(
    args: &Args,
    manifests: &[Manifest],
    contracts: &std::collections::BTreeMap<String, Vec<u8>>,
    settings: &Settings,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let bus: Bus = settings.bus().await?;
    let store = settings.store().await?;
    let layout = Layout {
        config: &settings.config,
        manifests,
        contracts,
        mode: Mode::Look,
        consent: &Consent::default(),
    };
    let changes = layout.carry_out(&bus, &store).await;
    let refused = changes.iter().filter(|c| c.action == ChangeAction::Refused);
    let refused = refused.map(|change| format!("{}{}", change.what, apply::details(change)));
    findings.refused.extend(refused);
    let names: Vec<String> = manifests
        .iter()
        .map(|manifest| manifest.name.clone())
        .collect();
    for trial in trial::of(settings, &names, args.samples).await {
        match trial.outcome {
            Ok(check) => findings.tried.push(check),
            Err(why) => findings.refused.push(format!("{}: {why}", trial.function)),
        }
    }
    Ok(())
}

/// Prints what was tried first, then each thing that could not be read, then what is refused.
fn show(findings: &Findings, functions: usize) {
    if !findings.tried.is_empty() {
        let head = ["FUNCTION", "ROWS", "WAITING", "DELAYED", "DEAD LETTERS"];
        let rows: Vec<Vec<Cell>> = findings.tried.iter().map(row).collect();
        say(table::render(&head, &rows));
    }
    for check in &findings.tried {
        for (kind, sample) in check.kinds() {
            for unreadable in &sample.failures {
                let place = paint(NAME, &unreadable.place);
                say(format_args!(
                    "{} {} cannot read {place}: {}",
                    paint(BAD, "!"),
                    check.function,
                    unreadable.why
                ));
            }
            let more = sample.failed - sample.failures.len() as u64;
            if more > 0 {
                say(paint(DIM, format_args!("  and {more} more {kind}")));
            }
        }
    }
    for refused in &findings.refused {
        say(format_args!("{} {refused}", paint(BAD, "!")));
    }
    if findings.refused.is_empty() && !findings.tried.iter().any(Check::is_bad) {
        let what = format_args!("{functions} functions can take over.");
        say(paint(GOOD, what));
    } else {
        remark("Nothing was changed. `oncue apply` and `oncue restart` refuse the same.");
    }
}

/// Numbers tried; of what could not be read, how many.
fn row(check: &Check) -> Vec<Cell> {
    let mut row = vec![text(&check.function).style(NAME)];
    row.extend(check.kinds().map(|(_, sample)| cell(sample)));
    row
}

fn cell(sample: &Sample) -> Cell {
    match sample {
        Sample { tried: 0, .. } => text("-").style(DIM).right(),
        Sample {
            tried, failed: 0, ..
        } => text(format!("{tried} ok")).right(),
        Sample { tried, failed, .. } => text(format!("{failed} of {tried}")).style(BAD).right(),
    }
}
