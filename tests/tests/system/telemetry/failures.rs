//! Whatever the sampler says, what failed is there.

use oncue_tests::cluster::until;
use oncue_tests::collector::hex;

use super::{PARENT, TRACE, spans, tell, traced, traceparent};

#[tokio::test]
async fn every_failure_is_kept_of_traces_that_are_not() {
    let (cluster, collector) = traced(&[
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.0"),
    ])
    .await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    for n in 0..20 {
        tell(
            &bus,
            &[
                ("traceparent", &traceparent(false)),
                ("ce-id", &format!("good-{n}")),
            ],
            "emit:1",
        )
        .await;
    }
    tell(
        &bus,
        &[("traceparent", &traceparent(false)), ("ce-id", "refused")],
        "reject",
    )
    .await;
    tell(&bus, &[("ce-id", "plain")], "fail").await;
    cluster.drained(&bus, "web", "misbehave").await;
    until("both dead letters", async || {
        (cluster.count(&bus, "dlq").await == 2).then_some(())
    })
    .await;

    let of = async |id: &str, count: usize| {
        let process = |span: &oncue_tests::collector::Received| {
            span.is("misbehave", "process web.page.viewed")
                && span.tag("messaging.message.id") == id
        };
        spans(
            &collector,
            &format!("{count} failures of {id}"),
            count,
            process,
        )
        .await
    };
    let refused = of("refused", 1).await;
    assert_eq!(
        (
            refused[0].trace().as_str(),
            hex(&refused[0].span.parent_span_id).as_str()
        ),
        (TRACE, PARENT)
    );
    assert_eq!(
        (
            refused[0].tag("oncue.sampled.by").as_str(),
            refused[0].failed()
        ),
        ("failure", true)
    );
    // Its three attempts, all in the trace of the flow.
    let plain = of("plain", 3).await;
    let attempts: Vec<String> = plain.iter().map(|span| span.tag("oncue.attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(plain.iter().all(|span| Some(span.trace().as_str())
        == oncue_proto::event::untraced("plain").split('-').nth(1)));
    let letters = spans(&collector, "their dead letters", 2, |span| {
        span.span.name == "send dlq.app.misbehave"
    })
    .await;
    assert!(
        letters
            .iter()
            .any(|letter| letter.span.parent_span_id == refused[0].span.span_id)
    );
    assert!(
        letters
            .iter()
            .any(|letter| letter.span.parent_span_id == plain[2].span.span_id)
    );
    // And nothing else: the 20 good ones and what Redis did for them were not asked for.
    let all = collector.spans();
    let names: Vec<&str> = all.iter().map(|span| span.span.name.as_str()).collect();
    assert_eq!(all.len(), 6, "{names:?}");
}

#[tokio::test]
async fn log_lines_carry_trace_span_flow_and_function() {
    let (cluster, collector) = traced(&[]).await;
    let worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("traceparent", &traceparent(true)), ("ce-id", "refused")],
        "reject",
    )
    .await;
    worker.wait_for_line("dead-lettered").await;
    let process = spans(&collector, "its span", 1, |span| {
        span.tag("oncue.outcome") == "dead"
    })
    .await;
    let line = worker
        .log()
        .lines()
        .find(|line| line.contains("dead-lettered"))
        .expect("logged")
        .to_owned();
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    for (field, value) in [
        ("trace_id", TRACE),
        ("span_id", hex(&process[0].span.span_id).as_str()),
        ("flow_id", "refused"),
        ("function", "misbehave"),
        ("service", "misbehave"),
        ("event", "refused"),
        ("reason", "rejected"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
}

#[tokio::test]
async fn log_lines_lead_to_the_flow_where_nobody_traces() {
    let (cluster, _collector) = traced(&[("OTEL_SDK_DISABLED", "true")]).await;
    let worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("traceparent", &traceparent(false)), ("ce-id", "carried")],
        "reject",
    )
    .await;
    tell(&bus, &[("ce-id", "plain")], "reject").await;
    let line = async |flow: &str| -> serde_json::Value {
        let field = format!("\"flow_id\":\"{flow}\"");
        let line = until(&field, async || {
            worker
                .log()
                .lines()
                .find(|line| line.contains(&field))
                .map(str::to_owned)
        });
        serde_json::from_str(&line.await).expect("JSON")
    };
    assert_eq!(line("carried").await["trace_id"], TRACE);
    let derived = oncue_proto::event::untraced("plain");
    assert_eq!(
        line("plain").await["trace_id"].as_str(),
        derived.split('-').nth(1)
    );
}
