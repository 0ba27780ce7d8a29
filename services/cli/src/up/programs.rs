//! Our own programs as processes: which there are, and the environment of each.

use std::fmt;
use std::path::{Path, PathBuf};

use oncue_admin::program::logs::FOLDER_VARIABLE;
use oncue_core::config::Config;
use oncue_core::process;
use oncue_core::program::HOST;

use super::Profile;
use super::log::LogFormat;
use super::port_check::{is_free, taken_by};
use super::process::ProcessSpec;
use crate::exit::Failure;
use crate::settings::Settings;

pub const GATEWAY: &str = "gateway";
const GATEWAY_PROGRAM: &str = "oncue-gateway";
pub const CONSOLE: &str = "console";
const CONSOLE_PROGRAM: &str = "oncue-console";
pub const VIEWER: &str = "traces";
const VIEWER_PROGRAM: &str = "oncue-trace-viewer";
/// Ports of the viewer: OTLP over gRPC and over HTTP, UI, health.
/// All four are needed, and a Jaeger that runs has at least one of them.
const VIEWER_PORTS: [u16; 4] = [4317, 4318, 16686, 13133];
const VIEWER_OTLP: &str = "http://127.0.0.1:4318";
const VIEWER_UI: &str = "http://127.0.0.1:16686/";
/// Milliseconds between two exports of spans. OpenTelemetry's own five seconds are long for somebody who is watching.
const SPAN_EXPORT_INTERVAL_MS: &str = "500";

/// Variable that has all flows tracked, for `oncue dev` to tell of.
pub const TRACK: &str = "ONCUE_TRACK";

/// Environment variables, name and value.
pub type Environment = Vec<(String, String)>;

/// Taker of traces.
pub enum Traces {
    /// Viewer of ours, to be started.
    Start,
    /// Taker that listens on the usual ports already, or that the environment names.
    Elsewhere { endpoint: String, why: String },
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str(VIEWER_UI),
            Self::Elsewhere { endpoint, why } => write!(f, "sent to {endpoint}  ({why})"),
        }
    }
}

/// Taker of traces as things stand. The viewer stays away when somebody else takes them: a running Jaeger is the
/// better one.
pub fn traces(settings: &Settings) -> Traces {
    let named = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ]
    .iter()
    .find_map(|name| std::env::var(name).ok());
    if let Some(endpoint) = named.filter(|e| !e.is_empty()) {
        return Traces::Elsewhere {
            endpoint,
            why: "as the environment says; no viewer started".into(),
        };
    }
    let taken = VIEWER_PORTS
        .into_iter()
        .find(|port| !is_free(&format!("127.0.0.1:{port}")));
    match taken {
        Some(port) => Traces::Elsewhere {
            endpoint: VIEWER_OTLP.into(),
            why: format!("port {port} is taken {}; no viewer started", taken_by(port)),
        },
        None if !settings.platform(VIEWER_PROGRAM).is_file() => Traces::Elsewhere {
            endpoint: VIEWER_OTLP.into(),
            why: format!("{VIEWER_PROGRAM} is not built; no viewer started"),
        },
        None => Traces::Start,
    }
}

/// Refuses to go on while a program is missing; all that are, in one line.
pub fn all_built(settings: &Settings, functions: &[String]) -> Result<(), Failure> {
    let absent = functions
        .iter()
        .filter(|name| !settings.program(name).is_there());
    let mut missing: Vec<&str> = absent
        .map(|name| {
            let is_hosted = settings.config.function(name).is_hosted();
            if is_hosted { HOST } else { name.as_str() }
        })
        .collect();
    missing.dedup();
    let platform = [GATEWAY_PROGRAM, CONSOLE_PROGRAM].into_iter();
    missing.extend(platform.filter(|program| !settings.platform(program).is_file()));
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!(
        "not built: {} (looked in {})",
        missing.join(", "),
        settings.bin.display()
    );
    Err(Failure::usage(what)
        .advise("build them with `cargo build --release --bins`, or name their folder with --bin"))
}

