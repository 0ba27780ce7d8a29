//! What a signature says becomes data that cannot drift from it; the two kinds of error.

#![allow(clippy::unused_async)] // handlers here are there for their signature alone

use std::time::Duration;

use oncue::error::Error;
use oncue::{Context, Delayed, Function, Result, State, events, reject};
use oncue_app_events::files::{FileAccepted, FileRejected};
use oncue_app_events::web::{PageMilestone, PageViewed};
use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_proto::Trigger;
use oncue_proto::files::FileUploaded;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Page {
    views: u64,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

events! { enum Verdict { Accepted(FileAccepted), Rejected(FileRejected) } }
events! { enum Anything { Viewed(PageViewed), Uploaded(FileUploaded) } }

fn manifest<E: Trigger>(function: &Function<E>) -> Manifest {
    function.manifest().expect("a manifest")
}

async fn all(_: PageViewed, _: &mut Page, _: &Context) -> Result<Many> {
    Err(reject("only a signature"))
}

type Many = (Option<PageMilestone>, Vec<Verdict>, Delayed<PageViewed>, ());

#[test]
fn the_signature_is_the_manifest() {
    let made = manifest(&Function::new("all", all));
    assert_eq!(
        (
            made.name.as_str(),
            made.stream.as_str(),
            made.table.as_deref()
        ),
        ("all", "web", Some("pages"))
    );
    assert_eq!(made.triggers, ["web.page.viewed"]);
    assert_eq!(made.filters, ["web.page.viewed", "web.page.viewed.*"]);
    let emits = [
        "web.page.milestone",
        "files.file.accepted",
        "files.file.rejected",
        "web.page.viewed",
    ];
    assert_eq!(made.emits, emits);
    // The timer stream first: others source from it.
    assert_eq!(made.domains(), ["timer", "dlq", "files", "web"]);
    let read: Manifest =
        serde_json::from_value(serde_json::to_value(&made).expect("JSON")).expect("a manifest");
    assert_eq!(read.filters, made.filters);
}

/// A library cannot see the version of the crate that calls it, so the function says it, or none.
#[test]
fn the_version_is_the_functions_own() {
    let made = manifest(&Function::new("all", all).version("7.8.9"));
    assert_eq!(made.version, "7.8.9");
    assert_eq!(manifest(&Function::new("all", all)).version, "0.0.0");
}

#[test]
fn the_contract_is_that_of_the_signature() {
    async fn tick(_: (), _: &mut (), _: &Context) -> Result<()> {
        Ok(())
    }

    let printed = Function::new("all", all).contract();
    assert_eq!(
        printed,
        oncue_app_events::DESCRIPTORS,
        "both are of one crate"
    );
    let own = Function::new("tick", tick).contract();
    assert!(own.is_empty(), "everybody knows the platform's types");
}

#[test]
fn one_of_several_events_is_one_trigger() {
    async fn judge(_: Verdict, _: &mut (), _: &Context) -> Result<()> {
        Ok(())
    }
    let made = manifest(&Function::new("judge", judge));
    assert_eq!((made.stream.as_str(), made.table), ("files", None));
    assert_eq!(
        made.triggers,
        ["files.file.accepted", "files.file.rejected"]
    );
    assert_eq!(made.filters.len(), 4);
    assert!(made.emits.is_empty());
}

#[test]
fn a_function_without_an_event_hears_its_own_timer_only() {
    async fn tick(_: (), _: &mut (), _: &Context) -> Result<Option<PageMilestone>> {
        Ok(None)
    }
    let made = manifest(&Function::new("tick", tick));
    assert_eq!(
        (made.stream.as_str(), made.filters),
        (
            "timer",
            ["timer.function.fired.tick"].map(str::to_owned).to_vec()
        )
    );
    assert_eq!(made.triggers, ["timer.function.fired"]);
}

#[test]
fn two_domains_are_refused() {
    async fn both(_: Anything, _: &mut (), _: &Context) -> Result<()> {
        Ok(())
    }
    let why = Function::new("both", both)
        .manifest()
        .expect_err("two streams");
    for part in [
        "both",
        "web.page.viewed",
        "files.file.uploaded",
        "one stream",
    ] {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn names_are_plain() {
    const LONGEST: &str = "a123456789-b123456789-c123456789-d123456789-e123456789-f12345678";
    assert_eq!(LONGEST.len(), 64);
    assert_eq!(manifest(&Function::new(LONGEST, all)).name, LONGEST);
    for bad in [
        "",
        "Count",
        "count_views",
        "count.views",
        "count views",
        "zähle",
        "a123456789-b123456789-c123456789-d123456789-e123456789-f123456789",
    ] {
        let why = Function::new(bad, all).manifest().err();
        assert!(
            why.is_some_and(|why| why.contains(&format!("{bad:?}"))),
            "{bad:?} passed"
        );
    }
}

#[test]
fn limits_come_from_the_function_and_then_from_the_file() {
    let function = Function::new("all", all)
        .concurrency(4)
        .attempts(0)
        .timeout(Duration::from_secs(5));
    let made = manifest(&function);
    let text = "[functions.all]\nattempts = 9\nack_wait = \"2min\"\nconcurrency = 0";
    let limits = made.limits(&Config::parse(text, None, |_| None).expect("a file"));
    assert_eq!(
        (limits.concurrency, limits.attempts, limits.timeout.0),
        (1, 9, Duration::from_secs(5))
    );
    assert_eq!(limits.ack_wait.0, Duration::from_mins(2));
    let bare = made.limits(&Config::parse("", None, |_| None).expect("no file"));
    assert_eq!(
        (bare.concurrency, bare.attempts, bare.reserved_concurrency),
        (4, 1, 10_000)
    );
}

#[test]
fn there_are_two_kinds_of_error() {
    fn fails(text: &str) -> Result<u64> {
        if text.is_empty() {
            return Err(reject("nothing to read"));
        }
        Ok(text.parse::<u64>()?)
    }
    let show = |e: &Error| (e.to_string(), format!("{e:?}"));
    assert_eq!(
        show(&fails("").expect_err("empty")),
        (
            "nothing to read".into(),
            "Reject(\"nothing to read\")".into()
        )
    );
    let again = fails("x").expect_err("no number");
    assert_eq!(
        format!("{again:?}"),
        "Retry(\"invalid digit found in string\")"
    );
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no count")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn an_error_brings_its_causes_along() {
    let error: Error = Outer("x".parse::<u8>().expect_err("no number")).into();
    assert_eq!(error.to_string(), "no count: invalid digit found in string");
}
