//! A flow as text: first how it stands and what it waits for, then every event under its cause.

use std::collections::HashMap;

use anstyle::Style;
use oncue_admin::flows::Hold;
use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState};
use oncue_proto::event;

use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, GOOD, NAME, PLAIN, brief, paint, width};

/// Levels that are drawn; what an event loop makes of itself is cut there.
const MAX_DEPTH: usize = 70;
/// Characters of an error, which is shown in one line; `--json` has it whole.
const MAX_ERROR: usize = 160;

/// Whole text of a flow at the time `now` (Unix ms), without a line break at its end. `hold` is what keeps the step back that it
/// waits for.
pub fn draw(flow: &Flow, hold: Option<&Hold>, now: u64) -> String {
    let mut lines = vec![head(flow, now)];
    lines.extend(waits(flow, hold, now));
    lines.push(String::new());
    let mut drawing = Drawing {
        flow,
        now,
        effects: HashMap::new(),
        lines,
    };
    for (at, event) in flow.events.iter().enumerate() {
        if event.depth > 0 {
            drawing
                .effects
                .entry(event.cause.as_str())
                .or_default()
                .push(at);
        }
    }
    for event in flow.events.iter().filter(|event| event.depth == 0) {
        drawing.event(event, "", "");
    }
    let columns = width().unwrap_or(usize::MAX);
    drawing
        .lines
        .iter()
        .map(|line| cut(line, columns))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Painted text cut to the columns of the terminal, so that a redraw knows how many lines there are.
fn cut(line: &str, columns: usize) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    if plain.chars().count() <= columns {
        return line.to_owned();
    }
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    // Sequences of colour take no column, and one that is cut would colour all that follows.
    let mut escape = false;
    for c in line.chars() {
        escape |= c == '\x1b';
        if escape {
            out.push(c);
            escape = c != 'm';
        } else if left > 0 {
            out.push(c);
            left -= 1;
        }
    }
    out + "…"
}

fn head(flow: &Flow, now: u64) -> String {
    let steps = flow.steps().count();
    let dead = flow.dead();
    let mut text = match (flow.is_complete(), flow.ended) {
        (true, ended) => {
            let took = ended.map(|ended| format!(" in {}", since(flow, ended)));
            let took = took.unwrap_or_default();
            if dead > 0 {
                paint(BAD, format_args!("failed{took}"))
            } else {
                paint(GOOD, format_args!("complete{took}"))
            }
        }
        _ if flow.open == 0 => paint(
            BAD,
            format_args!(
                "lost after {}: {} of {steps} steps will never be taken",
                since(flow, now),
                flow.lost()
            ),
        ),
        _ => paint(
            CHANGED,
            format_args!(
                "running for {}, {} of {steps} steps open",
                since(flow, now),
                flow.open
            ),
        ),
    };
    if dead > 0 {
        text += &paint(BAD, format_args!(", {dead} dead"));
    }
    format!("flow {}  {text}", paint(BOLD, brief(&flow.id, 128)))
}

/// Duration of a flow up to a moment.
fn since(flow: &Flow, end: u64) -> String {
    span(end.saturating_sub(flow.started))
}

/// Whether a step's function emitted an event.
pub fn emitted_by(step: &Step, effect: &FlowEvent) -> bool {
    effect.source.strip_prefix('/') == Some(&step.function)
}

/// Words of how long ago something was, if it was.
fn ago(at: Option<u64>, now: u64) -> String {
    at.map_or_else(String::new, |at| {
        format!(" {} ago", span(now.saturating_sub(at)))
    })
}

/// Words for what keeps a step back.
fn held(hold: Hold, now: u64) -> String {
    match hold {
        Hold::Paused { until: None } => "it is paused until `oncue resume`".to_owned(),
        Hold::Paused { until: Some(until) } => {
            format!("it is paused until {}", event::format_time(until))
        }
        Hold::Due { at } => format!("is due in {}", span(at.saturating_sub(now))),
    }
}

/// The one thing everybody waits for.
pub fn waits(flow: &Flow, hold: Option<&Hold>, now: u64) -> Option<String> {
    let (event, step) = flow.waits_for()?;
    let why = match step.state {
        StepState::Pending if hold.is_some() => {
            hold.map_or_else(String::new, |hold| held(*hold, now))
        }
        StepState::Waiting => {
            let why = brief(step.why.as_deref().unwrap_or_default(), MAX_ERROR);
            format!(
                "failed{}, attempt {}: {}",
                ago(step.failed, now),
                step.attempts,
                paint(BAD, why)
            )
        }
        StepState::Running if step.started.is_some() => format!("began{}", ago(step.started, now)),
        StepState::Running => "handed to a worker, not done".to_owned(),
        _ => format!(
            "no worker has begun; there{}",
            ago(Some(step.since), now).replace(" ago", "")
        ),
    };
    let key = if event.key.is_empty() {
        String::new()
    } else {
        format!(" {}", brief(&event.key, 64))
    };
    let event = format!("{}{key}", brief(&event.ty, 64));
    Some(format!(
        "waits for {} on {event}: {why}",
        paint(NAME, brief(&step.function, 64))
    ))
}

