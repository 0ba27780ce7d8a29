//! `oncue up`: the whole app on one machine, every part its own process.
//!
//! Everything that can be wrong is looked for before the first process starts: configuration, programs, ports. Then
//! servers, layout, functions and gateway start in the order in which they need each other, and stop in the opposite
//! one, so that nothing that was accepted is left half done.

// Processes.
mod keep_running;
mod log;
pub mod orphan_guard;
mod process;
pub mod restart;
mod supervisor;

// Programs, and where they listen.
mod account;
mod clean_end;
mod data_lock;
mod lock;
mod port_check;
mod programs;
mod servers;

// Workers of the functions.
mod autoscaler;
mod bounds;
mod pool;
mod sample;
mod scale;
mod service;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use oncue_admin::stores::rights::{Rights, Role};
use oncue_admin::stores::upkeep::{self, Upkeep};
use oncue_core::bus::Bus;
use oncue_core::bus::layout::Mode;
use oncue_core::bus::services::ServiceInstance;
use oncue_core::config::Config;
use oncue_core::contract::{self, Contracts};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BOLD, DIM, paint};
use crate::verbs::apply::{self, ChangeAction, Layout};
use crate::verbs::health;
use crate::{http, manifests, trial};

use self::account::GLOBAL;
use self::autoscaler::{Autoscaler, Pools};
use self::lock::Lock;
use self::log::LogPrinter;
use self::pool::{Pool, Worker};
use self::process::ProcessStatus;
use self::programs::{CONSOLE, GATEWAY, Traces, VIEWER, traces};
pub use self::programs::{TRACK, Viewer};
use self::restart::Credentials;
use self::servers::{Server, Start};
use self::supervisor::Supervisor;

/// Time after which it is said what is not ready yet.
const READY_COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);
/// Pause between two looks at what is ready.
/// Short, since it is part of the time that a start takes.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Time the gateway's health page has to answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// Silence after which no more workers are expected to answer a ping.
/// A worker that is missed is asked again after the next pause, so a short silence only costs another look.
const WORKER_REPLY_GAP: Duration = Duration::from_millis(40);

/// Keys of `oncue dev`.
const KEYS: &str =
    "  Keys: o opens the console, p publishes the last event once more, q stops as Ctrl-C does.";
/// Folder for the servers' data, by default.
const DATA: &str = ".oncue";

#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct Args {
    /// Folder for the servers' data. Default: `.oncue` beside oncue.toml.
    #[arg(long, default_value = DATA, hide_default_value = true, value_name = "DIR")]
    data: PathBuf,
    /// How servers that are started here treat the disk: `durable` writes before it answers, for events and state
    /// that survive a power cut. What is true of the running servers says `oncue doctor`.
    #[arg(long, env = "ONCUE_PROFILE", value_enum, default_value_t = Profile::Dev)]
    profile: Profile,
    /// Start only these functions, with everything around them.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// Start NATS and Redis and nothing else: for `oncue restore` and `oncue recover`, which want no function at work.
    #[arg(long, conflicts_with_all = ["only", "set_aside", "break_contract"])]
    servers: bool,
    #[command(flatten)]
    consent: apply::Consent,
    /// Leave servers that are started here open: whoever reaches them may do everything. Without it they want the credentials
    /// in `.oncue/keys`, and let others publish public types.
    #[arg(long, env = "ONCUE_UNLOCKED")]
    unlocked: bool,
    /// Show every line of NATS and Redis, not only warnings.
    #[arg(long, short)]
    verbose: bool,
    /// Say at the end which keys `oncue dev` takes: it has the terminal's.
    #[arg(long, hide = true)]
    keys: bool,
    /// By how much everything lets other processes of this machine go first, as `nice` counts.
    #[arg(long, hide = true, default_value_t = 0)]
    nice: i32,
}

/// How servers that are started here treat the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    Dev,
    Durable,
}

impl Profile {
    /// Name of the profile's folder in `deploy/`.
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Durable => "durable",
        }
    }
}

