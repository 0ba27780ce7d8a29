//! Spans as the conventions want them [OpenTelemetry messaging, FaaS, CloudEvents, Redis, HTTP].

use oncue_tests::cluster::{Cluster, free_port, until, wait_for_port};
use oncue_tests::collector::{Received, hex, text};
use serde_json::json;

use super::{PARENT, TRACE, spans, tell, traced, traceparent};

/// As OTLP numbers them.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

const PROCESS: &str = "process web.page.viewed";

fn check(span: &Received, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            span.tag(name),
            *value,
            "{name} of {}: {:?}",
            span.span.name,
            span.span.attributes
        );
    }
}

fn is_child(child: &Received, parent: &Received) -> bool {
    child.span.parent_span_id == parent.span.span_id && child.span.trace_id == parent.span.trace_id
}

/// All spans of one flow.
struct Flow(Vec<Received>);

impl Flow {
    fn one(&self, service: &str, name: &str) -> Received {
        let found: Vec<&Received> = self
            .0
            .iter()
            .filter(|span| span.is(service, name))
            .collect();
        let all: Vec<&str> = self.0.iter().map(|span| span.span.name.as_str()).collect();
        assert_eq!(found.len(), 1, "{service}: {name} among {all:?}");
        found[0].clone()
    }
}

#[tokio::test]
async fn a_request_and_what_it_causes_are_told_by_the_conventions() {
    let port = free_port();
    let (mut cluster, collector) = traced(&[
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test,team=a%2Cb",
        ),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue"),
    ])
    .await;
    cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
    let _gateway = cluster.spawn("oncue-gateway", &[]);
    wait_for_port(port).await;
    let _worker = cluster.start("misbehave").await;
    let request =
        reqwest::Client::new().post(format!("http://127.0.0.1:{port}/v1/events/web.page.viewed"));
    let request = request
        .header("traceparent", traceparent(true))
        .header("tracestate", "vendor=1");
    let answer = request
        .header("baggage", "a=b")
        .json(&json!({ "page": "/p", "referrer": "emit:2" }));
    let answer = answer
        .send()
        .await
        .expect("an answer")
        .json::<serde_json::Value>()
        .await
        .expect("JSON");
    let id = answer["id"].as_str().expect("an id");
    let flow = Flow(
        spans(&collector, "all spans of the flow", 7, |span| {
            span.trace() == TRACE
        })
        .await,
    );

    let (server, sent) = (
        flow.one("gateway", "POST /v1/events/{type}"),
        flow.one("gateway", "send web.page.viewed"),
    );
    check_request(&server);
    assert_eq!(sent.span.kind, PRODUCER);
    assert!(is_child(&sent, &server));
    let process = flow.one("misbehave", PROCESS);
    check_process(&process, &sent, id);
    check_messaging(&[(&sent, "send"), (&process, "process")], id, &cluster);
    check_redis(&flow, &process, &cluster);
    check_resource(&process, &collector.heads());
    check_outputs(&flow, &process, &cluster).await;
}

fn check_request(server: &Received) {
    assert_eq!(
        (server.span.kind, hex(&server.span.parent_span_id).as_str()),
        (SERVER, PARENT)
    );
    check(
        server,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/v1/events/{type}"),
            ("http.response.status_code", "202"),
            ("url.scheme", "http"),
            ("url.path", "/v1/events/web.page.viewed"),
            ("error.type", ""),
        ],
    );
}

fn check_process(process: &Received, sent: &Received, id: &str) {
    assert_eq!(process.span.kind, CONSUMER);
    assert!(
        is_child(process, sent),
        "a single message's context is the parent"
    );
    assert_eq!(process.span.links.len(), 1, "and a link");
    assert_eq!(process.span.links[0].span_id, sent.span.span_id);
    assert_eq!(
        process.span.status.as_ref().map_or(0, |status| status.code),
        0,
        "success leaves the status unset"
    );
    check(
        process,
        &[
            ("messaging.consumer.group.name", "misbehave"),
            ("faas.trigger", "pubsub"),
            ("faas.invocation_id", id),
            ("faas.coldstart", "true"),
            ("oncue.attempt", "1"),
            ("oncue.hops", "0"),
            ("oncue.outcome", "applied"),
            ("error.type", ""),
        ],
    );
}

