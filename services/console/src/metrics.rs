//! `GET /metrics`: every function of the app, running or not, its streams and its servers, in one place.
//!
//! | numbers | come from | while that is away |
//! |---|---|---|
//! | `*_total`, durations | Redis, where every worker adds what it counts; they outlive workers and this console | as last read |
//! | what waits, in flight, dead letters, streams | NATS | left out: a number nobody knows is no number |
//! | what is wrong, by kind | the notices | as last seen |
//! | replicas, state | `$SRV` answers, of workers and of every `oncue up` | left out |
//!
//! Series are bounded: only functions that have a consumer or stand in `oncue.toml` are told, and at most
//! [`MOST_FUNCTIONS`]. Names are those of [`Metric`], with dots.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use oncue_admin::functions::FunctionState;
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::DLQ;
use oncue_core::config::NoticeKind;
use oncue_proto::event;
use oncue_telemetry::metrics::{Histogram, Labels, Metric};
use oncue_telemetry::prometheus;

use crate::App;
use crate::sample::FunctionCounts;
use crate::snapshot::{Function, Measured};

/// Functions that are told; an app with more has a console that says so.
const MOST_FUNCTIONS: usize = 1000;

/// Kinds of things that are wrong.
const KINDS: [NoticeKind; 5] = [
    NoticeKind::Letters,
    NoticeKind::Functions,
    NoticeKind::Servers,
    NoticeKind::Store,
    NoticeKind::Certificates,
];

/// Counts of events, by what became of them.
const OUTCOMES: [&str; 5] = ["applied", "duplicate", "conflict", "retried", "dead"];

/// All numbers in the form the scraper asks for.
pub async fn get(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT);
    let (open, kind) = prometheus::wanted(accept.and_then(|value| value.to_str().ok()));
    let text = prometheus::render(&list(&app, event::now_ms()), open);
    ([(header::CONTENT_TYPE, kind)], text)
}

/// All metrics as of `now` (Unix ms), the same families each time.
fn list(app: &App, now: u64) -> Vec<Metric> {
    let measured = app.snapshot.measured();
    let name = app.config.app.to_string();
    let moment = Moment {
        app: &name,
        now,
        sighted: measured.looked > 0 && !measured.blind && measured.servers.nats.is_none(),
        functions: told(&measured),
        measured: &measured,
    };
    let mut all = moment.servers();
    all.extend(moment.functions());
    all.extend(moment.counts());
    all.extend(moment.streams(app));
    all.push(moment.notices(app));
    all
}

/// Functions to tell, in the order of their names.
fn told(measured: &Measured) -> Vec<(&String, &Function)> {
    let all = measured.functions.iter();
    let own = all.filter(|(_, one)| one.view.declared || one.status.consumer.is_some());
    own.take(MOST_FUNCTIONS).collect()
}

/// Moment to be told.
struct Moment<'m> {
    app: &'m str,
    now: u64,
    /// Whether NATS answers, so that what it said is how things are.
    sighted: bool,
    functions: Vec<(&'m String, &'m Function)>,
    measured: &'m Measured,
}

type Gauge = (Labels, f64);