/// Servers and traces, found fit before anything is started.
/// Kept apart from starting: a mistake that is found late would leave half an app running.
struct Plan {
    nats: Server,
    redis: Server,
    traces: Traces,
}

/// Run of `oncue up`: what is started, and the supervisor that keeps it running.
struct Launch {
    /// Settings with the credentials of an operator.
    settings: Settings,
    /// Configuration without credentials of ours.
    config: Config,
    lock: Option<Lock>,
    profile: Profile,
    consent: apply::Consent,
    /// Whether nothing but the servers is started.
    is_servers_alone: bool,
    /// Folder of the servers' data.
    data: PathBuf,
    /// nats-server, once it is started here.
    nats: OnceLock<StartedNats>,
    /// Folder where workers write down what they have in hand.
    hands: PathBuf,
    /// Folder of the log files.
    logs: PathBuf,
    plan: Plan,
    manifests: Vec<Manifest>,
    started: Instant,
    /// Keys that somebody takes.
    keys: &'static str,
}

/// Returns once everything it started has ended, whatever the reason: nothing outlives it but the data.
pub async fn run(args: Args, mut settings: Settings) -> Result<u8, Failure> {
    let started = Instant::now();
    // First of all: from here on a Ctrl-C is a request to stop, and not the end of a process that has children.
    let mut stop = stop_requests()?;
    let args = beside_file(args, &settings);
    // All that it starts inherits it. Where the system does not grant it, others wait longer.
    let _ = rustix::process::nice(args.nice);
    let functions = chosen(&args, &settings)?;
    if !args.servers {
        programs::all_built(&settings, &functions)?;
    }
    // Before the ports: a second `oncue up` is told of the first, and not of each port that it has.
    let _lock = data_lock::take(&args.data)?;
    Lock::forget(&args.data);
    settings.config.forget_elsewhere();
    // The functions say what they are while the ports are looked at.
    let (plan, manifests) =
        tokio::join!(plan(&args, &settings), manifests::of(&settings, &functions));
    let hands = std::path::absolute(args.data.join("hands"))
        .map_err(|e| Failure::usage(format_args!("{}: {e}", args.data.display())));
    let logs = std::path::absolute(args.data.join("logs"))
        .map_err(|e| Failure::usage(format_args!("{}: {e}", args.data.display())));
    let mut plan = plan?;
    let config = settings.config.clone();
    let lock = (!args.unlocked)
        .then(|| Lock::of(&args.data, &plan.nats, &plan.redis, &config))
        .flatten();
    if let Some(lock) = &lock {
        plan.nats
            .start_with(servers::CONFIGURATION, &lock.nats_file());
        plan.redis.start_with("--aclfile", &lock.redis_file());
        settings.config = lock.log_in(&config, &Role::Operator);
        let told = config.keep_elsewhere(&args.data);
        told.map_err(|e| Failure::usage(format_args!(".oncue beside oncue.toml: {e}")))?;
    }
    if plan.nats.is_started_here() {
        let data = args.data.join(servers::NATS_DATA);
        let app = config.app.to_string();
        let (former, now) = if lock.is_some() {
            (GLOBAL, app.as_str())
        } else {
            (app.as_str(), GLOBAL)
        };
        account::hand_over(&data, former, now)
            .map_err(|e| Failure::failed(format_args!("{}: {e}", data.display())))?;
    }
    let launch = Launch {
        plan,
        // Servers alone want no function built: then they are locked for operators.
        manifests: if args.servers {
            manifests.unwrap_or_default()
        } else {
            manifests?
        },
        config,
        lock,
        profile: args.profile,
        consent: args.consent,
        is_servers_alone: args.servers,
        data: args.data,
        nats: OnceLock::new(),
        hands: hands?,
        logs: logs?,
        settings,
        started,
        keys: if args.keys { KEYS } else { "" },
    };
    let names = functions
        .iter()
        .map(String::as_str)
        .chain([GATEWAY, CONSOLE, VIEWER, "nats", "redis", "oncue"]);
    let log = LogPrinter::new(names, args.verbose).keep_in(&launch.logs);
    let mut supervisor = Supervisor::new(log)?;
    let counted = supervisor.log.clone();
    tokio::spawn(async move { LogPrinter::count_for_ever(&counted).await });
    // Starting can be interrupted at any point; what runs by then is stopped like the rest.
    let outcome = tokio::select! {
        failed = launch.run(&supervisor) => Err(failed),
        _ = stop.recv() => Ok(exit::OK),
    };
    if let Err(failure) = &outcome {
        supervisor.log.error(&failure.what);
    }
    let stopping = Instant::now();
    let log = supervisor.log.clone();
    log.note("stopping: what is in flight is finished first (Ctrl-C again kills)");
    tokio::select! {
        () = launch.stop(&mut supervisor) => {}
        _ = stop.recv() => supervisor.kill().await,
    }
    log.note(&format!("stopped in {} ms", stopping.elapsed().as_millis()));
    outcome
}

