//! What tracing costs, where every span goes to somebody who reads it.

use crate::bench::arena::{Arena, Profile, Side, Work};
use crate::bench::contest::Contest;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::sink::Sink;

/// Of each event here: the event handled, the commit, the follow-up sent; a row is read once and then remembered.
const SPANS: u64 = 3;

pub async fn traces(plan: Plan) -> Case {
    let (mut case, mut arena) = (Case::default(), Arena::open(Profile::Fast).await);
    let sink = Sink::start();
    let mut work = Work::default();
    work.clicks.events = plan.size(50_000, 20_000);
    let mut contest = Contest::default()
        .with("off", Side::Oncue, work.clone())
        .with("limit", Side::Limit, work.clone());
    for (name, share) in [("10 %", "0.1"), ("100 %", "1")] {
        contest = contest.with(
            name,
            Side::Oncue,
            Work {
                env: traced(&sink, share),
                ..work.clone()
            },
        );
    }
    let contest = contest.hold(&mut arena, "traces", plan.rounds).await;
    for name in ["off", "10 %", "100 %"] {
        let goal = (name == "100 %").then_some(Goal::AtLeast(0.7));
        let ratio = Figure {
            goal,
            ..contest.ratio(name, "limit")
        };
        let mut figures = vec![contest.rate(name), ratio, contest.by_cpu(name, "limit")];
        if name != "off" {
            figures.push(contest.ratio(name, "off"));
        }
        let details = contest.details(name);
        case.rows.push(Row {
            name: format!("{name} sampled"),
            figures,
            details,
        });
    }
    // A queue that is full drops spans: how many of them arrive.
    sink.take();
    let whole = Work {
        env: traced(&sink, "1"),
        ..work.clone()
    };
    let mut arrived = Vec::new();
    for _ in 0..plan.size(3, 1) {
        arena.run(Side::Oncue, &whole).await;
        arrived.push(sink.take() as f64 / (work.clicks.events * SPANS) as f64 * 100.0);
    }
    let figures = vec![Figure::new("arrived", "%", arrived)];
    case.rows.push(Row {
        name: "spans of 100 %".into(),
        figures,
        details: Vec::new(),
    });
    case
}

pub fn traced(sink: &Sink, share: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_SDK_DISABLED", "false".into()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url.clone()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".into()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".into()),
        ("OTEL_TRACES_SAMPLER_ARG", share.into()),
    ]
}
