//! A mail.

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use oncue_core::config::{Config, MailConfig};

use super::message::Message;

/// Characters of a subject.
const MAX_SUBJECT: usize = 120;

/// Mailboxes, and the server that leads to them.
pub struct Mail {
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Mail {
    /// # Errors
    /// A sentence on an address or the password.
    pub fn new(config: &MailConfig, all: &Config) -> Result<Self, String> {
        // `smtp` is without TLS in this library; a server elsewhere has to offer it before anything is said.
        let mut url = config.server.clone();
        if url.starts_with("smtp://") && !config.is_here() {
            url.push_str("?tls=required");
        }
        let server = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url);
        let mut server = server.map_err(|e| format!("mail.server: {e}"))?;
        if let (Some(user), Some(source)) = (&config.user, &config.password) {
            let credentials = Credentials::new(user.clone(), source.read(all)?);
            server = server.credentials(credentials);
        }
        let to = config.to.iter().map(|address| mailbox("to", address));
        Ok(Self {
            server: server.build(),
            from: mailbox("from", &config.from)?,
            to: to.collect::<Result<_, _>>()?,
        })
    }

    pub async fn send(&self, message: &Message) -> Result<(), String> {
        let text = message.text();
        let first = text.lines().next().unwrap_or_default();
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(first.chars().take(MAX_SUBJECT).collect::<String>())
            // The same however often it is sent.
            .message_id(Some(format!("<{}@oncue>", message.id())));
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        let mail = mail.body(text).map_err(|e| e.to_string())?;
        let sent = self.server.send(mail).await;
        sent.map(drop)
            .map_err(|e| format!("the mail was not taken: {e}"))
    }
}

fn mailbox(which: &str, address: &str) -> Result<Mailbox, String> {
    address
        .parse()
        .map_err(|e| format!("mail.{which} {address:?}: {e}"))
}
