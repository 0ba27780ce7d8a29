//! `oncue restart`, on the side of `oncue up`: replaces the processes of functions by new ones of the program as it lies
//! there now, one after the other. The new one is ready before the old one is told to finish; the first that does not
//! become ready ends the restart, and the old one goes on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anstream::adapter::strip_str;
use oncue_admin::services::restart::{RestartProgress, RestartRequest, subject};
use oncue_core::bus::Bus;
use tokio::time::{sleep, timeout};

use super::autoscaler::Pools;
use super::pool::Pool;
use super::process::{Phase, ProcessStatus};
use super::supervisor::Supervisor;
use crate::exit::Failure;

/// Time in which a new process must be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which the next process waits for the old one before it to end: what that has in flight it may finish longer.
const END_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause between two looks at a process.
const POLL: Duration = Duration::from_millis(20);

/// Credentials at a renewal of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// As they are.
    Keep,
    /// New ones for everybody.
    Replace,
}

/// Answers requests, one after the other, until it is dropped; before each `let_in` is called with the functions and whether they
/// come in even if they cannot read what is there, and `renew`.
///
/// # Errors
///
/// The subscription is refused, or the connection closes for good.
pub async fn serve(
    supervisor: &Supervisor,
    bus: &Bus,
    pools: &Pools,
    id: &str,
    let_in: impl AsyncFn(&[String], bool) -> Result<Vec<String>, Failure>,
    renew: impl AsyncFn(Credentials) -> Result<(), Failure>,
) -> Result<Infallible, Failure> {
    let requests = bus.subscribe(&subject(bus.app())).await;
    let mut requests = requests.map_err(Failure::silent)?;
    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply else {
            continue;
        };
        let Ok(request) = serde_json::from_slice::<RestartRequest>(&request.payload) else {
            continue;
        };
        if request.supervisor != id {
            continue;
        }
        let restart = Restart {
            supervisor,
            bus,
            pools,
            reply,
        };
        if request.rotate {
            let progress = match renew(Credentials::Replace).await {
                Ok(()) => RestartProgress::Done { replaced: 0 },
                Err(e) => RestartProgress::Failed {
                    worker: "oncue up".to_owned(),
                    why: e.what,
                    replaced: 0,
                },
            };
            restart.tell(&progress).await;
            continue;
        }
        let functions = of_these(pools, &request.functions);
        if functions.is_empty() {
            let nothing = RestartProgress::Done { replaced: 0 };
            restart.tell(&nothing).await;
            continue;
        }
        match let_in(&functions, request.anyway).await {
            Ok(changed) => {
                for line in changed {
                    let what = strip_str(&line).to_string();
                    restart.tell(&RestartProgress::Changed { what }).await;
                }
            }
            Err(e) => {
                let advice = e.advice.map(|advice| format!("\n  {advice}"));
                let why = format!("replaces nothing: {}{}", e.what, advice.unwrap_or_default());
                let refused = RestartProgress::Failed {
                    worker: "oncue up".to_owned(),
                    why: strip_str(&why).to_string(),
                    replaced: 0,
                };
                restart.tell(&refused).await;
                continue;
            }
        }
        // The new programs may do what the old ones may not. One that is refused says so by itself.
        if let Err(e) = renew(Credentials::Keep).await {
            let what = format!("rights stay as they were: {}", e.what);
            supervisor.log.warn(&what);
        }
        restart.run(&functions).await;
    }
    Err(Failure::silent("the connection to NATS is closed"))
}

/// Functions of a request that this `oncue up` runs; all of them where none is named.
fn of_these(pools: &Pools, named: &[String]) -> Vec<String> {
    let pools = pools.lock();
    let own = pools
        .keys()
        .filter(|name| named.is_empty() || named.contains(name));
    own.cloned().collect()
}

struct Restart<'s> {
    supervisor: &'s Supervisor,
    bus: &'s Bus,
    pools: &'s Pools,
    /// Subject of the answers.
    reply: String,
}

impl Restart<'_> {
    async fn run(&self, functions: &[String]) {
        let mut replaced = 0;
        for function in functions {
            for number in self.numbers(function) {
                match self.replace(function, number).await {
                    Ok(()) => replaced += 1,
                    Err((worker, why)) => {
                        self.supervisor
                            .log
                            .warn(&format!("restart stopped: {worker} {why}"));
                        let failed = RestartProgress::Failed {
                            worker,
                            why,
                            replaced,
                        };
                        return self.tell(&failed).await;
                    }
                }
            }
        }
        self.tell(&RestartProgress::Done { replaced }).await;
    }

    /// Workers of a function as they are now; those that start meanwhile are new anyway.
    fn numbers(&self, function: &str) -> Vec<u32> {
        let pools = self.pools.lock();
        pools.get(function).map(Pool::numbers).unwrap_or_default()
    }

    /// Replaces one worker; the error is the name of the new one, and why it is none.
    async fn replace(&self, function: &str, number: u32) -> Result<(), (String, String)> {
        let begun = {
            let mut pools = self.pools.lock();
            let pool = pools.get_mut(function);
            pool.and_then(|pool| pool.replace(number, self.supervisor))
        };
        // It has ended, or was told to, since the restart began.
        let Some(replacement) = begun else {
            return Ok(());
        };
        let worker = replacement.new.name.clone();
        let replaces = replacement.old.name.clone();
        self.supervisor
            .log
            .note(&format!("restart: {worker} replaces {replaces}"));
        self.tell(&RestartProgress::Starting {
            worker: worker.clone(),
            replaces: replaces.clone(),
        })
        .await;
        if let Err(why) = until_ready(&replacement.new.status).await {
            let mut pools = self.pools.lock();
            if let Some(pool) = pools.get_mut(function) {
                pool.take_back(&replacement);
            }
            return Err((worker, why));
        }
        replacement.old.status.retire();
        self.tell(&RestartProgress::Ready { worker, replaces })
            .await;
        let _ = timeout(END_TIMEOUT, until_gone(&replacement.old.status)).await;
        Ok(())
    }

    /// Nobody may be there any more to hear it.
    async fn tell(&self, progress: &RestartProgress) {
        let body = serde_json::to_vec(progress).unwrap_or_default();
        let _ = self
            .bus
            .publish_plain(self.reply.clone(), body.into())
            .await;
    }
}

async fn until_ready(status: &Arc<ProcessStatus>) -> Result<(), String> {
    let ends = status.ends();
    let looked = async {
        loop {
            match status.phase() {
                Phase::Up => return Ok(()),
                Phase::Gone | Phase::Stopping => return Err("was stopped".to_owned()),
                _ if status.ends() > ends => {
                    let last = status.last_lines();
                    return Err(format!("ended before it was ready:\n{last}"));
                }
                _ => sleep(POLL).await,
            }
        }
    };
    match timeout(READY_TIMEOUT, looked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("is not ready after {READY_TIMEOUT:?}")),
    }
}

async fn until_gone(status: &Arc<ProcessStatus>) {
    while status.phase() != Phase::Gone {
        sleep(POLL).await;
    }
}
