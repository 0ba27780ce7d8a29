//! Children side by side: the first says what the function is, and a place whose child has ended is filled again.

mod child;
mod fork_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oncue::foreign::{Foreign, Lost};
use oncue_core::config::Protocol;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::fork_server::Nursery;
use crate::dispatch::{Dispatcher, Ended, FAREWELL, told_to_stop};
use crate::plain::{self, lines};
use crate::spec::Spec;

/// Delay before a child that has just ended is replaced: for the first, and at most.
const REPLACE: Duration = Duration::from_millis(20);
const REPLACE_MOST: Duration = Duration::from_secs(5);

/// All children of this host.
pub struct Children {
    dispatcher: Arc<Dispatcher>,
    keepers: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Children {
    /// Starts the first child, and once it has said what it is, the others.
    ///
    /// # Errors
    /// The first child does not come up; a sentence for people.
    pub async fn start(spec: Spec) -> Result<Self, String> {
        let (stop, stopping) = watch::channel(false);
        let (nursery, description) = match spec.protocol {
            Protocol::Frames => {
                let mut first = child::greet(&spec, spec.processes > 1).await?;
                let description = first.describe(&spec)?;
                (Some(Nursery::new(first)), description)
            }
            Protocol::Lines => (None, plain::describe(&spec, 0)?),
        };
        if description.manifest.name != spec.name {
            return Err(format!(
                "it calls itself {:?}; oncue.toml and the function must give it one name",
                description.manifest.name
            ));
        }
        let dispatcher = Arc::new(Dispatcher::new(spec, description));
        let mut keepers = JoinSet::new();
        let nursery = nursery.map(Arc::new);
        for place in 0..dispatcher.spec.processes {
            let dispatcher = dispatcher.clone();
            let nursery = nursery.clone();
            let stopping = stopping.clone();
            keepers.spawn(async move {
                keep(&dispatcher, place, nursery.as_deref(), stopping).await;
            });
        }
        Ok(Self {
            dispatcher,
            keepers,
            stop,
        })
    }

    /// The function, whose handler are these children.
    pub fn function(&self) -> Foreign {
        let dispatcher = self.dispatcher.clone();
        let foreign = self.dispatcher.description.foreign(Box::new(move |run| {
            let answer = dispatcher.ask(run);
            Box::pin(async move { answer.await.unwrap_or_else(|_| Err(no_answer())) })
        }));
        Foreign {
            side_by_side: self.dispatcher.side_by_side(),
            ..foreign
        }
    }

    /// Ends the children, once nothing is in hand any more.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let all = async { while self.keepers.join_next().await.is_some() {} };
        // Whatever is left then is killed with the tasks that keep it.
        let _ = tokio::time::timeout(FAREWELL + FAREWELL, all).await;
    }
}

/// Answer of children that are no more.
fn no_answer() -> Lost {
    Lost::Ended {
        class: "crash",
        text: "the host is stopping".to_owned(),
    }
}

/// Keeps one place filled with a child until told to stop; without a nursery with one that speaks lines.
async fn keep(
    dispatcher: &Arc<Dispatcher>,
    place: usize,
    nursery: Option<&Nursery>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut delay = REPLACE;
    loop {
        let began = Instant::now();
        let life = async {
            let Some(nursery) = nursery else {
                return lines::live(dispatcher, place, &stopping).await;
            };
            match nursery.child(&dispatcher.spec).await {
                Ok(child) => child::live(dispatcher, place, child, &stopping).await,
                Err(text) => Ended::crash(text),
            }
        };
        let why = life.await;
        dispatcher.lost(place, &why);
        if *stopping.borrow() {
            return;
        }
        delay = if began.elapsed() > REPLACE_MOST {
            REPLACE
        } else {
            (delay * 2).min(REPLACE_MOST)
        };
        // The text may quote what the child has written; the letters of its events have it.
        let text = if why.class == "protocol" && !oncue_telemetry::shows_messages() {
            "the child broke the rules of its protocol"
        } else {
            &why.text
        };
        tracing::error!(place, "{text}; another one takes its place");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = told_to_stop(&mut stopping) => return,
        }
    }
}
