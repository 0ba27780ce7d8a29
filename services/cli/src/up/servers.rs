//! NATS and Redis: a server that is there already and fits is used; otherwise one is started here.

mod executable;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue_core::app::AppName;
use oncue_core::bus::{ApiError, Bus};
use oncue_core::config::{Config, NatsServer, RedisServer, ServerUrl};
use oncue_core::store::Store;
use serde_json::Value;
use tokio::net::TcpStream;

use self::executable::OldestVersion;
use super::Args;
use super::log::LogFormat;
use super::port_check::{is_free, taken_by};
use super::process::{ProcessSpec, ProcessStatus};
use super::supervisor::Supervisor;
use crate::exit::Failure;
use crate::settings::{Address, Settings};

/// Time a server has to accept a connection, and then to answer: something that accepts connections and says nothing
/// is no server of ours.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two tries to reach a server that was just started.
const START_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Option of nats-server in front of its configuration.
pub const CONFIGURATION: &str = "-c";
/// Port of the monitoring page of a NATS server started here.
/// The page has no login and listens where the server does, which for a server started here is on this machine.
const NATS_MONITORING_PORT: u16 = 8222;
/// Folder of nats-server's data, in the data folder.
pub const NATS_DATA: &str = "nats";

/// Server configurations of a profile, built in for where the project's own files are not.
struct ServerConfig {
    file: &'static str,
    /// By [`Profile`](super::Profile).
    builtin: [&'static str; 2],
}

const NATS_CONFIG: ServerConfig = ServerConfig {
    file: "nats.conf",
    builtin: [
        include_str!("../../../../deploy/dev/nats.conf"),
        include_str!("../../../../deploy/durable/nats.conf"),
    ],
};
const REDIS_CONFIG: ServerConfig = ServerConfig {
    file: "redis.conf",
    builtin: [
        include_str!("../../../../deploy/dev/redis.conf"),
        include_str!("../../../../deploy/durable/redis.conf"),
    ],
};

/// Server as it is to be reached, and whether it has to be started.
pub struct Server {
    name: &'static str,
    /// URL without its secrets.
    pub url: String,
    /// `host:port`
    authority: String,
    pub start: Start,
}

/// Use of a server: as it is found, or started and kept running here.
pub enum Start {
    Use { version: String },
    Spawn { spec: ProcessSpec, data: PathBuf },
}

impl Server {
    /// Whether it is started here, and not somebody else's.
    pub fn is_started_here(&self) -> bool {
        matches!(self.start, Start::Spawn { .. })
    }

    /// Configuration that it is started with.
    pub fn configuration(&self) -> Option<&Path> {
        let Start::Spawn { spec, .. } = &self.start else {
            return None;
        };
        let mut args = spec.args.iter();
        args.find(|arg| *arg == CONFIGURATION)?;
        args.next().map(Path::new)
    }

    /// Starts it with further arguments, or with others in place of those that are there.
    pub fn start_with(&mut self, option: &str, file: &Path) {
        let Start::Spawn { spec, .. } = &mut self.start else {
            return;
        };
        let file = file.display().to_string();
        match spec.args.iter().position(|arg| arg == option) {
            Some(at) => spec.args[at + 1] = file,
            None => spec.args.extend([option.to_owned(), file]),
        }
    }
}

/// Kind of server: its programs, and how old they may be.
struct ServerKind {
    name: &'static str,
    /// Names of its program, the usual one first.
    programs: &'static [&'static str],
    oldest: &'static [OldestVersion],
    default_port: u16,
    advice: &'static str,
}

const NATS: ServerKind = ServerKind {
    name: "nats",
    programs: &["nats-server"],
    oldest: &[OldestVersion {
        name: "nats-server",
        major: 2,
        minor: 14,
    }],
    default_port: 4222,
    advice: "packages of Oncue bring it, and `make up` installs it for a checkout; or put nats-server 2.14 or later \
             on PATH: https://github.com/nats-io/nats-server/releases",
};
const REDIS: ServerKind = ServerKind {
    name: "redis",
    programs: &["redis-server", "valkey-server"],
    oldest: &[
        OldestVersion {
            name: "Redis",
            major: 7,
            minor: 0,
        },
        OldestVersion {
            name: "Valkey",
            major: 7,
            minor: 2,
        },
    ],
    default_port: 6379,
    advice: "Debian, Ubuntu: sudo apt-get install redis-server; Fedora: sudo dnf install valkey; macOS: brew install \
             redis; or put redis-server 7.0 or valkey-server 7.2 or later on PATH",
};

