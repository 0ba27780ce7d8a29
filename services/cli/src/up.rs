//! `oncue up`: the whole house on one machine, every part its own process.
//!
//! Everything that can be wrong is looked for before the first process starts: configuration, programs, ports. Then
//! servers, layout, functions and gateway start in the order in which they need each other, and stop in the opposite
//! one, so that nothing that was accepted is left half done.

mod crew;
mod elastic;
mod guard;
mod house;
mod lines;
mod lock;
mod parts;
mod ports;
mod process;
mod sample;
mod scale;
mod servers;
mod service;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::bus::layout::Mode;
use oncue_core::model::manifest::Manifest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::apply::{self, Action};
use crate::exit::{self, Failure};
use crate::paint::{BOLD, DIM, paint};
use crate::settings::Settings;
use crate::{health, http, manifests, services};

use self::crew::{Crew, Worker};
use self::elastic::{Crews, Elastic};
use self::house::House;
use self::lines::Screen;
use self::parts::{CONSOLE, GATEWAY, Traces, traces};
use self::servers::{Server, Start};

/// Longer than this without being ready, and it says what it waits for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Args {
    /// Folder for the servers' data.
    #[arg(long, default_value = ".oncue", value_name = "DIR")]
    data: PathBuf,
    /// How servers that are started here treat the disk: `durable` writes before it answers, for events and state that
    /// survive a power cut. What is true of the running servers says `oncue doctor`.
    #[arg(long, env = "ONCUE_PROFILE", value_enum, default_value_t = Profile::Dev)]
    profile: Profile,
    /// Start only these functions, with everything around them.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Show every line of NATS and Redis, not only warnings.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    Dev,
    Durable,
}

impl Profile {
    /// Its folder in `deploy/`.
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Durable => "durable",
        }
    }
}

/// What is to be started, found fit beforehand.
struct Plan {
    nats: Server,
    redis: Server,
    traces: Traces,
}

pub async fn run(args: Args, settings: Settings) -> Result<u8, Failure> {
    let started = Instant::now();
    let mut stop = stop_requests()?;
    let functions = chosen(&args, &settings)?;
    parts::all_built(&settings, &functions)?;
    let _lock = lock::take(&args.data)?;
    // The functions say what they are while the ports are looked at.
    let (plan, manifests) =
        tokio::join!(plan(&args, &settings), manifests::of(&settings, &functions));
    let (plan, manifests) = (plan?, manifests?);

    let names = functions
        .iter()
        .map(String::as_str)
        .chain([GATEWAY, CONSOLE, "nats", "redis", "traces", "oncue"]);
    let mut house = House::new(Screen::new(names, args.verbose))?;
    let outcome = tokio::select! {
        failed = live(&settings, args.profile, &plan, &manifests, &house, started) => Err(failed),
        _ = stop.recv() => Ok(exit::OK),
    };
    if let Err(failure) = &outcome {
        house.screen.error(&failure.what);
    }
    let drained = Instant::now();
    house
        .screen
        .note("stopping: what is in hand is finished first (Ctrl-C again kills)");
    tokio::select! {
        () = house.drain() => {}
        _ = stop.recv() => house.kill().await,
    }
    house
        .screen
        .note(&format!("stopped in {} ms", drained.elapsed().as_millis()));
    outcome
}

/// Starts everything, says so, and stays until it fails.
async fn live(
    settings: &Settings,
    profile: Profile,
    plan: &Plan,
    manifests: &[Manifest],
    house: &House,
    started: Instant,
) -> Failure {
    match start(settings, profile, plan, manifests, house).await {
        Ok((elastic, crews)) => {
            lines::print(&ready_text(settings, plan, &crews, started.elapsed()));
            match elastic.run().await {}
        }
        Err(failure) => failure,
    }
}

async fn start<'h>(
    settings: &Settings,
    profile: Profile,
    plan: &Plan,
    manifests: &[Manifest],
    house: &'h House,
) -> Result<(Elastic<'h>, Crews), Failure> {
    if let Traces::Start = &plan.traces {
        house.viewer.run(parts::viewer(settings)?);
    }
    tokio::try_join!(
        servers::start(&plan.nats, house),
        servers::start(&plan.redis, house)
    )?;
    let bus = settings.bus().await?;
    let store = settings.store().await?;
    let changes = apply::carry_out(&settings.config, manifests, &bus, &store, Mode::Apply).await;
    for change in changes.iter().filter(|c| c.action != Action::Same) {
        house.screen.note(&apply::line(change));
    }
    if let Some(refused) = changes.iter().find(|c| c.action == Action::Refused) {
        return Err(Failure::failed(format_args!(
            "{} cannot be made as it should be",
            refused.what
        )));
    }
    let env = parts::environment(settings, profile)?;
    let mut crews = BTreeMap::new();
    for manifest in manifests {
        let spec = parts::function(settings, &manifest.name, &env)?;
        crews.insert(
            manifest.name.clone(),
            Crew::new(manifest, &settings.config, spec),
        );
    }
    let crews = Arc::new(Mutex::new(crews));
    let mut elastic = Elastic::new(house, bus.clone(), crews.clone());
    elastic.begin().await;
    service::answer(&bus, &crews).await?;
    house.gateway.run(parts::gateway(settings, &env)?);
    // Nothing waits for it: it only looks.
    house.gateway.run(parts::console(settings, &env)?);
    until_ready(settings, &bus, &crews, house).await?;
    Ok((elastic, crews))
}

