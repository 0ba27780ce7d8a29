//! Wake listener: the first message on any of some subjects, for functions that sleep until an event comes. A
//! subscription costs the server nothing while nobody publishes, where a look at the consumer every second would.

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};

use super::{Bus, BusError, failed};

/// Listener to plain messages, whether a stream takes them or not; ends when it is dropped.
pub struct WakeListener(SelectAll<Subscriber>);

impl Bus {
    /// Listens on all of the subjects, which may hold wildcards; once this returns, the server knows. It ends each
    /// subscription by itself after its first message, so that a busy subject costs one copy of one event.
    pub async fn wake_listener(&self, subjects: &[String]) -> Result<WakeListener, BusError> {
        let mut subscribers = Vec::new();
        for subject in subjects {
            let mut subscriber = self
                .client
                .subscribe(subject.clone())
                .await
                .map_err(|e| failed(format_args!("cannot listen on {subject}"), e))?;
            subscriber
                .unsubscribe_after(1)
                .await
                .map_err(|e| failed(format_args!("cannot listen on {subject}"), e))?;
            subscribers.push(subscriber);
        }
        self.client
            .flush()
            .await
            .map_err(|e| failed("cannot listen", e))?;
        Ok(WakeListener(select_all(subscribers)))
    }
}

impl WakeListener {
    /// The subject of the first message; `None` when the connection is closed for good.
    pub async fn first_subject(mut self) -> Option<String> {
        self.0
            .next()
            .await
            .map(|message| message.subject.into_string())
    }
}
