//! One event as one signed HTTP request, in the form of [Standard Webhooks 1.0.0].
//!
//! The address comes from whoever configures the function, its name from a DNS somebody else may run, its answer from
//! a stranger. So the address connected to is the one that was checked, an answer is read no further than a message
//! needs, nothing is followed anywhere, and what is secret is in no message.

mod address;
mod post;
mod settings;
mod signature;
mod target;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use oncue::{Result, reject};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use post::{Answer, Call};
pub use settings::{Delivery, LONGEST_TIMEOUT, Settings};
use signature::Signer;
use target::Target;

/// Where requests go and how they are signed. Not `Debug`: it holds secrets.
pub struct Webhook {
    target: Target,
    signer: Signer,
    /// For https alone.
    tls: Option<TlsConnector>,
    allow_private: bool,
    timeout: Duration,
}

impl Webhook {
    /// Sends `body` once, under an `id` that stays the same however often it is sent.
    ///
    /// # Errors
    /// To be tried again where time may help, rejected where only a person can.
    pub async fn deliver(&self, id: &str, body: String) -> Result<()> {
        let timestamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let signature = self.signer.sign(id, timestamp, &body);
        let call = Call {
            target: &self.target,
            tls: self.tls.as_ref(),
            allow_private: self.allow_private,
            deadline: Instant::now() + self.timeout,
            timeout: self.timeout,
        };
        verdict(
            &self.target,
            call.post(id, timestamp, &signature, body).await?,
        )
    }
}

fn verdict(target: &Target, answer: Answer) -> Result<()> {
    let Answer { status, piece } = answer;
    if status.is_success() {
        return Ok(());
    }
    let mut why = format!("{target} answered {status}");
    if status.is_redirection() {
        why.push_str("; redirects are not followed: set WEBHOOK_URL to where it points");
    }
    if !piece.is_empty() {
        why = format!("{why}: {piece}");
    }
    Err(if worth_another_try(status) {
        later(why)
    } else {
        reject(why)
    })
}

/// 409 is among them: it says that an earlier attempt under the same key is still being worked on
/// [draft-ietf-httpapi-idempotency-key-header-07 section 2.7].
fn worth_another_try(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

/// A failure that may pass.
fn later(why: impl Into<String>) -> oncue::error::Error {
    std::io::Error::other(why.into()).into()
}

#[cfg(test)]
mod tests;
