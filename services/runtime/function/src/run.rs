//! The life of a worker process: read the configuration, connect, make sure of streams and consumer, pull until told to
//! stop, finish what is in hand.
//!
//! A worker makes nothing on the servers that others share: streams, its consumer, the function library and the registry are
//! `oncue apply`'s, and a worker that finds something missing or different says so and ends. It answers the services API
//! before it pulls.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use oncue_proto::{Catalog, Trigger, compat};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::foreign::Foreign;
use crate::function::{Erased, Function};
use crate::inspect;
use crate::worker::watchdog;
use crate::worker::{Source, Worker};
use oncue_core::agreement::{self, LostStream, Marked};
use oncue_core::bus::pull::Pull;
use oncue_core::bus::{Bus, layout};
use oncue_core::config::{Config, Role};
use oncue_core::contract;
use oncue_core::failpoint::{self, Sabotage};
use oncue_core::model::history::Cue;
use oncue_core::model::manifest::Manifest;
use oncue_core::process::{instance, stop_signal};
use oncue_core::secret;
use oncue_core::store::Store;
use oncue_telemetry::{Service, Telemetry};

/// Longest wait for events in hand after the signal to stop.
///
/// Below the 30 s that Kubernetes waits by default before it kills. Whatever is left comes again
/// after the ack wait.
const DRAIN: Duration = Duration::from_secs(25);

/// Runs a function until SIGTERM or Ctrl-C. Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
///
/// `--manifest` prints the function as data, JSON, and exits; `--contract` the descriptor set of its events, binary; so do `--audit` with what became of every event in its
/// stream, and `--check` with what of its rows and events it cannot read. `--try` is for `oncue dlq redrive --dry-run`, which
/// talks to it over stdin and stdout.
pub fn run<E: Trigger>(function: Function<E>) -> ExitCode {
    let function = function.erased;
    let manifest = match function.manifest() {
        Ok(manifest) => manifest,
        Err(e) => return stop(2, &e),
    };
    let verb = std::env::args().nth(1);
    match verb.as_deref() {
        Some(constant @ ("--manifest" | "--contract" | "--version")) => {
            return say(constant, &function, &manifest);
        }
        None => {}
        Some(verb) => {
            if let Err(why) = check_verb(&manifest.name, verb) {
                return stop(2, &why);
            }
        }
    }
    // Read whole before anything is opened; a mistake ends the process with exit code 2.
    match begin() {
        Ok((config, runtime)) => {
            runtime.block_on(answer_or_serve(function, manifest, &config, verb))
        }
        Err(stopped) => stopped,
    }
}

/// As [`run`], of a function whose handler is in another process: `verb` is how its own program would be called, and
/// `config` and the runtime are those that brought the other process up.
#[doc(hidden)]
pub async fn run_foreign(foreign: Foreign, config: &Config, verb: Option<String>) -> ExitCode {
    let described = Erased::foreign(foreign)
        .and_then(|function| function.manifest().map(|manifest| (function, manifest)));
    let (function, manifest) = match described {
        Ok(described) => described,
        Err(why) => return stop(2, &why),
    };
    match verb.as_deref() {
        Some(constant @ ("--manifest" | "--contract" | "--version")) => {
            say(constant, &function, &manifest)
        }
        _ => Box::pin(answer_or_serve(function, manifest, config, verb)).await,
    }
}

/// Refuses a verb that no function knows.
#[doc(hidden)]
pub fn check_verb(function: &str, verb: &str) -> Result<(), String> {
    let known = [
        "--manifest",
        "--contract",
        "--version",
        "--audit",
        "--try",
        "--check",
    ];
    if known.contains(&verb) {
        return Ok(());
    }
    Err(format!(
        "{function}: unknown argument {verb:?}; try --manifest, --contract, --version, --audit, --try or --check, or none to serve"
    ))
}

/// Prints what needs neither servers nor configuration.
fn say(constant: &str, function: &Erased, manifest: &Manifest) -> ExitCode {
    match constant {
        "--manifest" => println!(
            "{}",
            serde_json::to_string_pretty(manifest).unwrap_or_default()
        ),
        // Binary, for other programs: they read events they were not built with.
        "--contract" => {
            if let Err(e) = std::io::stdout().write_all(&function.contract()) {
                return stop(1, &format!("{}: {e}", manifest.name));
            }
        }
        _ => println!("{} {}", manifest.name, manifest.version),
    }
    ExitCode::SUCCESS
}

/// Configuration and runtime of a process, the one thread of which is this.
///
/// # Errors
/// Exit code of a process that says why it cannot begin.
#[doc(hidden)]
pub fn begin() -> Result<(Config, tokio::runtime::Runtime), ExitCode> {
    // Empty in a build without crash points.
    failpoint::start();
    watchdog::note_panics();
    let config = Config::load().map_err(|e| stop(2, &e.to_string()))?;
    // One thread: a worker is scaled by processes, and NATS and Redis take the other cores.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| stop(1, &e.to_string()))?;
    Ok((config, runtime))
}