/// Until the gateway is ready and every worker answers on the bus; ours, told by the process id in its name, since
/// others may be on the same bus.
async fn until_ready(
    settings: &Settings,
    bus: &Bus,
    crews: &Crews,
    house: &House,
) -> Result<(), Failure> {
    let gateway = health::gateway_address(&settings.config.gateway.listen);
    let mut patience = Instant::now() + PATIENCE;
    loop {
        let (page, answers) = tokio::join!(
            http::get(&gateway, "/readyz", Duration::from_secs(1)),
            services::ask(bus, "$SRV.PING", Duration::from_millis(40)),
        );
        let answers = answers?;
        let answering =
            |worker: &Worker| answers.iter().any(|a| a.pid() == Some(worker.vitals.pid()));
        let workers: Vec<Worker> = crews
            .lock()
            .values()
            .flat_map(|crew| crew.workers().to_vec())
            .collect();
        let mut behind: Vec<String> = workers
            .into_iter()
            .filter(|w| !answering(w))
            .map(|w| w.name)
            .collect();
        if !matches!(page, Ok((200, _))) {
            behind.push(GATEWAY.to_owned());
        }
        if behind.is_empty() {
            return Ok(());
        }
        if Instant::now() > patience {
            patience += PATIENCE;
            house
                .screen
                .warn(&format!("still waiting for {}", behind.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn chosen(args: &Args, settings: &Settings) -> Result<Vec<String>, Failure> {
    let all: Vec<String> = settings.config.functions.keys().cloned().collect();
    let unknown: Vec<&String> = args
        .only
        .iter()
        .filter(|name| !all.contains(name))
        .collect();
    if let Some(name) = unknown.first() {
        return Err(
            Failure::usage(format_args!("oncue.toml has no function {name:?}"))
                .advise(format!("it has {}", all.join(", "))),
        );
    }
    Ok(if args.only.is_empty() {
        all
    } else {
        all.into_iter()
            .filter(|name| args.only.contains(name))
            .collect()
    })
}

async fn plan(args: &Args, settings: &Settings) -> Result<Plan, Failure> {
    ports::must_be_free(
        "the gateway",
        &settings.config.gateway.listen,
        "[gateway] listen in oncue.toml, or ONCUE_GATEWAY_LISTEN",
    )?;
    let setting = "[console] listen in oncue.toml, or ONCUE_CONSOLE_LISTEN";
    ports::must_be_free("the console", &settings.config.console.listen, setting)?;
    let (nats, redis) = tokio::join!(
        servers::nats(args, settings),
        servers::redis(args, settings)
    );
    Ok(Plan {
        nats: nats?,
        redis: redis?,
        traces: traces(settings),
    })
}

fn ready_text(settings: &Settings, plan: &Plan, crews: &Crews, took: Duration) -> String {
    let server = |server: &Server| match &server.start {
        Start::Use { version } => format!("{}  (was already running, {version})", server.place),
        Start::Spawn { data, .. } => format!("{}  (data in {})", server.place, data.display()),
    };
    let rows = [
        (
            "page",
            format!(
                "http://{}/",
                health::gateway_address(&settings.config.gateway.listen)
            ),
        ),
        (
            "console",
            format!(
                "http://{}/",
                health::gateway_address(&settings.config.console.listen)
            ),
        ),
        ("traces", plan.traces.to_string()),
        ("NATS", server(&plan.nats)),
        ("Redis", server(&plan.redis)),
    ];
    let head = format!("ready in {} ms: {}", took.as_millis(), count(crews));
    let mut text = vec![String::new(), paint(BOLD, head)];
    text.extend(
        rows.into_iter()
            .map(|(name, what)| format!("  {} {what}", paint(DIM, format_args!("{name:<7}")))),
    );
    text.extend([
        paint(
            DIM,
            "  Ctrl-C finishes what is in hand and stops everything.",
        ),
        String::new(),
    ]);
    text.join("\n")
}

/// `9 functions, 8 workers, 1 asleep`
fn count(crews: &Crews) -> String {
    let crews = crews.lock();
    let workers: u32 = crews.values().map(|crew| crew.count().have).sum();
    let asleep = crews.values().filter(|crew| !crew.is_awake()).count();
    let asleep = if asleep > 0 {
        format!(", {asleep} asleep")
    } else {
        String::new()
    };
    format!("{} functions, {workers} workers{asleep}", crews.len())
}

/// Ctrl-C, SIGTERM, and the terminal being closed, as often as they come.
fn stop_requests() -> Result<mpsc::Receiver<()>, Failure> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>();
    let signals =
        signals.map_err(|e| Failure::failed(format_args!("cannot handle signals: {e}")))?;
    let (asked, requests) = mpsc::channel(4);
    for mut signal in signals {
        let asked = asked.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                let _ = asked.send(()).await;
            }
        });
    }
    Ok(requests)
}
