//! Roles: parties that come to the servers of an app, each with credentials and rights of its own.

use std::fmt;

use crate::app::AppName;

/// Party that comes to the servers of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `oncue`, with every right.
    Operator,
    /// The console; an operator by another name, whose credentials can be taken back alone.
    Console,
    /// The gateways.
    Gateway,
    /// The workers of a function.
    Function(String),
    /// Clients without credentials.
    Public,
}

impl Role {
    /// Name of its credentials, `operator` or `fn.count-views`.
    pub fn name(&self) -> String {
        match self {
            Self::Operator => "operator".to_owned(),
            Self::Console => "console".to_owned(),
            Self::Gateway => "gateway".to_owned(),
            Self::Function(name) => format!("fn.{name}"),
            Self::Public => "public".to_owned(),
        }
    }

    /// Account in NATS, `shop:fn:count-views`. Without a dot: the server has it as one token of the subjects on which it answers
    /// questions about an account, and would answer none otherwise.
    pub fn account(&self, app: &AppName) -> String {
        match self {
            Self::Operator | Self::Console => app.to_string(),
            other => format!("{app}:{}", other.name().replace('.', ":")),
        }
    }

    /// User in Redis.
    pub fn user(&self, app: &AppName) -> String {
        format!("{app}.{}", self.name())
    }

    /// Whether it may do everything in the app's own account.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Operator | Self::Console)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(name) => write!(f, "function {name}"),
            other => f.write_str(&other.name()),
        }
    }
}