/// A nats-server that was started here.
struct StartedNats {
    status: Arc<ProcessStatus>,
    /// Whether the one before it on the same data ended in order.
    has_lost_nothing: bool,
}

/// Servers that run, and what the programs say of their events.
struct StartedServers {
    /// nats-server, where it is started here.
    nats: Option<Arc<ProcessStatus>>,
    contracts: Contracts,
}

/// All that runs once everything is started.
struct Running<'s> {
    autoscaler: Autoscaler<'s>,
    upkeep: Upkeep,
    pools: Pools,
    bus: Bus,
    store: Store,
    /// nats-server, where it is started here.
    nats: Option<Arc<ProcessStatus>>,
}

impl Launch {
    /// Starts everything, says so, and scales until something fails.
    async fn run(&self, supervisor: &Supervisor) -> Failure {
        if self.is_servers_alone {
            return match self.start_servers(supervisor).await {
                Ok(_) => {
                    log::print(&self.servers_text());
                    std::future::pending().await
                }
                Err(failure) => failure,
            };
        }
        match self.start(supervisor).await {
            Ok(Running {
                autoscaler,
                upkeep,
                pools,
                bus,
                store,
                nats,
            }) => {
                let announced = async {
                    match self.until_ready(&bus, &pools, supervisor).await {
                        Ok(()) => {
                            log::print(&self.ready_text(&pools));
                            std::future::pending().await
                        }
                        Err(failure) => failure,
                    }
                };
                let id = service::id();
                let restarts = restart::serve(
                    supervisor,
                    &bus,
                    &pools,
                    &id,
                    async |functions, anyway| {
                        self.let_in(functions, anyway, &pools, &bus, &store).await
                    },
                    async |credentials| {
                        self.renew_rights(credentials, nats.as_deref(), &bus, &store)
                            .await
                    },
                );
                let config = &self.settings.config;
                let bounds = bounds::follow(&bus, &pools, config, &supervisor.log);
                // One function that does not get ready keeps no other from its work, nor from being restarted.
                tokio::select! {
                    failure = announced => failure,
                    never = autoscaler.run() => match never {},
                    ended = bounds => match ended {
                        Ok(never) => match never {},
                        Err(failure) => failure,
                    },
                    never = tend(upkeep, &supervisor.log) => match never {},
                    ended = restarts => match ended {
                        Ok(never) => match never {},
                        Err(failure) => failure,
                    },
                }
            }
            Err(failure) => failure,
        }
    }

