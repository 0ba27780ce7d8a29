//! What must hold for any value, without a server. The seed is fixed; another, or the one a failure was found with, is
//! set by `PROPTEST_RNG_SEED=...`, more cases by `PROPTEST_CASES=...`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use oncue::State;
use oncue::testing::MapStore;
use oncue::testing::{from_fields, to_fields};
use oncue_core::config::{Config, Span, parse_size};
use oncue_core::store::{CommitEvent, Keys, Mark, Purpose, Run, SKEW_MS, Status};
use oncue_proto::Format;
use oncue_proto::event::{self, Incoming, Meta, Origin};
use oncue_tests::any_store::AnyStore;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};
use serde::{Deserialize, Serialize};

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20_261_123);
    }
    // What was found goes into a test of its own, not into a file beside this one.
    config.failure_persistence = Some(Box::new(FileFailurePersistence::Off));
    config
}

const YEAR_10000: u64 = 253_402_300_800_000;
const ORIGIN: Origin<'static> = Origin {
    stream: "web",
    stream_created: 1,
    sequence: 7,
    published: 1_700_000_000_000,
    subject: "web.page.viewed.x",
};

/// An id or flow id: 1 to 128 bytes without control characters.
fn id() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,40}".prop_filter("an id", |id| event::check_id(id.clone()).is_ok())
}

/// A source: 1 to 1024 bytes without control characters.
fn source() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,40}".prop_filter("a source", |source| event::check_source(source).is_ok())
}

fn header() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[ -~]{0,60}")
}

fn meta() -> impl Strategy<Value = Meta> {
    let ids = (id(), source(), any::<String>(), id(), any::<String>());
    let rest = (
        proptest::option::of(0..YEAR_10000),
        any::<u32>(),
        header(),
        header(),
        header(),
    );
    (ids, rest).prop_map(
        |((id, source, ty, flow, cause), (time, hops, traceparent, tracestate, baggage))| Meta {
            id,
            source,
            ty,
            // Without one of its own it takes the stream's.
            time: time.unwrap_or(ORIGIN.published),
            timed: time.is_some(),
            flow,
            cause,
            hops,
            traceparent,
            tracestate,
            baggage,
            redrive: None,
            tracked: false,
        },
    )
}

