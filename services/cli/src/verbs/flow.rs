//! `oncue flow ID`: one flow as a tree, from its ledger; of a flow without one, from what the streams still hold.

pub mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use oncue_admin::consumers;
use oncue_admin::flows::{self, Hold, Rebuilt, SearchLimits, Searched, Sources};
use oncue_core::agreement;
use oncue_core::bus::Bus;
use oncue_core::model::flow::{Flow, StepRow};
use oncue_core::store::Store;
use oncue_proto::event;
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{
    BAD, CHANGED, DIM, NAME, brief, harmless, paint, progress, remark, say,
};
use crate::when;

/// Between two looks at a flow that is followed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Time to read what followed an event that is found.
const READ_TIME: Duration = Duration::from_millis(600);

#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct Args {
    /// Id of the flow or of any of its events.
    #[arg(value_name = "ID")]
    id: String,
    /// Stay and draw it anew with every change, until it is over; ends with 1 where it has failed or lost something.
    #[arg(long, short)]
    follow: bool,
    /// Of a flow without a ledger: search the streams no further back than this time or duration. Default: all they
    /// hold.
    #[arg(long, value_name = "TIME", value_parser = when::since)]
    since: Option<u64>,
    /// Of a flow without a ledger: read the streams to their end, however long it takes. Default: for most of a
    /// second.
    #[arg(long)]
    all: bool,
    /// Also the row of each step, before its run and after; of a flow with a ledger.
    #[arg(long, conflicts_with = "follow")]
    rows: bool,
    /// Print JSON; with --follow, one line for every change.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let redis = settings.store().await;
    let ledger = match &redis {
        Ok(redis) => in_ledger(redis, &args.id).await?,
        Err(why) => {
            remark(format_args!(
                "{}: no ledger is asked, only the streams",
                why.what
            ));
            None
        }
    };
    let bus = settings.bus().await;
    match (ledger, redis, bus) {
        (Some(flow), Ok(redis), bus) => {
            let view = View {
                redis,
                bus: bus.ok(),
                json: args.json,
            };
            if args.follow {
                view.follow(flow).await
            } else {
                let rows = if args.rows {
                    Some(view.rows(&flow, settings).await?)
                } else {
                    None
                };
                view.show(flow, rows).await
            }
        }
        (_, redis, bus) => untracked(args, settings, redis.ok(), &bus?).await,
    }
}

/// By the flow's id, or else by the id of one of its events.
async fn in_ledger(redis: &Store, id: &str) -> Result<Option<Flow>, Failure> {
    let found = redis.clone().flow(id).await.map_err(Failure::silent)?;
    match found {
        Some(flow) => Ok(Some(flow)),
        None => redis.flow_with(id).await.map_err(Failure::silent),
    }
}

/// Flow without a ledger, rebuilt from what is left. Read for most of a second unless `--all` says otherwise.
async fn untracked(
    args: &Args,
    settings: &Settings,
    store: Option<Store>,
    bus: &Bus,
) -> Result<u8, Failure> {
    let limits = SearchLimits {
        read: if args.all { None } else { Some(READ_TIME) },
        since: args.since.unwrap_or(0),
        ..SearchLimits::default()
    };
    let Rebuilt {
        flow: found,
        searched,
        ..
    } = rebuild(settings, store.as_ref(), bus, &args.id, limits).await?;
    let Some(flow) = found else {
        let what = format!(
            "no event or flow {:?}: it has no ledger, and {searched}",
            args.id
        );
        return Err(Failure::failed(what)
            .advise("an event is gone from its stream once all are done with it and `replay_window` has passed"));
    };
    if args.follow {
        remark(
            "it has no ledger, so it cannot be followed; send its event with `Oncue-Track: 1` to have one",
        );
    }
    if args.rows {
        remark(
            "rows are kept of flows with a ledger only; send its event with `Oncue-Track: 1` to have one",
        );
    }
    let hold = Hold::of(&flow, bus).await.map_err(Failure::silent)?;
    if args.json {
        say(document(&flow, hold, Some(&searched)));
    } else {
        say(tree::draw(&flow, hold.as_ref(), event::now_ms()));
        let more = if searched.cut {
            "; what nobody has acted on yet, or was delayed, may be missing: --all reads on"
        } else {
            ""
        };
        remark(format_args!(
            "it has no ledger; {searched}{more}. Times and states are those the streams and consumers know"
        ));
    }
    Ok(exit::OK)
}

