//! Locks on servers that are started here: accounts in NATS and users in Redis that follow from what the functions declare,
//! with credentials made here. A server that somebody else has set up is used as it is.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncue_admin::stores::rights::accounts::{self, IMPORTED_API, PublicKeys};
use oncue_admin::stores::rights::keys::{Former, KeyFolder, replace};
use oncue_admin::stores::rights::{Rights, Role, users};
use oncue_core::bus::Bus;
use oncue_core::config::{Config, LockedServers, NatsServer};
use oncue_core::store::Store;
use rustix::process::{Pid, Signal, kill_process};

use super::process::ProcessStatus;
use super::servers::Server;
use crate::exit::Failure;

/// Folder of the credentials, in the data folder.
const FOLDER: &str = "keys";
/// Files of the servers, in the folder of the credentials.
const NATS_FILE: &str = "nats.conf";
const REDIS_FILE: &str = "redis.acl";

/// Time in which old and new credentials are good together: nats-server reads its file soon after the signal.
const OVERLAP: Duration = Duration::from_secs(2);

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
        let folder = std::path::absolute(data.join(FOLDER)).ok()?;
        let servers = LockedServers {
            nats: nats
                .is_started_here()
                .then(|| config.nats.url.expose().to_owned()),
            api_prefix: IMPORTED_API.to_owned(),
            inbox_prefix: config.nats.inbox_prefix.clone(),
            redis: redis
                .is_started_here()
                .then(|| config.redis.url.expose().to_owned()),
            shared: false,
        };
        (servers.nats.is_some() || servers.redis.is_some()).then(|| Self {
            keys: KeyFolder::new(folder),
            servers,
            nats_base: nats.configuration().map(Path::to_owned),
        })
    }

    /// Forgets the servers of a run before, which has ended: nobody is to log in to those of this one because of them.
    pub fn forget(data: &Path) {
        LockedServers::forget(&data.join(FOLDER));
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
        self.written(rights, &BTreeMap::new())
            .map_err(|e| unmade(&e))
    }

    /// Writes what the servers read; credentials of before are good as well.
    fn written(&self, rights: &Rights, former: &BTreeMap<Role, Former>) -> io::Result<()> {
        let mut public_keys = PublicKeys::new();
        for role in rights.roles() {
            let mut keys = vec![self.keys.public_key(role)?];
            keys.extend(former.get(role).map(|former| former.public_key.clone()));
            public_keys.insert(role.clone(), keys);
        }
        if let Some(base) = &self.nats_base {
            let accounts = accounts::configuration(rights, &public_keys);
            let base = fs::read_to_string(base)?;
            replace(&self.nats_file(), &format!("{base}\n{accounts}"))?;
        }
        let text = users::file(&users::users(rights), |role| self.passwords(role, former))?;
        replace(&self.redis_file(), &text)?;
        self.servers.write(self.keys.path())
    }

    /// Configuration of a role's process.
    pub fn log_in(&self, config: &Config, role: &Role) -> Config {
        let mut config = config.clone();
        config.log_in_from(self.keys.path(), &self.servers, role);
        config
    }

    /// Passwords of a role that are good.
    fn passwords(&self, role: &Role, former: &BTreeMap<Role, Former>) -> io::Result<Vec<String>> {
        let mut passwords = vec![self.keys.password(role)?];
        passwords.extend(former.get(role).map(|former| former.password.clone()));
        Ok(passwords)
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
        self.give(rights, &BTreeMap::new(), nats, store).await
    }

    /// Replaces all credentials. For a moment both are good, so that a connection that is made meanwhile finds either; then
    /// nats-server cuts those with the old ones, and each comes back with what its file holds.
    ///
    /// # Errors
    /// A file that cannot be written, or a Redis that refuses.
    pub async fn rotate(
        &self,
        rights: &Rights,
        nats: Option<&ProcessStatus>,
        store: &Store,
    ) -> Result<(), Failure> {
        let mut former = BTreeMap::new();
        // Nobody holds a key of the public, and the server takes no other one while it runs.
        for role in rights.roles().filter(|role| **role != Role::Public) {
            former.insert(
                role.clone(),
                self.keys.replace(role).map_err(|e| unmade(&e))?,
            );
        }
        let given = self.give(rights, &former, nats, store).await;
        tokio::time::sleep(OVERLAP).await;
        let takes_new = given.is_ok() && self.lets_in().await;
        if !takes_new {
            for (role, former) in &former {
                self.keys.put_back(role, former).map_err(|e| unmade(&e))?;
            }
        }
        self.give(rights, &BTreeMap::new(), nats, store).await?;
        if takes_new {
            // Until those who were cut off have come back, this program among them.
            tokio::time::sleep(OVERLAP).await;
            return Ok(());
        }
        given?;
        Err(Failure::failed(
            "nats-server did not take the new keys over, so the old ones are in force; its log says why",
        ))
    }

    /// Whether NATS lets in who has the operator's key as it is now.
    async fn lets_in(&self) -> bool {
        let Some(url) = &self.servers.nats else {
            return true;
        };
        let mut server = NatsServer::from(url);
        server.credentials = Some(self.keys.nats(&Role::Operator));
        let connected = Bus::connect(server, "oncue-rotate");
        matches!(tokio::time::timeout(OVERLAP, connected).await, Ok(Ok(_)))
    }

    async fn give(
        &self,
        rights: &Rights,
        former: &BTreeMap<Role, Former>,
        nats: Option<&ProcessStatus>,
        store: &Store,
    ) -> Result<(), Failure> {
        self.written(rights, former).map_err(|e| unmade(&e))?;
        if self.servers.redis.is_some() {
            let users = users::users(rights);
            let gone = store.user_names().await.map_err(Failure::silent)?;
            let functions = format!("{}.fn.", rights.app);
            for name in gone.iter().filter(|name| name.starts_with(&functions)) {
                if users.iter().all(|(_, user)| user.name != *name) {
                    store.remove_user(name).await.map_err(Failure::silent)?;
                }
            }
            for (role, user) in users {
                let passwords = self.passwords(role, former).map_err(|e| unmade(&e))?;
                let set = store
                    .set_user(&user.name, &user.rules_with(&passwords))
                    .await;
                set.map_err(Failure::silent)?;
            }
        }
        let nats = nats.and_then(|status| i32::try_from(status.pid()).ok());
        if let Some(pid) = nats.and_then(Pid::from_raw) {
            // Reads its configuration anew.
            let _ = kill_process(pid, Signal::HUP);
        }
        Ok(())
    }
}

fn unmade(e: &io::Error) -> Failure {
    Failure::failed(format_args!("cannot make the credentials: {e}"))
}
