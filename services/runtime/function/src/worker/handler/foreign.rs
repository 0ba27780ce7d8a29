//! Handling where the author's code is in another process: all events of a key go out with their row, and come back with one
//! change of it.

use std::time::{Duration, Instant};

use oncue_core::store::{Entry, Fields};
use oncue_proto::event;

use super::HandlerRunner;
use crate::files::FileStore;
use crate::foreign::{ForeignCall, Lost};
use crate::worker::effects::{HandledKey, Onlooker};
use crate::worker::invocation::{BoxedInvocation, Invocation};
use crate::worker::row_cache::RowSnapshot;

impl HandlerRunner {
    /// Runs the handler on fresh events, wherever it is, and says what to commit.
    pub(super) async fn run_foreign(
        &self,
        call: &ForeignCall,
        key: &str,
        row: &RowSnapshot,
        fresh: Vec<BoxedInvocation>,
        handled: &mut HandledKey,
    ) {
        let mut fresh = fresh;
        if self.effects.function.at_most_once {
            // Their calls were made; nobody must make them twice.
            for event in fresh.extract_if(.., |event| event.restored) {
                let commit = event.to_commit(Vec::new());
                handled.prepare(event, commit);
            }
        }
        if fresh.is_empty() {
            return;
        }
        let files = FileStore::Bus(self.bus.clone());
        let run = self.effects.foreign_run(key, row, &mut fresh, files);
        for event in &fresh {
            // In passing and without a wait: who looks at the flow sees that a run is under way.
            self.flow_log.begins(event);
        }
        let started = Instant::now();
        let answered = call(run).await;
        match answered.and_then(|answer| answer.of_events(fresh.len())) {
            Ok(answer) => self
                .effects
                .take_answer(key, row, fresh, answer, self, handled),
            Err(lost) => {
                let class = match &lost {
                    Lost::Row(_) => "row",
                    Lost::Ended { class, .. } => class,
                };
                for event in &fresh {
                    self.ran(event, started.elapsed(), Some(class));
                }
                self.effects.lose(fresh, &lost, handled);
            }
        }
    }
}

impl Onlooker for HandlerRunner {
    fn ran(&self, event: &Invocation, took: Duration, class: Option<&'static str>) {
        self.counters.ran(took, class, event.trace.ids());
    }

    fn row(&self, event: &Invocation, before: &Fields, after: Option<&Fields>, events: usize) {
        self.flow_log.row(event, before, after, events);
    }

    fn entry(&self, event: &Invocation) -> Option<Box<Entry>> {
        self.flow_log.entry(event)
    }

    fn now(&self) -> u64 {
        event::now_ms()
    }
}
