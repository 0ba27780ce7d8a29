//! One receiver of notices: told by a POST or by mail, and again until it is taken.

use oncue_core::config::{Config, NoticeConfig, NoticeKind};

use super::mail::Mail;
use super::message::Message;
use super::webhook::Webhook;

/// Waiting after the first failure, which doubles, and at most.
const FIRST_WAIT_MS: u64 = 5000;
const LONGEST_WAIT_MS: u64 = 10 * 60_000;

/// Way to a receiver.
enum Way {
    Webhook(Webhook),
    Mail(Mail),
}

/// A receiver, ready to be told.
pub struct Receiver {
    pub name: String,
    config: NoticeConfig,
    way: Way,
    /// Nothing is sent before, Unix milliseconds.
    next: u64,
    failures: u32,
}

impl Receiver {
    /// # Errors
    /// A sentence on what is wrong with the way to it.
    pub fn new(name: &str, config: &NoticeConfig, all: &Config) -> Result<Self, String> {
        let way = match (&config.url, &config.mail) {
            (Some(url), _) => Way::Webhook(Webhook::new(url, &config.secrets, all)?),
            (None, Some(mail)) => Way::Mail(Mail::new(mail, all)?),
            (None, None) => return Err("has neither url nor mail".to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            way,
            next: 0,
            failures: 0,
        })
    }

    pub fn wants(&self, kind: NoticeKind) -> bool {
        self.config.wants(kind)
    }

    /// Whether it may be told something now.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.next
    }

    /// Sends it; whether it was taken. What was not is tried again, later each time.
    pub async fn tell(&mut self, message: &Message, now: u64) -> bool {
        let told = match &self.way {
            Way::Webhook(webhook) => webhook.send(message, now).await,
            Way::Mail(mail) => mail.send(message).await,
        };
        match told {
            Ok(()) => {
                self.failures = 0;
                self.next = now + self.config.every.0.as_millis() as u64;
                true
            }
            Err(why) => {
                let wait = FIRST_WAIT_MS << self.failures.min(12);
                self.next = now + wait.min(LONGEST_WAIT_MS);
                self.failures += 1;
                tracing::warn!(
                    "[notice.{}] was not told, for the {}. time: {why}",
                    self.name,
                    self.failures
                );
                false
            }
        }
    }
}