struct Drawing<'f> {
    flow: &'f Flow,
    now: u64,
    /// Events by the id of their cause.
    effects: HashMap<&'f str, Vec<usize>>,
    lines: Vec<String>,
}

impl<'f> Drawing<'f> {
    /// `first` stands before the event itself, `rest` before everything under it.
    fn event(&mut self, event: &'f FlowEvent, first: &str, rest: &str) {
        let after = event.time.saturating_sub(self.flow.started);
        let ty = if event.ty.is_empty() {
            "(unknown type)"
        } else {
            &event.ty
        };
        let source = if event.depth == 0 {
            format!("  from {}", brief(&event.source, 64))
        } else {
            String::new()
        };
        self.lines.push(format!(
            "{first}{} {}  {}",
            paint(BOLD, brief(ty, 64)),
            brief(&event.key, 64),
            paint(
                DIM,
                format_args!("{}{source}  +{}", brief(&event.id, 128), span(after))
            )
        ));
        let effects: Vec<&FlowEvent> = match self.effects.get(event.id.as_str()) {
            Some(places) => places
                .iter()
                .map(|at| &self.flow.events[*at])
                .filter(|e| e.depth > event.depth)
                .collect(),
            None => Vec::new(),
        };
        if event.depth as usize >= MAX_DEPTH {
            if !effects.is_empty() {
                self.lines.push(format!(
                    "{rest}└─ … {} more events behind; --json has them",
                    effects.len()
                ));
            }
            return;
        }
        // Events whose source is no function of these steps: it has left, or a client named the cause.
        let strangers: Vec<&FlowEvent> = effects
            .iter()
            .copied()
            .filter(|e| !event.steps.iter().any(|step| emitted_by(step, e)))
            .collect();
        let count = event.steps.len() + strangers.len();
        for (at, step) in event.steps.iter().enumerate() {
            let (branch, below) = branches(at + 1 == count);
            self.lines
                .push(format!("{rest}{branch}{}", self.step(event, step)));
            let own: Vec<&FlowEvent> = effects
                .iter()
                .copied()
                .filter(|effect| emitted_by(step, effect))
                .collect();
            for (at, effect) in own.iter().enumerate() {
                let (branch, deeper) = branches(at + 1 == own.len());
                self.event(
                    effect,
                    &format!("{rest}{below}{branch}"),
                    &format!("{rest}{below}{deeper}"),
                );
            }
        }
        for (at, effect) in strangers.iter().enumerate() {
            let (branch, deeper) = branches(event.steps.len() + at + 1 == count);
            self.event(
                effect,
                &format!("{rest}{branch}"),
                &format!("{rest}{deeper}"),
            );
        }
    }

    fn step(&self, event: &FlowEvent, step: &Step) -> String {
        let (sign, style, word) = look(step.state);
        let mut text = paint(
            style,
            format_args!("{sign} {} {word}", brief(&step.function, 64)),
        );
        let begun = step.started.filter(|at| *at > 0);
        match (begun, step.ended.filter(|at| *at > 0)) {
            (Some(begun), Some(ended)) => text.extend(["  ", &span(ended.saturating_sub(begun))]),
            (None, Some(ended)) => text.extend([
                "  ",
                &span(ended.saturating_sub(event.time)),
                " after the event",
            ]),
            (Some(begun), None) if step.state == StepState::Running => {
                text.extend(["  for ", &span(self.now.saturating_sub(begun))]);
            }
            _ => {}
        }
        if step.attempts > 1 {
            text += &paint(CHANGED, format_args!("  {} attempts", step.attempts));
        }
        if let Some(why) = step
            .why
            .as_deref()
            .filter(|_| step.state != StepState::Done)
        {
            text.extend(["  ", &paint(BAD, brief(why, MAX_ERROR))]);
        }
        text
    }
}

/// Lines in front of an item, and of all that stands below it.
fn branches(last: bool) -> (&'static str, &'static str) {
    if last {
        ("└─ ", "   ")
    } else {
        ("├─ ", "│  ")
    }
}

/// Sign, colour and word of a state; the signs differ, for terminals without colours.
fn look(state: StepState) -> (char, Style, &'static str) {
    match state {
        StepState::Pending => ('·', DIM, "pending"),
        StepState::Running => ('▸', NAME, "running"),
        StepState::Waiting => ('↻', CHANGED, "will be tried again"),
        StepState::Done => ('✓', GOOD, "done"),
        StepState::Dead => ('✗', BAD, "dead"),
        StepState::Lost => ('!', BAD, "lost: its event was removed from the stream"),
        StepState::Removed => ('-', PLAIN, "removed: its function left"),
    }
}

