//! Counts the views of each page and says so at every tenth.

use std::process::ExitCode;

use oncue::{Context, Function, Result, State};
use oncue_app_events::web::{PageMilestone, PageViewed};
use pbjson_types::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct Page {
    views: u64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
}

impl State for Page {
    const TABLE: &'static str = "pages";
}

async fn count_views(
    view: PageViewed,
    page: &mut Page,
    context: &Context,
) -> Result<Option<PageMilestone>> {
    let at = view.at.unwrap_or_else(|| context.time());
    page.views += 1;
    page.first_seen.get_or_insert(at);
    page.last_seen = Some(at);
    if !view.visitor.is_empty() {
        context.distinct("visitors", &view.visitor)?;
    }
    Ok(page.views.is_multiple_of(10).then_some(PageMilestone {
        page: view.page,
        views: page.views,
    }))
}

fn main() -> ExitCode {
    oncue::run(
        Function::new("count-views", count_views)
            .version(env!("CARGO_PKG_VERSION"))
            .changes(&["visitors"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_tenth_view_is_a_milestone() {
        let mut page = Page::default();
        let context = oncue::testing::context("/home");
        let mut milestones = Vec::new();
        for _ in 0..20 {
            let view = PageViewed {
                page: "/home".into(),
                visitor: "v".into(),
                ..PageViewed::default()
            };
            milestones.extend(
                count_views(view, &mut page, &context)
                    .await
                    .expect("counted"),
            );
        }
        assert_eq!(
            milestones.iter().map(|m| m.views).collect::<Vec<_>>(),
            [10, 20]
        );
        assert_eq!((page.views, page.first_seen), (20, Some(context.time())));
    }
}
