//! Three functions in a row, each with a row of its own; `BENCH_HOP` says which one this process is.

use std::process::ExitCode;

use oncue::{Context, Function, Result, State};
use oncue_app_events::web::{PageMilestone, PageViewed, Trend, TrendsPublished};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct First {
    views: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Second {
    views: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Third {
    views: u64,
}

impl State for First {
    const TABLE: &'static str = "first";
}

impl State for Second {
    const TABLE: &'static str = "second";
}

impl State for Third {
    const TABLE: &'static str = "third";
}

async fn first(view: PageViewed, page: &mut First, _: &Context) -> Result<PageMilestone> {
    page.views += 1;
    Ok(PageMilestone {
        page: view.page,
        views: page.views,
    })
}

async fn second(
    milestone: PageMilestone,
    page: &mut Second,
    _: &Context,
) -> Result<TrendsPublished> {
    page.views += 1;
    Ok(TrendsPublished {
        trends: vec![Trend {
            page: milestone.page,
            views: page.views,
        }],
    })
}

async fn third(_: TrendsPublished, page: &mut Third, _: &Context) -> Result<()> {
    page.views += 1;
    Ok(())
}

fn page(trends: &TrendsPublished) -> String {
    trends
        .trends
        .first()
        .map(|trend| trend.page.clone())
        .unwrap_or_default()
}

fn main() -> ExitCode {
    match std::env::var("BENCH_HOP").as_deref() {
        Ok("1") => oncue::run(Function::new("bench-hop-1", first)),
        Ok("2") => oncue::run(Function::new("bench-hop-2", second)),
        Ok("3") => oncue::run(Function::new("bench-hop-3", third).keyed_by("page", page)),
        _ => {
            eprintln!("BENCH_HOP is 1, 2 or 3");
            ExitCode::from(2)
        }
    }
}
