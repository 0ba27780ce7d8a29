//! Seats of those who listen to something that goes on: so many in all and for one address, each for as long as its credential
//! opens.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _};
use oncue_http::shares::{Full, Share};
use oncue_proto::event;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::auth::{Auth, CREDENTIALS};
use super::identity::Identity;
use crate::App;
use crate::problem::{BUSY, Problem, TOO_MANY_LISTENERS};
use crate::request::Client;

/// Pause between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Pause between two looks at a credential, which cost nothing while its answer is remembered.
const LOOK: Duration = Duration::from_secs(1);

/// Seat of a client that listens.
pub struct Seat {
    share: Share,
    standing: Option<Standing>,
}

/// Right by which somebody was let in.
struct Standing {
    auth: Arc<Auth>,
    /// The headers with the credential.
    credential: HeaderMap,
    /// Unix milliseconds.
    expires: Option<u64>,
}

impl App {
    /// A seat among those who listen, if one is free.
    pub(crate) fn seat(&self, head: &Parts) -> Result<Seat, Problem> {
        let share = self.listeners.take(Client::of(&head.extensions));
        let share = share.map_err(|full| match full {
            Full::All => {
                let most = self.config.max_listeners;
                Problem::new(BUSY, format!("{most} clients listen already"))
            }
            Full::Client => {
                let most = self.config.listeners_per_address;
                let why =
                    format!("{most} are the most ([gateway] listeners_per_address in oncue.toml)");
                Problem::new(TOO_MANY_LISTENERS, why)
            }
        })?;
        Ok(Seat {
            share,
            standing: Standing::of(head),
        })
    }
}

/// Answer that goes on for as long as its seat is good, and that nobody on the way may keep.
pub fn answer(
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    seat: Seat,
) -> Response {
    let left = async move {
        // Given back when the client goes, or is sent away.
        let _share = seat.share;
        match seat.standing {
            Some(standing) => standing.ended().await,
            None => std::future::pending().await,
        }
    };
    let mut response = Sse::new(events.take_until(left)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Times for signs of life.
pub fn heartbeat() -> Interval {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    heartbeat
}

impl Standing {
    /// Right of a request; `None` where nobody asked for one.
    fn of(head: &Parts) -> Option<Self> {
        let auth = head.extensions.get::<Arc<Auth>>()?.clone();
        let identity = head.extensions.get::<Identity>();
        let credential = CREDENTIALS.into_iter().filter_map(|name| {
            let value = head.headers.get(&name)?.clone();
            Some((name, value))
        });
        Some(Self {
            auth,
            credential: credential.collect(),
            expires: identity.and_then(|identity| identity.expires),
        })
    }

    /// Waits until the credential opens no more. While nobody can say so, it does, up to its time.
    async fn ended(self) {
        loop {
            sleep(LOOK).await;
            if self
                .expires
                .is_some_and(|expires| expires <= event::now_ms())
            {
                return;
            }
            if let Err(problem) = self.auth.identify_again(&self.credential).await
                && matches!(
                    problem.status(),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                )
            {
                return;
            }
        }
    }
}
