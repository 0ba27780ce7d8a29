//! NATS and Redis: a server that is there already and fits is used; otherwise one is started here.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::config::ServerUrl;
use oncue_core::store::Store;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Args;
use super::house::House;
use super::lines::Dialect;
use super::ports::{is_free, taken_by};
use super::process::Spec;
use crate::exit::Failure;
use crate::settings::{Place, Settings};

/// Something that accepts connections and then says nothing is no server of ours.
const PATIENCE: Duration = Duration::from_secs(3);
const MONITOR: u16 = 8222;
/// Server configurations of a profile, built in for where the project's own files are not.
const NATS_CONF: [&str; 2] = [
    include_str!("../../../../deploy/dev/nats.conf"),
    include_str!("../../../../deploy/durable/nats.conf"),
];
const REDIS_CONF: [&str; 2] = [
    include_str!("../../../../deploy/dev/redis.conf"),
    include_str!("../../../../deploy/durable/redis.conf"),
];

pub struct Server {
    name: &'static str,
    /// Its URL without password.
    pub place: String,
    address: String,
    pub start: Start,
}

pub enum Start {
    Use {
        version: String,
    },
    Spawn {
        program: PathBuf,
        args: Vec<String>,
        data: PathBuf,
        dialect: Dialect,
    },
}

/// One kind of server: how to find it and how old it may be.
struct Kind {
    name: &'static str,
    programs: &'static [&'static str],
    /// By the word in front of the version.
    oldest: &'static [(&'static str, (u64, u64))],
    advice: &'static str,
}

const NATS: Kind = Kind {
    name: "nats",
    programs: &["nats-server"],
    oldest: &[("nats-server", (2, 14))],
    advice: "`make up` installs it; or put nats-server 2.14 or later on PATH",
};
const REDIS: Kind = Kind {
    name: "redis",
    programs: &["redis-server", "valkey-server"],
    oldest: &[("Redis", (7, 0)), ("Valkey", (7, 2))],
    advice: "`make up` installs it; or put redis-server 7.0 or later on PATH",
};

pub async fn nats(args: &Args, settings: &Settings) -> Result<Server, Failure> {
    let url = &settings.config.nats_url;
    let probe = Box::pin(async {
        let bus = Bus::connect(url, "oncue")
            .await
            .map_err(|e| e.to_string())?;
        bus.api("INFO", &Value::Null)
            .await
            .map_err(|e| format!("JetStream is off: {e}"))?;
        Ok(format!("nats-server {}", bus.server_version()))
    });
    let place = Place::of(url.expose(), 4222);
    plan(&NATS, url, place, probe, async |place: &Place| {
        let (program, data) = (find(&NATS, args, settings).await?, folder(args, "nats")?);
        let conf = configuration("nats.conf", NATS_CONF, args)?;
        let texts = [
            "-c",
            &conf,
            "-a",
            &place.host,
            "-p",
            &place.port.to_string(),
            "-sd",
            &data.display().to_string(),
        ]
        .map(str::to_owned);
        let mut arguments = texts.to_vec();
        // Without its monitoring page only `oncue doctor` knows less.
        if is_free(&format!("127.0.0.1:{MONITOR}")) {
            arguments.extend(["-m".to_owned(), MONITOR.to_string()]);
        }
        Ok(Start::Spawn {
            program,
            args: arguments,
            data,
            dialect: Dialect::Nats,
        })
    })
    .await
}

