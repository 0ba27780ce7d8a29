//! A function for tests that does what its event's `referrer` says: fails, panics, takes its time, emits.
//!
//! `ONCUE_TEST_CHANGE` makes another version of it: `rows` calls the field `count` of its rows `seen`, `key` counts by
//! visitor, `trigger` acts on milestones in place of views.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use oncue::{Context, Delayed, Function, Result, State, reject};
use oncue_app_events::web::{PageMilestone, PageViewed};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Tally {
    /// Events applied.
    count: u64,
    /// Ids applied, so that a second application would show.
    ids: Vec<String>,
}

impl State for Tally {
    const TABLE: &'static str = "tallies";
}

/// Rows of the second version.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Seen {
    seen: u64,
    ids: Vec<String>,
}

impl State for Seen {
    const TABLE: &'static str = "tallies";
    const VERSION: u32 = 2;

    fn upgrade(_from: u32, fields: &mut BTreeMap<String, String>) -> Result<()> {
        let count = fields.remove("count").unwrap_or_else(|| "0".to_owned());
        fields.insert("seen".to_owned(), count);
        Ok(())
    }
}

/// Rows of either version.
trait Counts {
    /// One event more; returns how many there are now.
    fn count(&mut self, id: &str) -> u64;
}

impl Counts for Tally {
    fn count(&mut self, id: &str) -> u64 {
        self.count += 1;
        self.ids.push(id.to_owned());
        self.count
    }
}

impl Counts for Seen {
    fn count(&mut self, id: &str) -> u64 {
        self.seen += 1;
        self.ids.push(id.to_owned());
        self.seen
    }
}

type Out = (Vec<PageMilestone>, Option<Delayed<PageMilestone>>);

async fn misbehave<Row: Counts>(
    event: PageViewed,
    row: &mut Row,
    context: &Context,
) -> Result<Out> {
    // Counted first: whatever fails below must leave no trace of this.
    let views = row.count(context.id());
    context.add("hits", "total", 1)?;
    let milestone = || PageMilestone {
        page: event.page.clone(),
        views,
    };
    let (word, number) = event
        .referrer
        .split_once(':')
        .unwrap_or((&event.referrer, "0"));
    let number: u64 = number.parse().unwrap_or(0);
    match word {
        "fail" => Err(std::io::Error::other("told to fail").into()),
        "fail-until" if u64::from(context.attempt()) < number => {
            Err(std::io::Error::other("not yet").into())
        }
        "fail-slow" if context.attempt() == 1 => Err(std::io::Error::other("not yet").into()),
        "span" => {
            let look_up = tokio::time::sleep(Duration::from_millis(1));
            look_up
                .instrument(tracing::info_span!("look-up", rows = 3))
                .await;
            Ok((Vec::new(), None))
        }
        "slow" | "fail-slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Ok((Vec::new(), None))
        }
        "reject" => Err(reject("told to reject")),
        "panic" => panic!("told to panic"),
        // What authors should not do, and do.
        "fail-quoting" => Err(std::io::Error::other(format!("cannot handle {event:?}")).into()),
        "reject-quoting" => Err(reject(format!("will not handle {event:?}"))),
        "panic-quoting" => panic!("never expected {event:?}"),
        "exit" => std::process::exit(0),
        "abort" => std::process::abort(),
        "overflow" => Err(std::io::Error::other(format!("{}", dig(number))).into()),
        "hog" => Err(std::io::Error::other(format!("{}", hog())).into()),
        "loop" => loop {
            std::hint::black_box(number);
        },
        "segv" => {
            let myself = rustix::process::getpid();
            // The first only makes Rust's own handler step aside.
            for _ in 0..2 {
                rustix::process::kill_process(myself, rustix::process::Signal::SEGV)?;
            }
            Ok((Vec::new(), None))
        }
        "behind" => context
            .add("tallies", "count", 1)
            .map(|()| (Vec::new(), None)),
        "emit-first" => Ok((
            (context.attempt() == 1)
                .then(milestone)
                .into_iter()
                .collect(),
            None,
        )),
        "emit" => Ok(((0..number).map(|_| milestone()).collect(), None)),
        "later" => Ok((
            Vec::new(),
            Some(Delayed {
                event: milestone(),
                after: Duration::from_millis(number),
            }),
        )),
        _ => Ok((Vec::new(), None)),
    }
}

/// Deeper than any stack.
fn dig(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    if depth == u64::MAX {
        frame[0]
    } else {
        dig(depth + 1) + frame[511]
    }
}

/// More memory than the test lets a process have.
fn hog() -> usize {
    let mut all = Vec::new();
    for _ in 0..1 << 20 {
        all.push(std::hint::black_box(vec![1u8; 16 << 20]));
    }
    all.len()
}

async fn milestones(_: PageMilestone, row: &mut Tally, context: &Context) -> Result<()> {
    row.count(context.id());
    Ok(())
}

fn main() -> ExitCode {
    const NAME: &str = "misbehave";
    let timeout = Duration::from_secs(3);
    let change = std::env::var("ONCUE_TEST_CHANGE").unwrap_or_default();
    let function = match change.as_str() {
        "rows" => Function::new(NAME, misbehave::<Seen>).version("2.0.0"),
        "key" => Function::new(NAME, misbehave::<Tally>)
            .keyed_by("visitor", |view: &PageViewed| view.visitor.clone()),
        "trigger" => return oncue::run(Function::new(NAME, milestones)),
        _ => Function::new(NAME, misbehave::<Tally>),
    };
    oncue::run(function.changes(&["hits"]).attempts(3).timeout(timeout))
}
