//! Keeps the ranking of pages from their milestones.

use std::process::ExitCode;

use oncue::{Context, Function, Result};
use oncue_app_events::web::PageMilestone;
use oncue_workers::tables::Ranking;

async fn rank_pages(milestone: PageMilestone, ranking: &mut Ranking, _: &Context) -> Result<()> {
    ranking.record(milestone.page, milestone.views);
    Ok(())
}

fn main() -> ExitCode {
    oncue::run(
        Function::new("rank-pages", rank_pages)
            .version(env!("CARGO_PKG_VERSION"))
            .keyed_by("all", |_| Ranking::ALL),
    )
}
