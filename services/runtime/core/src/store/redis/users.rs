//! Users of Redis, and what they may.

use redis::cmd;

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

    /// Gives a user these rules, of `ACL SETUSER`, from its next command on; nobody is disconnected.
    pub async fn set_user(&self, name: &str, rules: &[String]) -> Result<(), StoreError> {
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg(name).arg(rules);
        Ok(set.query_async(&mut self.connection()).await?)
    }
}