/// Variables of a process of ours: addresses as they hold for this run, its credentials, and defaults for somebody who is
/// watching, which a variable that is set already overrides.
pub fn environment(config: &Config, profile: Profile) -> Result<Environment, Failure> {
    let mut env = vec![
        variable("ONCUE_GATEWAY_LISTEN", &config.gateway.listen),
        variable("ONCUE_CONSOLE_LISTEN", &config.console.listen),
        // Lines are read by us and printed for people, with name and colour.
        variable("ONCUE_LOG_FORMAT", "json"),
    ];
    let servers = config.servers().into_iter();
    env.extend(servers.map(|(name, value)| (name.to_owned(), value)));
    if let Some(path) = &config.path {
        let path = std::path::absolute(path)
            .map_err(|e| Failure::usage(format_args!("{}: {e}", path.display())))?;
        env.push(variable("ONCUE_CONFIG", &path.display().to_string()));
    }
    // Functions are given no variable that is not named here.
    let track = std::env::var(TRACK).ok();
    env.extend(track.map(|track| variable(TRACK, &track)));
    // One write to disk for a batch rather than for each of its events.
    let batch_publish = (profile == Profile::Durable).to_string();
    // Whoever develops reads the log to learn what went wrong; class and place alone would send them to the dead
    // letters.
    let trace_messages = (profile == Profile::Dev).to_string();
    let defaults = [
        variable("OTEL_EXPORTER_OTLP_ENDPOINT", VIEWER_OTLP),
        variable("OTEL_BSP_SCHEDULE_DELAY", SPAN_EXPORT_INTERVAL_MS),
        variable("ONCUE_BATCH_PUBLISH", &batch_publish),
        variable("ONCUE_TRACE_MESSAGES", &trace_messages),
    ];
    env.extend(
        defaults
            .into_iter()
            .filter(|(name, _)| std::env::var_os(name).is_none()),
    );
    Ok(env)
}

fn variable(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Worker of a function; each further one gets a name of its own.
pub fn function(
    settings: &Settings,
    name: &str,
    env: &Environment,
    hands: &Path,
) -> Result<ProcessSpec, Failure> {
    let of_function = settings.config.function(name);
    let mut own = process::environment(&of_function.inherited());
    // Behind the others, since of two variables of one name the last counts.
    own.extend(env.iter().cloned());
    own.extend(of_function.env);
    let program = settings.program(name);
    Ok(ProcessSpec {
        program: absolute(&program.path)?,
        args: program.arguments,
        hands: Some(hands.to_owned()),
        inherits: false,
        ..spec(settings, name, name, own)?
    })
}

pub fn gateway(settings: &Settings, env: &Environment) -> Result<ProcessSpec, Failure> {
    spec(
        settings,
        GATEWAY,
        GATEWAY_PROGRAM,
        beside_functions(settings, env)?,
    )
}

/// Console, which reads the log files in `logs`.
pub fn console(
    settings: &Settings,
    env: &Environment,
    logs: &Path,
) -> Result<ProcessSpec, Failure> {
    let mut env = beside_functions(settings, env)?;
    env.push(variable(FOLDER_VARIABLE, &logs.display().to_string()));
    spec(settings, CONSOLE, CONSOLE_PROGRAM, env)
}

/// Environment of a program that asks the functions' programs, which it looks for where we found them.
fn beside_functions(settings: &Settings, env: &Environment) -> Result<Environment, Failure> {
    let bin = absolute(&settings.bin)?.display().to_string();
    let mut env = env.clone();
    env.push(variable("ONCUE_BIN_DIR", &bin));
    Ok(env)
}

pub fn viewer(settings: &Settings) -> Result<ProcessSpec, Failure> {
    spec(settings, VIEWER, VIEWER_PROGRAM, Vec::new())
}

fn spec(
    settings: &Settings,
    name: &str,
    program: &str,
    env: Environment,
) -> Result<ProcessSpec, Failure> {
    Ok(ProcessSpec {
        name: name.to_owned(),
        program: absolute(&settings.platform(program))?,
        args: Vec::new(),
        env,
        hands: None,
        inherits: true,
        format: LogFormat::Json,
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::failed(format_args!("{}: {e}", path.display())))
}
