//! Flows as lines, written while they grow: the event that came from outside, and below it each function that has acted, with what
//! it took, what became of it, and what it emitted.
//!
//! Nothing is drawn twice: other programs write to the same terminal. A storm of events is counted and not told.

use std::collections::{BTreeMap, HashMap, VecDeque};

use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState};
use oncue_proto::event::{self, Meta};

use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, GOOD, NAME, brief, paint};
use crate::verbs::flow::tree::{emitted_by, span};

/// Flows that begin to be told within one second; more are counted, and in the next second one is told.
const MAX_ROOTS: usize = 5;
/// Lines of them within one second.
const MAX_LINES: usize = 40;
/// Flows that are followed at a time: past that the oldest are let go, however open they are.
const MAX_FLOWS: usize = 64;
/// Time after which a flow that stands complete, or has no ledger, is let go.
const SETTLED_MS: u64 = 5_000;
/// Levels of indentation; what is deeper stands there too.
const MAX_INDENT: u32 = 12;
/// Columns of a key and of an error.
const MAX_TEXT: usize = 80;
/// Columns of a time of day and the space behind it.
const MARGIN: &str = "             ";

/// Flow that is told.
struct Told {
    id: String,
    /// Type and key of its first event.
    root: String,
    /// State and attempts that were last told of each step, by event and function.
    steps: HashMap<(String, String), (StepState, u32)>,
    /// Time of the last change.
    changed: u64,
}

/// Flows that are told, and the events that are only counted.
#[derive(Default)]
pub struct Growth {
    flows: VecDeque<Told>,
    /// Flow of the line before.
    last: String,
    /// Flows and lines that were told within this second.
    roots: usize,
    lines: usize,
    /// Whether there were too many to tell in the second before.
    is_storm: bool,
    /// Events that were not told within this second, by type.
    hidden: BTreeMap<String, u64>,
}

impl Growth {
    /// Flows whose ledgers have news.
    pub fn ids(&self) -> Vec<String> {
        self.flows.iter().map(|flow| flow.id.clone()).collect()
    }

    /// An event has passed; its line, if it begins a flow that is told.
    pub fn event(&mut self, meta: &Meta, key: &str, now: u64) -> Option<String> {
        if self.flows.iter().any(|flow| flow.id == meta.flow) {
            return None;
        }
        let room = if self.is_storm { 1 } else { MAX_ROOTS };
        if !meta.cause.is_empty() || self.roots >= room || self.lines >= MAX_LINES {
            *self.hidden.entry(meta.ty.clone()).or_default() += 1;
            return None;
        }
        self.roots += 1;
        self.lines += 1;
        if self.flows.len() == MAX_FLOWS {
            self.flows.pop_front();
        }
        let ty = brief(&meta.ty, MAX_TEXT);
        let key = brief(key, MAX_TEXT);
        self.flows.push_back(Told {
            id: meta.flow.clone(),
            root: format!("{ty} {key}").trim_end().to_owned(),
            steps: HashMap::new(),
            changed: now,
        });
        self.last.clone_from(&meta.flow);
        let time = event::format_time(meta.time);
        let time = paint(DIM, time.get(11..23).unwrap_or_default());
        Some(format!("{time} {} {}", paint(BOLD, ty), paint(NAME, key)))
    }

    /// Lines of the steps that have ended, or failed once more, since the ledger was last read.
    pub fn ledger(&mut self, flow: &Flow, now: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(told) = self.flows.iter_mut().find(|told| told.id == flow.id) else {
            return lines;
        };
        for event in &flow.events {
            for step in &event.steps {
                // A step that waits to be tried again has news with every attempt; one that runs has none.
                let state = (step.state, step.attempts);
                let is_news = !matches!(step.state, StepState::Pending | StepState::Running);
                let name = (event.id.clone(), step.function.clone());
                if !is_news || told.steps.get(&name) == Some(&state) {
                    continue;
                }
                told.steps.insert(name, state);
                told.changed = now;
                if self.lines >= MAX_LINES {
                    *self.hidden.entry(event.ty.clone()).or_default() += 1;
                    continue;
                }
                self.lines += 1;
                let mut line = line(flow, event, step);
                if self.last != told.id {
                    line += &paint(DIM, format_args!("  ({})", told.root));
                }
                self.last.clone_from(&told.id);
                lines.push(line);
            }
        }
        if flow.open_steps().next().is_some() {
            told.changed = now;
        }
        lines
    }

