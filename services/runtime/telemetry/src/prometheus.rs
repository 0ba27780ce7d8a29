//! `/metrics`: the Prometheus text format, or OpenMetrics, which knows exemplars, for who asks for that; and a listener for
//! processes that have no HTTP server of their own.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::metrics::{BOUNDS, Labels, Metric, Points, Source, Spread};

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Largest request head.
const MAX_HEAD: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes metrics out, as OpenMetrics if `open`.
pub fn render(metrics: &[Metric], open: bool) -> String {
    let mut out = String::new();
    for metric in metrics {
        let family = name(metric);
        let (kind, total) = match &metric.points {
            Points::Sums(_) => ("counter", "_total"),
            Points::Gauges(_) => ("gauge", ""),
            Points::Spreads(_) => ("histogram", ""),
        };
        // The plain format calls a counter's family what it calls its samples.
        let titled = if open {
            family.clone()
        } else {
            format!("{family}{total}")
        };
        let _ = writeln!(
            out,
            "# HELP {titled} {}\n# TYPE {titled} {kind}",
            metric.help
        );
        let scalar = |out: &mut String, labels: &Labels, value: &dyn Display| {
            let _ = writeln!(out, "{family}{total}{} {value}", braced(labels, None));
        };
        match &metric.points {
            Points::Sums(points) => {
                for (labels, value) in points {
                    scalar(&mut out, labels, value);
                }
            }
            Points::Gauges(points) => {
                for (labels, value) in points {
                    scalar(&mut out, labels, value);
                }
            }
            Points::Spreads(points) => {
                for (labels, spread) in points {
                    histogram(&mut out, &family, labels, spread, open);
                }
            }
        }
    }
    if open {
        out.push_str("# EOF\n");
    }
    out
}

/// Dots become underscores, and the unit is the last word [OpenTelemetry, Prometheus compatibility].
fn name(metric: &Metric) -> String {
    let mut name = metric.name.replace('.', "_");
    if metric.unit == "s" && !name.ends_with("_seconds") {
        name.push_str("_seconds");
    }
    name
}

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

/// In the buckets of the conventions, whatever finer ones were kept.
fn histogram(out: &mut String, family: &str, labels: &Labels, spread: &Spread, open: bool) {
    let mut below = 0;
    let mut from = 0;
    for bound in BOUNDS.iter().copied().chain([f64::INFINITY]) {
        let until = spread.bounds.partition_point(|own| *own <= bound).max(from);
        let until = if bound.is_infinite() {
            spread.counts.len()
        } else {
            until
        };
        below += spread.counts[from..until].iter().sum::<u64>();
        let le = if bound.is_infinite() {
            "+Inf".to_owned()
        } else {
            bound.to_string()
        };
        let _ = write!(out, "{family}_bucket{} {below}", braced(labels, Some(&le)));
        if let Some((_, example)) = spread
            .exemplars
            .iter()
            .rfind(|(at, _)| open && (from..until).contains(at))
        {
            let at = example.at as f64 / 1000.0;
            let _ = write!(
                out,
                " # {{trace_id=\"{}\"}} {} {at:.3}",
                example.trace, example.value
            );
        }
        out.push('\n');
        from = until;
    }
    let _ = writeln!(out, "{family}_sum{} {}", braced(labels, None), spread.sum);
    let _ = writeln!(out, "{family}_count{} {below}", braced(labels, None));
}

pub fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Whether a client would rather have OpenMetrics, and what its answer is then called.
pub fn wanted(accept: Option<&str>) -> (bool, &'static str) {
    let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
    (open, if open { OPEN } else { PLAIN })
}

/// Answers `GET /metrics` on `ONCUE_METRICS_LISTEN`, if that is set. That nobody can listen there is said, and no reason to
/// stop.
pub async fn serve(source: Source) {
    let Some(address) = super::listen() else {
        return;
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => return tracing::warn!(address, error = %e, "no /metrics: cannot listen"),
    };
    if let Ok(at) = listener.local_addr() {
        tracing::info!("metrics on http://{at}/metrics");
    }
    loop {
        match listener.accept().await {
            // One after another: who scrapes comes alone, and whoever dawdles is cut off.
            Ok((mut stream, _)) => drop(timeout(PATIENCE, answer(&mut stream, &source)).await),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(stream: &mut TcpStream, source: &Source) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let mut lines = head.lines();
    let path = lines
        .next()
        .unwrap_or_default()
        .strip_prefix("get ")
        .and_then(|rest| rest.split([' ', '?']).next());
    let (open, kind) = wanted(lines.find_map(|line| line.strip_prefix("accept:")));
    let (status, body) = match path {
        Some("/metrics") => ("200 OK", render(&source(), open)),
        _ => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Exemplar;
    use super::*;

    fn metrics() -> Vec<Metric> {
        let mut spread = Spread {
            bounds: vec![0.001, 0.005, 0.01, 10.0],
            counts: vec![1, 2, 3, 4, 5],
            sum: 7.5,
            exemplars: Vec::new(),
        };
        spread.exemplars.push((
            1,
            Exemplar {
                trace: "ab".repeat(16),
                value: 0.002,
                at: 1500,
            },
        ));
        vec![
            Metric {
                name: "faas.invocations",
                unit: "{invocation}",
                help: "Runs.",
                points: Points::Sums(vec![(vec![("faas.trigger", "a\"b".to_owned())], 3)]),
            },
            Metric {
                name: "messaging.process.duration",
                unit: "s",
                help: "Time.",
                points: Points::Spreads(vec![(Vec::new(), spread)]),
            },
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