/// A duration in one number a person can take in.
pub fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.2} s", ms as f64 / 1000.0),
        60_000..7_200_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(fields: &[(&str, &str)]) -> Flow {
        Flow::read(
            "root",
            fields
                .iter()
                .map(|(f, v)| (f.as_bytes().to_vec(), v.as_bytes().to_vec())),
        )
        .unwrap()
    }

    fn plain(flow: &Flow) -> String {
        anstream::adapter::strip_str(&draw(flow, None, 10_000)).to_string()
    }

    #[test]
    fn what_is_waited_for_stands_first_and_effects_under_their_function() {
        let flow = flow(&[
            (
                "e:root",
                r#"["files.file.uploaded","f1","/gateway","",1000]"#,
            ),
            ("s:root:inspect-file", "d 1040"),
            ("r:root:inspect-file", "1010 2"),
            ("w:root:inspect-file", "1005 once"),
            (
                "e:a",
                r#"["files.file.inspected","f1","/inspect-file","root",1040]"#,
            ),
            ("s:a:enforce-quota", "p 1040"),
            ("r:a:enforce-quota", "8000 3"),
            ("w:a:enforce-quota", "9000 no disk\u{1b}[2J"),
            ("s:a:track-file", "x 1050"),
            ("w:a:track-file", "1050 broken"),
            ("e:s", r#"["x.y.z","","/elsewhere","a",1100]"#),
            ("n", "1"),
            ("at", "1000"),
        ]);
        assert_eq!(
            plain(&flow),
            "flow root  running for 9.00 s, 1 of 3 steps open, 1 dead\n\
             waits for enforce-quota on files.file.inspected f1: failed 1.00 s ago, attempt 3: no disk [2J\n\
             \n\
             files.file.uploaded f1  root  from /gateway  +0 ms\n\
             └─ ✓ inspect-file done  30 ms  2 attempts\n   \
                └─ files.file.inspected f1  a  +40 ms\n      \
                   ├─ ↻ enforce-quota will be tried again  3 attempts  no disk [2J\n      \
                   ├─ ✗ track-file dead  10 ms after the event  broken\n      \
                   └─ x.y.z   s  +100 ms"
        );
    }

    #[test]
    fn what_keeps_a_step_back_is_told() {
        let flow = flow(&[
            ("e:root", r#"["t.t.t","","client","",1000]"#),
            ("s:root:f", "p 1000"),
            ("n", "1"),
            ("at", "1000"),
        ]);
        for (hold, words) in [
            (
                Hold::Due { at: 69_000 },
                "waits for f on t.t.t: is due in 59.00 s",
            ),
            (
                Hold::Paused {
                    until: Some(60_000),
                },
                "it is paused until 1970-01-01T00:01:00.000Z",
            ),
            (
                Hold::Paused { until: None },
                "it is paused until `oncue resume`",
            ),
        ] {
            let drawn = anstream::adapter::strip_str(&draw(&flow, Some(&hold), 10_000)).to_string();
            assert!(drawn.contains(words), "{drawn}");
        }
        assert!(plain(&flow).contains("no worker has begun"));
    }

    #[test]
    fn complete_flows_deep_ones_and_circles() {
        let done = flow(&[
            ("e:root", r#"["t.t.t","","client","",5]"#),
            ("n", "0"),
            ("at", "5"),
            ("end", "25"),
        ]);
        assert!(
            plain(&done)
                .starts_with("flow root  complete in 20 ms\n\nt.t.t   root  from client  +0 ms")
        );
        let circle = flow(&[
            ("e:a", r#"["t","","","b",5]"#),
            ("e:b", r#"["t","","","a",6]"#),
        ]);
        assert_eq!(plain(&circle).lines().count(), 4, "{}", plain(&circle));
        let fields: Vec<(String, String)> = (0..5000)
            .map(|n| {
                (
                    format!("e:{n}"),
                    format!(r#"["t","","/f","{}",{n}]"#, n - 1),
                )
            })
            .collect();
        let pairs: Vec<(&str, &str)> = fields
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert!(plain(&flow(&pairs)).contains("1 more events behind"));
    }

    #[test]
    fn spans_and_cuts() {
        assert_eq!(
            [999, 1500, 61_000, 7_260_000].map(span),
            ["999 ms", "1.50 s", "1 min 1 s", "2 h 1 min"]
        );
        assert_eq!(cut("\x1b[1mabcdef\x1b[0m", 4), "\x1b[1mabc\x1b[0m…");
    }
}
