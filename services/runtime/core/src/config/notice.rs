//! `[notice.NAME]`: who is told when something is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SecretSource, Span};

/// `[notice.NAME]`: a receiver of notices, which the console sends as one POST after [Standard Webhooks 1.0.0], or by mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticeConfig {
    /// Address of the POST; `http://` for this machine alone. Either this or `mail`.
    pub url: Option<String>,
    /// Secrets it may check the signature with: one, or two while one replaces the other. Each is `whsec_` and base64.
    #[serde(default)]
    pub secrets: Vec<SecretSource>,
    /// Mail in place of a POST.
    pub mail: Option<MailConfig>,
    /// Kinds it is told of. Default all.
    #[serde(default)]
    pub about: BTreeSet<NoticeKind>,
    /// Least time between two messages; what happens meanwhile is in one. Default 1 min.
    #[serde(default = "minute")]
    pub every: Span,
}

/// `mail` of a [`NoticeConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// Server: `smtps://HOST:465` with TLS from the first byte on, or `smtp://HOST:587`, where TLS is required before
    /// anything is sent, but for this machine.
    pub server: String,
    /// User to log in as. Default none.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<SecretSource>,
    /// Sender.
    pub from: String,
    /// Receivers, at least one.
    pub to: Vec<String>,
}

/// Kind of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// Events were set aside for a cause that had no letters before.
    Letters,
    /// A function stands still, fails, or falls behind.
    Functions,
    /// NATS or Redis does not answer.
    Servers,
    /// Redis or NATS went back in time.
    Store,
    /// A certificate ends soon.
    Certificates,
}

impl NoticeKind {
    /// Name in `about`, and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Letters => "letters",
            Self::Functions => "functions",
            Self::Servers => "servers",
            Self::Store => "store",
            Self::Certificates => "certificates",
        }
    }
}

fn minute() -> Span {
    Span(Duration::from_mins(1))
}

impl NoticeConfig {
    /// Whether it wants to know of such.
    pub fn wants(&self, kind: NoticeKind) -> bool {
        self.about.is_empty() || self.about.contains(&kind)
    }

    /// Refuses a receiver that cannot be told, or in the open.
    ///
    /// # Errors
    /// A sentence about the entry.
    pub(crate) fn check(&self) -> Result<(), String> {
        match (&self.url, &self.mail) {
            (Some(url), None) => self.check_webhook(url),
            (None, Some(mail)) if self.secrets.is_empty() => mail.check(),
            (None, Some(_)) => Err("secrets are for a url: mail is not signed".to_owned()),
            _ => Err("has a url or a mail, one of both".to_owned()),
        }
    }

    fn check_webhook(&self, url: &str) -> Result<(), String> {
        let host = host(
            url,
            ["https://", "http://"],
            "https://hooks.example.org/oncue",
        )
        .map_err(|why| format!("url {why}"))?;
        if url.starts_with("http://") && !is_here(host) {
            return Err(format!(
                "url goes to {host} in the open; write https://, or http:// for this machine alone"
            ));
        }
        if !(1..=2).contains(&self.secrets.len()) {
            return Err("has one secret, or two while one replaces the other".to_owned());
        }
        Ok(())
    }
}

impl MailConfig {
    /// Whether TLS may be left out: nobody else hears what this machine says to itself.
    pub fn is_here(&self) -> bool {
        let host = host(&self.server, ["smtps://", "smtp://"], "");
        host.is_ok_and(is_here)
    }

    fn check(&self) -> Result<(), String> {
        host(
            &self.server,
            ["smtps://", "smtp://"],
            "smtps://mail.example.org:465",
        )
        .map_err(|why| format!("mail.server {why}"))?;
        if self.user.is_some() != self.password.is_some() {
            return Err("mail has user and password, or none of both".to_owned());
        }
        if self.to.is_empty() {
            return Err("mail.to names nobody".to_owned());
        }
        Ok(())
    }
}

/// Host of an address.
fn host<'u>(url: &'u str, schemes: [&str; 2], example: &str) -> Result<&'u str, String> {
    let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    let Some(authority) = authority.filter(|authority| !authority.is_empty()) else {
        return Err(format!("is no address like {example:?}"));
    };
    if authority.contains('@') {
        return Err("holds a password, which does not belong in a file".to_owned());
    }
    Ok(authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host))
}

fn is_here(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}
