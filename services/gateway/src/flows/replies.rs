//! Requests that wait for an event of a type in a flow. They hear it as it is published, as soon as the flow has it.
//!
//! One subscription for each type serves all requests, and there is none while nobody waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::bus::{Bus, PlainMessage, Subscription};
use oncue_proto::event;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long a subscription stays when nobody waits any more.
const LINGER: Duration = Duration::from_secs(10);

/// Everybody who waits for a reply, by type and flow.
pub struct Replies {
    bus: Bus,
    types: Mutex<HashMap<String, Flows>>,
}

/// Requests that wait for an event of one type, by flow. Two requests may wait for one.
type Flows = HashMap<String, Vec<mpsc::Sender<Arc<PlainMessage>>>>;

/// One who waits. Nothing of it is left once it is dropped.
pub struct Listener {
    replies: Arc<Replies>,
    types: Vec<String>,
    flow: String,
    heard: mpsc::Receiver<Arc<PlainMessage>>,
}

impl Replies {
    pub fn new(bus: Bus) -> Arc<Self> {
        Arc::new(Self {
            bus,
            types: Mutex::default(),
        })
    }

    /// Listens for events of these types in a flow that is about to begin.
    pub async fn listen(
        self: &Arc<Self>,
        types: impl Iterator<Item = &String>,
        flow: &str,
    ) -> Result<Listener, Problem> {
        let types: Vec<String> = types.cloned().collect();
        let (sender, heard) = mpsc::channel(types.len().max(1));
        for ty in &types {
            self.enter(ty, flow, sender.clone()).await?;
        }
        Ok(Listener {
            replies: self.clone(),
            types,
            flow: flow.to_owned(),
            heard,
        })
    }

    async fn enter(
        self: &Arc<Self>,
        ty: &str,
        flow: &str,
        sender: mpsc::Sender<Arc<PlainMessage>>,
    ) -> Result<(), Problem> {
        if let Some(flows) = self.types.lock().get_mut(ty) {
            flows.entry(flow.to_owned()).or_default().push(sender);
            return Ok(());
        }
        // Known to the server before the event that begins the flow: both go over one line.
        let plain = self.bus.subscribe(ty).await?;
        let keyed = self.bus.subscribe(&format!("{ty}.*")).await?;
        let mut types = self.types.lock();
        if !types.contains_key(ty) {
            tokio::spawn(self.clone().hear(ty.to_owned(), plain, keyed));
        }
        let flows = types.entry(ty.to_owned()).or_default();
        flows.entry(flow.to_owned()).or_default().push(sender);
        Ok(())
    }

    /// Hands on what is published, until nobody has waited for a while.
    async fn hear(self: Arc<Self>, ty: String, mut plain: Subscription, mut keyed: Subscription) {
        loop {
            let heard = async {
                tokio::select! {
                    message = plain.next() => message,
                    message = keyed.next() => message,
                }
            };
            match timeout(LINGER, heard).await {
                Ok(Some(message)) => self.hand_on(&ty, message),
                Ok(None) => break,
                Err(_) => {}
            }
            let mut types = self.types.lock();
            if types.get(&ty).is_none_or(HashMap::is_empty) {
                types.remove(&ty);
                return;
            }
        }
        self.types.lock().remove(&ty);
    }

    fn hand_on(&self, ty: &str, message: PlainMessage) {
        let flow = message
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("ce-flowid"));
        let Some(flow) = flow.and_then(|(_, value)| event::percent_decode(value)) else {
            return;
        };
        let types = self.types.lock();
        let Some(waiting) = types.get(ty).and_then(|flows| flows.get(&flow)) else {
            return;
        };
        let message = Arc::new(message);
        for sender in waiting {
            // A full one has been told already.
            let _ = sender.try_send(message.clone());
        }
    }
}

impl Listener {
    /// Flow that it waits for.
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// Next message that says it is of the flow.
    pub async fn heard(&mut self) -> Option<Arc<PlainMessage>> {
        self.heard.recv().await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.heard.close();
        let mut types = self.replies.types.lock();
        for ty in &self.types {
            let Some(flows) = types.get_mut(ty) else {
                continue;
            };
            if let Some(waiting) = flows.get_mut(&self.flow) {
                waiting.retain(|sender| !sender.is_closed());
                if waiting.is_empty() {
                    flows.remove(&self.flow);
                }
            }
        }
    }
}