impl Moment<'_> {
    fn labels(&self, more: &[(&'static str, &str)]) -> Labels {
        let mut labels = vec![("oncue.app", self.app.to_owned())];
        labels.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        labels
    }

    fn of(&self, function: &str) -> Labels {
        self.labels(&[("oncue.function", function)])
    }

    /// Value of each function, where there is one and NATS is there to know it.
    fn each(&self, value: impl Fn(&Function) -> Option<u64>) -> Vec<Gauge> {
        if !self.sighted {
            return Vec::new();
        }
        let all = self.functions.iter();
        let known = all.filter_map(|(name, one)| Some((self.of(name), value(one)? as f64)));
        known.collect()
    }

    fn up(&self, server: &str, is_up: bool) -> Gauge {
        let labels = self.labels(&[("oncue.server", server)]);
        (labels, if is_up { 1.0 } else { 0.0 })
    }

    /// Bytes that Redis said, while it is there.
    fn memory(&self, bytes: u64) -> Vec<Gauge> {
        let is_known = self.measured.servers.redis.is_none() && self.measured.redis.used_bytes > 0;
        let value = is_known.then(|| (self.labels(&[]), bytes as f64));
        value.into_iter().collect()
    }

    fn servers(&self) -> Vec<Metric> {
        let servers = &self.measured.servers;
        let redis = &self.measured.redis;
        // One that has never seen anything is as blind as it is old.
        let looked = self.measured.looked.max(self.measured.begun);
        let age = self.now.saturating_sub(looked) as f64 / 1000.0;
        vec![
            Metric::gauges(
                "oncue.up",
                "1",
                "Whether a server answers the console.",
                vec![
                    self.up("nats", servers.nats.is_none()),
                    self.up("redis", servers.redis.is_none()),
                ],
            ),
            Metric::gauges(
                "oncue.console.look.age",
                "s",
                "Time since the console last looked at the bus.",
                vec![(self.labels(&[]), age)],
            ),
            Metric::gauges(
                "oncue.redis.memory.used_bytes",
                "By",
                "Memory that Redis uses.",
                self.memory(redis.used_bytes),
            ),
            Metric::gauges(
                "oncue.redis.memory.max_bytes",
                "By",
                "Memory that Redis may use; 0 for no limit of its own.",
                self.memory(redis.max_bytes),
            ),
        ]
    }

    /// Things that are wrong, as those are told whom `[notice.NAME]` names; all kinds, so that none is absent.
    fn notices(&self, app: &App) -> Metric {
        let notices = app.notices.all();
        let open = KINDS.map(|kind| {
            let of_kind = notices
                .values()
                .filter(|notice| notice.ended.is_none() && notice.kind == kind);
            let labels = self.labels(&[("oncue.kind", kind.word())]);
            (labels, of_kind.count() as f64)
        });
        Metric::gauges(
            "oncue.notices",
            "1",
            "Things that are wrong, by kind.",
            open.to_vec(),
        )
    }

    fn functions(&self) -> Vec<Metric> {
        let mut all = self.work();
        all.extend(self.replicas());
        let marks = self.functions.iter().filter_map(|(name, _)| {
            let bytes = *self.measured.redis.marks.get(*name)?;
            Some((self.of(name), bytes as f64))
        });
        all.push(Metric::gauges(
            "oncue.function.marks.bytes",
            "By",
            "Memory of Redis that the seen-marks of a function take.",
            marks.collect(),
        ));
        all
    }

    /// Events that wait for functions, and those in their hands.
    fn work(&self) -> Vec<Metric> {
        let oldest = self.functions.iter().filter_map(|(name, one)| {
            one.status.consumer.as_ref()?;
            let since = one.status.oldest.unwrap_or(self.now);
            Some((
                self.of(name),
                self.now.saturating_sub(since) as f64 / 1000.0,
            ))
        });
        let oldest = if self.sighted {
            oldest.collect()
        } else {
            Vec::new()
        };
        vec![
            Metric::gauges(
                "oncue.function.lag",
                "{event}",
                "Events that no worker of the function was handed yet.",
                self.each(|one| Some(info(one)?.num_pending)),
            ),
            Metric::gauges(
                "oncue.function.in_flight",
                "{event}",
                "Events handed to workers and not settled, those among them that wait to be tried again.",
                self.each(|one| Some(info(one)?.num_ack_pending)),
            ),
            Metric::gauges(
                "oncue.function.redelivered",
                "{event}",
                "Events in flight that were handed out more than once.",
                self.each(|one| Some(info(one)?.num_redelivered)),
            ),
            Metric::gauges(
                "oncue.function.oldest_pending.age",
                "s",
                "Age of the oldest event that the function is not done with; 0 where it is done with all.",
                oldest,
            ),
            Metric::gauges(
                "oncue.function.dead_letters",
                "{event}",
                "Dead letters of the function that lie in the stream.",
                self.each(|one| Some(one.status.letters)),
            ),
            Metric::gauges(
                "oncue.function.outputs.waiting",
                "{commit}",
                "Commits of the function whose outputs are in no stream yet.",
                self.each(|one| Some(one.status.waiting_outputs())),
            ),
        ]
    }

    /// Processes, and the state of a function as a whole.
    fn replicas(&self) -> Vec<Metric> {
        let states = self.functions.iter().flat_map(|(name, one)| {
            FunctionState::ALL.map(|state| {
                let labels =
                    self.labels(&[("oncue.function", name), ("oncue.state", state.word())]);
                (labels, if one.status.state == state { 1.0 } else { 0.0 })
            })
        });
        let states = if self.sighted {
            states.collect()
        } else {
            Vec::new()
        };
        let info = self.functions.iter().map(|(name, one)| {
            let labels = self.labels(&[
                ("oncue.function", name),
                ("version", &one.view.version),
                ("stream", &one.view.stream),
            ]);
            (labels, 1.0)
        });
        vec![
            Metric::gauges(
                "oncue.function.replicas.running",
                "{process}",
                "Workers of the function that answer.",
                self.each(|one| Some(one.status.instances.len() as u64)),
            ),
            Metric::gauges(
                "oncue.function.replicas.wanted",
                "{process}",
                "Workers that `oncue up` would have now, for what waits.",
                self.each(|one| Some(u64::from(one.status.supervised.as_ref()?.wanted))),
            ),
            Metric::gauges(
                "oncue.function.replicas.max",
                "{process}",
                "Most workers that `oncue up` starts.",
                self.each(|one| Some(u64::from(one.status.supervised.as_ref()?.max))),
            ),
            Metric::gauges(
                "oncue.function.state",
                "1",
                "1 for the state that the function is in.",
                states,
            ),
            Metric::gauges(
                "oncue.function.info",
                "1",
                "Version of a function, and the stream it reads.",
                info.collect(),
            ),
        ]
    }

    /// Counts over all workers there ever were.
    fn counts(&self) -> Vec<Metric> {
        let none = FunctionCounts::new();
        // Before Redis has answered once no count is known, and a count that begins at 0 would look like a peak.
        let is_known = self.measured.redis.used_bytes > 0;
        let known = self.functions.iter().filter(|_| is_known);
        let all: Vec<(&String, &FunctionCounts)> = known
            .map(|(name, _)| {
                (
                    *name,
                    self.measured.redis.counts.get(*name).unwrap_or(&none),
                )
            })
            .collect();
        let outcomes = all.iter().flat_map(|(name, counts)| {
            OUTCOMES.map(|outcome| {
                let labels = self.labels(&[("oncue.function", name), ("oncue.outcome", outcome)]);
                (labels, count(counts, outcome))
            })
        });
        let delivered = all
            .iter()
            .map(|(name, counts)| (self.of(name), count(counts, "delivered")));
        let durations = all
            .iter()
            .map(|(name, counts)| (self.of(name), histogram(counts)));
        vec![
            Metric::sums(
                "oncue.function.delivered",
                "{event}",
                "Deliveries that workers of the function took.",
                delivered.collect(),
            ),
            Metric::sums(
                "oncue.function.events",
                "{event}",
                "Deliveries by what became of them.",
                outcomes.collect(),
            ),
            Metric::seconds(
                "oncue.function.duration",
                "Time that handlers of the function ran on one event.",
                durations.collect(),
            ),
        ]
    }

    /// Value of each stream, where NATS is there to know it.
    fn of_streams(&self, value: impl Fn(&str) -> Option<f64>) -> Vec<Gauge> {
        if !self.sighted {
            return Vec::new();
        }
        let all = self.measured.streams.keys().filter_map(|name| {
            let labels = self.labels(&[("oncue.stream", name)]);
            Some((labels, value(name)?))
        });
        all.collect()
    }

    /// Streams of this app and of others that its functions read.
    fn streams(&self, app: &App) -> Vec<Metric> {
        let streams = &self.measured.streams;
        vec![
            Metric::gauges(
                "oncue.stream.messages",
                "{message}",
                "Messages that a stream holds.",
                self.of_streams(|name| Some(streams[name].state.messages as f64)),
            ),
            Metric::gauges(
                "oncue.stream.bytes",
                "By",
                "Bytes that a stream holds.",
                self.of_streams(|name| Some(streams[name].state.bytes as f64)),
            ),
            Metric::gauges(
                "oncue.stream.max_bytes",
                "By",
                "Bytes that a stream may hold; a stream without a limit is left out.",
                self.of_streams(|name| {
                    u64::try_from(streams[name].config.max_bytes)
                        .ok()
                        .map(|most| most as f64)
                }),
            ),
            Metric::gauges(
                "oncue.stream.reserve_bytes",
                "By",
                "Part of the limit that the gateway leaves to what functions emit.",
                self.of_streams(|name| {
                    let reserve = app.config.stream(name).reserve();
                    (name != DLQ && streams[name].config.max_bytes > 0).then_some(reserve as f64)
                }),
            ),
        ]
    }
}

fn info(function: &Function) -> Option<&ConsumerInfo> {
    let consumer = function.status.consumer.as_ref()?;
    Some(&consumer.info)
}

fn count(counts: &FunctionCounts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// Durations as workers add them up: `run:MICROSECONDS` for each bucket, and microseconds in sum.
fn histogram(counts: &FunctionCounts) -> Histogram {
    let mut buckets: Vec<(u64, u64)> = counts
        .iter()
        .filter_map(|(name, count)| {
            let bound = name.strip_prefix("run:")?;
            Some((bound.parse().unwrap_or(u64::MAX), *count))
        })
        .collect();
    buckets.sort_unstable();
    let beyond = buckets.pop_if(|(bound, _)| *bound == u64::MAX);
    let mut all = Histogram {
        bounds: buckets
            .iter()
            .map(|(bound, _)| *bound as f64 / 1e6)
            .collect(),
        counts: buckets.iter().map(|(_, count)| *count).collect(),
        sum: counts.get("busy").copied().unwrap_or(0) as f64 / 1e6,
        ..Histogram::default()
    };
    all.counts.push(beyond.map_or(0, |(_, count)| count));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_all_workers_are_one_histogram() {
        let counts = [
            ("run:100", 2),
            ("run:1000", 3),
            ("run:inf", 1),
            ("busy", 2_500_000),
            ("applied", 9),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        let all = histogram(&FunctionCounts::from(counts));
        assert_eq!(all.bounds, [0.0001, 0.001]);
        assert_eq!(all.counts, [2, 3, 1]);
        assert!((all.sum - 2.5).abs() < 1e-9);
        assert_eq!(histogram(&FunctionCounts::new()).counts, [0]);
    }
}
