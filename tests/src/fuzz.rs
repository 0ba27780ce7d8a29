//! Everything that parses bytes from elsewhere, each with what must hold whatever the bytes. The same functions are run
//! by the seeded mutations of `tests/tests/fuzz.rs` and by libFuzzer, see `tests/fuzz/README.md`.
//!
//! They return whether the bytes were accepted, so that a run can be seen to have tried both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use oncue::State;
use oncue::testing::{from_fields, to_fields};
use oncue_app_events::{files, web};
use oncue_core::config::{Config, Limits, parse_size};
use oncue_proto::event::{self, Incoming, Origin};
use oncue_proto::files::FileUploaded;
use oncue_proto::oncue::v1::{DeadLetter, Outbox};
use oncue_proto::{Catalog, Event, Format};
use oncue_workers::picture;
use prost::Message;
use serde::{Deserialize, Serialize};

/// A function to throw bytes at.
pub type Target = fn(&[u8]) -> bool;

/// By the name of the folder that holds its corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("event", event),
    ("percent", percent),
    ("config", config),
    ("units", units),
    ("payload", payload),
    ("contract", contract),
    ("stored", stored),
    ("row", row),
    ("picture", picture),
];

const ORIGIN: Origin<'static> = Origin {
    stream: "web",
    stream_created: 1_700_000_000_000,
    sequence: 7,
    published: 1_700_000_001_000,
    subject: "web.page.viewed.home",
};

/// Unix milliseconds.
const YEAR_10000: u64 = 253_402_300_800_000;

/// A message: header lines `name: value`, an empty line, the payload.
pub fn event(bytes: &[u8]) -> bool {
    let (head, payload) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (&bytes[..0], bytes),
    };
    let head = String::from_utf8_lossy(head);
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let Ok(read) = event::read(headers, payload.to_vec().into(), &ORIGIN) else {
        return false;
    };
    let Incoming {
        meta,
        format,
        payload,
        ..
    } = read;
    assert!(
        event::check_id(meta.id.clone()).is_ok(),
        "an id that is none: {:?}",
        meta.id
    );
    assert!(
        !meta.flow.is_empty() && meta.flow.len() <= event::MAX_ID,
        "no flow id: {:?}",
        meta.flow
    );
    if meta.time >= YEAR_10000 {
        return true;
    }
    // What we would send on for it says the same again.
    let headers = event::headers(&meta, "key", format);
    let encoded = headers.iter().filter(|(name, _)| name.starts_with("ce-"));
    for (name, value) in encoded {
        assert!(
            value.bytes().all(|b| (0x21..=0x7e).contains(&b)),
            "{name} cannot travel: {value:?}"
        );
    }
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_str()));
    let again = event::read(pairs, payload.clone(), &ORIGIN).expect("what we wrote can be read");
    assert_eq!(
        (again.meta, again.format, again.payload),
        (meta, format, payload)
    );
    true
}

/// Header values, in both directions.
pub fn percent(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let encoded = event::percent_encode(&text);
    assert!(
        encoded
            .bytes()
            .all(|b| (0x21..=0x7e).contains(&b) && b != b'"'),
        "{encoded:?} cannot travel"
    );
    assert_eq!(
        event::percent_decode(&encoded).as_deref(),
        Some(&*text),
        "not what went in"
    );
    let Some(decoded) = event::percent_decode(&text) else {
        return false;
    };
    assert!(decoded.len() <= text.len(), "grown: {decoded:?}");
    true
}

/// `oncue.toml`.
pub fn config(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, None, |_| None) {
        Ok(config) => {
            for function in config.functions.values() {
                let limits = Limits::default().with(function);
                assert!(
                    limits.concurrency > 0
                        && limits.attempts > 0
                        && limits.reserved_concurrency > 0
                );
            }
            true
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a word");
            for error in &errors.0 {
                let line = error
                    .strip_prefix("oncue.toml:")
                    .and_then(|rest| rest.split(':').next());
                let line: usize = line
                    .and_then(|n| n.parse().ok())
                    .unwrap_or_else(|| panic!("no line: {error}"));
                assert!(
                    (1..=text.split('\n').count()).contains(&line),
                    "line {line} is not in the file: {error}"
                );
            }
            false
        }
    }
}

/// Sizes, durations and times.
pub fn units(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let size = parse_size(&text);
    if let Some(size) = size {
        assert_eq!(parse_size(&size.to_string()), Some(size));
    }
    let time = event::parse_time(&text);
    // A leap second in the last minute of 9999 is the one time that RFC 3339 cannot write in full.
    if let Some(time) = time.filter(|time| *time < YEAR_10000) {
        assert_eq!(
            event::parse_time(&event::format_time(time)),
            Some(time),
            "{text:?}"
        );
    }
    let span = text.parse::<oncue_core::config::Span>();
    if let Ok(span) = span {
        let written = serde_json::to_value(span).expect("a duration can be written");
        assert_eq!(written.as_str().map(str::parse), Some(Ok(span)), "{text:?}");
    }
    size.is_some() || time.is_some() || span.is_ok()
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .expect("the contract of the app")
});

