//! A client of the servers that `oncue test` has started, for the app's own integration tests.

use std::time::{Duration, Instant};

use oncue_core::bus::Bus;
use oncue_core::config::{Config, Role};
use oncue_core::store::{StateValue, Store};
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_proto::{Event, Format};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::state::{self, State};

/// Longest wait for a flow.
const FLOW_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// Client of an app that runs on real servers, for tests that `oncue test` starts: it finds `oncue.toml` here or in a folder
/// above, and the servers by `ONCUE_NATS_URL` and `ONCUE_REDIS_URL`.
///
/// ```no_run
/// # use oncue::State;
/// # use oncue_app_events::web::PageViewed;
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct Page { views: u64 }
/// # impl State for Page { const TABLE: &'static str = "pages"; }
/// use oncue::testing::Client;
///
/// # async fn test() -> oncue::Result<()> {
/// let client = Client::from_env().await?;
/// let view = PageViewed { page: "/home".into(), visitor: "v1".into(), ..Default::default() };
/// let id = client.publish(&view).await?;
/// let flow = client.flow(&id).await?;
/// assert_eq!(flow["events"][0]["type"], "web.page.viewed");
/// assert_eq!(client.row::<Page>("/home").await?.unwrap().views, 1);
/// # Ok(()) }
/// ```
pub struct Client {
    bus: Bus,
    store: Store,
    /// How long the ledger of a flow is kept.
    keep: Duration,
}

impl Client {
    /// Connects to the servers of the environment.
    ///
    /// # Errors
    /// `oncue.toml` has a mistake, or a server does not answer.
    pub async fn from_env() -> Result<Self> {
        let mut config = Config::load()?;
        config.log_in(&Role::Operator);
        let bus = Bus::connect(&config.nats, "oncue-test").await?;
        Ok(Self {
            bus: bus.of_app(&config.app),
            store: Store::connect(&config.redis, &config.app).await?,
            keep: config.flows.keep.0,
        })
    }

    /// Publishes an event, in a flow that can be waited for, and returns its id.
    ///
    /// # Errors
    /// A server does not answer, or takes no more.
    pub async fn publish<E: Event>(&self, event: &E) -> Result<String> {
        let id = event::new_id();
        let meta = Meta {
            tracked: true,
            ..Meta::root(id.clone(), "/test".to_owned(), E::TYPE, event::now_ms())
        };
        // Ahead of the event, so that the ledger knows of every step.
        self.store.track(&meta, event.key(), self.keep).await?;
        let headers = event::headers(&meta, event.key(), Format::Protobuf);
        let headers = headers.into_iter().map(|(name, value)| Header {
            name: name.to_owned(),
            value,
        });
        let envelope = Envelope {
            subject: event::subject(E::TYPE, event.key()),
            headers: headers.collect(),
            payload: event.encode_to_vec().into(),
        };
        self.bus.publish(&envelope).await?;
        Ok(id)
    }

    /// Waits until every function has acted on the event and on all that followed from it, for at most 30 seconds; the flow
    /// then, in the form of `GET /v1/flows/{id}`.
    ///
    /// # Errors
    /// Steps are still open then, which are named; or Redis does not answer.
    pub async fn flow(&self, id: &str) -> Result<Value> {
        let began = Instant::now();
        loop {
            let flow = self.store.flow(id).await?;
            if let Some(flow) = flow.as_ref().filter(|flow| flow.is_complete()) {
                return Ok(serde_json::to_value(flow)?);
            }
            if began.elapsed() > FLOW_TIMEOUT {
                let mut open = Vec::new();
                for event in flow.iter().flat_map(|flow| &flow.events) {
                    let steps = event.steps.iter().filter(|step| step.state.is_open());
                    open.extend(steps.map(|step| format!("{} on {}", step.function, event.ty)));
                }
                return Err(Error::retry(format!(
                    "flow {id} is not complete after {FLOW_TIMEOUT:?}; open: {}",
                    open.join(", ")
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Row of a key as it is now; `None` where none was written.
    ///
    /// # Errors
    /// Redis does not answer, or the row cannot be read as this struct.
    pub async fn row<S: State>(&self, key: &str) -> Result<Option<S>> {
        let Some(StateValue::Row(row)) = self.store.show(S::TABLE, key).await? else {
            return Ok(None);
        };
        let mut open = state::open::<S>(&row.fields)?;
        Ok(open.as_any().downcast_mut::<S>().cloned())
    }
}
