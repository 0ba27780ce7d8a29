//! The author's test kit: an app in process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oncue::testing::{App, Surroundings, operations};
use oncue::{Context, Delayed, Function, Result, State, reject};
use oncue_app_events::web::{PageMilestone, PageViewed};
use oncue_proto::Event as _;
use oncue_proto::oncue::v1::TimerFired;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Page {
    views: u64,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Ranking {
    best: u64,
    ticks: u64,
}

impl State for Ranking {
    const TABLE: &'static str = "rankings";
}

async fn count(view: PageViewed, page: &mut Page, _: &Context) -> Result<Option<PageMilestone>> {
    page.views += 1;
    if view.visitor == "nobody" {
        return Err(reject("a view of nobody"));
    }
    Ok((page.views.is_multiple_of(2)).then_some(PageMilestone {
        page: view.page,
        views: page.views,
    }))
}

async fn rank(milestone: PageMilestone, ranking: &mut Ranking, context: &Context) -> Result<()> {
    ranking.best = ranking.best.max(milestone.views);
    context.add("totals", "milestones", 1)?;
    context.set_add("seen", &milestone.page)?;
    context.top_n("leaders", &milestone.page, milestone.views as i64, 3)?;
    context.distinct("visitors", &milestone.page)
}

fn count_views() -> Function<PageViewed> {
    Function::new("count-views", count)
}

fn rank_pages() -> Function<PageMilestone> {
    Function::new("rank-pages", rank)
        .keyed_by("all", |_| "all")
        .changes(&["totals", "seen", "leaders", "visitors"])
}

fn view(page: &str, visitor: &str) -> PageViewed {
    PageViewed {
        page: page.into(),
        visitor: visitor.into(),
        ..PageViewed::default()
    }
}

#[tokio::test]
async fn events_go_from_function_to_function() {
    let mut app = App::new().with(count_views()).with(rank_pages());
    for visitor in ["v1", "v2", "v3", "v4"] {
        app.publish(&view("/home", visitor));
    }
    assert_eq!(
        app.row::<Page>("/home"),
        None,
        "nothing happens by publishing"
    );
    app.settle().await;
    assert_eq!(app.row::<Page>("/home"), Some(Page { views: 4 }));
    let milestones = app.events::<PageMilestone>();
    let views: Vec<u64> = milestones.iter().map(|milestone| milestone.views).collect();
    assert_eq!(views, [2, 4]);
    let ranking = app.row::<Ranking>("all").expect("a row");
    assert_eq!(ranking, Ranking { best: 4, ticks: 0 });
    assert_eq!(app.state("totals", "all"), json!({ "milestones": 2 }));
    assert_eq!(app.state("seen", "all"), json!({ "members": ["/home"] }));
    let leaders = json!({ "ranking": [{ "member": "/home", "score": 4 }] });
    assert_eq!(app.state("leaders", "all"), leaders);
    assert_eq!(app.state("visitors", "all"), json!({ "count": 1 }));
    assert_eq!(app.state("visitors", "nobody"), json!(null));
    assert!(app.dead_letters().is_empty());
}

#[tokio::test]
async fn a_rejected_event_is_a_dead_letter_and_leaves_no_trace_in_its_row() {
    let mut app = App::new().with(count_views());
    app.publish(&view("/home", "v1"));
    let id = app.publish(&view("/home", "nobody"));
    app.settle().await;
    assert_eq!(app.row::<Page>("/home"), Some(Page { views: 1 }));
    let letters = app.dead_letters();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(
        (&*letter.function, &*letter.reason),
        ("count-views", "rejected")
    );
    assert_eq!((&letter.event_id, letter.attempts), (&id, 1));
    assert_eq!(letter.message, "a view of nobody");
}

#[tokio::test]
async fn a_failure_is_tried_again_until_its_attempts_are_used_up() {
    static RUNS: AtomicU32 = AtomicU32::new(0);

    async fn fail(view: PageViewed, page: &mut Page, context: &Context) -> Result<()> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        page.views += 1;
        if view.visitor == "never" || context.attempt() < 3 {
            return Err(std::io::Error::other("not yet").into());
        }
        assert_ne!(view.visitor, "panics", "a panic is a failure as well");
        Ok(())
    }

    let mut app = App::new().with(Function::new("fail", fail).attempts(4));
    app.publish(&view("/home", "third time"));
    app.settle().await;
    assert_eq!(app.row::<Page>("/home"), Some(Page { views: 1 }));
    assert_eq!(RUNS.swap(0, Ordering::SeqCst), 3);
    for visitor in ["never", "panics"] {
        app.publish(&view("/other", visitor));
    }
    app.settle().await;
    assert_eq!(RUNS.load(Ordering::SeqCst), 8);
    let letters = app.dead_letters();
    let reasons: Vec<&str> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(reasons, ["attempts", "attempts"]);
    assert!(
        letters[1].message.contains("panicked"),
        "{}",
        letters[1].message
    );
    assert_eq!(app.row::<Page>("/other"), None);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_fails() {
    async fn hang(_: PageViewed, _: &mut (), _: &Context) -> Result<()> {
        std::future::pending().await
    }

    let mut app = App::new().with(
        Function::new("hang", hang)
            .attempts(2)
            .timeout(Duration::from_millis(20)),
    );
    app.publish(&view("/home", "v1"));
    app.settle().await;
    let letters = app.dead_letters();
    assert!(
        letters[0].message.contains("still running after"),
        "{letters:?}"
    );
}

#[tokio::test]
async fn time_passes_when_told_to() {
    async fn remind(view: PageViewed, _: &mut (), _: &Context) -> Result<Delayed<PageMilestone>> {
        let event = PageMilestone {
            page: view.page,
            views: 1,
        };
        let after = Duration::from_hours(1);
        Ok(Delayed { event, after })
    }
    async fn note(_: PageMilestone, page: &mut Page, context: &Context) -> Result<()> {
        page.views = context.time().seconds as u64;
        Ok(())
    }
    async fn tick((): (), ranking: &mut Ranking, _: &Context) -> Result<()> {
        ranking.ticks += 1;
        Ok(())
    }

    let cue = TimerFired {
        function: "tick".into(),
    };
    let mut app = App::new()
        .with(Function::new("remind", remind))
        .with(Function::new("note", note))
        .with(Function::new("tick", tick).keyed_by("all", |()| "all"))
        .every(Duration::from_mins(10), &cue);
    let begin = app.time().seconds as u64;
    app.publish(&view("/home", "v1"));
    app.settle().await;
    assert!(app.events::<PageMilestone>().is_empty());
    app.advance(Duration::from_mins(59)).await;
    assert_eq!(app.row::<Page>("/home"), None);
    assert_eq!(app.row::<Ranking>("all").map(|row| row.ticks), Some(5));
    app.advance(Duration::from_mins(1)).await;
    let at = Page {
        views: begin + 3600,
    };
    assert_eq!(app.row::<Page>("/home"), Some(at));
    assert_eq!(app.row::<Ranking>("all").map(|row| row.ticks), Some(6));
    assert_eq!(app.time().seconds as u64, begin + 3600);
    assert_eq!(app.events::<TimerFired>().len(), 6);
}

#[tokio::test]
async fn files_are_there() {
    async fn copy(view: PageViewed, _: &mut (), context: &Context) -> Result<()> {
        let files = context.files();
        let Some(content) = files.read(&view.page, 100).await? else {
            return Err(reject("no such file"));
        };
        files.put("copy", &[], content).await?;
        files.delete(&view.page).await
    }

    let mut app = App::new().with(Function::new("copy", copy).writes_files());
    app.put_file("f1", "hello");
    app.publish(&view("f1", "v1"));
    app.publish(&view("f2", "v1"));
    app.settle().await;
    assert_eq!(app.file("copy").as_deref(), Some(&b"hello"[..]));
    assert_eq!(app.file("f1"), None);
    assert_eq!(app.dead_letters().len(), 1);
}

#[tokio::test]
async fn a_context_has_what_the_test_gives_it() {
    let context = Surroundings::of("/home")
        .attempt(3)
        .time(Duration::from_secs(7))
        .file("f1", "hello")
        .context();
    assert_eq!(context.attempt(), 3);
    assert_eq!(context.time().seconds, 7);
    let read = context.files().read("f1", 10).await.expect("files");
    assert_eq!(read.as_deref(), Some(&b"hello"[..]));
    let milestone = PageMilestone {
        page: "/home".into(),
        views: 2,
    };
    let ranked = rank(milestone, &mut Ranking::default(), &context).await;
    ranked.expect("ranked");
    let recorded = [
        "totals//home: add milestones 1",
        "seen//home: set-add /home",
        "leaders//home: top 3 /home 2",
        "visitors//home: distinct /home",
    ];
    assert_eq!(operations(&context), recorded);
    assert!(operations(&context).is_empty());
}

#[tokio::test]
#[should_panic(expected = "there are two functions count-views")]
async fn two_functions_of_one_name_are_refused() {
    let _ = App::new().with(count_views()).with(count_views());
}

/// Ids are those of the worker: made of cause, function and index alone.
#[tokio::test]
async fn a_loop_ends_as_a_dead_letter() {
    async fn again(view: PageViewed, _: &mut (), _: &Context) -> Result<PageViewed> {
        Ok(view)
    }

    let mut app = App::new().with(Function::new("again", again));
    app.publish(&view("/home", "v1"));
    app.settle().await;
    let letters = app.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "loop");
    assert_eq!(letters[0].event_type, PageViewed::TYPE);
}