fn check_messaging(spans: &[(&Received, &str)], id: &str, cluster: &Cluster) {
    for (span, operation) in spans {
        check(
            span,
            &[
                ("messaging.system", "nats"),
                ("messaging.operation.name", operation),
                ("messaging.operation.type", operation),
                ("messaging.destination.name", "web.page.viewed"),
                ("messaging.message.id", id),
                ("messaging.message.conversation_id", id),
                ("messaging.batch.message_count", ""),
                ("server.address", "127.0.0.1"),
                ("server.port", &cluster.nats_port.to_string()),
                ("cloudevents.event_id", id),
                ("cloudevents.event_spec_version", "1.0"),
                ("cloudevents.event_type", "web.page.viewed"),
                ("oncue.flow.id", id),
            ],
        );
    }
}

fn check_redis(flow: &Flow, process: &Received, cluster: &Cluster) {
    for (name, procedure) in [("PIPELINE", ""), ("FCALL", "oncue_commit")] {
        let redis = flow.one("misbehave", name);
        assert_eq!(redis.span.kind, CLIENT);
        assert!(is_child(&redis, process));
        check(
            &redis,
            &[
                ("db.system.name", "redis"),
                ("db.operation.name", name),
                ("db.stored_procedure.name", procedure),
                ("server.port", &cluster.redis_port.to_string()),
            ],
        );
    }
}

/// What the outputs carry on is the span that sent them, and what came with the request.
async fn check_outputs(flow: &Flow, process: &Received, cluster: &Cluster) {
    let outputs: Vec<&Received> = flow
        .0
        .iter()
        .filter(|span| span.is("misbehave", "send web.page.milestone"))
        .collect();
    assert_eq!(outputs.len(), 2);
    assert!(
        outputs
            .iter()
            .all(|output| output.span.kind == PRODUCER && is_child(output, process))
    );
    let bus = cluster.bus().await;
    let stored = cluster.messages(&bus, "web").await;
    let milestones: Vec<_> = stored
        .iter()
        .filter(|message| message.subject.starts_with("web.page.milestone"))
        .collect();
    assert_eq!(milestones.len(), 2);
    for message in milestones {
        let carried = message.header("traceparent").expect("a trace");
        assert!(
            outputs
                .iter()
                .any(|o| carried == format!("00-{TRACE}-{}-01", hex(&o.span.span_id))),
            "{carried}"
        );
        assert_eq!(
            message.header("tracestate"),
            Some("oncue=s:12;w:2,vendor=1")
        );
        assert_eq!(message.header("baggage"), Some("a=b"));
        assert_eq!(
            message.header("Nats-Trace-Dest"),
            Some("trace disabled"),
            "sampled, but not for the broker"
        );
    }
}

fn check_resource(span: &Received, heads: &[String]) {
    let say = |name: &str| text(&span.resource, name);
    assert_eq!(
        (
            say("deployment.environment.name").as_str(),
            say("team").as_str()
        ),
        ("test", "a,b")
    );
    assert_eq!(
        (
            say("faas.name").as_str(),
            say("telemetry.sdk.language").as_str()
        ),
        ("misbehave", "rust")
    );
    for name in [
        "service.version",
        "service.instance.id",
        "host.name",
        "host.arch",
        "os.type",
        "process.pid",
    ] {
        assert!(!say(name).is_empty(), "{name}: {:?}", span.resource);
    }
    assert!(
        heads
            .iter()
            .all(|head| head.to_ascii_lowercase().contains("x-tenant: blue")),
        "{heads:?}"
    );
}

