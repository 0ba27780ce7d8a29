//! Folder of credentials that `oncue up` makes for servers that it starts, for programs that somebody starts beside it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, INBOX, Role, ServerUrl};

/// Folder of the data of `oncue up`, beside `oncue.toml`, and of the credentials in it.
const DATA: &str = ".oncue";
const FOLDER: &str = "keys";
/// File in the data folder with the path of another one, where an `oncue up` of this app keeps its data.
const ELSEWHERE: &str = "elsewhere";
/// File in it that says which servers its credentials are for.
const SERVERS: &str = "servers.json";

/// User of sentinels as which programs of Oncue ask for the primary.
pub const SENTINEL_USER: &str = "oncue";

/// Servers that want credentials, as the URLs that lead to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedServers {
    /// NATS.
    pub nats: Option<String>,
    /// Beginning of the API's subjects for all but operators.
    pub api_prefix: String,
    /// Beginning of the subjects at which answers are heard.
    #[serde(default = "inbox")]
    pub inbox_prefix: String,
    /// Redis.
    pub redis: Option<String>,
    /// Whether several apps use them, each with what is its own.
    #[serde(default)]
    pub shared: bool,
}

fn inbox() -> String {
    INBOX.to_owned()
}

impl LockedServers {
    /// Servers that a folder has credentials for.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read(folder.join(SERVERS)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes down for which servers the credentials in the folder are.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join(SERVERS), serde_json::to_vec(self)?)
    }

    /// Forgets them.
    pub fn forget(folder: &Path) {
        let _ = std::fs::remove_file(folder.join(SERVERS));
    }
}

impl Config {
    /// Takes the credentials of a role from where `oncue up` keeps them, where it runs servers that want some and
    /// nothing else was told: from the folder `.oncue/keys` beside the file, or from that of its `--data`.
    pub fn log_in(&mut self, role: &Role) {
        for folder in self.key_folders() {
            if let Some(servers) = LockedServers::read(&folder) {
                self.log_in_from(&folder, &servers, role);
            }
        }
    }

    /// Folder with the credentials of the app's `oncue up`, which need not be there.
    pub fn key_folder(&self) -> PathBuf {
        let folders = self.key_folders();
        let known = folders.iter().find(|folder| folder.is_dir());
        known.or(folders.last()).cloned().unwrap_or_default()
    }

    /// Folders where the credentials may be; whoever keeps them elsewhere came later than what lies beside the file.
    fn key_folders(&self) -> Vec<PathBuf> {
        let beside = self.beside(Path::new(DATA));
        let elsewhere = std::fs::read_to_string(beside.join(ELSEWHERE));
        let elsewhere = elsewhere.ok().map(PathBuf::from);
        let folders = elsewhere.into_iter().chain([beside]);
        folders.map(|data| data.join(FOLDER)).collect()
    }

    /// Forgets where an `oncue up` before kept its data.
    pub fn forget_elsewhere(&self) {
        let note = self.beside(Path::new(DATA)).join(ELSEWHERE);
        let _ = std::fs::remove_file(note);
    }

    /// Tells programs that are started beside `oncue.toml` where the credentials of its `oncue up` are.
    ///
    /// # Errors
    /// The file cannot be written; without it, commands have to be told in `[nats] credentials`.
    pub fn keep_elsewhere(&self, data: &Path) -> std::io::Result<()> {
        let beside = self.beside(Path::new(DATA));
        let data = std::path::absolute(data)?;
        if data == std::path::absolute(&beside)? {
            return Ok(());
        }
        std::fs::create_dir_all(&beside)?;
        std::fs::write(beside.join(ELSEWHERE), data.as_os_str().as_encoded_bytes())
    }

