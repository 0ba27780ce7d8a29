//! Locks on servers that are started here: accounts in NATS and users in Redis that follow from what the functions declare,
//! with credentials made here. A server that somebody else has set up is used as it is.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oncue_admin::rights::keys::KeyFolder;
use oncue_admin::rights::nats::{self, IMPORTED_API, PublicKeys};
use oncue_admin::rights::{Rights, Role, redis};
use oncue_core::config::{Config, LockedServers};
use oncue_core::store::Store;
use rustix::process::{Pid, Signal, kill_process};

use super::process::ProcessStatus;
use super::servers::Server;
use crate::exit::Failure;

/// Files of the servers, in the folder of the credentials.
const NATS_FILE: &str = "nats.conf";
const REDIS_FILE: &str = "redis.acl";

/// Locks of the servers that are started here.
pub struct Lock {
    keys: KeyFolder,
    servers: LockedServers,
    /// Configuration of nats-server below the accounts.
    nats_base: Option<PathBuf>,
}

impl Lock {
    /// Locks for the servers of a plan that are to be started; `None` where there are none to lock.
    pub fn of(data: &Path, nats: &Server, redis: &Server, config: &Config) -> Option<Self> {
        let folder = std::path::absolute(data.join("keys")).ok()?;
        // Of a run before, which has ended: its servers are gone.
        LockedServers::forget(&folder);
        let url = |server: &Server, url: &str| server.is_started_here().then(|| url.to_owned());
        let servers = LockedServers {
            nats: url(nats, config.nats.url.expose()),
            api_prefix: IMPORTED_API.to_owned(),
            redis: url(redis, config.redis.url.expose()),
        };
        (servers.nats.is_some() || servers.redis.is_some()).then(|| Self {
            keys: KeyFolder::new(folder),
            servers,
            nats_base: nats.configuration().map(Path::to_owned),
        })
    }

    /// File that nats-server is to read in place of its own.
    pub fn nats_file(&self) -> PathBuf {
        self.keys.path().join(NATS_FILE)
    }

    /// File with the users of Redis.
    pub fn redis_file(&self) -> PathBuf {
        self.keys.path().join(REDIS_FILE)
    }

    /// Writes what the servers read at their start, and makes the credentials that are missing.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn write(&self, rights: &Rights) -> Result<(), Failure> {
        self.written(rights)
            .map_err(|e| Failure::failed(format_args!("cannot make the credentials: {e}")))
    }

    fn written(&self, rights: &Rights) -> io::Result<()> {
        let mut public_keys = PublicKeys::new();
        for role in rights.roles() {
            let key = self.keys.public_key(role)?;
            public_keys.insert(role.clone(), vec![key]);
        }
        if let Some(base) = &self.nats_base {
            let accounts = nats::configuration(rights, &public_keys);
            let base = fs::read_to_string(base)?;
            replace(&self.nats_file(), &format!("{base}\n{accounts}"))?;
        }
        let users = redis::file(&redis::users(rights), |role| self.keys.password(role))?;
        replace(&self.redis_file(), &users)?;
        self.servers.write(self.keys.path())
    }

    /// Configuration of a role's process.
    pub fn log_in(&self, config: &Config, role: &Role) -> Config {
        let mut config = config.clone();
        config.log_in_from(self.keys.path(), &self.servers, &role.name());
        config
    }

    /// Gives running servers the rights as they are now, of programs that have changed. Nobody is disconnected.
    ///
    /// # Errors
    /// A file that cannot be written, or a Redis that refuses.
    pub async fn renew(
        &self,
        rights: &Rights,
        nats: Option<&ProcessStatus>,
        store: &Store,
    ) -> Result<(), Failure> {
        self.write(rights)?;
        let nats = nats.and_then(|status| i32::try_from(status.pid()).ok());
        if let Some(pid) = nats.and_then(Pid::from_raw) {
            // Reads its configuration anew.
            let _ = kill_process(pid, Signal::HUP);
        }
        if self.servers.redis.is_none() {
            return Ok(());
        }
        for (role, user) in redis::users(rights) {
            let password = self.keys.password(role);
            let password = password.map_err(|e| Failure::failed(format_args!("{e}")))?;
            let rules = [user.rules, vec![format!(">{password}")]].concat();
            let set = store.set_user(&user.name, &rules).await;
            set.map_err(Failure::silent)?;
        }
        Ok(())
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    fs::rename(&beside, path)
}
