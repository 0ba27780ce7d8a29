//! Supervisor: four groups of processes, each kept running, that stop one group after the other.
//!
//! A group is stopped once the groups that depend on it have ended, so that nothing that was accepted is left half
//! done.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::keep_running::{Keeper, keep_running};
use super::log::LogPrinter;
use super::orphan_guard::OrphanGuard;
use super::process::{ProcessSpec, ProcessStatus};
use crate::exit::Failure;

/// Process groups in the order in which they stop.
pub struct Supervisor {
    pub log: Arc<LogPrinter>,
    /// Gateway and console: once they have ended, no new work comes from outside.
    pub gateway: ProcessGroup,
    /// Workers of the functions: they finish what is in flight and publish it.
    pub functions: ProcessGroup,
    /// Trace viewer: takes the last spans of the workers.
    pub viewer: ProcessGroup,
    /// NATS and Redis: everybody else needs them to the end.
    pub servers: ProcessGroup,
    kill: CancellationToken,
    guard: Arc<OrphanGuard>,
}

/// Processes that are told to stop at the same time.
pub struct ProcessGroup {
    keeper: Keeper,
    tasks: TaskTracker,
}

impl Supervisor {
    pub fn new(log: LogPrinter) -> Result<Self, Failure> {
        let log = Arc::new(log);
        let guard = Arc::new(OrphanGuard::start()?);
        let kill = CancellationToken::new();
        let group = ProcessGroup::new(Keeper {
            log: log.clone(),
            guard: guard.clone(),
            stop: CancellationToken::new(),
            kill: kill.clone(),
        });
        Ok(Self {
            gateway: group.sibling(),
            functions: group.sibling(),
            viewer: group.sibling(),
            servers: group,
            log,
            kill,
            guard,
        })
    }

    /// Stops everything in order; each process takes the time it needs, up to
    /// [`STOP_TIMEOUT`](super::keep_running::STOP_TIMEOUT).
    /// Groups stop one after the other, so a stop takes at most four times that.
    pub async fn drain(&mut self) {
        self.gateway.stop().await;
        self.functions.stop().await;
        self.viewer.stop().await;
        self.servers.stop().await;
        // Last: until then a kill of this process still finds somebody who cleans up.
        self.guard.dismiss();
    }

    /// Ends what still runs without waiting for it to finish.
    pub async fn kill(&mut self) {
        self.kill.cancel();
        self.drain().await;
    }
}

impl ProcessGroup {
    fn new(keeper: Keeper) -> Self {
        Self {
            keeper,
            tasks: TaskTracker::new(),
        }
    }

    /// Group that is stopped on its own, and killed with this one.
    fn sibling(&self) -> Self {
        Self::new(Keeper {
            stop: CancellationToken::new(),
            ..self.keeper.clone()
        })
    }

    /// Keeps a process running until the group is stopped, or the process is retired by its status.
    pub fn run(&self, spec: ProcessSpec) -> Arc<ProcessStatus> {
        let status = Arc::new(ProcessStatus::default());
        self.tasks
            .spawn(keep_running(spec, status.clone(), self.keeper.clone()));
        status
    }

    async fn stop(&self) {
        self.keeper.stop.cancel();
        // Without it waiting would never end: a tracker that is open may get more.
        self.tasks.close();
        self.tasks.wait().await;
    }
}
