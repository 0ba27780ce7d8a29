//! Settings of every verb: the configuration with the global flags on top, and the folder of the programs.

use std::path::{Path, PathBuf};

use clap::Args;
use oncue_admin::flows::clock;
use oncue_admin::topology::Topology;
use oncue_core::bus::Bus;
use oncue_core::config::{Config, Role};
use oncue_core::contract::{self, Contracts};
use oncue_core::program::Program;
use oncue_core::store::Store;
use oncue_proto::Catalog;

use crate::exit::Failure;
use crate::terminal::paint::remark;

/// Flags every verb takes. A flag wins over its variable, and that over the configuration.
#[derive(Args)]
pub struct Global {
    /// Configuration file. Default: oncue.toml here or in the nearest folder above.
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
    /// Folder of the functions' programs. Default: `[build] programs` of oncue.toml, else where this program is.
    #[arg(
        long,
        global = true,
        env = "ONCUE_BIN_DIR",
        value_name = "DIR",
        hide_env_values = true
    )]
    bin: Option<PathBuf>,
}

/// Configuration as it holds for this run, and where programs lie.
pub struct Settings {
    pub config: Config,
    /// Folder of the functions' programs.
    pub bin: PathBuf,
}

impl Global {
    pub fn settings(self) -> Result<Settings, Failure> {
        let (text, path) = read(self.config.as_deref())?;
        let config = parse(&text, path.as_deref(), |name| self.variable(name))?;
        let bin = self.bin.or_else(|| programs(&config)).ok_or_else(|| {
            Failure::failed("cannot tell where this program is; name the folder with --bin")
        })?;
        Ok(Settings { config, bin })
    }

    /// Variable as the configuration sees it. An empty one counts as unset, as a compose file leaves it.
    fn variable(&self, name: &str) -> Option<String> {
        let value = match name {
            "ONCUE_NATS_URL" => self.nats.clone(),
            "ONCUE_REDIS_URL" => self.redis.clone(),
            other => std::env::var(other).ok(),
        };
        value.filter(|value| !value.is_empty())
    }
}

/// Folder of the functions' programs where nobody has named one: that of the file, or of this program.
fn programs(config: &Config) -> Option<PathBuf> {
    let built = config.build.as_ref();
    built
        .map(|build| config.beside(&build.programs))
        .or_else(own_folder)
}

/// Folder of this program, and of the platform's others.
pub fn own_folder() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.to_owned())
}

/// Folder of what an installation of `oncue` carries besides its programs: `demo`, or `crates` for authors. Programs lie in
/// its `bin` and are linked from elsewhere, or they lie in a `bin` beside the `lib` that it is in. `None` in a checkout.
pub fn installed(part: &str) -> Option<PathBuf> {
    let own = own_folder()?;
    let candidates = ["..", "../lib/oncue"].map(|home| own.join(home).join(part));
    candidates
        .into_iter()
        .find(|folder| folder.join("../crates/oncue/Cargo.toml").is_file())
        .and_then(|folder| folder.canonicalize().ok())
}

