//! `oncue find`: events that have something in common, newest first, a page at a time.

use std::time::Duration;

use oncue_admin::flows::{EventQuery, FlowState, FoundEvent, FoundPage, PageLimits, Sources, find};
use oncue_core::config::Span;
use oncue_core::model::flow::Flow;
use oncue_proto::{Catalog, event};
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, CHANGED, DIM, GOOD, NAME, brief, number, paint, remark, say};

/// Characters of a payload in a line.
const MAX_DATA: usize = 160;

#[derive(clap::Args)]
pub struct Args {
    /// Only events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
    /// Only events that this function has sent.
    #[arg(long, value_name = "F")]
    function: Option<String>,
    /// Only events of this key.
    #[arg(long)]
    key: Option<String>,
    /// Only events whose payload holds this text, in any case of letters. Sensitive fields are not searched.
    #[arg(long)]
    text: Option<String>,
    /// Only events of flows that are `open`, `complete` or `failed`; flows without a ledger are left out.
    #[arg(long, value_parser = state)]
    state: Option<FlowState>,
    /// Only events of flows that took at least this long, such as `2s`; flows without a ledger are left out.
    #[arg(long, value_name = "SPAN")]
    longer: Option<Span>,
    /// Nothing older, such as `1h`, or a time.
    #[arg(long, value_name = "AGE|TIME", value_parser = time)]
    since: Option<u64>,
    /// Nothing newer; where the page before says that it has come to.
    #[arg(long, value_name = "AGE|TIME", value_parser = time)]
    until: Option<u64>,
    /// Events of a page.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Time for a page; what was not looked at by then is left for the next.
    #[arg(long, value_name = "SPAN", default_value = "5s")]
    time: Span,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

fn state(word: &str) -> Result<FlowState, String> {
    FlowState::named(word).ok_or_else(|| "a flow is open, complete or failed".to_owned())
}

/// Unix milliseconds of a time, or of so long ago.
fn time(text: &str) -> Result<u64, String> {
    if let Some(time) = event::parse_time(text) {
        return Ok(time);
    }
    let age: Span = text.parse().map_err(|_| {
        "write how long ago, such as `1h`, or a time like 2026-01-02T03:04:05Z".to_owned()
    })?;
    Ok(event::now_ms().saturating_sub(age.0.as_millis() as u64))
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let catalog = settings.catalog().await?;
    if let Some(Err(unknown)) = args.ty.as_deref().map(|ty| catalog.get(ty)) {
        remark(unknown);
    }
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let sources = Sources {
        bus: &bus,
        store: Some(&store),
        config: &settings.config,
        catalog: &catalog,
        functions: &[],
    };
    let query = EventQuery {
        ty: args.ty.clone(),
        function: args.function.clone(),
        key: args.key.clone(),
        text: args.text.clone(),
        state: args.state,
        longer: args.longer.map(|span| span.0.as_millis() as u64),
        from: args.since.unwrap_or(0),
        until: args.until.unwrap_or(0),
    };
    let limits = PageLimits {
        events: args.limit.max(1),
        read: u64::MAX,
        time: Duration::max(args.time.0, Duration::from_millis(1)),
    };
    let page = find(&sources, &query, limits, event::now_ms())
        .await
        .map_err(Failure::silent)?;
    for found in &page.events {
        let flow = page.flows.get(&found.incoming.meta.flow);
        if args.json {
            say(whole(found, flow, &catalog));
        } else {
            say(line(found, flow, &catalog));
        }
    }
    remark(paint(DIM, end(&page)));
    if page.untracked > 0 {
        let untracked = number(page.untracked);
        remark(format_args!(
            "{untracked} events were passed over: their flows have no ledger, since nobody tracked them ([flows] track) or it has expired ([flows] keep)"
        ));
    }
    Ok(exit::OK)
}

/// Words on how far it has come.
fn end(page: &FoundPage) -> String {
    let searched = event::format_time(page.searched);
    let read = number(page.read);
    if page.is_end {
        format!("{read} events read, back to {searched}: that is all")
    } else {
        format!("{read} events read, back to {searched}; go on with --until {searched}")
    }
}

fn data(found: &FoundEvent, catalog: &Catalog) -> Value {
    let incoming = &found.incoming;
    match catalog.get(&incoming.meta.ty) {
        Ok(entry) => entry
            .to_view(incoming.format, &incoming.payload)
            .unwrap_or_else(|why| Value::String(why.to_string())),
        Err(_) => serde_json::from_slice(&incoming.payload)
            .unwrap_or_else(|_| json!({ "bytes": incoming.payload.len() })),
    }
}

fn line(found: &FoundEvent, flow: Option<&Flow>, catalog: &Catalog) -> String {
    let meta = &found.incoming.meta;
    let state = flow.map_or(String::new(), |flow| {
        let state = FlowState::of(flow);
        let style = match state {
            FlowState::Open => CHANGED,
            FlowState::Complete => GOOD,
            FlowState::Failed => BAD,
        };
        format!("{} ", paint(style, state.word()))
    });
    format!(
        "{} {} {} {state}{} {}",
        paint(DIM, event::format_time(found.message.time)),
        paint(NAME, &meta.ty),
        brief(&found.key(catalog), 48),
        paint(DIM, format_args!("flow={}", brief(&meta.flow, 48))),
        brief(&data(found, catalog).to_string(), MAX_DATA)
    )
}

fn whole(found: &FoundEvent, flow: Option<&Flow>, catalog: &Catalog) -> Value {
    let meta = &found.incoming.meta;
    json!({
        "stored": event::format_time(found.message.time),
        "type": meta.ty,
        "key": found.key(catalog),
        "id": meta.id,
        "flow": meta.flow,
        "cause": meta.cause,
        "source": meta.source,
        "stream": found.stream,
        "seq": found.message.sequence,
        "state": flow.map(|flow| FlowState::of(flow).word()),
        "took_ms": flow.and_then(|flow| Some(flow.ended?.saturating_sub(flow.started))),
        "data": data(found, catalog),
    })
}