/// A line with type and format, then the payload. What the gateway accepts, a worker can read and finds under the same
/// key. A line that names no type stands for some type all the same, so that mutations of it are not wasted.
pub fn payload(bytes: &[u8]) -> bool {
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else {
        return false;
    };
    let (line, payload) = (String::from_utf8_lossy(&bytes[..at]), &bytes[at + 1..]);
    let format = if line.ends_with(" json") {
        Format::Json
    } else {
        Format::Protobuf
    };
    let named = CATALOG.get(line.split(' ').next().unwrap_or_default());
    let entry = named.unwrap_or_else(|_| {
        CATALOG
            .entries()
            .nth(at % CATALOG.entries().count())
            .expect("a type")
    });
    let Ok(key) = entry.check(format, payload) else {
        return false;
    };
    let wire = entry
        .to_protobuf(format, payload)
        .expect("what is accepted can be written as protobuf");
    assert_eq!(
        entry.check(Format::Protobuf, &wire).as_ref(),
        Ok(&key),
        "another key as protobuf"
    );
    let typed = |format, payload| match entry.ty.as_str() {
        web::PageViewed::TYPE => key_of::<web::PageViewed>(format, payload),
        web::PageMilestone::TYPE => key_of::<web::PageMilestone>(format, payload),
        FileUploaded::TYPE => key_of::<FileUploaded>(format, payload),
        files::ThumbnailMade::TYPE => key_of::<files::ThumbnailMade>(format, payload),
        DeadLetter::TYPE => key_of::<DeadLetter>(format, payload),
        _ => Some(key.clone()),
    };
    assert_eq!(
        typed(Format::Protobuf, &wire).as_ref(),
        Some(&key),
        "{} as protobuf",
        entry.ty
    );
    // Of JSON the catalog takes more than the types do, see `what_the_gateway_takes_and_no_worker_reads`.
    if let Some(found) = typed(format, payload) {
        assert_eq!(found, key, "{} as {format:?}", entry.ty);
    }
    true
}

fn key_of<E: Event>(format: Format, payload: &[u8]) -> Option<String> {
    oncue_proto::decode::<E>(format, payload)
        .ok()
        .map(|event| event.key().to_owned())
}

/// Another repository's descriptor set.
pub fn contract(bytes: &[u8]) -> bool {
    let mut catalog = CATALOG.clone();
    let before = catalog.entries().count();
    let added = catch_unwind(AssertUnwindSafe(|| catalog.add(bytes)));
    match added {
        Ok(added) => {
            assert!(catalog.entries().count() >= before, "an entry is gone");
            added.is_ok()
        }
        // prost-reflect 0.16 looks for the file at fault among those it has already taken.
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map_or("", String::as_str);
            assert!(text.starts_with("index out of bounds"), "{text}");
            false
        }
    }
}

/// What Redis and the dead letter stream give back.
pub fn stored(bytes: &[u8]) -> bool {
    fn stays<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
        let Ok(message) = M::decode(bytes) else {
            return false;
        };
        let again = message.encode_to_vec();
        assert!(
            M::decode(&again[..]).is_ok_and(|again| again == message),
            "not what went in: {message:?}"
        );
        true
    }
    stays::<Outbox>(bytes) | stays::<DeadLetter>(bytes)
}

/// A row with fields of every kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Mixed {
    count: u64,
    change: i32,
    name: String,
    open: bool,
    note: Option<String>,
    kind: Kind,
    tags: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
enum Kind {
    #[default]
    None,
    Sized(u32),
    Named {
        name: String,
    },
}

impl State for Mixed {
    const TABLE: &'static str = "mixed";
}

/// A row as Redis holds it, a line `field=value` for each field.
pub fn row(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        Some((
            String::from_utf8_lossy(&line[..at]).into_owned(),
            line[at + 1..].to_vec(),
        ))
    });
    // As a hash: each field once.
    let fields: std::collections::BTreeMap<_, _> = lines.collect();
    let Ok(row) = from_fields::<Mixed>(&fields.into_iter().collect()) else {
        return false;
    };
    let written = to_fields(&row).expect("a row can be written");
    assert_eq!(
        from_fields::<Mixed>(&written).as_ref(),
        Ok(&row),
        "another row when read again"
    );
    true
}

/// A file of a stranger. Only its header is read: how much a decoder takes is the business of `picture`'s own tests.
pub fn picture(bytes: &[u8]) -> bool {
    let media_type = picture::sniff(bytes);
    let _ = picture::check_name("picture.jpg", media_type);
    let Ok(found) = picture::inspect(bytes) else {
        return false;
    };
    assert_eq!(found.media_type, media_type);
    assert!(
        u64::from(found.width) * u64::from(found.height) <= picture::MAX_PIXELS,
        "{found:?}"
    );
    assert!((1..=8).contains(&found.orientation), "{found:?}");
    found.width > 0
}
