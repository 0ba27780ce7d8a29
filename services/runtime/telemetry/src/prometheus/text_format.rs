//! Writer of the Prometheus text format 0.0.4, and of OpenMetrics 1.0, which knows exemplars, for clients that ask
//! for it.
//!
//! Written here and not by the crate `prometheus-client` (looked at: 0.26.0): a collector of one's own cannot make
//! its `Exemplar`, whose fields are private, so the trace ids on the buckets of `messaging.process.duration` would be
//! lost, or every event would be recorded in a second, locked histogram that `$SRV.STATS` cannot read; and it would
//! add three crates to every function.
//!
//! ```text
//! # HELP messaging_process_duration_seconds Time a handler ran on one event.
//! # TYPE messaging_process_duration_seconds histogram
//! messaging_process_duration_seconds_bucket{le="0.005"} 3 # {trace_id="0af7..."} 0.002 1.500
//! messaging_process_duration_seconds_bucket{le="+Inf"} 15
//! messaging_process_duration_seconds_sum 7.5
//! messaging_process_duration_seconds_count 15
//! ```
//!
//! Both formats are alike but for three things: OpenMetrics names a counter's family without `_total`, may put
//! an exemplar behind a bucket, and ends with `# EOF`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use crate::metrics::{BOUNDS, Exemplar, Histogram, Labels, Metric, Samples};
use crate::process::Process;

/// `Content-Type` of the text format 0.0.4.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
/// `Content-Type` of OpenMetrics 1.0.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a client would rather have OpenMetrics, by its `Accept`, and the `Content-Type` of the answer.
/// Weights (`q=`) are not compared: a scraper that names OpenMetrics can read it.
pub fn wanted(accept: Option<&str>) -> (bool, &'static str) {
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    (open, if open { OPEN } else { PLAIN })
}

/// Metrics as text, in OpenMetrics if `open`.
/// Families stand in the order of the list.
pub fn render(metrics: &[Metric], open: bool) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for metric in metrics {
        let _ = write_metric(&mut text, metric, open);
    }
    if let Some(process) = Process::get() {
        let _ = write_target(&mut text, &process.target, open);
    }
    if open {
        text.push_str("# EOF\n");
    }
    text
}

/// Writes `target_info`, by which the series of a process are joined with what it is; OpenMetrics has a type for it.
fn write_target(out: &mut String, target: &BTreeMap<String, String>, open: bool) -> fmt::Result {
    // Names that differ in characters alone that no label has are one label, with the values of all [OpenTelemetry,
    // Prometheus compatibility].
    let mut merged: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in target.iter().filter(|(name, _)| !name.is_empty()) {
        let mut name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert_str(0, "key_");
        }
        merged.entry(name).or_default().push(value);
    }
    let labels = merged.iter();
    let labels = labels.map(|(name, values)| format!("{name}=\"{}\"", escape(&values.join(";"))));
    let labels = labels.collect::<Vec<_>>().join(",");
    let family = if open { "target" } else { "target_info" };
    let kind = if open { "info" } else { "gauge" };
    writeln!(out, "# HELP {family} The process that tells these numbers.")?;
    writeln!(out, "# TYPE {family} {kind}")?;
    writeln!(out, "target_info{{{labels}}} 1")
}

/// Writes one family: its help, its type, and its series.
fn write_metric(out: &mut String, metric: &Metric, open: bool) -> fmt::Result {
    let family = family(metric);
    let kind = match &metric.samples {
        Samples::Sums(_) => "counter",
        Samples::Gauges(_) => "gauge",
        Samples::Histograms(_) => "histogram",
    };
    let suffix = if kind == "counter" { "_total" } else { "" };
    // The plain format calls a counter's family what it calls its samples.
    let titled = if open { "" } else { suffix };
    writeln!(out, "# HELP {family}{titled} {}", metric.help)?;
    writeln!(out, "# TYPE {family}{titled} {kind}")?;
    let name = format!("{family}{suffix}");
    match &metric.samples {
        Samples::Sums(sums) => write_scalars(out, &name, sums),
        Samples::Gauges(gauges) => write_scalars(out, &name, gauges),
        Samples::Histograms(histograms) => {
            for (labels, histogram) in histograms {
                write_histogram(out, &name, labels, histogram, open)?;
            }
            Ok(())
        }
    }
}

/// Writes one line for each series of a counter or gauge.
fn write_scalars<V: Display>(out: &mut String, name: &str, samples: &[(Labels, V)]) -> fmt::Result {
    for (labels, value) in samples {
        writeln!(out, "{name}{} {value}", braced(labels, None))?;
    }
    Ok(())
}

/// Name of a metric: dots become underscores, and the unit is the last word [OpenTelemetry, Prometheus
/// compatibility]. Units other than seconds are not part of it.
fn family(metric: &Metric) -> String {
    let mut name = metric.name.replace('.', "_");
    if metric.unit == "s" && !name.ends_with("_seconds") {
        name.push_str("_seconds");
    }
    name
}

