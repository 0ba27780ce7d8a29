//! Groups of processes that stop together, in the order the groups are named here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::Guard;
use super::lines::Screen;
use super::process::{Spec, Vitals, keep_running};
use crate::exit::Failure;

pub struct House {
    pub screen: Arc<Screen>,
    /// No new work from outside.
    pub gateway: Group,
    /// What is in hand is finished and published.
    pub functions: Group,
    /// Their last spans have arrived.
    pub viewer: Group,
    /// Nobody needs them any more.
    pub servers: Group,
    hurry: CancellationToken,
    guard: Arc<Guard>,
}

/// Processes that are told to stop at the same time.
pub struct Group {
    stop: CancellationToken,
    hurry: CancellationToken,
    tasks: TaskTracker,
    screen: Arc<Screen>,
    guard: Arc<Guard>,
}

impl House {
    pub fn new(screen: Screen) -> Result<Self, Failure> {
        let (screen, guard, hurry) = (
            Arc::new(screen),
            Arc::new(Guard::start()?),
            CancellationToken::new(),
        );
        let group = || Group {
            stop: CancellationToken::new(),
            hurry: hurry.clone(),
            tasks: TaskTracker::new(),
            screen: screen.clone(),
            guard: guard.clone(),
        };
        Ok(Self {
            gateway: group(),
            functions: group(),
            viewer: group(),
            servers: group(),
            screen,
            hurry,
            guard,
        })
    }

    pub async fn drain(&mut self) {
        self.gateway.stop().await;
        self.functions.stop().await;
        self.viewer.stop().await;
        self.servers.stop().await;
        self.guard.dismiss();
    }

    /// Ends what still runs without waiting for it to finish.
    pub async fn kill(&mut self) {
        self.hurry.cancel();
        self.drain().await;
    }
}

impl Group {
    /// Keeps a process running until the group is stopped.
    pub fn run(&self, spec: Spec) -> Arc<Vitals> {
        let vitals = Arc::new(Vitals::default());
        let (screen, guard) = (self.screen.clone(), self.guard.clone());
        self.tasks.spawn(keep_running(
            spec,
            vitals.clone(),
            screen,
            guard,
            self.stop.clone(),
            self.hurry.clone(),
        ));
        vitals
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
