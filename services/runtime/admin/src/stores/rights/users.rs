//! Rights as users of Redis.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;

use oncue_core::app::AppName;
use oncue_core::store::{Store, StoreError};
use sha2::{Digest as _, Sha256};

use super::{Access, Grant, Rights, Role};

/// Commands on keys, and the few without: named one by one, since a category also holds what modules bring. Keys decide who
/// may do what; nothing here looks for keys, changes settings or loads code.
const COMMANDS: [&str; 71] = [
    "auth",
    "hello",
    "ping",
    "time",
    "role",
    "multi",
    "exec",
    "discard",
    "info",
    "function|list",
    "fcall",
    "fcall_ro",
    "exists",
    "type",
    "del",
    "unlink",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "persist",
    "ttl",
    "pttl",
    "get",
    "set",
    "setnx",
    "mget",
    "incr",
    "incrby",
    "decr",
    "decrby",
    "strlen",
    "append",
    "getrange",
    "setrange",
    "getbit",
    "setbit",
    "bitcount",
    "bitfield",
    "hget",
    "hset",
    "hsetnx",
    "hmget",
    "hgetall",
    "hlen",
    "hdel",
    "hkeys",
    "hvals",
    "hexists",
    "hincrby",
    "zadd",
    "zrem",
    "zscore",
    "zcard",
    "zcount",
    "zincrby",
    "zrange",
    "zrevrange",
    "zrangebyscore",
    "zremrangebyrank",
    "zremrangebyscore",
    "smembers",
    "sismember",
    "scard",
    "sadd",
    "srem",
    "pfadd",
    "pfcount",
    "rpush",
    "ltrim",
    "lrange",
];

/// Rules of the user `default`. It is off, and lets nobody in; but Redis reads its own log as this user when it starts, and
/// leaves out each commit that the user may not do.
const DEFAULT: &str = "reset off ~* &* +@all";

/// User of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Rules behind `ACL SETUSER NAME`, from `reset` on, without passwords.
    pub rules: Vec<String>,
}

impl User {
    /// Rules with passwords, of which each is good; as hashes, since Redis asks for no more.
    pub fn rules_with(&self, passwords: &[String]) -> Vec<String> {
        let hashes = passwords
            .iter()
            .map(|password| format!("#{}", hash(password)));
        self.rules.iter().cloned().chain(hashes).collect()
    }

    /// Rights as a server puts them.
    pub(super) async fn described_by(
        &self,
        store: &Store,
        app: &AppName,
    ) -> Result<BTreeSet<String>, StoreError> {
        let said = ["reset", "on"];
        let rules = self.rules.iter().filter(|rule| !said.contains(&&***rule));
        let rules: Vec<String> = rules.cloned().collect();
        let described = store.described(&format!("{app}.check"), &rules).await?;
        Ok(described.rights)
    }
}

/// Hash of a password, in hex, as Redis keeps it.
pub(super) fn hash(password: &str) -> String {
    let digest = Sha256::digest(password);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Commands of operator and console on a server that other apps use as well, besides [`COMMANDS`]: all of them have to do with keys of
/// their own, but for the names of others' that a scan says. Nobody loads code there, which would run with the rights of whoever
/// calls it, changes settings or users, or copies the whole of it.
const TENANT: [&str; 4] = ["scan", "lpush", "restore", "memory|usage"];

/// Users of an app, by role.
pub fn users(rights: &Rights) -> Vec<(&Role, User)> {
    let app = &rights.app;
    let users = rights.grants.iter();
    users
        .filter_map(|grant| Some((&grant.role, user(app, grant)?)))
        .collect()
}

/// Users of an app on a server that other apps use as well.
pub fn tenants(rights: &Rights) -> Vec<(&Role, User)> {
    let mut users = users(rights);
    for (_, user) in users.iter_mut().filter(|(role, _)| role.is_trusted()) {
        let own = [
            "reset".to_owned(),
            "on".to_owned(),
            format!("~{}:*", rights.app),
        ];
        let commands = COMMANDS.iter().chain(&TENANT);
        let commands = commands.map(|command| format!("+{command}"));
        user.rules = own.into_iter().chain(commands).collect();
    }
    users
}

/// Text of an `aclfile`: these users, and nobody without a name. Passwords, of 256 random bits, stand in it as hashes, which
/// let nobody in.
///
/// # Errors
/// A password cannot be had.
pub fn file(
    users: &[(&Role, User)],
    passwords: impl Fn(&Role) -> io::Result<Vec<String>>,
) -> io::Result<String> {
    Ok(default_user() + &lines(users, passwords)?)
}

/// Line of the user `default`.
pub fn default_user() -> String {
    format!("user default {DEFAULT}\n")
}

/// Lines of these users alone.
///
/// # Errors
/// A password cannot be had.
pub fn lines(
    users: &[(&Role, User)],
    passwords: impl Fn(&Role) -> io::Result<Vec<String>>,
) -> io::Result<String> {
    let mut text = String::new();
    for (role, user) in users {
        let passwords = passwords(role)?;
        let rules = user.rules_with(&passwords).join(" ");
        let _ = writeln!(text, "user {} {rules}", user.name);
    }
    Ok(text)
}

fn user(app: &AppName, grant: &Grant) -> Option<User> {
    let keys = grant.keys.as_ref()?;
    // A user that is there already keeps neither passwords nor rights of before.
    let mut rules = vec!["reset".to_owned(), "on".to_owned()];
    if grant.role.is_trusted() {
        rules.extend(["~*", "&*", "+@all"].map(str::to_owned));
    } else {
        rules.extend(keys.iter().map(|key| {
            let kind = match key.access {
                Access::Read => "%R~",
                Access::Full => "~",
            };
            format!("{kind}{app}:{}", key.pattern)
        }));
        rules.extend(COMMANDS.map(|command| format!("+{command}")));
    }
    Some(User {
        name: grant.role.user(app),
        rules,
    })
}