    /// Takes the credentials of a role from a folder, for those of the servers that are this configuration's.
    pub fn log_in_from(&mut self, folder: &Path, servers: &LockedServers, role: &Role) {
        let nats = &mut self.nats;
        if nats.credentials.is_none() && servers.nats.as_deref() == Some(nats.url.expose()) {
            nats.credentials = Some(file(folder, role, "nk"));
            if !role.is_trusted() {
                nats.api_prefix.clone_from(&servers.api_prefix);
                nats.inbox_prefix.clone_from(&servers.inbox_prefix);
            }
        }
        let redis = &mut self.redis;
        if redis.password_file.is_none() && servers.redis.as_deref() == Some(redis.url.expose()) {
            redis.password_file = Some(file(folder, role, "redis"));
            redis.url = redis.url.of_user(&role.user(&self.app));
            let password = file(folder, role, "sentinel");
            if redis.url.names_sentinels()
                && redis.sentinel_password_file.is_none()
                && !redis.url.says_who_asks_sentinels()
                && password.exists()
            {
                redis.sentinel_password_file = Some(password);
                redis.url = redis.url.known_to_sentinels();
            }
        }
    }
}

/// File with a secret of a role.
fn file(folder: &Path, role: &Role, kind: &str) -> PathBuf {
    folder.join(format!("{}.{kind}", role.name()))
}

impl ServerUrl {
    /// Sentinels of a URL that says nothing of who asks them, for the user of all programs of Oncue.
    fn known_to_sentinels(&self) -> Self {
        let url = self.expose();
        let sign = if url.contains('?') { '&' } else { '?' };
        format!("{url}{sign}sentinel_user={SENTINEL_USER}").into()
    }

    /// Whether a URL has the user or the password for sentinels.
    fn says_who_asks_sentinels(&self) -> bool {
        let parameters = self.expose().split_once('?').map(|(_, all)| all);
        let mut names = parameters.into_iter().flat_map(|all| all.split('&'));
        names.any(|one| one.starts_with("sentinel_user=") || one.starts_with("sentinel_pass="))
    }

    /// Server of a URL that names no user, for this one.
    fn of_user(&self, user: &str) -> Self {
        let url = self.expose();
        match url.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{user}@{rest}").into(),
            None => format!("{user}@{url}").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_be_called_after_sentinels() {
        for (url, says) in [
            ("redis+sentinel://redis_sentinel_1:26379/main", false),
            ("redis+sentinel://s1:26379/sentinel_user=x", false),
            ("redis+sentinel://s1:26379/main?db=1&sentinel_user=me", true),
            ("redis+sentinel://s1:26379/main?sentinel_pass=x", true),
        ] {
            assert_eq!(
                ServerUrl::from(url).says_who_asks_sentinels(),
                says,
                "{url}"
            );
        }
    }

    #[test]
    fn credentials_are_taken_for_the_servers_they_are_for_and_for_no_others() {
        let servers = LockedServers {
            nats: Some("nats://127.0.0.1:4222".to_owned()),
            api_prefix: "$JS.APX".to_owned(),
            inbox_prefix: INBOX.to_owned(),
            redis: Some("redis://127.0.0.1:6379".to_owned()),
            shared: false,
        };
        let folder = Path::new("/keys");
        let config = |env: &[(&str, &str)], role: &Role| {
            let find = |name: &str| {
                let found = env.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let mut config = Config::parse("[app]\nname = \"shop\"\n", None, find).expect("read");
            config.log_in_from(folder, &servers, role);
            config
        };
        let function = config(&[], &Role::Function("count".to_owned()));
        let seed = Path::new("/keys/fn.count.nk");
        assert_eq!(function.nats.credentials.as_deref(), Some(seed));
        assert_eq!(function.nats.api_prefix, "$JS.APX");
        let redis = function.redis.url.expose();
        assert_eq!(redis, "redis://shop.fn.count@127.0.0.1:6379");
        assert_eq!(config(&[], &Role::Operator).nats.api_prefix, "$JS.API");
        let elsewhere = config(
            &[
                ("ONCUE_NATS_URL", "nats://127.0.0.1:5000"),
                ("ONCUE_REDIS_URL", "redis://me@127.0.0.1:6379"),
            ],
            &Role::Operator,
        );
        assert_eq!(elsewhere.nats.credentials, None);
        assert_eq!(elsewhere.redis.password_file, None);
        let own = config(&[("ONCUE_NATS_CREDENTIALS", "/own.nk")], &Role::Operator);
        assert_eq!(own.nats.credentials.as_deref(), Some(Path::new("/own.nk")));
    }
}