    /// Starts the parts in the order in which they need each other. Servers come first; the layout before the
    /// workers, which would find no consumer; the workers before the gateway, so that little waits that was
    /// accepted.
    async fn start<'s>(&self, supervisor: &'s Supervisor) -> Result<Running<'s>, Failure> {
        let settings = &self.settings;
        // First, so that the first spans find a taker; nobody waits for it.
        if let Traces::Start(_) = &self.plan.traces {
            supervisor.viewer.run(programs::viewer(settings)?);
        }
        let StartedServers { nats, contracts } = self.start_servers(supervisor).await?;
        let bus = settings.bus().await?;
        self.apply_layout(&bus, &contracts.programs, supervisor)
            .await?;
        let mut pools = BTreeMap::new();
        for manifest in &self.manifests {
            let env = self.environment(&Role::Function(manifest.name.clone()))?;
            let spec = programs::function(settings, &manifest.name, &env, &self.hands)?;
            let pool = Pool::new(manifest, &settings.config, spec);
            pools.insert(manifest.name.clone(), pool);
        }
        let pools = Arc::new(Mutex::new(pools));
        let store = settings.store().await?;
        if self.has_lost_nothing() {
            let server = bus.server_id();
            let registered = store.registered().await.map_err(Failure::silent)?;
            for function in settings.config.functions.keys().chain(&registered) {
                let counted = store.count_as_restored(function, &server).await;
                counted.map_err(Failure::silent)?;
            }
        }
        let upkeep = Upkeep::new(&bus, &store, &settings.config);
        // Before the first worker starts, so that none starts that is not to be.
        let taken = bounds::take_over(&bus, &pools, &settings.config, &supervisor.log).await;
        taken.map_err(Failure::silent)?;
        let mut autoscaler = Autoscaler::new(supervisor, bus.clone(), store.clone(), pools.clone());
        autoscaler.begin().await;
        service::answer(&bus, &pools).await?;
        let env = self.environment(&Role::Gateway)?;
        supervisor.gateway.run(programs::gateway(settings, &env)?);
        let env = self.environment(&Role::Console)?;
        // Nothing waits for the console: it only looks.
        supervisor
            .gateway
            .run(programs::console(settings, &env, &self.logs)?);
        Ok(Running {
            autoscaler,
            upkeep,
            pools,
            bus,
            store,
            nats,
        })
    }

    /// Starts both servers with the rights of everybody.
    async fn start_servers(&self, supervisor: &Supervisor) -> Result<StartedServers, Failure> {
        let settings = &self.settings;
        let contracts = settings.contracts().await?;
        if let Some(lock) = &self.lock {
            lock.write(&Rights::of(
                &self.config,
                &self.manifests,
                &contracts.catalog,
            ))?;
        }
        let before = clean_end::Before::take(&self.data);
        let (nats, _redis) = tokio::try_join!(
            servers::start(&self.plan.nats, &settings.config, supervisor),
            servers::start(&self.plan.redis, &settings.config, supervisor)
        )?;
        if let Some(nats) = &nats {
            let lost_nothing = before.has_lost_nothing(&settings.store().await?).await;
            let _ = self.nats.set(StartedNats {
                status: nats.clone(),
                has_lost_nothing: lost_nothing.map_err(Failure::silent)?,
            });
        }
        Ok(StartedServers { nats, contracts })
    }

    /// Stops everything in order, and notes whether nats-server has lost nothing by it.
    async fn stop(&self, supervisor: &mut Supervisor) {
        let noted = tokio::time::timeout(HEALTH_TIMEOUT, self.begin_to_end()).await;
        supervisor.drain().await;
        let nats = self.nats.get().map(|nats| &nats.status);
        // Also while the others stopped it has not been started again.
        let in_order = nats.is_some_and(|nats| nats.ends() == 0 && nats.ended_in_order());
        if let (true, Ok(Some(server))) = (in_order, noted) {
            clean_end::write(&self.data, &server);
        }
    }

    /// Id of the nats-server that was started here, if it leaves nothing to be published again.
    async fn begin_to_end(&self) -> Option<String> {
        self.nats.get()?;
        let bus = self.settings.bus().await.ok()?;
        let store = self.settings.store().await.ok()?;
        let functions = self.settings.config.functions.keys().cloned();
        let begun = clean_end::begin(functions, &bus, &store).await;
        begun.ok().flatten()
    }

    /// Whether nats-server was started here, and the one before it on the same data ended in order.
    fn has_lost_nothing(&self) -> bool {
        self.nats.get().is_some_and(|nats| nats.has_lost_nothing)
    }

    /// Lets programs in as they lie there now, by `oncue.toml` as it is now: the named ones, or all. Those that cannot read samples of
    /// what is there only come in `anyway`. Returns what was changed, a line each.
    async fn let_in(
        &self,
        functions: &[String],
        anyway: bool,
        pools: &Pools,
        bus: &Bus,
        store: &Store,
    ) -> Result<Vec<String>, Failure> {
        let settings = self.settings.read_anew()?;
        if settings.config.app != self.config.app {
            let now = &settings.config.app;
            let was = &self.config.app;
            let why = format_args!("oncue.toml is of the app {now} now, and this runs {was}");
            return Err(Failure::failed(why).advise("stop this `oncue up`, and start another"));
        }
        // Programs that are not restarted stay what they are, also where another one lies there now.
        let (manifests, contracts) = tokio::join!(
            manifests::anew(&settings, functions, store),
            contract::load_anew(&settings.config, &settings.bin, |name| functions.is_empty()
                || functions.iter().any(|function| function == name))
        );
        let contracts = contracts.map_err(Failure::usage)?;
        if let Some(why) = contracts.warnings.first() {
            return Err(Failure::failed(why));
        }
        let manifests = manifests?;
        let mut layout = Layout {
            config: &settings.config,
            manifests: &manifests,
            contracts: &contracts.programs,
            mode: Mode::Look,
            // What was said at the start held for the start.
            consent: &apply::Consent::default(),
        };
        // Looked at as a whole first: what one function is refused for must not be half done for the others.
        let mut changed = Vec::new();
        for mode in [Mode::Look, Mode::Apply] {
            layout.mode = mode;
            let made = layout.make(bus, store).await;
            changed = made.map_err(|e| {
                e.advise("`oncue check` says more; all processes run on as they were")
            })?;
            if mode == Mode::Look && !anyway {
                trial::refuse_unreadable(&settings, functions).await?;
            }
        }
        for manifest in &manifests {
            if !functions.is_empty() && !functions.contains(&manifest.name) {
                continue;
            }
            let env = self.environment(&Role::Function(manifest.name.clone()))?;
            let spec = programs::function(&settings, &manifest.name, &env, &self.hands)?;
            if let Some(pool) = pools.lock().get_mut(&manifest.name) {
                pool.renew(manifest, &settings.config, spec);
            }
        }
        Ok(changed)
    }

    /// Gives everybody the rights that follow from the programs as they were let in.
    async fn renew_rights(
        &self,
        credentials: Credentials,
        nats: Option<&ProcessStatus>,
        bus: &Bus,
        store: &Store,
    ) -> Result<(), Failure> {
        let Some(lock) = &self.lock else {
            return match credentials {
                Credentials::Keep => Ok(()),
                Credentials::Replace => Err(Failure::failed("has locked no servers")),
            };
        };
        let mut manifests = self.manifests.clone();
        for registered in store.functions().await.map_err(Failure::silent)? {
            let mut began = manifests.iter_mut();
            if let Some(manifest) = began.find(|began| began.name == registered.manifest.name) {
                *manifest = registered.manifest;
            }
        }
        let stored = contract::catalog(bus).await.map_err(Failure::silent)?;
        let rights = Rights::of(&self.config, &manifests, &stored);
        match credentials {
            Credentials::Keep => lock.renew(&rights, nats, store).await,
            Credentials::Replace => lock.rotate(&rights, nats, store).await,
        }
    }

    /// Environment of a process of ours, with its own credentials.
    fn environment(&self, role: &Role) -> Result<programs::Environment, Failure> {
        match &self.lock {
            Some(lock) => programs::environment(&lock.log_in(&self.config, role), self.profile),
            None => programs::environment(&self.config, self.profile),
        }
    }

    /// Makes the layout before any worker asks for its consumer. Refusals stop the start: a worker on a wrong
    /// layout would wait for events that never come.
    async fn apply_layout(
        &self,
        bus: &Bus,
        contracts: &BTreeMap<String, Vec<u8>>,
        supervisor: &Supervisor,
    ) -> Result<(), Failure> {
        let config = &self.settings.config;
        let store = self.settings.store().await?;
        let layout = Layout {
            config,
            manifests: &self.manifests,
            contracts,
            mode: Mode::Apply,
            consent: &self.consent,
        };
        let changes = layout.carry_out(bus, &store).await;
        for change in &changes {
            if change.action != ChangeAction::Same {
                supervisor.log.note(&apply::line(change));
            }
        }
        // All changes are shown before the first refusal ends it: there may be more to mend.
        let refused = changes.iter().find(|c| c.action == ChangeAction::Refused);
        match refused {
            None => Ok(()),
            Some(change) => Err(Failure::failed(format_args!(
                "{} cannot be made as it should be",
                change.what
            ))),
        }
    }

    /// Waits until the gateway is ready and every worker answers on the bus.
    async fn until_ready(
        &self,
        bus: &Bus,
        pools: &Pools,
        supervisor: &Supervisor,
    ) -> Result<(), Failure> {
        let gateway = health::gateway_url(&self.settings.config);
        let mut complain_at = Instant::now() + READY_COMPLAINT_INTERVAL;
        loop {
            let (page, answers) = tokio::join!(
                http::get(&gateway, "/readyz", HEALTH_TIMEOUT),
                bus.service_instances("$SRV.PING", WORKER_REPLY_GAP),
            );
            let mut behind = silent_workers(pools, &answers.map_err(Failure::silent)?);
            if !matches!(page, Ok((200, _))) {
                behind.push(GATEWAY.to_owned());
            }
            if behind.is_empty() {
                return Ok(());
            }
            if Instant::now() > complain_at {
                complain_at += READY_COMPLAINT_INTERVAL;
                let behind = behind.join(", ");
                supervisor.log.warn(&format!("still waiting for {behind}"));
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    }

    fn ready_text(&self, pools: &Pools) -> String {
        let took = self.started.elapsed().as_millis();
        let config = &self.settings.config;
        let gateway = health::gateway_url(config);
        let console = health::console_url(config);
        // Without a site there is no page to open.
        let entrance = if config.gateway.site.is_some() {
            "page"
        } else {
            "gateway"
        };
        let rows = [
            (entrance, format!("{gateway}/")),
            ("console", format!("{console}/")),
            ("traces", self.plan.traces.to_string()),
        ];
        let rows = rows.into_iter().chain(self.server_rows());
        let head = format!("ready in {took} ms: {}", count_text(pools));
        let mut lines = table_text(head, rows);
        lines.push(paint(
            DIM,
            "  Ctrl-C finishes what is in flight and stops everything.",
        ));
        if !self.keys.is_empty() {
            lines.push(paint(DIM, self.keys));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn servers_text(&self) -> String {
        let took = self.started.elapsed().as_millis();
        let head = format!("ready in {took} ms: the servers, and no function");
        let mut lines = table_text(head, self.server_rows());
        lines.push(paint(
            DIM,
            "  `oncue restore` and `oncue recover` work now. Ctrl-C stops the servers.",
        ));
        lines.push(String::new());
        lines.join("\n")
    }

    fn server_rows(&self) -> [(&'static str, String); 2] {
        [
            ("NATS", server_text(&self.plan.nats)),
            ("Redis", server_text(&self.plan.redis)),
        ]
    }
}

/// Lines of what runs where, below a head.
fn table_text(head: String, rows: impl IntoIterator<Item = (&'static str, String)>) -> Vec<String> {
    let mut lines = vec![String::new(), paint(BOLD, head)];
    for (name, value) in rows {
        let name = paint(DIM, format_args!("{name:<7}"));
        lines.push(format!("  {name} {value}"));
    }
    lines
}

/// Tends the servers for as long as the app runs.
async fn tend(mut upkeep: Upkeep, log: &LogPrinter) -> Infallible {
    loop {
        for note in upkeep.round().await {
            if note.is_bad() {
                log.warn(&note.to_string());
            } else {
                log.note(&note.to_string());
            }
        }
        tokio::time::sleep(upkeep::INTERVAL).await;
    }
}

/// Names of our workers that do not answer. Others may be on the same bus, so an answer is ours by its process id.
fn silent_workers(pools: &Pools, answers: &[ServiceInstance]) -> Vec<String> {
    let pools = pools.lock();
    let workers = pools.values().flat_map(Pool::workers);
    workers
        .filter(|worker| !worker_answers(worker, answers))
        .map(|worker| worker.name.clone())
        .collect()
}

fn worker_answers(worker: &Worker, answers: &[ServiceInstance]) -> bool {
    answers
        .iter()
        .any(|answer| answer.pid() == Some(worker.status.pid()))
}

/// Arguments with the data beside `oncue.toml` where no folder is named: from a folder below it the app must not find empty
/// servers.
fn beside_file(mut args: Args, settings: &Settings) -> Args {
    let folder = settings.config.path.as_deref().and_then(Path::parent);
    if let Some(folder) = folder.filter(|_| args.data == Path::new(DATA)) {
        args.data = folder.join(DATA);
    }
    args
}

/// Functions to start: all of oncue.toml, or those `--only` names.
fn chosen(args: &Args, settings: &Settings) -> Result<Vec<String>, Failure> {
    let all: Vec<String> = settings.config.functions.keys().cloned().collect();
    if let Some(name) = args.only.iter().find(|name| !all.contains(name)) {
        return Err(
            Failure::usage(format_args!("oncue.toml has no function {name:?}"))
                .advise(format!("it has {}", all.join(", "))),
        );
    }
    if args.only.is_empty() {
        return Ok(all);
    }
    let named = all.into_iter().filter(|name| args.only.contains(name));
    Ok(named.collect())
}

/// Looks for ports and servers and starts nothing.
async fn plan(args: &Args, settings: &Settings) -> Result<Plan, Failure> {
    let config = &settings.config;
    if !args.servers {
        let gateway = port_check::must_be_free(
            "the gateway",
            &config.gateway.listen,
            "[gateway] listen in oncue.toml, or ONCUE_GATEWAY_LISTEN",
        );
        let console = port_check::must_be_free(
            "the console",
            &config.console.listen,
            "[console] listen in oncue.toml, or ONCUE_CONSOLE_LISTEN",
        );
        // Both at once: whoever mends one wants to know of the other.
        match (gateway, console) {
            (Err(one), Err(other)) => return Err(one.and(&other)),
            (one, other) => one.and(other)?,
        }
    }
    let (nats, redis) = tokio::join!(
        servers::nats(args, settings),
        servers::redis(args, settings)
    );
    Ok(Plan {
        nats: nats?,
        redis: redis?,
        traces: traces(settings)?,
    })
}

fn server_text(server: &Server) -> String {
    let url = &server.url;
    match &server.start {
        Start::Use { version } => format!("{url}  (was already running, {version})"),
        Start::Spawn { data, .. } => format!("{url}  (data in {})", data.display()),
    }
}

/// `9 functions, 8 workers, 1 asleep`
fn count_text(pools: &Pools) -> String {
    let pools = pools.lock();
    let workers: u32 = pools.values().map(|pool| pool.count().have).sum();
    let asleep = pools.values().filter(|pool| !pool.is_awake()).count();
    let functions = pools.len();
    if asleep > 0 {
        format!("{functions} functions, {workers} workers, {asleep} asleep")
    } else {
        format!("{functions} functions, {workers} workers")
    }
}

/// Requests to stop, as often as they come: Ctrl-C, SIGTERM, and the terminal being closed.
fn stop_requests() -> Result<mpsc::Receiver<()>, Failure> {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    // Room for a person who presses the key again and again: the second request kills.
    let (asked, requests) = mpsc::channel(4);
    for kind in kinds {
        let mut signal = signal(kind)
            .map_err(|e| Failure::failed(format_args!("cannot handle signals: {e}")))?;
        let asked = asked.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                let _ = asked.send(()).await;
            }
        });
    }
    Ok(requests)
}
