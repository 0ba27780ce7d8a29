//! Key queues: events of one key wait in order while a task works on that key.
//!
//! Order holds for events of one key in one worker, and no further: two workers may have events of
//! one key, and then the row decides. A crash loses the queue and nothing else; its events are in
//! flight and come again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::worker::invocation::BoxedInvocation;

/// Queues by key. A key is present while a task works on it.
///
/// Bounded by the in-flight set, since each event in a queue is in flight. The presence of a key is
/// what keeps a second task from starting, so a key is removed under the same lock that found its
/// queue empty.
pub(crate) struct KeyQueues {
    queues: Mutex<HashMap<Arc<str>, VecDeque<BoxedInvocation>>>,
    /// Events of a key that run together.
    largest_run: usize,
}

impl KeyQueues {
    /// No queues; `largest_run` is at least 1.
    pub fn new(largest_run: usize) -> Self {
        Self {
            queues: Mutex::default(),
            largest_run,
        }
    }

    /// Queues an event behind those of its key. Returns the key when it had no queue yet: then nobody works on it, and the
    /// caller starts the task that does.
    pub fn push(&self, invocation: BoxedInvocation) -> Option<Arc<str>> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(invocation.key()) {
            queue.push_back(invocation);
            return None;
        }
        let key = invocation.mark.key.clone();
        queues.insert(key.clone(), VecDeque::from([invocation]));
        Some(key)
    }

    /// Events that have gathered for the key, in order; `None` when there are none, and the queue is gone. Two copies of one
    /// event are never returned together, since the second must see the first, and an event on probation comes alone.
    pub fn next_run(&self, key: &str) -> Option<Vec<BoxedInvocation>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(key)?;
        let mut ids = HashSet::new();
        let mut events: Vec<BoxedInvocation> = Vec::new();
        // The rest waits for the next run.
        while events.len() < self.largest_run {
            // A probation event ends the run: nothing goes beside it.
            let alone = events.last().is_some_and(|last| last.on_probation);
            let first = events.is_empty();
            let next = queue.pop_front_if(|next| {
                !alone && (first || !next.on_probation) && ids.insert(next.mark.id)
            });
            match next {
                Some(next) => events.push(next),
                None => break,
            }
        }
        if events.is_empty() {
            queues.remove(key);
            return None;
        }
        Some(events)
    }
}