async fn rebuild(
    settings: &Settings,
    store: Option<&Store>,
    bus: &Bus,
    id: &str,
    limits: SearchLimits,
) -> Result<Rebuilt, Failure> {
    let catalog = settings.catalog().await?;
    let sources = Sources {
        bus,
        store,
        config: &settings.config,
        catalog: &catalog,
        functions: &[],
    };
    progress(format_args!("looking for {id} in the streams"));
    let rebuilt = flows::rebuild(&sources, id, limits).await;
    progress("");
    rebuilt.map_err(Failure::silent)
}

fn document(flow: &Flow, hold: Option<Hold>, searched: Option<&Searched>) -> Value {
    json!({
        "from": if searched.is_some() { "streams" } else { "ledger" },
        "searched": searched,
        "status": flow.status(),
        "complete": flow.is_complete(),
        "waits_for": flow.waits_for().map(|(event, step)| json!({ "event": event.id, "type": event.ty, "step": step, "hold": hold })),
        "flow": flow,
    })
}

/// Row of a step.
#[derive(Serialize)]
struct StepWithRow {
    event: String,
    function: String,
    #[serde(flatten)]
    row: StepRow,
}

impl StepWithRow {
    /// Heading and a line for each field; those that have changed with both values.
    fn draw(&self) -> String {
        let Self {
            event,
            function,
            row,
        } = self;
        let mut text = format!(
            "\n{} {}",
            paint(NAME, function),
            paint(DIM, brief(event, 64))
        );
        if row.events > 1 {
            let _ = write!(text, " with {} events at once", row.events);
        }
        let after = row.after.as_ref();
        let names: BTreeSet<&String> = row
            .before
            .keys()
            .chain(after.into_iter().flat_map(BTreeMap::keys))
            .collect();
        for name in names {
            let was = row.before.get(name).map_or("-", String::as_str);
            let is = after.map(|after| after.get(name).map_or("-", String::as_str));
            match is {
                Some(is) if is != was => {
                    let _ = write!(text, "\n  {name}: {was} -> {}", paint(CHANGED, is));
                }
                _ => {
                    let _ = write!(text, "\n  {name}: {was}");
                }
            }
        }
        if after.is_none() {
            text += &paint(BAD, "\n  as the failed run has found it");
        }
        if row.is_cut {
            text += &paint(DIM, "\n  more of it was not kept");
        }
        text
    }
}

struct View {
    redis: Store,
    bus: Option<Bus>,
    json: bool,
}

impl View {
    /// Rows of the steps, without what the contract calls sensitive.
    async fn rows(&self, flow: &Flow, settings: &Settings) -> Result<Vec<StepWithRow>, Failure> {
        let sensitive = settings.catalog().await?.sensitive_names();
        let mut steps = Vec::new();
        for event in &flow.events {
            steps.extend(event.steps.iter().map(|step| (&*event.id, &*step.function)));
        }
        let rows = self.redis.step_rows(&flow.id, &steps).await;
        let rows = rows.map_err(Failure::silent)?;
        let with_row = steps.into_iter().zip(rows).filter_map(|(step, row)| {
            let mut row = row?;
            row.hide(&sensitive);
            Some(StepWithRow {
                event: step.0.to_owned(),
                function: step.1.to_owned(),
                row,
            })
        });
        Ok(with_row.collect())
    }

