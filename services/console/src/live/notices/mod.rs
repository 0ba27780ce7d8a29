//! Notices: what is wrong at the moment, and telling those whom `[notice.NAME]` names. All consoles keep one list, in
//! Redis: each thing that is wrong is told once when it begins and once when it is over, whichever console sees it
//! first, and over a restart. While Redis is away each keeps its own.
//!
//! In reading order: [`conditions`] (what is wrong), [`notice`] (since when, and who knows), [`list`] (all of
//! them), [`receiver`] (who is told, by [`webhook`] or [`mail`]).

mod conditions;
mod list;
mod mail;
mod message;
mod notice;
mod receiver;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use oncue_core::config::Config;
use oncue_proto::event;

pub use self::conditions::of_letters;
pub use self::list::Notices;
use self::receiver::Receiver;
use crate::App;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reads what is to be known of the receivers, before anything is served.
///
/// # Errors
/// A sentence that names the receiver and what is wrong with it.
pub fn receivers(app: &Config) -> Result<Vec<Receiver>, String> {
    let named = app.notices.iter();
    named
        .map(|(name, config)| {
            Receiver::new(name, config, app).map_err(|why| format!("[notice.{name}] {why}"))
        })
        .collect()
}

/// Looks, and tells, until the process ends.
pub async fn watch(app: Arc<App>, mut receivers: Vec<Receiver>) {
    let mut watch = conditions::Watch::default();
    loop {
        let now = event::now_ms();
        let open = app.notices.all();
        let seen = watch.look(&app, &open, now).await;
        app.notices.take(&app.store, &seen, now).await;
        app.notices.tell(&app, &mut receivers, now).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = app.stop.cancelled() => return,
        }
    }
}