/// Labels in braces, behind them the upper bound of a bucket.
/// Nothing at all where there are no labels. Names lose their dots as those of metrics do.
fn braced(labels: &Labels, bound: Option<&str>) -> String {
    let mut all: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{}=\"{}\"", name.replace('.', "_"), escape(value)))
        .collect();
    all.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if all.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", all.join(","))
    }
}

/// Writes a histogram in the buckets of the conventions, whatever finer ones were kept.
/// Counts of the format are cumulative, those kept are not. A bucket that straddles a bound of the
/// conventions counts for the next one, so no count is larger than the truth. Of several exemplars
/// in a bucket the last is written.
fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &Labels,
    histogram: &Histogram,
    open: bool,
) -> fmt::Result {
    let mut below = 0;
    let mut from = 0;
    for bound in BOUNDS.iter().copied().chain([f64::INFINITY]) {
        let (until, le) = if bound.is_infinite() {
            (histogram.counts.len(), "+Inf".to_owned())
        } else {
            let own = histogram.bounds.partition_point(|own| *own <= bound);
            (own.max(from), bound.to_string())
        };
        below += histogram.counts[from..until].iter().sum::<u64>();
        write!(out, "{name}_bucket{} {below}", braced(labels, Some(&le)))?;
        let mut exemplars = histogram.exemplars.iter();
        if let Some(exemplar) = exemplars.rfind(|one| open && (from..until).contains(&one.bucket)) {
            write_exemplar(out, exemplar)?;
        }
        out.push('\n');
        from = until;
    }
    let labels = braced(labels, None);
    writeln!(out, "{name}_sum{labels} {}", histogram.sum)?;
    writeln!(out, "{name}_count{labels} {below}")
}

/// Writes ` # {labels} value timestamp` behind a bucket [OpenMetrics, exemplars].
fn write_exemplar(out: &mut String, exemplar: &Exemplar) -> fmt::Result {
    let Exemplar { trace, value, .. } = exemplar;
    let seconds = exemplar.at as f64 / 1000.0;
    write!(out, " # {{trace_id=\"{trace}\"}} {value} {seconds:.3}")
}

/// Value of a label with the three characters escaped that the format wants so.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Vec<Metric> {
        let spread = Histogram {
            bounds: vec![0.001, 0.005, 0.01, 10.0],
            counts: vec![1, 2, 3, 4, 5],
            sum: 7.5,
            exemplars: vec![Exemplar {
                bucket: 1,
                trace: "ab".repeat(16),
                value: 0.002,
                at: 1500,
            }],
        };
        let labels = vec![("faas.trigger", "a\"b".to_owned())];
        vec![
            Metric::sum("faas.invocations", "{invocation}", "Runs.", labels, 3),
            Metric::seconds(
                "messaging.process.duration",
                "Time.",
                vec![(Vec::new(), spread)],
            ),
        ]
    }

    #[test]
    fn finer_buckets_are_summed_up_and_labels_escaped() {
        let text = render(&metrics(), false);
        assert!(
            text.contains("# TYPE faas_invocations_total counter\nfaas_invocations_total{faas_trigger=\"a\\\"b\"} 3\n"),
            "{text}"
        );
        for line in [
            "messaging_process_duration_seconds_bucket{le=\"0.005\"} 3\n",
            "messaging_process_duration_seconds_bucket{le=\"0.01\"} 6\n",
            "messaging_process_duration_seconds_bucket{le=\"7.5\"} 6\n",
            "messaging_process_duration_seconds_bucket{le=\"10\"} 10\n",
            "messaging_process_duration_seconds_bucket{le=\"+Inf\"} 15\n",
            "messaging_process_duration_seconds_count 15\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(
            !text.contains("trace_id"),
            "the plain format knows no exemplars: {text}"
        );
    }

    #[test]
    fn a_process_says_who_it_is() {
        let target = BTreeMap::from([("service.name".to_owned(), "a\"b".to_owned())]);
        for (open, kind) in [(true, "target info"), (false, "target_info gauge")] {
            let mut text = String::new();
            write_target(&mut text, &target, open).unwrap();
            assert!(text.contains(&format!("# TYPE {kind}\n")), "{text}");
            assert!(
                text.ends_with("target_info{service_name=\"a\\\"b\"} 1\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn any_attribute_of_a_resource_makes_a_label() {
        let named = ["2nd.zone", "", "k8s.pod.name", "k8s.pod-name", "ok"];
        let target = named.map(|name| (name.to_owned(), format!("v{}", name.len())));
        let mut text = String::new();
        write_target(&mut text, &BTreeMap::from(target), true).unwrap();
        let last = "target_info{k8s_pod_name=\"v12;v12\",key_2nd_zone=\"v8\",ok=\"v2\"} 1\n";
        assert!(text.ends_with(last), "{text}");
    }

    #[test]
    fn open_metrics_carry_exemplars_and_say_their_end() {
        let text = render(&metrics(), true);
        let line = format!(
            "le=\"0.005\"}} 3 # {{trace_id=\"{}\"}} 0.002 1.500\n",
            "ab".repeat(16)
        );
        assert!(text.contains(&line), "{text}");
        assert!(
            text.contains("# TYPE faas_invocations counter\nfaas_invocations_total"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