#[tokio::test]
async fn retries_duplicates_and_dead_letters_are_told_apart() {
    let (cluster, collector) = traced(&[]).await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    let parent = traceparent(true);
    tell(
        &bus,
        &[("traceparent", &parent), ("ce-id", "tried-twice")],
        "fail-until:2",
    )
    .await;
    let found = spans(&collector, "two attempts", 2, |s| {
        s.tag("messaging.message.id") == "tried-twice" && s.span.kind == CONSUMER
    })
    .await;
    let (first, second) = (&found[0], &found[1]);
    assert!(first.failed() && !second.failed());
    check(
        first,
        &[
            ("oncue.attempt", "1"),
            ("oncue.outcome", "retried"),
            ("error.type", "error"),
        ],
    );
    check(
        second,
        &[
            ("oncue.attempt", "2"),
            ("oncue.outcome", "applied"),
            ("error.type", ""),
        ],
    );
    let status = first.span.status.clone().expect("a status").message;
    assert!(
        status.starts_with("error at tests/src/bin/misbehave.rs:"),
        "class and place, not the text: {status}"
    );

    tell(
        &bus,
        &[
            ("traceparent", &parent),
            ("ce-id", "tried-twice"),
            ("Nats-Msg-Id", "sent-again"),
        ],
        "fail-until:2",
    )
    .await;
    let again = spans(&collector, "a duplicate", 1, |s| {
        s.tag("oncue.duplicate") == "true"
    })
    .await;
    check(
        &again[0],
        &[
            ("messaging.message.id", "tried-twice"),
            ("oncue.outcome", "duplicate"),
            ("error.type", ""),
        ],
    );

    tell(
        &bus,
        &[("traceparent", &parent), ("ce-id", "refused")],
        "reject",
    )
    .await;
    let letters = spans(&collector, "a dead letter", 1, |s| {
        s.span.name == "send dlq.app.misbehave"
    })
    .await;
    let refused = spans(&collector, "what it is of", 1, |s| {
        s.tag("oncue.dead_letter.reason") == "rejected"
    })
    .await;
    assert!(
        is_child(&letters[0], &refused[0])
            && letters[0].span.kind == PRODUCER
            && refused[0].failed()
    );
    check(
        &refused[0],
        &[
            ("messaging.message.id", "refused"),
            ("oncue.outcome", "dead"),
            ("error.type", "rejected"),
        ],
    );
    let stored = cluster.messages(&bus, "dlq").await;
    let carried = stored[0]
        .header("traceparent")
        .expect("the letter leads to its trace")
        .to_owned();
    assert_eq!(
        carried,
        format!("00-{TRACE}-{}-01", hex(&letters[0].span.span_id))
    );
}

#[tokio::test]
async fn spans_of_authors_belong_to_the_event_and_its_sampling() {
    let (cluster, collector) = traced(&[]).await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("traceparent", &traceparent(false)), ("ce-id", "left-out")],
        "span",
    )
    .await;
    tell(
        &bus,
        &[("traceparent", &traceparent(true)), ("ce-id", "seen")],
        "span",
    )
    .await;
    let process = spans(&collector, "the event", 1, |span| {
        span.is("misbehave", PROCESS)
    })
    .await;
    let own = spans(&collector, "the author's span", 1, |span| {
        span.span.name == "look-up"
    })
    .await;
    assert!(own.len() == 1 && is_child(&own[0], &process[0]));
    check(&own[0], &[("rows", "3")]);
}

#[tokio::test]
async fn a_plain_message_is_traced_under_the_id_its_flow_gives() {
    let (cluster, collector) = traced(&[]).await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("ce-id", "plain"), ("tracestate", "orphan=1")],
        "emit:1",
    )
    .await;
    let found = spans(&collector, "its span", 1, |span| {
        span.is("misbehave", PROCESS)
    })
    .await;
    assert!(found[0].span.parent_span_id.is_empty() && found[0].span.links.is_empty());
    assert_eq!(
        oncue_proto::event::untraced("plain").split('-').nth(1),
        Some(found[0].trace().as_str())
    );
    let stored = cluster.messages(&bus, "web").await;
    let state = stored.iter().find_map(|message| {
        message
            .header("tracestate")
            .filter(|state| state.starts_with("oncue"))
    });
    assert_eq!(
        state,
        Some("oncue=s:8;w:1"),
        "a state without a trace is ignored"
    );
}