pub async fn nats(args: &Args, settings: &Settings) -> Result<Server, Failure> {
    let server = &settings.config.nats;
    plan(
        &NATS,
        &server.url,
        Box::pin(nats_version(server)),
        async |address: &Address| nats_start(args, settings, address).await,
    )
    .await
}

/// Version of a running server, which must have JetStream on: without it no stream can be made.
async fn nats_version(server: &NatsServer) -> Result<String, String> {
    let bus = Bus::connect(server, "oncue")
        .await
        .map_err(|e| e.to_string())?;
    bus.api("INFO", &Value::Null).await.map_err(|e| {
        if e.code == ApiError::LOCKED_OUT {
            e.description
        } else {
            format!("JetStream is off: {e}")
        }
    })?;
    Ok(format!("nats-server {}", bus.server_version()))
}

async fn nats_start(args: &Args, settings: &Settings, address: &Address) -> Result<Start, Failure> {
    let program = executable::find(&NATS, &args.data, settings).await?;
    let data = make_folder(&args.data.join(NATS_DATA))?;
    let mut arguments = vec![
        CONFIGURATION.to_owned(),
        configuration(&NATS_CONFIG, args)?,
        "-a".to_owned(),
        address.host.clone(),
        "-p".to_owned(),
        address.port.to_string(),
        "-sd".to_owned(),
        data.display().to_string(),
    ];
    // Without its monitoring page only `oncue doctor` knows less.
    let named = std::env::var("ONCUE_NATS_MONITOR").ok();
    let named = named.and_then(|place| place.rsplit_once(':')?.1.parse().ok());
    let monitoring = named.unwrap_or(NATS_MONITORING_PORT);
    if is_free(&format!("127.0.0.1:{monitoring}")) {
        arguments.extend(["-m".to_owned(), monitoring.to_string()]);
    }
    Ok(Start::Spawn {
        spec: server_spec(&NATS, program, arguments, LogFormat::Nats),
        data,
    })
}

pub async fn redis(args: &Args, settings: &Settings) -> Result<Server, Failure> {
    let server = &settings.config.redis;
    if server.url.names_sentinels() {
        return behind_sentinels(server).await;
    }
    plan(
        &REDIS,
        &server.url,
        Box::pin(redis_version(server)),
        async |address: &Address| redis_start(args, settings, address).await,
    )
    .await
}

/// The Redis that sentinels name. It is somebody's that has set it up, and nothing is started in its place.
async fn behind_sentinels(server: &RedisServer) -> Result<Server, Failure> {
    let url = &server.url;
    let version = redis_version(server)
        .await
        .map_err(|why| Failure::silent(format_args!("{url} cannot be used: {why}")))?;
    Ok(Server {
        name: REDIS.name,
        authority: String::new(),
        url: url.to_string(),
        start: Start::Use { version },
    })
}

/// Version of a running server, which must be new enough and must not evict keys.
async fn redis_version(server: &RedisServer) -> Result<String, String> {
    let store = Store::look(server, &AppName::default())
        .await
        .map_err(|e| e.to_string())?;
    store.check().await.map_err(|e| e.to_string())?;
    store.check_replay().await.map_err(|e| e.to_string())?;
    let info = store.info("server").await.map_err(|e| e.to_string())?;
    let version = info.lines().find_map(|line| {
        line.strip_prefix("valkey_version:")
            .or(line.strip_prefix("redis_version:"))
    });
    let version = version.unwrap_or_default().trim();
    Ok(format!("redis-server {version}"))
}

async fn redis_start(
    args: &Args,
    settings: &Settings,
    address: &Address,
) -> Result<Start, Failure> {
    let program = executable::find(&REDIS, &args.data, settings).await?;
    let data = make_folder(&args.data.join("redis"))?;
    let arguments = vec![
        configuration(&REDIS_CONFIG, args)?,
        "--bind".to_owned(),
        address.host.clone(),
        "--port".to_owned(),
        address.port.to_string(),
        "--dir".to_owned(),
        data.display().to_string(),
        // Else it would leave our process group, and nobody would see it end.
        "--daemonize".to_owned(),
        "no".to_owned(),
    ];
    Ok(Start::Spawn {
        spec: server_spec(&REDIS, program, arguments, LogFormat::Redis),
        data,
    })
}

fn server_spec(
    kind: &ServerKind,
    program: PathBuf,
    args: Vec<String>,
    format: LogFormat,
) -> ProcessSpec {
    ProcessSpec {
        name: kind.name.to_owned(),
        program,
        args,
        env: Vec::new(),
        hands: None,
        inherits: true,
        format,
    }
}

