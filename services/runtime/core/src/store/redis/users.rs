//! Users of Redis, and what they may.

use std::collections::{BTreeSet, HashMap};

use redis::{FromRedisValue, RedisError, Value, cmd, from_redis_value};

use super::Store;
use crate::store::StoreError;
use crate::store::ledger::{EDGES, EDGES_AT};
use crate::store::mark::OutboxName;

/// Commands on rows and on the values of blind operations.
const ON_ROWS: [&str; 7] = ["HSET", "HDEL", "DEL", "SET", "ZADD", "SADD", "PFADD"];
/// Commands of a commit that the user `default` must be allowed, with what follows the key.
const REPLAYED: [(&str, &[&str]); 4] = [
    ("SET", &["x"]),
    ("HSET", &["x", "x"]),
    ("ZADD", &["1", "x"]),
    ("DEL", &[]),
];

/// User as Redis has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUser {
    /// Whether it lets anybody in.
    pub is_on: bool,
    /// Whether it lets in whoever gives its name, with any password.
    pub is_open: bool,
    /// Whether it has further rights of another kind, `(...)` of Redis 7.
    pub has_selectors: bool,
    /// Hashes of its passwords, in hex.
    pub passwords: BTreeSet<String>,
    /// Rules of keys, channels and commands that give it something, as `ACL SETUSER` takes them.
    pub rights: BTreeSet<String>,
}

impl Store {
    /// Refuses a user who may not do all that a commit of a function does, before the first one: a refusal in its middle keeps
    /// what was written before. `tables` are those that it changes; `*` among them is not looked at.
    ///
    /// # Errors
    /// The first command and key that are refused, or a server that does not answer.
    pub async fn check_rights(&self, function: &str, tables: &[&str]) -> Result<(), StoreError> {
        let keys = &self.keys;
        let name = OutboxName::new(0);
        let mut wanted: Vec<(&str, String)> = vec![
            ("SET", self.own.key(keys, function)),
            ("SET", keys.outbox(name, function)),
            ("DEL", keys.outbox(name, function)),
            ("ZADD", keys.outbox_index(function)),
            ("ZREM", keys.outbox_index(function)),
            ("HSET", keys.marks(function)),
            ("HGET", keys.marks(function)),
            ("HSET", keys.regressed(function)),
            ("HSET", keys.flow("x")),
            ("SMEMBERS", keys.listeners("x")),
            ("HINCRBY", keys.of(EDGES)),
            ("HSET", keys.of(EDGES_AT)),
        ];
        for table in tables.iter().filter(|table| **table != "*") {
            wanted.extend(ON_ROWS.map(|command| (command, keys.row(table, "x"))));
        }
        let mut ask = cmd("FCALL_RO");
        ask.arg(self.function.replace("commit", "may")).arg(0);
        for (command, key) in &wanted {
            ask.arg(command).arg(key);
        }
        let refused: Vec<String> = ask.query_async(&mut self.connection()).await?;
        match refused.as_slice() {
            [command, key] => Err(StoreError::refused(format!(
                "this user of Redis may not {command} {key}, which a commit of {function} does; `oncue rights {function}` \
                 shows all that it needs"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a server that would lose commits at its next start: Redis reads its own log as the user `default`, and leaves
    /// out each transaction that this user may not do, even where it is off. Where this connection's user may not ask, nothing is refused.
    ///
    /// # Errors
    /// The command that would be left out, with the server's words and what mends it.
    pub async fn check_replay(&self) -> Result<(), StoreError> {
        let key = self.keys.row("x", "x");
        for (command, rest) in REPLAYED {
            let mut ask = cmd("ACL");
            ask.arg("DRYRUN").arg("default").arg(command);
            ask.arg(&key).arg(rest);
            let answer: Result<String, _> = ask.query_async(&mut self.connection()).await;
            if let Ok(answer) = answer
                && answer != "OK"
            {
                return Err(StoreError::refused(format!(
                    "Redis would leave out every commit of its log when it starts: it reads it as the user default, and {answer}; \
                     give that user all rights, which lets nobody in while it is off: ACL SETUSER default ~* &* +@all, \
                     and the same in the aclfile"
                )));
            }
        }
        Ok(())
    }

    /// Names of all users.
    pub async fn user_names(&self) -> Result<Vec<String>, StoreError> {
        Ok(cmd("ACL")
            .arg("USERS")
            .query_async(&mut self.connection())
            .await?)
    }

    /// User of a name, if there is one.
    pub async fn user(&self, name: &str) -> Result<Option<StoredUser>, StoreError> {
        let mut ask = cmd("ACL");
        ask.arg("GETUSER").arg(name);
        let answer: Option<HashMap<String, Value>> =
            ask.query_async(&mut self.connection()).await?;
        let Some(mut answer) = answer else {
            return Ok(None);
        };
        let flags: Vec<String> = part(&mut answer, "flags")?;
        let passwords: Vec<String> = part(&mut answer, "passwords")?;
        let mut rights = BTreeSet::new();
        for kind in ["keys", "channels", "commands"] {
            let rules: Option<String> = part(&mut answer, kind)?;
            let rules = rules.unwrap_or_default();
            // All is taken away first.
            let given = rules.split_whitespace().filter(|rule| *rule != "-@all");
            rights.extend(given.map(str::to_owned));
        }
        let selectors: Vec<Value> = part(&mut answer, "selectors")?;
        Ok(Some(StoredUser {
            is_on: flags.iter().any(|flag| flag == "on"),
            is_open: flags.iter().any(|flag| flag == "nopass"),
            has_selectors: !selectors.is_empty(),
            passwords: passwords.into_iter().collect(),
            rights,
        }))
    }

    /// Rights that come of rules, as this server puts them: each version sums commands up in its own way. A user of that name is
    /// there for a moment, to whom nobody can log in.
    pub async fn described(&self, name: &str, rules: &[String]) -> Result<StoredUser, StoreError> {
        let off = ["reset".to_owned(), "off".to_owned()];
        self.set_user(name, &[&off, rules].concat()).await?;
        let described = self.user(name).await;
        self.remove_user(name).await?;
        described?
            .ok_or_else(|| StoreError::refused(format!("somebody has removed the user {name}")))
    }

    /// Gives a user these rules, of `ACL SETUSER`, from its next command on; nobody is disconnected.
    pub async fn set_user(&self, name: &str, rules: &[String]) -> Result<(), StoreError> {
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg(name).arg(rules);
        Ok(set.query_async(&mut self.connection()).await?)
    }

    /// Removes a user, and cuts its connections.
    pub async fn remove_user(&self, name: &str) -> Result<(), StoreError> {
        let mut remove = cmd("ACL");
        remove.arg("DELUSER").arg(name);
        Ok(remove.exec_async(&mut self.connection()).await?)
    }
}

/// Part of the answer to `ACL GETUSER`.
fn part<T: FromRedisValue>(
    answer: &mut HashMap<String, Value>,
    name: &str,
) -> Result<T, RedisError> {
    Ok(from_redis_value(answer.remove(name).unwrap_or(Value::Nil))?)
}