    /// A second is over: what it has hidden, if anything.
    pub fn second(&mut self, now: u64) -> Option<String> {
        self.flows
            .retain(|flow| now.saturating_sub(flow.changed) < SETTLED_MS);
        self.roots = 0;
        self.lines = 0;
        let hidden = std::mem::take(&mut self.hidden);
        let count: u64 = hidden.values().sum();
        self.is_storm = count > 0;
        if count == 0 {
            return None;
        }
        let types = hidden.iter().map(|(ty, count)| format!("{count} {ty}"));
        let types: Vec<String> = types.collect();
        Some(paint(
            DIM,
            format_args!(
                "{MARGIN}… {count} more events within a second: {}",
                types.join(", ")
            ),
        ))
    }
}

/// `└ ✓ bill-order 3 ms → shop.order.billed o1`
fn line(flow: &Flow, event: &FlowEvent, step: &Step) -> String {
    let indent = "  ".repeat(event.depth.min(MAX_INDENT) as usize);
    let name = brief(&step.function, MAX_TEXT);
    let why = brief(step.why.as_deref().unwrap_or_default(), MAX_TEXT);
    let attempt = step.attempts;
    let what = match step.state {
        StepState::Done => {
            let name = paint(GOOD, format_args!("✓ {name}"));
            format!("{name} {}", paint(DIM, took(event, step)))
        }
        StepState::Waiting => format!(
            "{} attempt {attempt} failed: {why}",
            paint(CHANGED, format_args!("↻ {name}"))
        ),
        StepState::Dead if attempt > 1 => format!(
            "{} dead letter after {attempt} attempts: {why}",
            paint(BAD, format_args!("✗ {name}"))
        ),
        StepState::Dead => format!(
            "{} dead letter: {why}",
            paint(BAD, format_args!("✗ {name}"))
        ),
        _ => format!("{} its event is gone", paint(BAD, format_args!("! {name}"))),
    };
    format!("{MARGIN}{indent}└ {what}{}", follows(flow, event, step))
}

/// Time that a step took; from its event where no begin is noted, such as when a worker has died with it.
fn took(event: &FlowEvent, step: &Step) -> String {
    let ended = step.ended.unwrap_or_default();
    let began = step.started.unwrap_or(event.time);
    span(ended.saturating_sub(began))
}

