//! Trials of programs on samples of what is there, before they are let in: each is asked with `--check`.

use std::time::Duration;

use futures_util::future::join_all;
use oncue_admin::program::{self, ProgramError};
use oncue_core::model::check::{Check, SAMPLES};

use crate::exit::Failure;
use crate::settings::Settings;

/// Time that programs have for it before they are let in.
const TRY_TIMEOUT: Duration = Duration::from_mins(1);

/// One program, tried on samples of what is there.
pub struct Trial<'t> {
    pub function: &'t str,
    pub outcome: Result<Check, ProgramError>,
}

/// Has programs try so many samples of each kind.
pub async fn of<'t>(settings: &Settings, functions: &'t [String], samples: u64) -> Vec<Trial<'t>> {
    let samples = samples.to_string();
    let arguments = ["--check", samples.as_str()];
    join_all(functions.iter().map(async |function| Trial {
        function,
        outcome: program::ask(&settings.bin, &settings.config, function, &arguments).await,
    }))
    .await
}

/// Refuses programs that cannot read samples of what is there. Whoever lets them in all the same says so.
///
/// # Errors
/// Things that they cannot read, with the first place of each kind.
pub async fn refuse_unreadable(settings: &Settings, functions: &[String]) -> Result<(), Failure> {
    let tried = tokio::time::timeout(TRY_TIMEOUT, of(settings, functions, SAMPLES));
    let mut refused = Vec::new();
    match tried.await {
        Ok(tried) => {
            for trial in tried {
                match trial.outcome {
                    Ok(check) => refused.extend(unreadable(&check)),
                    Err(why) => refused.push(format!("{}: {why}", trial.function)),
                }
            }
        }
        Err(_) => refused.push(format!("samples were not tried within {TRY_TIMEOUT:?}")),
    }
    if refused.is_empty() {
        return Ok(());
    }
    let what = format!(
        "not every new program reads what is there\n  {}",
        refused.join("\n  ")
    );
    Err(Failure::failed(what)
        .advise("mend the program (`oncue check` says more); or say --anyway, and what it cannot read fails"))
}

/// Sentences about things that a program cannot read: of each kind how many, and the first.
fn unreadable(check: &Check) -> Vec<String> {
    let kinds = check.kinds().into_iter();
    let failed = kinds.filter_map(|(kind, sample)| {
        let first = sample.failures.first()?;
        Some(format!(
            "{} cannot read {} of {} {kind}, such as {}: {}",
            check.function, sample.failed, sample.tried, first.place, first.why
        ))
    });
    failed.collect()
}
