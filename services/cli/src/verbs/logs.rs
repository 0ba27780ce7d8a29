//! `oncue logs`: what functions and servers of `oncue up` have written, also when it runs no more.

mod reader;

use std::path::{Path, PathBuf};
use std::time::Duration;

use oncue_admin::program::logs::{self, LogLine, LogQuery};
use oncue_proto::event;
use serde_json::json;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, CHANGED, DIM, PLAIN, paint, say};
use crate::when;

use self::reader::LogReader;

/// Between two looks for new lines.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);

#[derive(clap::Args)]
pub struct Args {
    /// A function, or `nats`, `redis`, `gateway`, `console`, `traces`; all of them without.
    #[arg(value_name = "FUNCTION")]
    name: Option<String>,
    /// Go on with what is written from now on.
    #[arg(long, short)]
    follow: bool,
    /// Only lines of one flow.
    #[arg(long, value_name = "ID")]
    flow: Option<String>,
    /// Only lines since then: a time like 2026-01-31T12:00:00Z, or a duration ago like 15m.
    #[arg(long, value_name = "WHEN", value_parser = when::since)]
    since: Option<u64>,
    /// Most lines, the newest.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 200)]
    lines: usize,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Folder of the data of `oncue up`. Default: `.oncue` beside oncue.toml.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    let folder = folder(args, settings);
    let names = logs::names(&folder);
    if names.is_empty() {
        let what = format!("there are no logs in {}", folder.display());
        return Err(Failure::failed(what)
            .advise("`oncue up` keeps them; name its folder with --data, or see the container engine's own logs"));
    }
    if let Some(name) = &args.name
        && !names.contains(name)
    {
        let what = format!("{name} has written no log");
        return Err(Failure::usage(what).advise(format!("there are logs of {}", names.join(", "))));
    }
    let mut query = LogQuery {
        name: args.name.as_deref(),
        flow: args.flow.as_deref(),
        since: args.since.unwrap_or(0),
        most: args.lines,
        ..LogQuery::default()
    };
    let mut reader = LogReader::new(folder);
    loop {
        for line in reader.next(&query) {
            show(&line, args.json);
        }
        if !args.follow {
            return Ok(exit::OK);
        }
        query.most = usize::MAX;
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

fn folder(args: &Args, settings: &Settings) -> PathBuf {
    let beside = settings.config.path.as_deref().and_then(Path::parent);
    let data = args
        .data
        .clone()
        .unwrap_or_else(|| beside.unwrap_or(Path::new(".")).join(".oncue"));
    data.join("logs")
}

fn show(line: &LogLine, json: bool) {
    if json {
        say(json!(line));
        return;
    }
    let style = match line.level.as_str() {
        "ERROR" => BAD,
        "WARN" => CHANGED,
        "DEBUG" => DIM,
        _ => PLAIN,
    };
    say(format!(
        "{} {} {} {}",
        paint(DIM, event::format_time(line.at)),
        paint(BOLD, &line.from),
        paint(style, format_args!("{:>5}", line.level)),
        line.text
    ));
}