fn parse(
    text: &str,
    path: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, Failure> {
    Config::parse(text, path, variable)
        .and_then(|config| clock::check(&config).map(|()| config))
        .map_err(|e| Failure::usage(format_args!("the configuration has mistakes\n{e}")))
}

/// Text and path of the configuration. A named file must exist, `oncue.toml` may.
fn read(named: Option<&Path>) -> Result<(String, Option<PathBuf>), Failure> {
    let named = named.filter(|path| !path.as_os_str().is_empty());
    let Some(path) = named.map(Path::to_owned).or_else(Config::find) else {
        return Ok((String::new(), None));
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((text, Some(path))),
        Err(e) => Err(Failure::usage(format_args!(
            "cannot read {}: {e}",
            path.display()
        ))),
    }
}

impl Settings {
    /// Connection of this run; an error means silence, exit code 4.
    pub async fn bus(&self) -> Result<Bus, Failure> {
        let config = self.logged_in();
        Bus::connect(&config.nats, "oncue")
            .await
            .map(|bus| bus.of_app(&config.app))
            .map_err(Failure::silent)
    }

    /// Settings by the file as it is now, on the servers of these.
    pub fn read_anew(&self) -> Result<Self, Failure> {
        let (text, path) = read(self.config.path.as_deref())?;
        let mut config = parse(&text, path.as_deref(), |name| std::env::var(name).ok())?;
        config.nats.clone_from(&self.config.nats);
        config.redis.clone_from(&self.config.redis);
        // A folder that somebody named stays; one that the file named is as the file has it now.
        let before = programs(&self.config);
        let bin = if before.as_ref() == Some(&self.bin) {
            programs(&config).unwrap_or_else(|| self.bin.clone())
        } else {
            self.bin.clone()
        };
        Ok(Self { config, bin })
    }

    /// Configuration with the credentials of servers that may have been started since.
    fn logged_in(&self) -> Config {
        let mut config = self.config.clone();
        config.log_in(&Role::Operator);
        config
    }

    /// Program of a function.
    pub fn program(&self, function: &str) -> Program {
        Program::of(&self.config, &self.bin, function)
    }

    /// Program of the platform: among those of the functions, or beside this one.
    pub fn platform(&self, program: &str) -> PathBuf {
        let among = self.bin.join(program);
        match own_folder() {
            Some(own) if !among.is_file() => own.join(program),
            _ => among,
        }
    }

    /// Refuses to go on without a file: it says which app this is, and what changes servers must know.
    pub fn require_file(&self) -> Result<(), Failure> {
        if self.config.path.is_some() {
            return Ok(());
        }
        Err(Failure::usage(
            "there is no oncue.toml here or in a folder above, and this changes what an app has",
        )
        .advise("go to the folder of the app, or name its file with --config"))
    }

    /// Redis for a reader: nothing is loaded, nothing refused.
    pub async fn store(&self) -> Result<Store, Failure> {
        let config = self.logged_in();
        Store::look(&config.redis, &config.app)
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

    /// Event types known here: the platform's, those of the functions' programs, and of those that run elsewhere.
    pub async fn catalog(&self) -> Result<Catalog, Failure> {
        Ok(self.contracts().await?.catalog)
    }

    /// Event types known here, with the contract of each program.
    pub async fn contracts(&self) -> Result<Contracts, Failure> {
        let contracts = contract::load(&self.config, &self.bin)
            .await
            .map_err(Failure::usage)?;
        contracts.warnings.iter().for_each(remark);
        Ok(contracts)
    }

    /// NATS URL without its secrets, for people.
    pub fn nats_shown(&self) -> String {
        self.config.nats.url.to_string()
    }

    /// Redis URL without its secrets, for people.
    pub fn redis_shown(&self) -> String {
        self.config.redis.url.to_string()
    }
}

/// Host and port of a URL, and whether it carries a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    pub secret: bool,
}

impl Address {
    /// First server of a comma-separated list, with a default port; `None` where it names no host or no valid port.
    pub fn of(url: &str, port: u16) -> Option<Self> {
        let first = url.split(',').next()?.trim();
        let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
        let authority = rest.split(['/', '?']).next()?;
        let (secret, address) = match authority.rsplit_once('@') {
            Some((_, address)) => (true, address),
            None => (false, authority),
        };
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

    /// Host with the brackets an IPv6 address needs in front of a port.
    pub fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// `host:port`, to connect to.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.bracketed_host(), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_urls() {
        let cases = [
            ("nats://127.0.0.1:4222", "127.0.0.1", 4222, false),
            ("nats://nats", "nats", 4222, false),
            ("localhost:99", "localhost", 99, false),
            ("redis://:secret@db:6380/2", "db", 6380, true),
            ("nats://[::1]:5,nats://b:6", "::1", 5, false),
            ("nats://[::1]", "::1", 4222, false),
        ];
        for (url, host, port, secret) in cases {
            let host = host.to_owned();
            let expected = Some(Address { host, port, secret });
            assert_eq!(Address::of(url, 4222), expected, "{url}");
        }
        assert_eq!(Address::of("nats://host:port", 4222), None);
        assert_eq!(Address::of("", 4222), None);
    }

    #[test]
    fn an_authority_can_be_connected_to() {
        let authority = |url| Address::of(url, 1).unwrap().authority();
        assert_eq!(authority("nats://[::1]"), "[::1]:1");
        assert_eq!(authority("nats://a:2"), "a:2");
    }

    #[test]
    fn only_loopback_is_local() {
        let local = |url| Address::of(url, 1).unwrap().is_local();
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
