//! Ledger of a flow, from before its first event is published until it is known what became of that event.

use std::time::Duration;

use oncue_core::config::FlowsConfig;
use oncue_core::store::{Store, StoreError};
use oncue_proto::event::Meta;

use crate::problem::{AWAY, Problem};

/// Redis answers in a millisecond or is away.
const TRACK_TIMEOUT: Duration = Duration::from_secs(3);

/// The ledger of one flow, if it has one.
pub struct Ledger<'a> {
    store: &'a Store,
    flow: String,
    state: LedgerState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LedgerState {
    None,
    /// Begun just now.
    Begun,
    /// There was one.
    Known,
    /// There was one, which begins with another event.
    Foreign,
}

/// Fate of the event the ledger begins with.
#[derive(Debug, Clone, Copy)]
pub enum EventFate {
    /// Now in its stream.
    Taken,
    /// In its stream before; whether it says that its flow is tracked. One that does not will never be written into a
    /// ledger by anybody.
    TakenBefore {
        tracked: bool,
    },
    /// Perhaps in its stream: then functions may write into the ledger any moment.
    Unknown,
    Refused,
}

impl<'a> Ledger<'a> {
    /// Begins the ledger, before anybody can act on the event. A client that `asked` for one is refused without it;
    /// any other is not held up.
    pub async fn begin(
        store: &'a Store,
        flows: &FlowsConfig,
        meta: &Meta,
        key: &str,
        asked: bool,
    ) -> Result<Self, Problem> {
        let mut ledger = Self {
            store,
            flow: meta.flow.clone(),
            state: LedgerState::None,
        };
        if !asked && !flows.track.wants(&meta.flow) {
            return Ok(ledger);
        }
        let begun = begin_or_find(store, meta, key, flows.keep.0);
        let why = match tokio::time::timeout(TRACK_TIMEOUT, begun).await {
            Ok(Ok(state)) => {
                ledger.state = state;
                return Ok(ledger);
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "Redis does not answer".to_owned(),
        };
        if asked {
            let why = format!(
                "{why}, so the flow cannot be tracked; nothing was taken: send it again, or without"
            );
            return Err(Problem::new(AWAY, why));
        }
        tracing::warn!(flow = meta.flow, error = why, "a flow goes untracked");
        Ok(ledger)
    }

    /// Whether the ledger is of a flow that begins with another event. A stream knows the ids of its own events alone, so one that was
    /// used in another is found by this.
    pub fn is_foreign(&self) -> bool {
        self.state == LedgerState::Foreign
    }

    pub fn exists(&self) -> bool {
        self.state != LedgerState::None
    }

    /// Keeps the ledger, or takes it back where nobody will ever write into it; returns whether the flow is tracked.
    pub async fn settle(self, fate: EventFate) -> bool {
        let wanted = match fate {
            EventFate::Taken | EventFate::Unknown => true,
            EventFate::TakenBefore { tracked } => tracked,
            EventFate::Refused => false,
        };
        // One that was there before belongs to somebody else's event as well.
        if self.state == LedgerState::Begun
            && !wanted
            && let Err(e) = self.store.untrack(&self.flow).await
        {
            tracing::warn!(flow = self.flow, error = %e, "cannot take back the ledger of a flow that did not begin");
        }
        wanted && self.exists()
    }
}

/// Begins the ledger of a flow, or looks whether the one that is there begins with the same event.
async fn begin_or_find(
    store: &Store,
    meta: &Meta,
    key: &str,
    keep: Duration,
) -> Result<LedgerState, StoreError> {
    if store.track(meta, key, keep).await? {
        return Ok(LedgerState::Begun);
    }
    let flow = store.flow(&meta.flow).await?;
    let mut events = flow.iter().flat_map(|flow| &flow.events);
    // Without a type where the ledger knows only the steps.
    let first = events.find(|event| event.id == meta.id && !event.ty.is_empty());
    Ok(match first {
        Some(first) if first.ty != meta.ty || first.key != key => LedgerState::Foreign,
        _ => LedgerState::Known,
    })
}
