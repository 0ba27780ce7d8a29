//! The environment as it may be, and what is made of it.

use super::*;

const ALL_BUILT: Built = Built {
    grpc: true,
    gzip: true,
};

fn read(variables: &[(&str, &str)]) -> Settings {
    read_for(ALL_BUILT, variables)
}

fn read_for(built: Built, variables: &[(&str, &str)]) -> Settings {
    Settings::read(built, |name| {
        variables
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn target(settings: &Settings) -> Target {
    let Destination::Otlp(target) = &settings.traces else {
        panic!("{settings:?}")
    };
    target.clone()
}

#[test]
fn defaults_are_those_of_the_specification_and_metrics_wait_to_be_asked() {
    let settings = read(&[("OTEL_SERVICE_NAME", " ")]);
    let expected = Target {
        signal: Signal::Traces,
        grpc: false,
        gzip: false,
        url: "http://localhost:4318/v1/traces".to_owned(),
        headers: Vec::new(),
        timeout: Duration::from_secs(10),
    };
    assert_eq!(
        (target(&settings), settings.metrics, &settings.listen),
        (expected, None, &None)
    );
    assert_eq!(
        settings.queueing,
        Queueing {
            most: 2048,
            batch: 512,
            delay: Duration::from_secs(5)
        }
    );
    assert_eq!(
        settings.sampler,
        Sampler {
            root: Root::All,
            parent_based: true
        }
    );
    assert!(
        settings.propagators.tracecontext && settings.propagators.baggage && !settings.messages
    );
    assert_eq!(
        (settings.limits.attributes, settings.limits.value_length),
        (128, usize::MAX)
    );
    assert_eq!((settings.budget, settings.log_level), (10_000, "info"));
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn disabled_leaves_propagation_and_our_own_listener() {
    let settings = read(&[
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("ONCUE_METRICS_LISTEN", "127.0.0.1:1"),
    ]);
    assert_eq!(
        (settings.traces, settings.metrics),
        (Destination::None, None)
    );
    assert_eq!(settings.listen.as_deref(), Some("127.0.0.1:1"));
    assert!(settings.propagators.tracecontext && settings.warnings.is_empty());
}

#[test]
fn the_variable_of_a_signal_beats_the_general_one() {
    let settings = read(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9000"),
    ]);
    assert!(target(&settings).grpc);
    let metrics = settings.metrics.expect("metrics are pushed").target;
    assert!(!metrics.grpc);
    assert_eq!(metrics.url, "http://localhost:4318/v1/metrics");
    assert_eq!(settings.listen.as_deref(), Some("localhost:9000"));
}

#[test]
fn a_protocol_that_is_not_built_in_sends_nothing_and_says_what_to_do() {
    let asked = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
    ];
    let settings = read(&asked);
    assert!(target(&settings).grpc && target(&settings).gzip && settings.warnings.is_empty());
    let small = Built {
        grpc: false,
        gzip: false,
    };
    let settings = read_for(small, &asked);
    assert_eq!(settings.traces, Destination::None);
    assert!(settings.metrics.is_some_and(|push| !push.target.gzip));
    let [protocol, compression] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings)
    };
    for part in ["no traces are sent", "feature \"grpc\"", "http/protobuf"] {
        assert!(protocol.contains(part), "{part} in {protocol}");
    }
    assert!(compression.contains("metrics are sent as they are"));
}

#[test]
fn the_temporality_of_metrics_is_what_is_asked_for() {
    for (name, expected) in [
        ("", Temporality::Cumulative),
        ("Delta", Temporality::Delta),
        ("lowmemory", Temporality::LowMemory),
    ] {
        let settings = read(&[
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", name),
        ]);
        let push = settings.metrics.expect("metrics are pushed");
        assert_eq!((push.temporality, settings.warnings.len()), (expected, 0));
    }
}

#[test]
fn every_sampler_of_the_specification_is_known_or_refused() {
    let sampler = |name: &str, arg: &str| {
        read(&[
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", arg),
        ])
    };
    for (name, arg, root, parent_based) in [
        ("always_on", "", Root::All, false),
        ("always_off", "", Root::None, false),
        ("traceidratio", "0.25", Root::Ratio(0.25), false),
        ("parentbased_always_on", "", Root::All, true),
        ("parentbased_always_off", "", Root::None, true),
        ("parentbased_traceidratio", "0.01", Root::Ratio(0.01), true),
        ("traceidratio", "", Root::Ratio(1.0), false),
    ] {
        let settings = sampler(name, arg);
        assert_eq!(
            (settings.sampler, settings.warnings.len()),
            (Sampler { root, parent_based }, 0),
            "{name}"
        );
    }
    for (name, arg) in [
        ("jaeger_remote", ""),
        ("xray", ""),
        ("traceidratio", "2"),
        ("traceidratio", "much"),
    ] {
        let settings = sampler(name, arg);
        assert!(
            settings.sampler.root == Root::All || settings.sampler.root == Root::Ratio(1.0),
            "{name}"
        );
        assert_eq!(
            settings.warnings.len(),
            1,
            "{name} {arg}: {:?}",
            settings.warnings
        );
    }
}

#[test]
fn limits_of_spans_beat_general_ones() {
    let settings = read(&[
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "7"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "9"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
    ]);
    let limits = settings.limits;
    assert_eq!(
        (
            limits.attributes,
            limits.link_attributes,
            limits.event_attributes
        ),
        (5, 7, 7)
    );
    assert_eq!(
        (limits.value_length, limits.links, limits.events),
        (9, 0, 128)
    );
}

#[test]
fn what_is_not_honoured_is_said() {
    for (name, value) in [
        ("OTEL_CONFIG_FILE", "x.yaml"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "console"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_LOG_LEVEL", "loud"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1"),
    ] {
        let settings = read(&[(name, value)]);
        assert_eq!(
            settings.warnings.len(),
            1,
            "{name}={value}: {:?}",
            settings.warnings
        );
        assert_ne!(
            settings.traces,
            Destination::None,
            "{name}={value} does not silence what works"
        );
    }
}
