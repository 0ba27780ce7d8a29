//! On its schedule, publishes the pages that lead the ranking.

use std::process::ExitCode;

use oncue::{Context, Function, Result};
use oncue_app_events::web::{Trend, TrendsPublished};
use oncue_workers::tables::Ranking;

const PUBLISHED: usize = 10;

async fn publish_trends(
    _: (),
    ranking: &mut Ranking,
    _: &Context,
) -> Result<Option<TrendsPublished>> {
    let trends: Vec<Trend> = ranking
        .best(PUBLISHED)
        .into_iter()
        .map(|(page, views)| Trend { page, views })
        .collect();
    Ok((!trends.is_empty()).then_some(TrendsPublished { trends }))
}

fn main() -> ExitCode {
    oncue::run(
        Function::new("publish-trends", publish_trends)
            .version(env!("CARGO_PKG_VERSION"))
            .keyed_by("all", |()| Ranking::ALL),
    )
}