/// A row with fields of every kind that a struct may have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Mixed {
    name: String,
    note: Option<String>,
    count: u64,
    change: i64,
    share: f64,
    open: bool,
    letter: char,
    kind: Kind,
    tags: Vec<String>,
    inner: BTreeMap<String, Option<i32>>,
    pair: Option<(u8, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum Kind {
    #[default]
    Plain,
    Sized(u32),
    Named {
        name: String,
    },
}

impl State for Mixed {
    const TABLE: &'static str = "mixed";
}

fn mixed() -> impl Strategy<Value = Mixed> {
    let kind = prop_oneof![
        Just(Kind::Plain),
        any::<u32>().prop_map(Kind::Sized),
        any::<String>().prop_map(|name| Kind::Named { name })
    ];
    // Text that looks like something else is where a row without types could go wrong.
    let text = prop_oneof![
        any::<String>(),
        "null|true|-?[0-9]{1,20}|\\{\\}|\\[1\\]|\"x\"|Plain"
    ];
    let scalars = (
        text.clone(),
        proptest::option::of(text.clone()),
        any::<u64>(),
        any::<i64>(),
        any::<bool>(),
    );
    let nested =
        proptest::collection::btree_map(text.clone(), proptest::option::of(any::<i32>()), 0..4);
    let rest = (
        -1e15..1e15,
        any::<char>(),
        kind,
        proptest::collection::vec(text.clone(), 0..4),
        nested,
    );
    (scalars, rest, proptest::option::of((any::<u8>(), text))).prop_map(
        |((name, note, count, change, open), (share, letter, kind, tags, inner), pair)| Mixed {
            name,
            note,
            count,
            change,
            share,
            open,
            letter,
            kind,
            tags,
            inner,
            pair,
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn header_values_survive_the_wire(text in any::<String>()) {
        let encoded = event::percent_encode(&text);
        prop_assert!(encoded.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b'"'), "{}", encoded);
        prop_assert_eq!(event::percent_decode(&encoded), Some(text));
    }

    #[test]
    fn an_event_is_read_as_it_was_written(
        meta in meta(), key in any::<String>(), payload in any::<Vec<u8>>(), json in any::<bool>()
    ) {
        let format = if json { Format::Json } else { Format::Protobuf };
        let headers = event::headers(&meta, &key, format);
        let pairs = headers.iter().map(|(name, value)| (*name, value.as_str()));
        let read = event::read(pairs, payload.clone().into(), &ORIGIN);
        let Incoming { meta: read, format: found, payload: carried, .. } = read.map_err(|e| TestCaseError::fail(e.message))?;
        prop_assert_eq!((read, found, carried), (meta, format, Bytes::from(payload)));
    }

    #[test]
    fn a_subject_has_the_type_and_one_plain_token(key in any::<String>()) {
        let subject = event::subject("web.page.viewed", &key);
        prop_assert_eq!(event::type_of_subject(&subject), "web.page.viewed");
        if let Some(token) = subject.strip_prefix("web.page.viewed.") {
            let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            prop_assert!((1..=64).contains(&token.len()) && plain, "{}", token);
        } else {
            prop_assert!(key.is_empty());
        }
    }

    #[test]
    fn a_row_has_one_short_key_in_its_partition(key in any::<String>(), times in 1..60usize) {
        let redis = Keys::default().row("pages", &key.repeat(times));
        let tag = format!("app:{{p{}}}:s:pages:", event::partition(&key.repeat(times)));
        prop_assert!(redis.starts_with(&tag) && redis.len() <= 300, "{}", redis);
        prop_assert!(redis.bytes().all(|b| (0x21..=0x7e).contains(&b)), "{}", redis);
    }

    #[test]
    fn a_row_is_read_as_it_was_written(row in mixed()) {
        let fields = to_fields(&row).map_err(TestCaseError::fail)?;
        prop_assert_eq!(from_fields::<Mixed>(&fields).map_err(TestCaseError::fail)?, row);
    }

    #[test]
    fn sizes_are_what_they_say(number in any::<u64>(), unit in 0..5usize) {
        let (name, factor) = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MB", 1_000_000), ("TiB", 1u64 << 40)][unit];
        for text in [format!("{number}{name}"), format!("{number} {name}")] {
            prop_assert_eq!(parse_size(&text), number.checked_mul(factor), "{}", text);
        }
        let toml = format!("[streams.web]\nmax_bytes = \"{}MiB\"\n", number >> 32);
        let config = Config::parse(&toml, None, |_| None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(config.stream("web").max_bytes.0, (number >> 32) << 20);
    }

    #[test]
    fn durations_are_read_as_they_are_written(seconds in 0..u64::from(u32::MAX), nanos in 0..1_000_000_000u32) {
        let span = Span(Duration::new(seconds, nanos));
        let written = serde_json::to_value(span).expect("a string");
        prop_assert_eq!(written.as_str().expect("a string").parse(), Ok(span), "{}", written);
    }

    #[test]
    fn times_are_read_as_they_are_written(time in 0..YEAR_10000) {
        prop_assert_eq!(event::parse_time(&event::format_time(time)), Some(time));
    }
}

/// Two events never get outputs of one id, however their names run into each other.
#[test]
fn ids_are_never_given_twice() {
    let mut rng = fastrand::Rng::with_seed(7);
    let secret = event::IdSecret::new([7; 32]);
    let mut given = HashSet::new();
    let mut asked = HashSet::new();
    while asked.len() < 100_000 {
        let letters = |rng: &mut fastrand::Rng| {
            (0..rng.usize(0..5))
                .map(|_| rng.char('a'..='c'))
                .collect::<String>()
        };
        let asking = (letters(&mut rng), letters(&mut rng), rng.usize(0..256));
        if asked.insert(asking.clone()) {
            let (input, function, index) = asking;
            let id = secret.output_id(&input, &function, index);
            assert!(given.insert(id), "{input:?} {function:?} {index}");
            if index == 0 {
                assert!(
                    given.insert(secret.dead_letter_id(&input, &function, 0)),
                    "{input:?} {function:?}"
                );
                assert!(
                    given.insert(event::idempotency_key(&input, &function, "")),
                    "{input:?} {function:?}"
                );
            }
        }
    }
}

const HORIZON: u64 = 3_600_000;
/// Times in ids that share a directory of marks begin at its multiples.
const HOUR: u64 = 3_600_000;

fn event_at(id: &str, time: u64, timed: bool) -> Run {
    let mut meta = Meta::of_origin(&ORIGIN);
    (meta.id, meta.time, meta.timed) = (id.to_owned(), time, timed);
    let mark = Mark::new("properties", "key", &meta, HORIZON);
    let event = CommitEvent {
        mark,
        payload_hash: 7,
        ops: Vec::new(),
        outbox: Bytes::new(),
        purpose: Purpose::Apply,
        entry: None,
    };
    Run {
        row: None,
        events: vec![event],
    }
}

/// A time on, just before or just after the edge of a directory, or anywhere.
fn around_edges() -> impl Strategy<Value = u64> {
    let edge = (1000..100_000u64).prop_map(|n| n * HOUR);
    (
        edge,
        prop_oneof![Just(-1i64), Just(0), Just(1), -200_000..200_000i64],
    )
        .prop_map(|(at, by)| at.saturating_add_signed(by))
}

async fn statuses(clock: &[u64], runs: &[Run]) -> Vec<Status> {
    let map = MapStore::default();
    let store = AnyStore::Map(map.clone());
    let mut statuses = Vec::new();
    for (now, run) in clock.iter().zip(runs) {
        map.set_now(*now);
        statuses.extend(
            store
                .commit(std::slice::from_ref(run))
                .await
                .expect("a map does not fail")
                .statuses
                .remove(0),
        );
    }
    statuses
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(future)
}

proptest! {
    #![proptest_config(config())]

    /// The mark is found again, and the fence stands at exactly the horizon.
    #[test]
    fn a_timed_event_is_known_and_fenced_by_its_own_time(time in around_edges(), late in 0..2 * HORIZON) {
        let (once, again) = (event_at("e", time, true), event_at("e", time, true));
        let found = block_on(statuses(&[time, time + late], &[once, again]));
        prop_assert_eq!(found, [Status::Applied, Status::Duplicate(None)]);
        for (late, expected) in [(HORIZON, Status::Applied), (HORIZON + 1, Status::TooOld)] {
            prop_assert_eq!(block_on(statuses(&[time + late], &[event_at("e", time, true)])), [expected]);
        }
        for (early, expected) in [(SKEW_MS, Status::Applied), (SKEW_MS + 1, Status::Clock)] {
            let now = time.max(SKEW_MS + 1);
            prop_assert_eq!(block_on(statuses(&[now - early], &[event_at("e", now, true)])), [expected]);
        }
    }

    /// A copy is known whatever times the two say, timed or not, and by whatever id.
    #[test]
    fn a_copy_is_known_whatever_its_time(
        id in prop_oneof![Just("e".to_owned()), Just(event::new_id()), Just("s:1:70000".to_owned())],
        now in around_edges(),
        times in [0..=HORIZON, 0..=HORIZON],
        timed in [any::<bool>(), any::<bool>()],
    ) {
        let now = now + HORIZON;
        let [first, second] = [0, 1].map(|n| event_at(&id, now - times[n], timed[n]));
        let found = block_on(statuses(&[now, now], &[first, second]));
        prop_assert_eq!(found, [Status::Applied, Status::Duplicate(None)]);
    }
}