    async fn show(&self, mut flow: Flow, rows: Option<Vec<StepWithRow>>) -> Result<u8, Failure> {
        self.settle(&mut flow).await?;
        let hold = self.hold(&flow).await?;
        if self.json {
            let mut document = document(&flow, hold, None);
            if let Some(rows) = rows {
                document["rows"] = json!(rows);
            }
            say(document);
        } else {
            say(tree::draw(&flow, hold.as_ref(), event::now_ms()));
            for step in rows.into_iter().flatten() {
                say(step.draw());
            }
        }
        Ok(exit::OK)
    }

    /// Marks steps as lost whose event is gone, and as removed those whose function has no consumer any more: nobody waits for it. Asked after the ledger
    /// was read, so that a function that has just come is not taken for one that left.
    async fn settle(&self, flow: &mut Flow) -> Result<(), Failure> {
        let Some(bus) = &self.bus else { return Ok(()) };
        if flow.is_complete() {
            return Ok(());
        }
        let settled = agreement::with_lost_steps(bus, &self.redis, flow.clone()).await;
        *flow = settled.map_err(Failure::silent)?;
        let consumers = consumers::all(bus).await.map_err(Failure::silent)?;
        flow.without_removed(|function| consumers.contains_key(function));
        Ok(())
    }

    /// Reason that keeps the step back which the flow waits for.
    async fn hold(&self, flow: &Flow) -> Result<Option<Hold>, Failure> {
        match &self.bus {
            Some(bus) => Hold::of(flow, bus).await.map_err(Failure::silent),
            None => Ok(None),
        }
    }

    /// Looks again until the flow is complete. Polls: a ledger tells nobody when it changes.
    async fn follow(&self, first: Flow) -> Result<u8, Failure> {
        let store = self.redis.clone();
        let id = first.id.clone();
        let mut screen = Screen::new(self.json);
        let mut next = Some(first);
        let mut before: Option<Flow> = None;
        loop {
            let Some(mut flow) = next else {
                return Err(Failure::failed(format_args!(
                    "the ledger of flow {id} has expired meanwhile"
                )));
            };
            self.settle(&mut flow).await?;
            let over = flow.open == 0;
            if screen.is_live() || before.as_ref() != Some(&flow) {
                let hold = self.hold(&flow).await?;
                screen.draw(&flow, hold, over);
            }
            if over {
                return Ok(if flow.is_complete() && flow.dead() == 0 {
                    exit::OK
                } else {
                    exit::FAILED
                });
            }
            before = Some(flow);
            tokio::time::sleep(LOOK_INTERVAL).await;
            next = store.flow(&id).await.map_err(Failure::silent)?;
        }
    }
}

/// Output of a followed flow: in place on a terminal, else once more for every change.
struct Screen {
    json: bool,
    live: bool,
    /// Lines drawn last time.
    drawn: usize,
}

impl Screen {
    fn new(json: bool) -> Self {
        Self {
            json,
            live: !json && std::io::stdout().is_terminal(),
            drawn: 0,
        }
    }

    /// Ages are shown, so it is drawn anew even where nothing has changed.
    fn is_live(&self) -> bool {
        self.live
    }

    fn draw(&mut self, flow: &Flow, hold: Option<Hold>, last: bool) {
        if self.json {
            return say(document(flow, hold, None));
        }
        let text = tree::draw(flow, hold.as_ref(), event::now_ms());
        if !self.live {
            return say(format_args!("{text}\n"));
        }
        let mut lines: Vec<&str> = text.lines().collect();
        let room = height().saturating_sub(1).max(2);
        // More lines than the terminal has cannot be drawn over; the last drawing stays, so it is whole.
        if !last && lines.len() > room {
            lines.truncate(room - 1);
            lines.push("…");
        }
        let up = if self.drawn > 0 {
            format!("\x1b[{}A\x1b[J", self.drawn)
        } else {
            String::new()
        };
        let _ = writeln!(anstream::stdout(), "{up}{}", harmless(&lines.join("\n")));
        let _ = std::io::stdout().flush();
        self.drawn = lines.len();
    }
}

fn height() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or(24, |size| usize::from(size.ws_row))
}
