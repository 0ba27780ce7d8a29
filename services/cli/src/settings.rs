//! What every verb is told: the configuration, with the flags on top, and where the programs are.

use std::path::{Path, PathBuf};

use clap::Args;
use oncue_admin::topology::Topology;
use oncue_core::bus::Bus;
use oncue_core::config::{Config, ConfigErrors};
use oncue_core::store::Store;

use crate::exit::Failure;
use crate::paint::remark;

#[derive(Args)]
pub struct Global {
    /// Configuration file. Default: oncue.toml here, if there is one.
    #[arg(
        long,
        global = true,
        env = "ONCUE_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// NATS server. Default: as the configuration says, else nats://127.0.0.1:4222.
    #[arg(
        long,
        global = true,
        env = "ONCUE_NATS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    nats: Option<String>,
    /// Redis server. Default: as the configuration says, else redis://127.0.0.1:6379.
    #[arg(
        long,
        global = true,
        env = "ONCUE_REDIS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    redis: Option<String>,
    /// Folder of the gateway's and the functions' programs. Default: where this program is.
    #[arg(
        long,
        global = true,
        env = "ONCUE_BIN_DIR",
        value_name = "DIR",
        hide_env_values = true
    )]
    bin: Option<PathBuf>,
}

pub struct Settings {
    pub config: Config,
    /// Where the programs are.
    pub bin: PathBuf,
}

impl Global {
    pub fn settings(self) -> Result<Settings, Failure> {
        let wrong =
            |e: ConfigErrors| Failure::usage(format_args!("the configuration has mistakes\n{e}"));
        let (text, path) = read(self.config.as_deref())?;
        let flags = |name: &str| match name {
            "ONCUE_NATS_URL" => self.nats.clone(),
            "ONCUE_REDIS_URL" => self.redis.clone(),
            other => std::env::var(other).ok(),
        };
        let config = Config::parse(&text, path.as_deref(), |name| {
            flags(name).filter(|value| !value.is_empty())
        })
        .map_err(wrong)?;
        let here = || {
            std::env::current_exe()
                .ok()
                .and_then(|exe| Some(exe.parent()?.to_owned()))
        };
        let bin = self.bin.or_else(here).ok_or_else(|| {
            Failure::failed("cannot tell where this program is; name the folder with --bin")
        })?;
        Ok(Settings { config, bin })
    }
}

/// A named file must exist, `oncue.toml` may.
fn read(named: Option<&Path>) -> Result<(String, Option<PathBuf>), Failure> {
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let path = named.unwrap_or(Path::new("oncue.toml"));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((text, Some(path.to_owned()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            Ok((String::new(), None))
        }
        Err(e) => Err(Failure::usage(format_args!(
            "cannot read {}: {e}",
            path.display()
        ))),
    }
}

impl Settings {
    pub async fn bus(&self) -> Result<Bus, Failure> {
        Bus::connect(&self.config.nats_url, "oncue")
            .await
            .map_err(Failure::silent)
    }

    /// Redis as it is: nothing is loaded, nothing refused.
    pub async fn store(&self) -> Result<Store, Failure> {
        Store::look(&self.config.redis_url)
            .await
            .map_err(Failure::silent)
    }

    /// Topology of the app; a server that is away is only a remark, since programs answer without it.
    pub async fn topology(
        &self,
        bus: Option<&Bus>,
        store: Option<&Store>,
    ) -> Result<Topology, Failure> {
        let topology = Topology::read(&self.config, &self.bin, bus, store)
            .await
            .map_err(Failure::silent)?;
        topology.remarks.iter().for_each(remark);
        if topology.functions.is_empty() {
            let what = format!(
                "no function is known: no program in {}, no worker answers",
                self.bin.display()
            );
            return Err(Failure::failed(what)
                .advise("build them, or name the folder of their programs with --bin"));
        }
        Ok(topology)
    }

    pub fn nats_place(&self) -> String {
        self.config.nats_url.to_string()
    }

    pub fn redis_place(&self) -> String {
        self.config.redis_url.to_string()
    }
}

/// Host and port of a URL, and whether it carries a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
    pub secret: bool,
}

impl Place {
    /// The first server of a list; `None` where there is no telling.
    pub fn of(url: &str, port: u16) -> Option<Self> {
        let first = url.split(',').next()?.trim();
        let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next()?;
        let (secret, address) = authority
            .rsplit_once('@')
            .map_or((false, authority), |(_, address)| (true, address));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, number)) if !number.is_empty() && !number.contains(']') => {
                (host, number.parse().ok()?)
            }
            _ => (address.trim_end_matches(':'), port),
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        (!host.is_empty()).then_some(Self { host, port, secret })
    }

    pub fn is_local(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_urls() {
        let place = |url| Place::of(url, 4222).map(|p| (p.host, p.port, p.secret));
        assert_eq!(
            place("nats://127.0.0.1:4222"),
            Some(("127.0.0.1".into(), 4222, false))
        );
        assert_eq!(place("nats://nats"), Some(("nats".into(), 4222, false)));
        assert_eq!(place("localhost:99"), Some(("localhost".into(), 99, false)));
        assert_eq!(
            place("redis://:secret@db:6380/2"),
            Some(("db".into(), 6380, true))
        );
        assert_eq!(
            place("nats://[::1]:5,nats://b:6"),
            Some(("::1".into(), 5, false))
        );
        assert_eq!(place("nats://[::1]"), Some(("::1".into(), 4222, false)));
        assert_eq!(place("nats://host:port"), None);
        assert_eq!(place(""), None);
    }

    #[test]
    fn only_loopback_is_local() {
        let local = |url| Place::of(url, 1).unwrap().is_local();
        assert!(local("nats://127.0.0.1") && local("nats://localhost") && local("nats://[::1]"));
        assert!(!local("nats://nats") && !local("nats://10.0.0.1"));
    }

    #[test]
    fn a_named_file_must_exist() {
        assert_eq!(
            read(Some(Path::new("/nowhere/oncue.toml")))
                .unwrap_err()
                .code,
            crate::exit::USAGE
        );
    }
}
