//! What `make bench` measures: a row update and an output, as any author would write them.
//!
//! `BENCH_EVERY` says at which view of a page a milestone follows (1: at every one), `BENCH_BURN` how many rounds of
//! arithmetic each event costs (none), as a handler that has something to compute.

use std::process::ExitCode;
use std::sync::LazyLock;

use oncue::{Context, Function, Result, State};
use oncue_app_events::web::{PageMilestone, PageViewed};
use oncue_tests::bench::burn::burn;
use serde::{Deserialize, Serialize};

static EVERY: LazyLock<u64> = LazyLock::new(|| number("BENCH_EVERY", 1));
static BURN: LazyLock<u64> = LazyLock::new(|| number("BENCH_BURN", 0));

#[derive(Clone, Default, Serialize, Deserialize)]
struct Page {
    views: u64,
}

impl State for Page {
    const TABLE: &'static str = "clicks";
}

async fn clicks(view: PageViewed, page: &mut Page, _: &Context) -> Result<Option<PageMilestone>> {
    page.views += 1;
    burn(*BURN);
    let every = page.views.is_multiple_of(*EVERY);
    Ok(if every {
        Some(PageMilestone {
            page: view.page,
            views: page.views,
        })
    } else {
        None
    })
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn main() -> ExitCode {
    oncue::run(Function::new("bench-clicks", clicks))
}
