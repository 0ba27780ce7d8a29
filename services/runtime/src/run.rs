//! The life of a worker process: read the configuration, connect, make sure of streams and consumer, pull until told to
//! stop, finish what is in hand.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use oncue_proto::Trigger;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::bus::{Bus, layout};
use crate::config::Config;
use crate::discovery;
use crate::function::{Erased, Function};
use crate::manifest::Manifest;
use crate::store::{RedisStore, Store};
use crate::telemetry::Telemetry;
use crate::worker::Worker;

/// Longest wait for events in hand after the signal to stop.
const DRAIN: Duration = Duration::from_secs(25);

/// Runs a function until SIGTERM or Ctrl-C. Exit codes: 0 stopped as asked, 1 failed, 2 wrong usage or configuration.
///
/// `--manifest` prints what the function is, as JSON, and exits.
pub fn run<E: Trigger>(function: Function<E>) -> ExitCode {
    let function = function.erased;
    let manifest = match function.manifest() {
        Ok(manifest) => manifest,
        Err(e) => return stop(2, &e),
    };
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--manifest") => {
            println!("{}", serde_json::to_string_pretty(&manifest).unwrap_or_default());
            return ExitCode::SUCCESS;
        }
        Some("--version") => {
            println!("{} {}", manifest.name, manifest.version);
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            return stop(
                2,
                &format!(
                    "{}: unknown argument {other:?}; try --manifest or --version, or none to serve",
                    manifest.name
                ),
            );
        }
    }
    let config = match Config::load() {
        Ok(config) => config,
        Err(e) => return stop(2, &e.to_string()),
    };
    // One thread: a worker is scaled by processes, and NATS and Redis take the other cores.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return stop(1, &e.to_string()),
    };
    runtime.block_on(async {
        let instance = instance();
        let telemetry = Telemetry::start(&manifest.name, &instance);
        let served = serve(function, manifest, &config, instance).await;
        telemetry.close().await;
        match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => stop(1, &e.to_string()),
        }
    })
}

fn stop(code: u8, why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(code)
}

/// `ONCUE_INSTANCE`, or host name and process id.
pub fn instance() -> String {
    std::env::var("ONCUE_INSTANCE").unwrap_or_else(|_| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
        let name = format!("{}-{}", host.unwrap_or_else(|_| "host".into()).trim(), std::process::id());
        name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_', "-")
    })
}

type Failure = Box<dyn std::error::Error>;

async fn serve(function: Erased, manifest: Manifest, config: &Config, instance: String) -> Result<(), Failure> {
    let stop = stop_signal()?;
    let (bus, store) =
        tokio::join!(Bus::connect(&config.nats_url, &manifest.name), RedisStore::connect(&config.redis_url));
    let (bus, store) = (bus?, Store::Redis(store?));
    for domain in manifest.domains() {
        bus.require(&layout::stream(&domain, &config.stream(&domain))).await?;
    }
    bus.require(&manifest.consumer(config)).await?;
    let stream = config.stream(&manifest.stream);
    let created = bus.stream_created(&manifest.stream).await?;
    let horizon = stream.horizon.0.as_millis() as u64;
    let worker = Worker::new(function, manifest.limits(config), horizon, created, bus.clone(), store);

    discovery::answer(bus.clone(), worker.clone(), manifest.clone(), instance).await?;
    let pull = bus.pull(&manifest.stream, created, &manifest.name).await?;
    let _background = [tokio::spawn(Arc::clone(&worker).keep_alive()), tokio::spawn(Arc::clone(&worker).sweep())];
    tracing::info!(function = manifest.name, acts_on = manifest.triggers.join(" "), "ready");

    let mut stopping = stop.clone();
    let deadline = async {
        let _ = stopping.wait_for(|stop| *stop).await;
        tracing::info!(in_hand = worker.in_hand(), "stopping");
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = worker.serve(pull, stop) => served.map_err(|why| format!("{}: the consumer is gone: {why}", manifest.name))?,
        () = deadline => {
            let left = worker.in_hand();
            return Err(format!("{}: {left} events still in hand after {DRAIN:?}; they will be delivered again", manifest.name).into());
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Turns true at the first SIGTERM or Ctrl-C.
pub fn stop_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        let _ = stop.send(true);
        stop.closed().await;
    });
    Ok(stopped)
}