/// The rest of the life of a process whose function is known.
async fn answer_or_serve(
    function: Erased,
    manifest: Manifest,
    config: &Config,
    verb: Option<String>,
) -> ExitCode {
    // Without telemetry: an answer for an operator is no work of the function.
    if let Some(verb) = verb {
        return inspect(&verb, &function, &manifest, config).await;
    }
    let instance = instance();
    let service = Service::Function {
        name: &manifest.name,
        version: &manifest.version,
    };
    let telemetry = Telemetry::start(service, &instance);
    let served = Box::pin(serve(function, manifest, config, instance)).await;
    // Behind the last event, so that its span is exported too.
    telemetry.close().await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => stop(1, &e.to_string()),
    }
}

/// Answers an operator's program.
async fn inspect(verb: &str, function: &Erased, manifest: &Manifest, config: &Config) -> ExitCode {
    let answered = match verb {
        "--audit" => {
            // At once: whoever asks gives up on a program that says nothing, and an audit may take minutes.
            println!("auditing");
            inspect::audit(function, manifest, config)
                .await
                .map(|audit| println!("{}", serde_json::json!(audit)))
        }
        "--check" => {
            println!("checking");
            inspect::check(function, manifest, config)
                .await
                .map(|check| println!("{}", serde_json::json!(check)))
        }
        _ => inspect::dry_run(function, manifest, config).await,
    };
    match answered {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => stop(1, &format!("{}: {e}", function.name)),
    }
}

/// Prints a sentence for people and makes the exit code.
#[doc(hidden)]
pub fn stop(code: u8, why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(code)
}

type ServeError = Box<dyn std::error::Error>;

/// Refuses an emptied Redis, for which it looks before anything is laid out there anew: the consumer knows of events that
/// were acked. Recorded, so that `oncue recover redis` knows where it begins.
///
/// # Errors
///
/// A sentence that says what is lost, and the command that mends it.
async fn check_emptiness(bus: &Bus, store: &Store, manifest: &Manifest) -> Result<(), ServeError> {
    if store.is_laid_out().await? {
        return Ok(());
    }
    let consumer = bus.consumer_info(&manifest.stream, &manifest.name).await;
    if consumer.is_ok_and(|consumer| consumer.ack_floor.consumer_seq > 0) {
        return Err(store.record_emptiness(&manifest.name).await?.into());
    }
    Ok(())
}

/// Refuses a Redis that has lost what NATS remembers. That is recorded, so that no other worker
/// starts either and `oncue recover redis` knows where it begins.
///
/// # Errors
///
/// A sentence that says what is lost, and the command that mends it.
async fn check_agreement(
    bus: &Bus,
    store: &Store,
    manifest: &Manifest,
    created: u64,
    config: &Config,
) -> Result<(), ServeError> {
    let marked = Marked {
        function: &manifest.name,
        stream: &manifest.stream,
        created,
        horizon: config.stream(&manifest.stream).horizon.0.as_millis() as u64,
    };
    let Some(regression) = agreement::check_marks(bus, store, marked).await? else {
        return Ok(());
    };
    store.record_regression(&manifest.name, &regression).await?;
    Err(regression.into())
}

/// Refuses a program that would read events otherwise than they were written: one that was changed since `oncue apply` has let
/// it in, and is started because another process of it has ended.
///
/// # Errors
///
/// The fields, and the way out. A contract that cannot be read is said and refuses nothing.
async fn check_contract(
    bus: &Bus,
    function: &Erased,
    manifest: &Manifest,
) -> Result<(), ServeError> {
    let stored = match contract::stored_of(bus, &manifest.name).await {
        Ok(Some(stored)) => stored,
        Ok(None) => return Ok(()),
        Err(e) => {
            tracing::warn!(
                "whether the contract was let in cannot be seen: {e}; a locked NATS gives the right to it by `oncue restart`, \
                 or by what `oncue rights --write` writes"
            );
            return Ok(());
        }
    };
    let mut known = Catalog::default();
    let mut own = Catalog::default();
    if let Err(e) = known.add(&stored) {
        // Of a later version of Oncue, perhaps.
        tracing::warn!("the contract that was let in cannot be read, so nothing is compared: {e}");
        return Ok(());
    }
    own.add(&function.contract())?;
    let clashes: Vec<String> = compat::clashes(&known, &own)
        .iter()
        .map(ToString::to_string)
        .collect();
    if clashes.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: this program would read events otherwise than the contract in force has them: {}; start the version that was \
         applied, or undo the change; to let in what is new: `oncue apply --break-contract`",
        manifest.name,
        clashes.join("; ")
    )
    .into())
}

