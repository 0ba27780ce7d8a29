//! Bytes nobody meant: the corpus of each target, mutated with a seed. Longer with `FUZZ_SECONDS=60`; the same again with
//! `FUZZ_SEED=...`, as a failure prints. libFuzzer runs the same targets for as long as one likes: `tests/fuzz/`.

use parking_lot::{Mutex, MutexGuard};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use oncue_tests::fuzz::{TARGETS, Target};
use peak_alloc::PeakAlloc;

/// Counts for the whole process, so only one target runs at a time.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;
static ALONE: Mutex<()> = Mutex::new(());

/// Longest input tried; what parses longer ones does nothing else with them.
const LONGEST: usize = 8 << 10;
/// A run that tried fewer inputs did not fuzz.
const FEWEST: u64 = 200;
/// Memory an input may cost: this for each of its bytes,
const PER_BYTE: usize = 128;
/// and this besides, for catalogs, tables and buffers of a fixed size.
const BESIDES: usize = 1 << 20;

/// What parsers stumble over.
const WORDS: [&str; 40] = [
    "ce-id: ",
    "ce-time: ",
    "ce-type: ",
    "ce-flowid: ",
    "ce-hopcount: ",
    "content-type: application/cloudevents+json\n\n",
    "Nats-Msg-Id: ",
    "traceparent: ",
    "\n\n",
    "\r\n",
    "\0",
    "%",
    "%00",
    "%C3%28",
    "\"",
    "\\\"",
    "{",
    "}",
    "[[schedule]]\n",
    "[functions.",
    "[streams.",
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00+23:59",
    "999999999999999999999y",
    "GiB",
    "data_base64",
    "\u{feff}",
    "\u{10ffff}",
    "é",
    "\"page\":\"",
    "=",
    "\n",
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort(); // the same seed, the same inputs
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("an input"))
        .collect()
}

fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..=rng.usize(..6) {
        mutate(rng, corpus, &mut input);
    }
    input.truncate(LONGEST);
    input
}

fn mutate(rng: &mut Rng, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = rng.usize(..=input.len());
    let end = rng.usize(at..=input.len().min(at + 64));
    match rng.u8(..8) {
        0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
        1 if at < input.len() => input[at] = rng.u8(..),
        2 => input.truncate(at),
        3 => drop(input.drain(at..end)),
        4 => {
            let part = input[at..end].repeat(rng.usize(1..=32));
            input.splice(at..at, part);
        }
        5 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            input.splice(at..end, other[from..].iter().copied());
        }
        6 => {
            let length = rng.usize(..16);
            input.splice(at..at, std::iter::repeat_with(|| rng.u8(..)).take(length));
        }
        _ => {
            let word = WORDS[rng.usize(..WORDS.len())];
            input.splice(at..end, word.bytes());
        }
    }
}

/// Runs one input; says how to have it again if anything is wrong with it. Returns whether it was accepted, and the
/// memory it took.
fn try_one(name: &str, target: Target, input: &[u8], origin: &str) -> (bool, usize) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    let used = MEMORY.peak_usage().saturating_sub(before);
    let again = || {
        let path = std::env::temp_dir().join(format!("oncue-fuzz-{name}-{}", std::process::id()));
        std::fs::write(&path, input).expect("the input is kept");
        format!(
            "{name}, {origin}: the input is in {}; copy it to {}",
            path.display(),
            folder(name).display()
        )
    };
    let accepted = outcome.unwrap_or_else(|_| panic!("{}", again()));
    let allowed = PER_BYTE * input.len() + BESIDES;
    assert!(
        used <= allowed,
        "{used} bytes of memory for {} of input, {allowed} allowed; {}",
        input.len(),
        again()
    );
    (accepted, used)
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock()
}

fn fuzz(name: &str) {
    let _alone = alone();
    let (_, target) = TARGETS
        .into_iter()
        .find(|(target, _)| *target == name)
        .expect("a target");
    let number = |variable: &str| {
        std::env::var(variable)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("FUZZ_SEED").unwrap_or(20_261_123);
    let length = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(5));
    let (corpus, mut rng) = (corpus(name), Rng::with_seed(seed));
    let started = Instant::now();
    let (mut tried, mut outcomes, mut most) = (0u64, [0u64; 2], 0);
    let mut try_next = |input: &[u8], origin: &str| {
        let (accepted, used) = try_one(name, target, input, origin);
        outcomes[usize::from(accepted)] += 1;
        most = most.max(used);
    };
    for input in &corpus {
        try_next(input, "from the corpus");
    }
    while started.elapsed() < length || tried < FEWEST {
        try_next(
            &mutated(&mut rng, &corpus),
            &format!("FUZZ_SEED={seed} iteration {tried}"),
        );
        tried += 1;
    }
    let [rejected, accepted] = outcomes;
    println!(
        "{name}: FUZZ_SEED={seed}, {tried} mutations of {} inputs",
        corpus.len()
    );
    println!(
        "{name}: {accepted} accepted, {rejected} not, at most {} KiB of memory",
        most >> 10
    );
    assert!(
        accepted > 0 && rejected > 0,
        "{accepted} accepted, {rejected} not: the corpus of {name} is one-sided"
    );
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { fuzz(stringify!($name)); })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets! { event percent config units payload contract stored row picture }

/// Once the gateway answered 202 and every function dead-lettered the event. Whole numbers written as fractions are
/// common: Python and many another write `10.0`.
#[test]
fn what_the_gateway_takes_every_worker_reads() {
    use oncue_app_events::web::PageMilestone;
    use oncue_proto::{Catalog, Event as _, Format};
    let _alone = alone();
    let catalog = Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .expect("a contract");
    let entry = catalog.get(PageMilestone::TYPE).expect("a type");
    for rest in [
        "\"views\":10.0",
        "\"views\":1e3",
        "\"views\":-0",
        "\"page\":\"/a\"",
    ] {
        let payload = format!("{{\"page\":\"/a\",{rest}}}");
        assert_eq!(
            entry.check(Format::Json, payload.as_bytes()),
            Ok("/a".to_owned()),
            "{payload}"
        );
        let read = oncue_proto::decode::<PageMilestone>(Format::Json, payload.as_bytes());
        assert_eq!(
            read.map(|milestone| milestone.page).as_deref().ok(),
            Some("/a"),
            "{payload}"
        );
    }
}

/// The library that reads contracts panics on a syntax newer than itself.
#[test]
fn a_contract_of_an_unknown_syntax_is_an_error() {
    let _alone = alone();
    let file = b"\x0a\x07a.proto\x62\x08editions";
    let set = [&[0x0a, file.len() as u8], &file[..]].concat();
    let refused = oncue_proto::Catalog::builtin()
        .add(&set)
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("a.proto") && refused.contains("editions"),
        "{refused}"
    );
}
