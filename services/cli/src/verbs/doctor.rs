//! `oncue doctor`: reads back from both servers what they really are, and says what can be promised with that.

mod certificates;
mod checks;
mod locks;
mod monitoring;
mod promise;
mod redis;
mod report;

use std::fmt::Write as _;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, GOOD, paint, say};

use self::report::{Facts, Finding, Verdict};

#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let (facts, findings) = checks::all(settings).await;
    let profile = promise::profile(&facts);
    if args.json {
        say(serde_json::json!({
            "findings": findings,
            "facts": facts,
            "profile": profile,
            "promised": promise::words(&facts),
        }));
    } else {
        for finding in &findings {
            say(line(finding));
        }
        say(report(&facts, profile, &findings));
    }
    Ok(verdict(&facts, &findings))
}

/// Exit code: a server that does not answer is told apart from one that must be set right.
fn verdict(facts: &Facts, findings: &[Finding]) -> u8 {
    if facts.nats.is_none() || facts.redis.is_none() {
        exit::SILENT
    } else if findings.iter().any(|f| f.verdict == Verdict::Fix) {
        exit::FAILED
    } else {
        exit::OK
    }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => paint(GOOD, "ok  "),
        Verdict::Know => paint(CHANGED, "note"),
        Verdict::Fix => paint(BAD, "FIX "),
    };
    let advice = finding.advice.as_ref().map_or_else(String::new, |advice| {
        format!("\n       {}", paint(DIM, advice))
    });
    format!("{mark}   {}{advice}", finding.text)
}

fn report(facts: &Facts, profile: &str, findings: &[Finding]) -> String {
    if facts.nats.is_none() || facts.redis.is_none() {
        return format!(
            "\n{}",
            paint(BOLD, "Nothing is promised while a server does not answer.")
        );
    }
    let is_whole = findings.iter().all(|f| f.verdict != Verdict::Fix);
    let when = if is_whole {
        "Promised with these servers as they are now"
    } else {
        "Not promised before what says FIX is set right; then"
    };
    let mut out = format!(
        "\n{}",
        paint(BOLD, format_args!("{when} (profile {profile}):"))
    );
    for words in promise::words(facts) {
        let _ = write!(out, "\n  * {words}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_faults_have_their_own_exit_codes() {
        let finding = |verdict| Finding {
            verdict,
            text: "x".into(),
            advice: None,
            topic: None,
        };
        let mut facts = Facts::default();
        assert_eq!(verdict(&facts, &[finding(Verdict::Fix)]), exit::SILENT);
        facts.nats = Some("2.15.1".into());
        facts.redis = Some("7.4.0".into());
        assert_eq!(verdict(&facts, &[finding(Verdict::Fix)]), exit::FAILED);
        assert_eq!(
            verdict(&facts, &[finding(Verdict::Know), finding(Verdict::Good)]),
            exit::OK
        );
    }
}
