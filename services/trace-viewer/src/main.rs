//! Command `oncue-trace-viewer`: reads flags, binds everything, says where, serves until told to stop.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use oncue_trace_viewer::{Addresses, Listeners, Ports, serve, store::Limits};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Shows distributed traces: takes OTLP, keeps it in memory, serves Jaeger UI. Needs no configuration.
#[derive(Parser)]
#[command(name = "oncue-trace-viewer", version)]
struct Args {
    /// Host or address to listen on. Default: JAEGER_LISTEN_HOST, as in Jaeger's image, else 127.0.0.1.
    #[arg(long, env = "ONCUE_VIEWER_LISTEN", value_name = "HOST")]
    listen: Option<String>,
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    limits: Limits,
}

// One thread: a developer's trace load is small, and the store then has no contention.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "oncue-trace-viewer: {problem}");
            ExitCode::from(2)
        }
    }
}

async fn run(args: Args) -> Result<(), String> {
    let host = args
        .listen
        .or_else(|| env::var("JAEGER_LISTEN_HOST").ok())
        .filter(|host| !host.is_empty());
    let listeners = Listeners::bind(host.as_deref().unwrap_or("127.0.0.1"), &args.ports).await?;
    // Before the line is printed: whoever waits for it may send the signal at once.
    let stop = StopSignals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    announce(listeners.addresses().map_err(|error| error.to_string())?);
    serve(listeners, args.limits, stop.first())
        .await
        .map_err(|error| format!("stopped serving: {error}"))
}

/// Says where it listens, in one line that scripts and tests wait for.
fn announce(at: Addresses) {
    // A closed stdout is no reason to stop.
    let _ = writeln!(
        io::stdout(),
        "oncue-trace-viewer: UI http://{}, OTLP gRPC http://{}, OTLP HTTP http://{}/v1/traces, health http://{}/status",
        at.ui,
        at.otlp_grpc,
        at.otlp_http,
        at.health
    );
}

/// Signals that stop the viewer: SIGTERM of `oncue up`, SIGINT of a terminal.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Completes with the first signal of either kind.
    async fn first(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
