//! Name of an app, and what carries it on the servers, so that several apps may share them without touching each other.
//!
//! | what | name |
//! |---|---|
//! | consumer of a function | `APP_FUNCTION` |
//! | events redriven to a function | `STREAM.redrive.APP_FUNCTION` |
//! | dead letters | `dlq.APP.FUNCTION` |
//! | schedules | `timer.schedule.APP.NAME` |
//! | delayed events of a function | `timer.delayed.APP.FUNCTION.TYPE.ID` |
//! | files | bucket `APP_files` |
//! | secret, in NATS | key `APP.id-secret` of the bucket `oncue` |
//! | metadata of a stream | `oncue.app`: the app that declared it, and that alone may change it |
//! | metadata in `$SRV` answers | `oncue.app` |
//! | every key in Redis | begins with `APP:` |

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Name of an app: 1 to 32 of a-z, 0-9 and `-`, a letter first. Cheap to clone.
///
/// `app` by default, for programs that have no `oncue.toml`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(Arc<str>);

/// Metadata that says whose a stream or a service is.
pub const OWNER: &str = "oncue.app";

/// Longest name, in bytes.
const LONGEST: usize = 32;
/// Second token of the subjects of the platform's own events about letters, which no app may have.
const RESERVED: &str = "letter";

impl AppName {
    /// Name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of a function's consumer.
    pub fn consumer(&self, function: &str) -> String {
        format!("{self}_{function}")
    }

    /// Function of a consumer; `None` for one of another app, or of nobody we know.
    pub fn function_of<'c>(&self, consumer: &'c str) -> Option<&'c str> {
        consumer.strip_prefix(self.as_str())?.strip_prefix('_')
    }

    /// Subject of the dead letters of a function.
    pub fn letters(&self, function: &str) -> String {
        format!("dlq.{self}.{function}")
    }

    /// Subject of a delayed event that a function has emitted; `*` for any id. Its type is in it, so that rights to the subject
    /// say what a function may delay: [`event::read`](oncue_proto::event::read) holds what is fired to that.
    pub fn delayed(&self, function: &str, ty: &str, id: &str) -> String {
        format!("timer.delayed.{self}.{function}.{ty}.{id}")
    }

    /// Subjects of all its delayed events.
    pub fn all_delayed(&self) -> String {
        format!("timer.delayed.{self}.>")
    }

    /// Object store bucket of its files.
    pub fn bucket(&self) -> String {
        format!("{self}_files")
    }

    /// Function that a dead letter is of, by its subject; `None` for one of another app, and for what is no letter.
    pub fn function_of_letter<'s>(&self, subject: &'s str) -> Option<&'s str> {
        let rest = subject.strip_prefix("dlq.")?.strip_prefix(self.as_str())?;
        rest.strip_prefix('.')
            .filter(|function| !function.contains('.'))
    }
}

impl FromStr for AppName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let is_name = (1..=LONGEST).contains(&name.len())
            && name.bytes().all(is_plain)
            && name.as_bytes()[0].is_ascii_lowercase();
        if name == RESERVED {
            return Err(format!("no app may be called {RESERVED:?}"));
        }
        if is_name {
            return Ok(Self(name.into()));
        }
        Err(format!(
            "{name:?} is no name of an app: 1 to {LONGEST} of a-z, 0-9 and -, a letter first"
        ))
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

impl TryFrom<String> for AppName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.as_str().to_owned()
    }
}

impl Default for AppName {
    fn default() -> Self {
        Self("app".into())
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let (shop, sh): (AppName, AppName) = ("shop".parse().unwrap(), "sh".parse().unwrap());
        assert_eq!(shop.function_of(&shop.consumer("count")), Some("count"));
        assert_eq!(sh.function_of(&shop.consumer("count")), None);
        assert_eq!(sh.function_of("sh"), None);
        assert_eq!(
            shop.function_of_letter(&shop.letters("count")),
            Some("count")
        );
        assert_eq!(sh.function_of_letter(&shop.letters("count")), None);
        assert_eq!(shop.function_of_letter("dlq.shop.count.more"), None);
        assert_eq!(shop.function_of_letter("dlq.shop"), None);
    }

    #[test]
    fn a_name_is_a_token() {
        for good in ["a", "shop-2", &"x".repeat(32)] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "2shop",
            "-shop",
            "Shop",
            "a_b",
            "a.b",
            "a b",
            "letter",
            &"x".repeat(33),
        ] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }
}