/// Stream that has lost what Redis remembers.
async fn lost_stream(
    bus: &Bus,
    store: &Store,
    manifest: &Manifest,
) -> Result<Option<LostStream>, ServeError> {
    // A broken twin that acks first must be caught by its effects, not at its next start.
    if failpoint::sabotaged(Sabotage::AckFirst) {
        return Ok(None);
    }
    let lost = agreement::lost_streams(bus, store, &manifest.domains()).await?;
    Ok(lost.into_iter().next())
}

/// One life of the worker, from the connections to the last ack.
///
/// # Errors
///
/// Servers out of reach, a Redis that cannot keep the promise, streams or a consumer with another
/// configuration, a consumer that is deleted under way, a Redis that went back in time, events left
/// at the deadline.
async fn serve(
    function: Erased,
    manifest: Manifest,
    config: &Config,
    instance: String,
) -> Result<(), ServeError> {
    // First of all: a signal that comes while connecting must not be lost.
    let stop = stop_signal()?;
    let config = &mut config.clone();
    config.log_in(&Role::Function(manifest.name.clone()));
    oncue_telemetry::set_peers(config.nats.url.expose(), config.redis.url.expose());
    let (bus, store) = tokio::join!(
        Bus::connect(&config.nats, &manifest.name),
        Store::look(&config.redis, &config.app)
    );
    let bus = bus?
        .of_app(&config.app)
        .with_broker_spans(oncue_telemetry::traces_broker());
    let store = store?;
    check_emptiness(&bus, &store, &manifest).await?;
    store.must_be_ready().await?;
    let tables = manifest.table.iter().chain(&manifest.changes);
    let tables: Vec<&str> = tables.map(String::as_str).collect();
    store.check_rights(&manifest.name, &tables).await?;
    // Before it is said that a stream is missing: one that was there is lost.
    if let Some(lost) = lost_stream(&bus, &store, &manifest).await? {
        return Err(lost.into());
    }
    for domain in manifest.domains() {
        let stream = layout::stream(&config.app, &domain, &config.stream(&domain));
        bus.require(&stream).await?;
    }
    check_contract(&bus, &function, &manifest).await?;
    let secret = secret::known(&bus, &store).await?;
    bus.require(&manifest.consumer(config)).await?;
    let stream = config.stream(&manifest.stream);
    // Part of the identity of plain messages, so a stream that is made anew ends the pull.
    let created = bus.stream_created(&manifest.stream).await?;
    // Before the look at what Redis has of this function: whatever is lost after it, the first commit finds.
    store.begin_record(&manifest.name).await?;
    // A broken twin that acks first must be caught by its effects, not at its next start.
    if !failpoint::sabotaged(Sabotage::AckFirst) {
        check_agreement(&bus, &store, &manifest, created, config).await?;
    }
    // Seen by this worker's own commits: going on would apply events again whose marks are lost.
    let mut regressed = store.regressed();
    let restoring = store.restoring(&manifest.name).await?;
    let history = store.history(&manifest.name).await?;
    let source = Source {
        created,
        horizon: stream.horizon.0.as_millis() as u64,
        restoring: restoring.filter(|restoring| restoring.created == created),
        cue: Cue::new(&manifest, &config.app, created, history),
    };
    let mut limits = manifest.limits(config);
    if function.at_most_once {
        limits.attempts = 1; // whatever oncue.toml says
    }
    let worker = Worker::new(function, limits, config, source, &bus, &store, &secret);
    let vouchers = worker.start(&manifest, &instance, &store).await?;
    let pull = bus.pull(&manifest.stream, created, &manifest.name).await?;
    tracing::info!(
        function = manifest.name,
        acts_on = manifest.triggers.join(" "),
        "ready"
    );

    let ended = tokio::select! {
        ended = work(&worker, pull, stop) => ended,
        why = regressed.wait_for(Option::is_some) => {
            Err(why.map(|why| why.clone().unwrap_or_default()).unwrap_or_default())
        }
        () = vouchers => Ok(()),
    };
    ended.map_err(|why| format!("{}: {why}", manifest.name))?;
    worker.report().await;
    tracing::info!("stopped");
    Ok(())
}

/// Pulls until told to stop and what is in hand is done, or has had its time. The loop is a task of its own, since what a
/// runtime blocks on has its turn only between looks at the sockets; it ends with this call, however that ends.
async fn work(worker: &Arc<Worker>, pull: Pull, stop: watch::Receiver<bool>) -> Result<(), String> {
    let mut stopping = stop.clone();
    let deadline = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        tracing::info!(in_flight = worker.in_flight(), "stopping");
        tokio::time::sleep(DRAIN).await;
    };
    let mut serving = JoinSet::new();
    serving.spawn({
        let worker = worker.clone();
        async move { worker.serve(pull, stop).await }
    });
    tokio::select! {
        Some(served) = serving.join_next() => {
            let served = served.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            served.map_err(|why| format!("the consumer is gone: {why}"))
        }
        () = deadline => {
            let left = worker.in_flight();
            Err(format!("{left} events still in flight after {DRAIN:?}; they will be delivered again"))
        }
    }
}
