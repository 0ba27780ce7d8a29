//! Houses that are broken on purpose: what watches over a promise must see it broken. A check that cannot fail is none.

use std::path::PathBuf;

use oncue_tests::chaos::report::{Plan, Report};
use oncue_tests::chaos::rows::find;
use oncue_tests::house::built;

/// Workers that break the protocol when they are told to; `make test` builds them before everything else.
fn sabotaged_binaries() -> PathBuf {
    built("failpoints/misbehave").parent().expect("a folder").to_owned()
}

/// Runs a row with a broken house, up to three times: some damage takes the right moment. What counts is the verdict on
/// events; that a row found too little to do is not what is asked here.
async fn caught(sabotage: &str, row: &str, seen: fn(&Report) -> bool) {
    let mut failures = Vec::new();
    for seed in 1..=3 {
        let row = find(row).expect("a row of the table");
        let env = vec![("ONCUE_SABOTAGE".to_owned(), sabotage.to_owned())];
        let plan = Plan { seed, seconds: row.short, env, programs: Some(sabotaged_binaries()), ..Plan::default() };
        let report = (row.run)(plan).await;
        println!("{report:#?}");
        if seen(&report) && !report.passed() {
            return;
        }
        failures.extend(report.failures);
    }
    panic!("{sabotage} was not seen by {row}: {failures:?}");
}

#[tokio::test]
async fn a_house_without_seen_marks_is_caught() {
    caught("no-seen-marks", "Z-3", |report| report.doubled > 0).await;
}

#[tokio::test]
async fn a_house_without_the_age_fence_is_caught() {
    caught("no-fence", "D-1", |report| report.doubled > 0).await;
}

#[tokio::test]
async fn a_house_that_acks_before_the_commit_is_caught() {
    caught("ack-first", "K-2", |report| report.lost > 0).await;
}

#[tokio::test]
async fn a_house_that_publishes_before_the_commit_is_caught() {
    caught("publish-first", "K-2", |report| report.unexpected > 0).await;
}