pub async fn redis(args: &Args, settings: &Settings) -> Result<Server, Failure> {
    let url = &settings.config.redis_url;
    let probe = Box::pin(async {
        let store = Store::look(url).await.map_err(|e| e.to_string())?;
        store.check().await.map_err(|e| e.to_string())?;
        let info = store.info("server").await.map_err(|e| e.to_string())?;
        let version = info.lines().find_map(|line| {
            line.strip_prefix("valkey_version:")
                .or(line.strip_prefix("redis_version:"))
        });
        Ok(format!(
            "redis-server {}",
            version.unwrap_or_default().trim()
        ))
    });
    let place = Place::of(url.expose(), 6379);
    plan(&REDIS, url, place, probe, async |place: &Place| {
        let (program, data) = (find(&REDIS, args, settings).await?, folder(args, "redis")?);
        let conf = configuration("redis.conf", REDIS_CONF, args)?;
        let texts = [
            &conf,
            "--bind",
            &place.host,
            "--port",
            &place.port.to_string(),
            "--dir",
            &data.display().to_string(),
            "--daemonize",
            "no",
        ];
        Ok(Start::Spawn {
            program,
            args: texts.map(str::to_owned).to_vec(),
            data,
            dialect: Dialect::Redis,
        })
    })
    .await
}

/// Uses what answers and fits, starts what is to be here and is not, and refuses the rest with its reason.
async fn plan(
    kind: &Kind,
    url: &ServerUrl,
    place: Option<Place>,
    probe: Pin<Box<dyn Future<Output = Result<String, String>> + '_>>,
    spawn: impl AsyncFnOnce(&Place) -> Result<Start, Failure>,
) -> Result<Server, Failure> {
    let shown = url.to_string();
    let place = place.ok_or_else(|| {
        Failure::usage(format_args!(
            "{shown:?} is no address of a {} server",
            kind.name
        ))
    })?;
    let address = if place.host.contains(':') {
        format!("[{}]:{}", place.host, place.port)
    } else {
        format!("{}:{}", place.host, place.port)
    };
    let server = |start| Server {
        name: kind.name,
        place: shown.clone(),
        address: address.clone(),
        start,
    };
    if tokio::time::timeout(PATIENCE, TcpStream::connect(&address))
        .await
        .is_ok_and(|c| c.is_ok())
    {
        let probed = tokio::time::timeout(PATIENCE, probe)
            .await
            .unwrap_or_else(|_| Err(format!("it does not answer within {PATIENCE:?}")));
        return match probed {
            Ok(version) => Ok(server(Start::Use { version })),
            Err(why) if place.is_local() => {
                let what = format!(
                    "port {} is taken {}, which cannot be used: {why}",
                    place.port,
                    taken_by(place.port)
                );
                Err(Failure::failed(what).advise(format!(
                    "stop that process, or name another {} server in oncue.toml or with --{}",
                    kind.name, kind.name
                )))
            }
            Err(why) => Err(Failure::silent(format_args!(
                "{shown} cannot be used: {why}"
            ))),
        };
    }
    if !place.is_local() || place.secret {
        let what = format!(
            "nothing answers at {shown}, and `oncue up` starts only servers on this machine without a password"
        );
        return Err(Failure::silent(what));
    }
    Ok(server(spawn(&place).await?))
}

/// On PATH, in the data folder's `bin`, or beside this program: the first that is new enough.
async fn find(kind: &Kind, args: &Args, settings: &Settings) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain([args.data.join("bin"), settings.bin.clone()])
        .collect();
    let mut refused = Vec::new();
    for program in kind.programs {
        for candidate in folders
            .iter()
            .map(|folder| folder.join(program))
            .filter(|p| p.is_file())
        {
            match fits(kind, &candidate).await {
                Ok(()) => return std::path::absolute(candidate).map_err(Failure::failed),
                Err(why) => refused.push(format!("  {}: {why}", candidate.display())),
            }
        }
    }
    let what = if refused.is_empty() {
        format!("{} is not installed", kind.programs[0])
    } else {
        format!(
            "no {} that can be used\n{}",
            kind.programs[0],
            refused.join("\n")
        )
    };
    Err(Failure::failed(what).advise(kind.advice))
}

async fn fits(kind: &Kind, program: &Path) -> Result<(), String> {
    let asked = tokio::process::Command::new(program)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("--version does not answer within {PATIENCE:?}")),
    };
    check_version(kind, &String::from_utf8_lossy(&output.stdout))
}