/// Uses a server that answers and fits, starts one that is to be here and is not, and refuses the rest with its
/// reason.
async fn plan(
    kind: &ServerKind,
    url: &ServerUrl,
    version: impl Future<Output = Result<String, String>>,
    spawn: impl AsyncFnOnce(&Address) -> Result<Start, Failure>,
) -> Result<Server, Failure> {
    let shown = url.to_string();
    let address = Address::of(url.expose(), kind.default_port).ok_or_else(|| {
        Failure::usage(format_args!(
            "{shown:?} is no address of a {} server",
            kind.name
        ))
    })?;
    // A connection first: it tells "nobody there", which is mended by starting one, from "there and unfit", which
    // is not.
    let start = if accepts_connections(&address).await {
        let version = tokio::time::timeout(SERVER_TIMEOUT, version)
            .await
            .unwrap_or_else(|_| Err(format!("it does not answer within {SERVER_TIMEOUT:?}")))
            .map_err(|why| unusable(kind, &shown, &address, &why))?;
        Start::Use { version }
    } else if address.is_local() && !address.secret {
        // A server with a password was set up by somebody; an empty one in its place would only hide that it is away.
        spawn(&address).await?
    } else {
        return Err(Failure::silent(format_args!(
            "nothing answers at {shown}, and `oncue up` starts only servers on this machine without a password"
        )));
    };
    Ok(Server {
        name: kind.name,
        authority: address.authority(),
        url: shown,
        start,
    })
}

async fn accepts_connections(address: &Address) -> bool {
    tokio::time::timeout(SERVER_TIMEOUT, TcpStream::connect(address.authority()))
        .await
        .is_ok_and(|connected| connected.is_ok())
}

/// Failure for a server that is there and does not fit.
fn unusable(kind: &ServerKind, shown: &str, address: &Address, why: &str) -> Failure {
    if !address.is_local() {
        return Failure::silent(format_args!("{shown} cannot be used: {why}"));
    }
    let port = address.port;
    let name = kind.name;
    Failure::failed(format_args!(
        "port {port} is taken {}, which cannot be used: {why}",
        taken_by(port)
    ))
    .advise(format!(
        "stop that process, or give this app a server of its own, in oncue.toml or with --{name} {name}://127.0.0.1:{}",
        (port.saturating_add(1)..u16::MAX)
            .find(|port| is_free(&format!("127.0.0.1:{port}")))
            .unwrap_or(port)
    ))
}

fn make_folder(folder: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(folder)
        .map_err(|e| Failure::failed(format_args!("cannot make {}: {e}", folder.display())))?;
    Ok(folder.to_owned())
}

/// Path of the configuration: the project's own file, or the built-in one written into the data folder.
fn configuration(config: &ServerConfig, args: &Args) -> Result<String, Failure> {
    let own = Path::new("deploy")
        .join(args.profile.name())
        .join(config.file);
    if own.is_file() {
        return Ok(own.display().to_string());
    }
    let path = args.data.join(config.file);
    fs::write(&path, config.builtin[args.profile as usize])
        .map_err(|e| Failure::failed(format_args!("cannot write {}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

/// Starts the server if it is to be started, and returns its process once it answers. `config` has the credentials it wants.
pub async fn start(
    server: &Server,
    config: &Config,
    supervisor: &Supervisor,
) -> Result<Option<Arc<ProcessStatus>>, Failure> {
    let Start::Spawn { spec, .. } = &server.start else {
        supervisor.log.note(&format!(
            "{} is running already at {}, using it",
            server.name, server.url
        ));
        return Ok(None);
    };
    let status = supervisor.servers.run(spec.clone());
    let mut complain_at = Instant::now() + SERVER_TIMEOUT;
    while !answers(server, config).await {
        // One end is enough: what is wrong with its configuration will be wrong the next time too.
        if status.ends() > 0 {
            let what = format!(
                "{} does not start; its last lines:\n{}",
                server.name,
                status.last_lines().trim_end()
            );
            return Err(Failure::failed(what));
        }
        if Instant::now() > complain_at {
            complain_at += SERVER_TIMEOUT;
            supervisor.log.warn(&format!(
                "{} does not answer yet (it may be reading its data)",
                server.name
            ));
        }
        tokio::time::sleep(START_POLL_INTERVAL).await;
    }
    Ok(Some(status))
}

/// Whether the server is whole. NATS listens only then; Redis listens first and reads its data afterwards.
async fn answers(server: &Server, config: &Config) -> bool {
    if server.name != REDIS.name {
        return TcpStream::connect(&server.authority).await.is_ok();
    }
    let app = AppName::default();
    let look = Store::look(&config.redis, &app);
    match tokio::time::timeout(SERVER_TIMEOUT, look).await {
        Ok(Ok(store)) => store.ping().await.is_ok(),
        _ => false,
    }
}
