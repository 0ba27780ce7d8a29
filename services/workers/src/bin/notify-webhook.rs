//! Tells somebody outside of each accepted file: one signed POST to `WEBHOOK_URL`, in the form of Standard Webhooks,
//! sent again under the same id until it is taken or refused.
//!
//! `WEBHOOK_SECRET` is `whsec_` and 24 to 64 bytes in base64; several, separated by spaces, while one replaces
//! another. `WEBHOOK_TIMEOUT` (default 10 s) bounds one request. `WEBHOOK_ALLOW_PRIVATE=true` lets requests go to
//! addresses that are not of the public internet. `WEBHOOK_DELIVERY=at-most-once` sends one request for an event and
//! never a second: one that fails is a dead letter, and so is one that was interrupted, with the reason
//! `outcome_unknown`. Without an address the function hears every event and does nothing.

use std::process::ExitCode;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use oncue::{Context, Function, Result};
use oncue_app_events::files::FileAccepted;
use oncue_proto::Event;
use oncue_workers::webhook::{Delivery, LONGEST_TIMEOUT, Settings, Webhook};
use pbjson_types::Timestamp;
use serde::Serialize;

/// The body: what Standard Webhooks asks of a payload, and the same for every attempt.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    ty: &'static str,
    timestamp: Timestamp,
    data: &'a FileAccepted,
}

static WEBHOOK: OnceLock<Webhook> = OnceLock::new();

async fn notify_webhook(file: FileAccepted, _: &mut (), context: &Context) -> Result<()> {
    static SAID: Once = Once::new();
    let Some(webhook) = WEBHOOK.get() else {
        SAID.call_once(|| {
            tracing::info!("WEBHOOK_URL is not set: nobody is notified of accepted files");
        });
        return Ok(());
    };
    if context.is_dry_run() {
        return Ok(());
    }
    let message = Message {
        ty: FileAccepted::TYPE,
        timestamp: context.time(),
        data: &file,
    };
    webhook
        .deliver(
            &context.idempotency_key("notify"),
            serde_json::to_string(&message)?,
        )
        .await
}

fn main() -> ExitCode {
    let settings = match Settings::from_env() {
        Ok(settings) => settings,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("notify-webhook: {mistake}");
            }
            return ExitCode::from(2);
        }
    };
    if let Some(webhook) = settings.webhook {
        let _ = WEBHOOK.set(webhook);
    }
    // A few requests at a time spare the receiver, and 20 attempts are about ten minutes: long enough to restart one.
    let function = Function::new("notify-webhook", notify_webhook)
        .version(env!("CARGO_PKG_VERSION"))
        .concurrency(16)
        .attempts(20)
        .timeout(LONGEST_TIMEOUT + Duration::from_secs(5));
    let function = match settings.delivery {
        Delivery::AtLeastOnce => function,
        Delivery::AtMostOnce => function.at_most_once(),
    };
    oncue::run(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_address_nothing_happens() {
        let context = oncue::testing::context("f");
        notify_webhook(FileAccepted::default(), &mut (), &context)
            .await
            .expect("done");
    }

    #[test]
    fn the_body_is_what_standard_webhooks_asks_for() {
        let data = FileAccepted {
            file: "f".into(),
            owner: "ann".into(),
            size: 7,
            media_type: "text/plain".into(),
        };
        let timestamp = oncue::testing::context("f").time();
        let body = serde_json::to_string(&Message {
            ty: FileAccepted::TYPE,
            timestamp,
            data: &data,
        });
        assert_eq!(
            body.expect("JSON"),
            r#"{"type":"files.file.accepted","timestamp":"1970-01-01T00:00:01+00:00","data":{"file":"f","owner":"ann","size":"7","mediaType":"text/plain"}}"#
        );
    }
}
