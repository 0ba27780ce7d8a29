//! Our own programs as processes: which there are, and what each is told.

use std::fmt;
use std::path::PathBuf;

use super::Profile;
use super::lines::Dialect;
use super::ports::{is_free, taken_by};
use super::process::Spec;
use crate::exit::Failure;
use crate::settings::Settings;

pub const GATEWAY: &str = "gateway";
const GATEWAY_PROGRAM: &str = "oncue-gateway";
pub const CONSOLE: &str = "console";
const CONSOLE_PROGRAM: &str = "oncue-console";
const VIEWER_PROGRAM: &str = "oncue-trace-viewer";
const OTLP: &str = "http://127.0.0.1:4318";
const UI: &str = "http://127.0.0.1:16686/";

/// Where traces go.
pub enum Traces {
    /// To a viewer of ours.
    Start,
    /// To whoever listens on the usual ports already, or where the environment says.
    Elsewhere { endpoint: String, why: String },
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str(UI),
            Self::Elsewhere { endpoint, why } => write!(f, "sent to {endpoint}  ({why})"),
        }
    }
}

/// The viewer stays away when somebody else takes traces: a running Jaeger is the better one.
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
    let taken = [4317, 4318, 16686, 13133]
        .into_iter()
        .find(|port| !is_free(&format!("127.0.0.1:{port}")));
    match taken {
        Some(port) => Traces::Elsewhere {
            endpoint: OTLP.into(),
            why: format!("port {port} is taken {}; no viewer started", taken_by(port)),
        },
        None if !settings.bin.join(VIEWER_PROGRAM).is_file() => Traces::Elsewhere {
            endpoint: OTLP.into(),
            why: format!("{VIEWER_PROGRAM} is not built; no viewer started"),
        },
        None => Traces::Start,
    }
}

/// Every program there must be; all that are missing in one line.
pub fn all_built(settings: &Settings, functions: &[String]) -> Result<(), Failure> {
    let programs = functions
        .iter()
        .map(String::as_str)
        .chain([GATEWAY_PROGRAM, CONSOLE_PROGRAM]);
    let missing: Vec<&str> = programs
        .filter(|program| !settings.bin.join(program).is_file())
        .collect();
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

/// What every process of ours is told. What the environment says already stays.
pub fn environment(
    settings: &Settings,
    profile: Profile,
) -> Result<Vec<(String, String)>, Failure> {
    let config = &settings.config;
    let mut env = vec![
        (
            "ONCUE_NATS_URL".to_owned(),
            config.nats_url.expose().to_owned(),
        ),
        (
            "ONCUE_REDIS_URL".to_owned(),
            config.redis_url.expose().to_owned(),
        ),
        (
            "ONCUE_GATEWAY_LISTEN".to_owned(),
            config.gateway.listen.clone(),
        ),
        (
            "ONCUE_CONSOLE_LISTEN".to_owned(),
            config.console.listen.clone(),
        ),
        ("ONCUE_LOG_FORMAT".to_owned(), "json".to_owned()),
    ];
    if let Some(path) = &config.path {
        let path = std::path::absolute(path)
            .map_err(|e| Failure::usage(format_args!("{}: {e}", path.display())))?;
        env.push(("ONCUE_CONFIG".to_owned(), path.display().to_string()));
    }
    let defaults = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", OTLP),
        // Somebody is watching: a trace should be there when they look, not five seconds later.
        ("OTEL_BSP_SCHEDULE_DELAY", "500"),
        // One write to disk for a batch rather than for each of its events.
        (
            "ONCUE_BATCH_PUBLISH",
            if profile == Profile::Durable {
                "true"
            } else {
                "false"
            },
        ),
        // Whoever develops reads the log to learn what went wrong; class and place alone would send them to the letters.
        (
            "ONCUE_TRACE_MESSAGES",
            if profile == Profile::Dev {
                "true"
            } else {
                "false"
            },
        ),
    ];
    let unset = defaults
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    env.extend(unset.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok(env)
}

fn program(settings: &Settings, name: &str) -> Result<PathBuf, Failure> {
    let path = settings.bin.join(name);
    std::path::absolute(&path).map_err(|e| Failure::failed(format_args!("{}: {e}", path.display())))
}

/// A worker of the function; each further one gets a name of its own.
pub fn function(
    settings: &Settings,
    name: &str,
    env: &[(String, String)],
) -> Result<Spec, Failure> {
    Ok(Spec {
        name: name.to_owned(),
        program: program(settings, name)?,
        args: Vec::new(),
        env: env
            .iter()
            .cloned()
            .chain(settings.config.function(name).env)
            .collect(),
        dialect: Dialect::Json,
    })
}

pub fn gateway(settings: &Settings, env: &[(String, String)]) -> Result<Spec, Failure> {
    let program = program(settings, GATEWAY_PROGRAM)?;
    Ok(Spec {
        name: GATEWAY.into(),
        program,
        args: Vec::new(),
        env: env.to_vec(),
        dialect: Dialect::Json,
    })
}

/// It looks for the functions' programs where we found them.
pub fn console(settings: &Settings, env: &[(String, String)]) -> Result<Spec, Failure> {
    let (path, bin) = (program(settings, CONSOLE_PROGRAM)?, program(settings, "")?);
    let env = env
        .iter()
        .cloned()
        .chain([("ONCUE_BIN_DIR".to_owned(), bin.display().to_string())])
        .collect();
    Ok(Spec {
        name: CONSOLE.into(),
        program: path,
        args: Vec::new(),
        env,
        dialect: Dialect::Json,
    })
}

pub fn viewer(settings: &Settings) -> Result<Spec, Failure> {
    let program = program(settings, VIEWER_PROGRAM)?;
    Ok(Spec {
        name: "traces".into(),
        program,
        args: Vec::new(),
        env: Vec::new(),
        dialect: Dialect::Json,
    })
}
