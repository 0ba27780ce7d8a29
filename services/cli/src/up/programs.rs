//! Our own programs as processes: which there are, and the environment of each.

use std::fmt;
use std::net::IpAddr;
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
/// Port of the viewer's UI where nobody names another, which the console's page takes for granted.
const VIEWER_UI_PORT: u16 = 16686;
const LOOPBACK: &str = "127.0.0.1";
/// Milliseconds between two exports of spans. OpenTelemetry's own five seconds are long for somebody who is watching.
const SPAN_EXPORT_INTERVAL_MS: &str = "500";

/// Variable that has all flows tracked, for `oncue dev` to tell of.
pub const TRACK: &str = "ONCUE_TRACK";

/// Environment variables, name and value.
pub type Environment = Vec<(String, String)>;

/// Viewer of ours, found by the variables that say to it where it listens.
#[derive(Debug, PartialEq, Eq)]
pub struct Viewer {
    /// Host by which this machine reaches it.
    host: String,
    ui: u16,
    otlp_grpc: u16,
    otlp_http: u16,
    health: u16,
}

impl Viewer {
    /// Viewer as the environment has it. Fails with the variable of a port that is none.
    pub fn of_environment() -> Result<Self, Failure> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let named = ["ONCUE_VIEWER_LISTEN", "JAEGER_LISTEN_HOST"].map(&variable);
        let named = named.into_iter().flatten().find(|host| !host.is_empty());
        let host = match named.as_deref().map(str::parse) {
            Some(Ok(IpAddr::V6(ip))) if !ip.is_unspecified() => format!("[{ip}]"),
            Some(Ok(ip)) if ip.is_unspecified() => LOOPBACK.to_owned(),
            _ => named.unwrap_or_else(|| LOOPBACK.to_owned()),
        };
        Ok(Self {
            host,
            ui: port(&variable, "ONCUE_VIEWER_UI_PORT", VIEWER_UI_PORT)?,
            otlp_grpc: port(&variable, "ONCUE_VIEWER_OTLP_GRPC_PORT", 4317)?,
            otlp_http: port(&variable, "ONCUE_VIEWER_OTLP_HTTP_PORT", 4318)?,
            health: port(&variable, "ONCUE_VIEWER_HEALTH_PORT", 13133)?,
        })
    }

    /// Address of its pages.
    pub fn ui(&self) -> String {
        self.at(self.ui)
    }

    /// Address that takes spans.
    fn otlp(&self) -> String {
        self.at(self.otlp_http)
    }

    fn at(&self, port: u16) -> String {
        format!("http://{}:{port}", self.host)
    }

    /// First of its ports that somebody has. All four are needed, and a Jaeger that runs has at least one of them.
    fn taken_port(&self) -> Option<u16> {
        [self.otlp_grpc, self.otlp_http, self.ui, self.health]
            .into_iter()
            .find(|port| !is_free(&format!("{}:{port}", self.host)))
    }
}

/// Port that a variable names.
fn port(
    variable: &impl Fn(&str) -> Option<String>,
    name: &str,
    default: u16,
) -> Result<u16, Failure> {
    let Some(text) = variable(name) else {
        return Ok(default);
    };
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| Failure::usage(format_args!("{name}: {text:?} is no port, 1 to 65535")))
}

/// Taker of traces.
pub enum Traces {
    /// Viewer of ours, to be started.
    Start(Viewer),
    /// Taker that listens on the usual ports already, or that the environment names.
    Elsewhere { endpoint: String, why: String },
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(viewer) => write!(f, "{}/", viewer.ui()),
            Self::Elsewhere { endpoint, why } => write!(f, "sent to {endpoint}  ({why})"),
        }
    }
}

/// Taker of traces as things stand. The viewer stays away when somebody else takes them: a running Jaeger is the
/// better one.
pub fn traces(settings: &Settings) -> Result<Traces, Failure> {
    let viewer = Viewer::of_environment()?;
    let named = [
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ]
    .iter()
    .find_map(|name| std::env::var(name).ok());
    if let Some(endpoint) = named.filter(|e| !e.is_empty()) {
        return Ok(Traces::Elsewhere {
            endpoint,
            why: "as the environment says; no viewer started".into(),
        });
    }
    let why = match viewer.taken_port() {
        Some(port) => format!("port {port} is taken {}; no viewer started", taken_by(port)),
        None if !settings.platform(VIEWER_PROGRAM).is_file() => {
            format!("{VIEWER_PROGRAM} is not built; no viewer started")
        }
        None => return Ok(Traces::Start(viewer)),
    };
    Ok(Traces::Elsewhere {
        endpoint: viewer.otlp(),
        why,
    })
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
    let viewer = Viewer::of_environment()?;
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
        variable("OTEL_EXPORTER_OTLP_ENDPOINT", &viewer.otlp()),
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
    let viewer = Viewer::of_environment()?;
    if settings.config.console.traces.is_none() && viewer.ui != VIEWER_UI_PORT {
        env.push(variable("ONCUE_TRACE_UI", &viewer.ui()));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(variables: &[(&str, &str)]) -> Result<Viewer, Failure> {
        Viewer::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn the_viewer_is_where_its_variables_say() {
        let usual = viewer(&[]).unwrap();
        assert_eq!(usual.ui(), "http://127.0.0.1:16686");
        assert_eq!(usual.otlp(), "http://127.0.0.1:4318");
        let moved = viewer(&[
            ("ONCUE_VIEWER_UI_PORT", "7001"),
            ("ONCUE_VIEWER_OTLP_HTTP_PORT", "7002"),
            ("ONCUE_VIEWER_LISTEN", "::1"),
        ]);
        let moved = moved.unwrap();
        assert_eq!(moved.otlp(), "http://[::1]:7002");
        assert_eq!(Traces::Start(moved).to_string(), "http://[::1]:7001/");
        let everywhere = viewer(&[("JAEGER_LISTEN_HOST", "0.0.0.0")]).unwrap();
        assert_eq!(everywhere, usual);
    }

    #[test]
    fn what_is_no_port_is_refused_by_its_variable() {
        let refused = viewer(&[("ONCUE_VIEWER_UI_PORT", "0")]).unwrap_err();
        assert!(refused.what.contains("ONCUE_VIEWER_UI_PORT"));
    }

    #[test]
    fn a_port_of_the_viewer_that_is_taken_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let moved = viewer(&[("ONCUE_VIEWER_OTLP_GRPC_PORT", &port.to_string())]).unwrap();
        assert_eq!(moved.taken_port(), Some(port));
    }
}