/// `nats-server: v2.15.1`, `Redis server v=7.0.15 sha=...`, `Valkey server v=8.0.1 ...`
fn check_version(kind: &Kind, text: &str) -> Result<(), String> {
    let strange = || {
        format!(
            "does not say its version ({:?})",
            text.lines().next().unwrap_or_default()
        )
    };
    let (name, oldest) = kind
        .oldest
        .iter()
        .find(|(word, _)| text.starts_with(word))
        .ok_or_else(strange)?;
    let rest = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v=").or_else(|| word.strip_prefix('v')));
    let version = rest
        .filter(|v| v.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(strange)?;
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u64>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < *oldest {
        return Err(format!(
            "{name} is {version}; {}.{} or later is needed",
            oldest.0, oldest.1
        ));
    }
    Ok(())
}

fn folder(args: &Args, name: &str) -> Result<PathBuf, Failure> {
    let folder = args.data.join(name);
    fs::create_dir_all(&folder)
        .map_err(|e| Failure::failed(format_args!("cannot make {}: {e}", folder.display())))?;
    Ok(folder)
}

/// The project's own file, or the one built in.
fn configuration(name: &str, builtin: [&str; 2], args: &Args) -> Result<String, Failure> {
    let profile = args.profile;
    let own = Path::new("deploy").join(profile.name()).join(name);
    let path = if own.is_file() {
        own
    } else {
        args.data.join(name)
    };
    if !path.starts_with("deploy") {
        fs::write(&path, builtin[profile as usize])
            .map_err(|e| Failure::failed(format_args!("cannot write {}: {e}", path.display())))?;
    }
    Ok(path.display().to_string())
}

/// Starts it if it is to be started, and returns once it answers.
pub async fn start(server: &Server, house: &House) -> Result<(), Failure> {
    let Start::Spawn {
        program,
        args,
        dialect,
        ..
    } = &server.start
    else {
        house.screen.note(&format!(
            "{} is running already at {}, using it",
            server.name, server.place
        ));
        return Ok(());
    };
    let spec = Spec {
        name: server.name.into(),
        program: program.clone(),
        args: args.clone(),
        env: Vec::new(),
        dialect: *dialect,
    };
    let vitals = house.servers.run(spec);
    let mut patience = Instant::now() + PATIENCE;
    while !answers(server).await {
        if vitals.ends() > 0 {
            let what = format!(
                "{} does not start; its last lines:\n{}",
                server.name,
                vitals.last_lines().trim_end()
            );
            return Err(Failure::failed(what));
        }
        if Instant::now() > patience {
            patience += PATIENCE;
            house.screen.warn(&format!(
                "{} does not answer yet (it may be reading its data)",
                server.name
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// NATS listens once it is whole. Redis listens first and reads its data then.
async fn answers(server: &Server) -> bool {
    if server.name == REDIS.name {
        let Ok(Ok(store)) = tokio::time::timeout(PATIENCE, Store::look(&server.place)).await else {
            return false;
        };
        return store.ping().await.is_ok();
    }
    TcpStream::connect(&server.address).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged() {
        assert_eq!(check_version(&NATS, "nats-server: v2.15.1\n"), Ok(()));
        assert_eq!(
            check_version(&NATS, "nats-server: v2.9.10\n").unwrap_err(),
            "nats-server is 2.9.10; 2.14 or later is needed"
        );
        assert_eq!(
            check_version(
                &REDIS,
                "Redis server v=7.0.15 sha=0:0 malloc=jemalloc bits=64"
            ),
            Ok(())
        );
        assert!(check_version(&REDIS, "Redis server v=6.2.1 sha=0").is_err());
        assert!(check_version(&REDIS, "Valkey server v=7.1.0 sha=0").is_err());
        assert!(
            check_version(&REDIS, "")
                .unwrap_err()
                .contains("does not say")
        );
    }
}