#[tokio::test]
async fn a_flow_too_large_for_one_trace_goes_on_in_a_linked_one() {
    let (cluster, collector) = traced(&[("ONCUE_TRACE_BUDGET", "20")]).await;
    let _worker = cluster.start("misbehave").await;
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("traceparent", &traceparent(true)), ("ce-id", "broad")],
        "emit:10",
    )
    .await;
    let sent = spans(&collector, "all that was sent", 10, |span| {
        span.span.name == "send web.page.milestone"
    })
    .await;
    let process = spans(&collector, "the event", 1, |span| {
        span.is("misbehave", PROCESS)
    })
    .await;
    assert_eq!(process[0].trace(), TRACE);
    let next = sent[0].trace();
    assert_ne!(next, TRACE);
    for span in &sent {
        assert_eq!(
            (span.trace(), span.tag("oncue.flow.id").as_str()),
            (next.clone(), "broad")
        );
        assert!(span.span.parent_span_id.is_empty());
        assert_eq!(span.span.links.len(), 1);
        assert_eq!(span.span.links[0].span_id, process[0].span.span_id);
        assert_eq!(hex(&span.span.links[0].trace_id), TRACE);
    }
    let event = process[0]
        .span
        .events
        .iter()
        .find(|event| event.name == "rollover")
        .expect("it says where it goes on");
    assert_eq!(text(&event.attributes, "oncue.rollover.trace_id"), next);
}

#[tokio::test]
async fn variables_rule_over_names_limits_and_what_is_passed_on() {
    let (cluster, collector) = traced(&[
        ("OTEL_SERVICE_NAME", "renamed"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
        ("OTEL_PROPAGATORS", "baggage"),
        ("OTEL_TRACES_SAMPLER", "xray"),
    ])
    .await;
    let worker = cluster.start("misbehave").await;
    assert!(
        worker
            .log()
            .contains("OTEL_TRACES_SAMPLER=\\\"xray\\\" is not supported"),
        "{}",
        worker.log()
    );
    let bus = cluster.bus().await;
    tell(
        &bus,
        &[("traceparent", &traceparent(true)), ("baggage", "a=b")],
        "emit:1",
    )
    .await;
    let found = spans(&collector, "its span", 1, |span| {
        span.is("renamed", PROCESS)
    })
    .await;
    assert_ne!(found[0].trace(), TRACE, "no trace context is taken");
    assert_eq!(
        (found[0].span.attributes.len(), found[0].span.links.len()),
        (5, 0)
    );
    assert!(found[0].span.dropped_attributes_count > 10);
    assert_eq!(found[0].tag("messaging.system"), "nat");
    let milestone = async || {
        let stored = cluster.messages(&bus, "web").await;
        stored
            .into_iter()
            .find(|message| message.subject.starts_with("web.page.milestone"))
    };
    let stored = until("the output", milestone).await;
    assert_eq!(
        (stored.header("traceparent"), stored.header("baggage")),
        (None, Some("a=b")),
        "none is given"
    );
}

#[tokio::test]
async fn spans_go_to_the_console_or_packed_as_the_environment_asks() {
    let (mut cluster, _collector) = traced(&[]).await;
    let bus = cluster.bus().await;
    cluster.set("OTEL_TRACES_EXPORTER", "console");
    let console = cluster.start("misbehave").await;
    tell(&bus, &[], "").await;
    console
        .wait_for_line("\"span\":\"process web.page.viewed\"")
        .await;

    cluster.set("OTEL_TRACES_EXPORTER", "otlp");
    cluster.set("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    drop(console);
    let packed =
        oncue_tests::collector::Collector::start(oncue_tests::collector::Manners::Prompt).await;
    cluster.set(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        &format!("{}/v1/traces", packed.url),
    );
    let _worker = cluster.start("misbehave").await;
    tell(&bus, &[], "").await;
    let head = until("a packed request", async || packed.heads().pop())
        .await
        .to_ascii_lowercase();
    assert!(head.contains("content-encoding: gzip"), "{head}");
}
