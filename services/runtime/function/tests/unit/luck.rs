//! The author's test kit under every luck: planted faults are found, and what is right passes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use oncue::testing::{App, Luck, Tally};
use oncue::{Context, Delayed, Function, Result, State, reject};
use oncue_app_events::web::{PageMilestone, PageViewed};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Page {
    views: u64,
    last: String,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ranking {
    best: u64,
}

impl State for Ranking {
    const TABLE: &'static str = "rankings";
}

fn view(page: &str, visitor: &str) -> PageViewed {
    PageViewed {
        page: page.into(),
        visitor: visitor.into(),
        ..PageViewed::default()
    }
}

/// The panic of a search that found something.
async fn found(luck: Luck, scenario: impl AsyncFn(App) -> App) -> String {
    let run = AssertUnwindSafe(luck.run(scenario)).catch_unwind().await;
    let panic = run.expect_err("the fault is not found");
    let text = panic.downcast_ref::<String>().expect("a text").clone();
    println!("{text}");
    text
}

/// Acts of luck in a report.
fn acts(report: &str) -> usize {
    report
        .lines()
        .filter(|line| line.starts_with("  *"))
        .count()
}

async fn count(view: PageViewed, page: &mut Page, _: &Context) -> Result<Option<PageMilestone>> {
    if view.visitor == "nobody" {
        return Err(reject("a view of nobody"));
    }
    page.views += 1;
    tokio::task::yield_now().await;
    Ok((page.views.is_multiple_of(2)).then_some(PageMilestone {
        page: view.page,
        views: page.views,
    }))
}

async fn rank(
    milestone: PageMilestone,
    ranking: &mut Ranking,
    context: &Context,
) -> Result<Option<Delayed<PageViewed>>> {
    ranking.best = ranking.best.max(milestone.views);
    context.add("totals", "milestones", 1)?;
    let event = view("/milestones", "rank");
    let after = Duration::from_mins(1);
    Ok((milestone.page != "/milestones").then_some(Delayed { event, after }))
}

#[tokio::test]
async fn a_right_app_comes_to_the_same_end_under_every_luck() {
    let tally = Luck::default()
        .run(async |app: App| {
            let rank_pages = Function::new("rank-pages", rank)
                .keyed_by("all", |_| "all")
                .changes(&["totals"]);
            let mut app = app
                .with(Function::new("count-views", count))
                .with(rank_pages);
            for visitor in ["v1", "v2", "nobody", "v3", "v4"] {
                app.publish(&view("/home", visitor));
                app.publish(&view("/about", visitor));
            }
            app.settle().await;
            app.advance(Duration::from_mins(2)).await;
            assert_eq!(app.row::<Page>("/home").map(|page| page.views), Some(4));
            app
        })
        .await;
    assert_eq!(tally.runs, 200);
    // A run that did too little is a failed run.
    let Tally {
        crashes,
        redeliveries,
        copies,
        conflicts,
        switches,
        ..
    } = tally;
    for (what, number) in [
        ("crashes", crashes),
        ("redeliveries", redeliveries),
        ("copies", copies),
        ("conflicts", conflicts),
        ("switches", switches),
    ] {
        assert!(number > 50, "{number} {what}");
    }
}

#[tokio::test]
async fn a_function_that_hangs_on_the_order_of_events_is_found() {
    async fn last(view: PageViewed, page: &mut Page, _: &Context) -> Result<()> {
        page.last = view.visitor;
        Ok(())
    }

    let scenario = async |app: App| {
        let mut app = app.with(Function::new("last-visitor", last));
        for visitor in ["v1", "v2", "v3"] {
            app.publish(&view("/home", visitor));
        }
        app.settle().await;
        app
    };
    let report = found(Luck::default(), scenario).await;
    assert!(report.contains("row pages//home"), "{report}");
    assert!(report.contains(r#"in order:  {"last":"v3","#), "{report}");
    assert!(
        report.contains("takes web.page.viewed /home (event-3)"),
        "{report}"
    );
    assert!((1..=6).contains(&acts(&report)), "{report}");
    // One worker, and nothing fails: the order of one key holds.
    let orderly = Luck {
        workers: 1,
        faults: false,
        ..Luck::default()
    };
    assert_eq!(orderly.run(scenario).await.crashes, 0);
}

#[tokio::test]
async fn a_second_effect_on_retry_is_found() {
    let scenario = async |app: App| {
        let mails = Arc::new(Mutex::new(Vec::new()));
        let outbox = mails.clone();
        let send = move |view: PageViewed, _: &mut (), _: &Context| {
            let outbox = outbox.clone();
            async move {
                outbox.lock().push(view.visitor);
                Ok(())
            }
        };
        let mut app = app.with(Function::new("send-mail", send));
        for visitor in ["v1", "v2"] {
            app.publish(&view("/home", visitor));
        }
        app.settle().await;
        mails.lock().sort();
        app.observe("mails", &mails.lock());
        app
    };
    let report = found(Luck::default(), scenario).await;
    assert!(report.contains("observed mails"), "{report}");
    assert!(report.contains(r#"in order:  ["v1", "v2"]"#), "{report}");
    assert_eq!(acts(&report), 1, "{report}");
    // With an idempotency key the other side can tell.
    let keyed = async |app: App| {
        let mails = Arc::new(Mutex::new(std::collections::BTreeSet::new()));
        let outbox = mails.clone();
        let send = move |_: PageViewed, _: &mut (), context: &Context| {
            let outbox = outbox.clone();
            let key = context.idempotency_key("mail");
            async move {
                outbox.lock().insert(key);
                Ok(())
            }
        };
        let mut app = app.with(Function::new("send-mail", send));
        for visitor in ["v1", "v2"] {
            app.publish(&view("/home", visitor));
        }
        app.settle().await;
        app.observe("mails", &mails.lock());
        app
    };
    Luck::default().run(keyed).await;
}

#[tokio::test]
async fn a_lost_update_is_found() {
    let scenario = async |app: App| {
        let total = Arc::new(Mutex::new(0));
        let shared = total.clone();
        let add = move |_: PageViewed, _: &mut (), _: &Context| {
            let shared = shared.clone();
            async move {
                let before = *shared.lock();
                tokio::task::yield_now().await;
                *shared.lock() = before + 1;
                Ok(())
            }
        };
        let mut app = app.with(Function::new("add-up", add));
        for page in ["/a", "/b", "/c"] {
            app.publish(&view(page, "v1"));
        }
        app.settle().await;
        app.observe("total", &total.lock());
        app
    };
    // Without faults: a crash alone would double what it adds.
    let calm = Luck {
        faults: false,
        ..Luck::default()
    };
    let report = found(calm, scenario).await;
    assert!(report.contains("observed total"), "{report}");
    assert!(report.contains("in order:  3"), "{report}");
    assert!(
        report.contains("this run:  2") || report.contains("this run:  1"),
        "{report}"
    );
    assert!((1..=3).contains(&acts(&report)), "{report}");
}

#[tokio::test]
async fn chance_and_state_that_outlives_a_run_are_told() {
    let runs = Mutex::new(0);
    let scenario = async |app: App| {
        *runs.lock() += 1;
        let visitor = format!("v{}", runs.lock());
        let mut app = app.with(Function::new("count-views", count));
        app.publish(&view("/home", &visitor));
        app.settle().await;
        app
    };
    let report = found(Luck::default(), scenario).await;
    assert!(
        report.contains("the same plain run came to two ends"),
        "{report}"
    );
}

#[tokio::test]
async fn a_seed_brings_its_luck_again() {
    let scenario = async |app: App| {
        let mut app = app.with(Function::new("count-views", count));
        for visitor in ["v1", "v2", "v3", "v4"] {
            app.publish(&view("/home", visitor));
        }
        app.settle().await;
        app
    };
    let luck = |seeds| Luck {
        seeds,
        ..Luck::default()
    };
    let first = luck(7..12).run(scenario).await;
    assert_eq!(luck(7..12).run(scenario).await, first);
    assert_ne!(luck(12..17).run(scenario).await, first);
}

#[tokio::test]
#[should_panic(expected = "no function has had an event")]
async fn a_scenario_in_which_nothing_happens_is_refused() {
    let scenario = async |app: App| app.with(Function::new("count-views", count));
    Luck::default().run(scenario).await;
}

/// Every safeguard of the search is seen to work on a function that is called once at most.
#[tokio::test]
async fn a_function_that_runs_at_most_once_is_spared() {
    async fn call(_: PageViewed, _: &mut (), _: &Context) -> Result<()> {
        tokio::task::yield_now().await;
        Ok(())
    }

    let tally = Luck::default()
        .run(async |app: App| {
            let mut app = app.with(Function::new("call-once", call).at_most_once());
            for visitor in ["v1", "v2", "v3"] {
                app.publish(&view("/home", visitor));
            }
            app.settle().await;
            app
        })
        .await;
    assert_eq!((tally.crashes, tally.redeliveries, tally.copies), (0, 0, 0));
}