/// ` → shop.order.billed o1, 3 × shop.mail.sent`, for what a step has emitted; empty for nothing.
fn follows(flow: &Flow, event: &FlowEvent, step: &Step) -> String {
    let effects = flow.events.iter().filter(|effect| effect.cause == event.id);
    let effects = effects.filter(|effect| emitted_by(step, effect));
    let mut types: BTreeMap<&str, Vec<&FlowEvent>> = BTreeMap::new();
    for effect in effects {
        types.entry(&effect.ty).or_default().push(effect);
    }
    let texts = types.iter().map(|(ty, effects)| match effects.as_slice() {
        [one] => format!("{ty} {}", brief(&one.key, MAX_TEXT)),
        many => format!("{} × {ty}", many.len()),
    });
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() {
        return String::new();
    }
    format!(" → {}", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(flow: &str, cause: &str) -> Meta {
        let headers = [("ce-id", flow), ("ce-type", "shop.order.placed")];
        let headers = headers
            .into_iter()
            .chain([("ce-source", "/t"), ("ce-flowid", flow)]);
        let headers = headers.chain([
            ("ce-specversion", "1.0"),
            ("ce-time", "2026-01-01T12:00:00Z"),
        ]);
        let origin = event::Origin {
            stream: "shop",
            stream_created: 1,
            sequence: 1,
            published: 1,
            subject: "shop.order.placed",
        };
        let read = event::read(headers, "{}".into(), &origin).expect("an event");
        Meta {
            cause: cause.into(),
            ..read.meta
        }
    }

    fn flow(id: &str, fields: &[(&str, &str)]) -> Flow {
        let fields = fields
            .iter()
            .map(|(field, value)| (field.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Flow::read(id, fields).expect("a ledger")
    }

    fn plain(lines: impl IntoIterator<Item = String>) -> Vec<String> {
        let lines = lines.into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    const PLACED: (&str, &str) = ("e:f1", r#"["shop.order.placed","o1","/t","",1000]"#);

    #[test]
    fn a_flow_is_told_as_it_grows_and_nothing_twice() {
        let mut growth = Growth::default();
        let root = growth.event(&meta("f1", ""), "o1", 0);
        assert_eq!(plain(root), ["12:00:00.000 shop.order.placed o1"]);
        assert_eq!(
            growth.event(&meta("f1", "f1"), "o1", 0),
            None,
            "its functions tell of it"
        );
        let begun = flow(
            "f1",
            &[
                PLACED,
                ("s:f1:bill-order", "p 1000"),
                ("r:f1:bill-order", "1001 1"),
                ("n", "1"),
            ],
        );
        assert!(growth.ledger(&begun, 1).is_empty());
        let done = [
            PLACED,
            ("s:f1:bill-order", "d 1004"),
            ("r:f1:bill-order", "1001 1"),
            (
                "e:a",
                r#"["shop.order.billed","o1","/bill-order","f1",1004]"#,
            ),
            ("s:a:count", "x 1010"),
            ("r:a:count", "1005 3"),
            ("w:a:count", "1010 no \u{1b}[2Jdisk"),
            ("n", "0"),
        ];
        let done = flow("f1", &done);
        let expected = [
            "             └ ✓ bill-order 3 ms → shop.order.billed o1",
            "               └ ✗ count dead letter after 3 attempts: no  [2Jdisk",
        ];
        assert_eq!(plain(growth.ledger(&done, 2)), expected);
        assert!(growth.ledger(&done, 3).is_empty());
        growth.second(SETTLED_MS + 2);
        assert!(growth.ids().is_empty(), "it is over");
    }

    #[test]
    fn each_failed_attempt_has_a_line_and_a_line_between_others_says_whose_it_is() {
        let mut growth = Growth::default();
        growth.event(&meta("f1", ""), "o1", 0);
        growth.event(&meta("f2", ""), "o2", 0);
        let failed = |attempt: &str| {
            let begun = format!("1001 {attempt}");
            flow(
                "f1",
                &[
                    PLACED,
                    ("s:f1:bill", "p 1000"),
                    ("r:f1:bill", &begun),
                    ("w:f1:bill", "1002 why"),
                    ("n", "1"),
                ],
            )
        };
        let first = plain(growth.ledger(&failed("1"), 1));
        assert_eq!(
            first,
            ["             └ ↻ bill attempt 1 failed: why  (shop.order.placed o1)"]
        );
        assert!(growth.ledger(&failed("1"), 2).is_empty());
        assert_eq!(
            plain(growth.ledger(&failed("2"), 3)),
            ["             └ ↻ bill attempt 2 failed: why"]
        );
        growth.second(60_000);
        growth.ledger(&failed("2"), 60_000);
        assert_eq!(growth.ids().len(), 0, "nothing was read for a minute");
    }

    #[test]
    fn a_storm_is_counted() {
        let mut growth = Growth::default();
        let roots = (0..500).filter_map(|n| growth.event(&meta(&format!("f{n}"), ""), "o", 0));
        assert_eq!(roots.count(), MAX_ROOTS);
        let said = plain(growth.second(1));
        assert_eq!(
            said,
            ["             … 495 more events within a second: 495 shop.order.placed"]
        );
        let next = (0..500).filter_map(|n| growth.event(&meta(&format!("g{n}"), ""), "o", 0));
        assert_eq!(next.count(), 1, "one of the next second");
        growth.second(2);
        assert_eq!(growth.second(3), None);
        let calm = (0..3).filter_map(|n| growth.event(&meta(&format!("h{n}"), ""), "o", 0));
        assert_eq!(calm.count(), 3, "a quiet second has room again");
        assert!(growth.ids().len() <= MAX_FLOWS);
    }
}
