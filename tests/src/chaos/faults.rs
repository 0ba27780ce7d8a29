//! What can go wrong, and when it does: a schedule drawn from one seed, so that a failing run can be had again.

use std::time::{Duration, Instant};

use super::arena::{ACK_WAIT, Arena, Link};
use crate::proxy::{Direction, Faults, Proxy};

/// Longest hunt for a moment in which something is in hand.
const CATCH: Duration = Duration::from_secs(20);
/// Longest wait for a fault to happen on a line that is silent just now.
const HAPPEN: Duration = Duration::from_secs(20);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    KillWorker,
    /// SIGSTOP for longer than the server waits, then SIGCONT.
    FreezeWorker,
    /// kill -9 of a child of a host.
    KillChild,
    /// SIGSTOP of a child, which its host has to notice.
    FreezeChild,
    /// A child ends in the middle of an answer.
    TearChild,
    /// A child holds on to all the memory it may have.
    LeakChild,
    KillNats,
    KillRedis,
    /// Both servers, then all workers.
    KillAll,
    Line(Link, Harm),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    Cut,
    Refuse,
    HalfOpenUp,
    HalfOpenDown,
    HalfOpen,
    /// Bytes wait: a partition that ends.
    Freeze,
    Latency,
    Throttle,
    Slices,
    ResetUp,
    ResetDown,
    LoseAnswer,
    /// Of an atomic batch, its one ack.
    LoseBatchAck,
    /// Of an atomic batch, one message in its middle.
    TearBatch,
}

impl Harm {
    pub const ALL: [Self; 14] = [
        Self::Cut,
        Self::Refuse,
        Self::HalfOpenUp,
        Self::HalfOpenDown,
        Self::HalfOpen,
        Self::Freeze,
        Self::Latency,
        Self::Throttle,
        Self::Slices,
        Self::ResetUp,
        Self::ResetDown,
        Self::LoseAnswer,
        Self::LoseBatchAck,
        Self::TearBatch,
    ];

    /// What the proxy does, and the name under which it counts that.
    fn faults(self, seconds: f64) -> (Faults, &'static str) {
        let none = Faults::default();
        match self {
            Self::Cut => (none, "cut"),
            Self::Refuse => (
                Faults {
                    refuse: true,
                    ..none
                },
                "refuse",
            ),
            Self::HalfOpenUp => (
                Faults {
                    swallow: &[Direction::Up],
                    ..none
                },
                "swallow",
            ),
            Self::HalfOpenDown => (
                Faults {
                    swallow: &[Direction::Down],
                    ..none
                },
                "swallow",
            ),
            Self::HalfOpen => (
                Faults {
                    swallow: &[Direction::Up, Direction::Down],
                    ..none
                },
                "swallow",
            ),
            Self::Freeze => (
                Faults {
                    freeze: true,
                    ..none
                },
                "freeze",
            ),
            Self::Latency => {
                let latency =
                    Duration::from_millis(500).min(Duration::from_secs_f64(seconds / 4.0));
                (
                    Faults {
                        latency,
                        jitter: latency / 2,
                        ..none
                    },
                    "delay",
                )
            }
            Self::Throttle => (
                Faults {
                    bytes_per_second: 10_000,
                    ..none
                },
                "throttle",
            ),
            Self::Slices => (
                Faults {
                    slices: true,
                    ..none
                },
                "slice",
            ),
            Self::ResetUp => (
                Faults {
                    reset: Some(Direction::Up),
                    ..none
                },
                "reset",
            ),
            Self::ResetDown => (
                Faults {
                    reset: Some(Direction::Down),
                    ..none
                },
                "reset",
            ),
            Self::LoseAnswer => (
                Faults {
                    lose_answers: 1,
                    ..none
                },
                "lost answer",
            ),
            Self::LoseBatchAck => (
                Faults {
                    lose_batch_acks: 1,
                    ..none
                },
                "lost batch ack",
            ),
            Self::TearBatch => (
                Faults {
                    tear_batches: 1,
                    ..none
                },
                "torn batch",
            ),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Refuse => "refuse",
            Self::HalfOpenUp => "half-open up",
            Self::HalfOpenDown => "half-open down",
            Self::HalfOpen => "half-open",
            Self::Freeze => "partition",
            Self::Latency => "latency",
            Self::Throttle => "10 KB/s",
            Self::Slices => "1-byte slices",
            Self::ResetUp => "reset up",
            Self::ResetDown => "reset down",
            Self::LoseAnswer => "lost answer",
            Self::LoseBatchAck => "lost batch ack",
            Self::TearBatch => "torn batch",
        }
    }
}

impl Act {
    pub fn name(self) -> String {
        match self {
            Self::KillWorker => "kill -9 worker".into(),
            Self::FreezeWorker => "SIGSTOP worker".into(),
            Self::KillChild => "kill -9 child".into(),
            Self::FreezeChild => "SIGSTOP child".into(),
            Self::TearChild => "answer torn".into(),
            Self::LeakChild => "child leaks".into(),
            Self::KillNats => "kill -9 NATS".into(),
            Self::KillRedis => "kill -9 Redis".into(),
            Self::KillAll => "kill -9 all".into(),
            Self::Line(link, harm) => format!("{} {}", link.name(), harm.name()),
        }
    }
}

/// When, what, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub pause: Duration,
    pub act: Act,
    pub length: Duration,
}

/// Every act at least once, in random order, then any of them until the time is over.
pub fn schedule(
    rng: &mut fastrand::Rng,
    acts: &[Act],
    pause_ms: std::ops::Range<u64>,
    seconds: u64,
) -> Vec<Step> {
    let mut order = acts.to_vec();
    rng.shuffle(&mut order);
    let (mut steps, mut total) = (Vec::new(), Duration::ZERO);
    while steps.len() < acts.len() || total < Duration::from_secs(seconds) {
        let act = order
            .get(steps.len())
            .copied()
            .unwrap_or_else(|| acts[rng.usize(..acts.len())]);
        // Longer harm only where there is time for it.
        let most = (seconds * 1000 / acts.len() as u64).clamp(300, 3000);
        let length = match act {
            Act::FreezeWorker | Act::FreezeChild => ACK_WAIT * 3,
            Act::KillWorker | Act::KillChild | Act::TearChild | Act::LeakChild => Duration::ZERO,
            _ => Duration::from_millis(rng.u64(150..most)),
        };
        let pause = Duration::from_millis(rng.u64(pause_ms.clone()));
        total += pause + length;
        steps.push(Step { pause, act, length });
    }
    steps
}

/// Plays a schedule. Each act finds events on their way: what befalls an idle cluster proves nothing.
pub async fn play(arena: &mut Arena, steps: &[Step]) {
    for step in steps {
        arena.wait(step.pause).await;
        arena.flowing().await;
        perform(arena, step.act, step.length).await;
    }
}

/// Does it once there is something to harm; that there never is anything is a failure.
pub async fn perform(arena: &mut Arena, act: Act, length: Duration) {
    let struck = match act {
        Act::KillWorker => {
            let (victim, in_hand) = catch(arena, Victim::Worker).await;
            arena.pool.kill(victim, &arena.cluster);
            in_hand
        }
        Act::FreezeWorker => {
            let (_, in_hand) = catch(arena, Victim::Worker).await;
            arena.wait(length).await;
            arena.pool.thaw();
            in_hand
        }
        Act::KillChild | Act::FreezeChild | Act::TearChild | Act::LeakChild => {
            let signal = match act {
                Act::FreezeChild => "STOP",
                Act::TearChild => "USR1",
                Act::LeakChild => "HUP",
                _ => "KILL",
            };
            let mut struck = 0;
            // A child may be on its way, for as long as five seconds where the ones before have ended soon.
            for _ in 0..100 {
                let (host, in_hand) = catch(arena, Victim::Host).await;
                let had_one = arena.pool.signal_child(host, signal);
                arena.pool.thaw();
                if had_one {
                    struck = in_hand;
                    break;
                }
                arena.wait(Duration::from_millis(100)).await;
            }
            arena.wait(length).await;
            struck
        }
        Act::KillNats => {
            let (_, in_hand) = catch(arena, Victim::Nats(0)).await;
            arena.cluster.nats.kill();
            arena.wait(length).await;
            arena.cluster.restart_nats().await;
            in_hand
        }
        Act::KillRedis => {
            let (_, in_hand) = catch(arena, Victim::Redis).await;
            arena.cluster.redis.kill();
            arena.wait(length).await;
            arena.cluster.restart_redis().await;
            in_hand
        }
        Act::KillAll => {
            let (_, in_hand) = catch(arena, Victim::All).await;
            kill_all(arena).await;
            tokio::time::sleep(length).await;
            arena.cluster.restart_nats().await;
            arena.cluster.restart_redis().await;
            in_hand
        }
        Act::Line(link, harm) => return harm_line(arena, link, harm, length).await,
    };
    arena.report.struck(&act.name(), struck);
}

/// Both servers in any order; the workers may notice before it is their turn.
async fn kill_all(arena: &mut Arena) {
    if arena.rng.bool() {
        arena.cluster.redis.kill();
        arena.cluster.nats.kill();
    } else {
        arena.cluster.nats.kill();
        arena.cluster.redis.kill();
    }
    let before = Duration::from_millis(arena.rng.u64(0..50));
    arena.pool.thaw();
    tokio::time::sleep(before).await;
    arena.pool.kill_all();
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Victim {
    /// Any one.
    Worker,
    /// Any one whose handler is in children of it.
    Host,
    /// One server, or one of several.
    Nats(usize),
    Redis,
    /// All workers.
    All,
}

/// Freezes a victim at a moment when events are in the hands of those it concerns, and returns which worker it is and how
/// many events these are. What is frozen settles nothing, so what is killed now has surely left something undone.
pub(super) async fn catch(arena: &mut Arena, victim: Victim) -> (usize, usize) {
    let start = Instant::now();
    loop {
        let worker = match victim {
            Victim::Host => {
                let hosts = arena.pool.hosts();
                hosts[arena.rng.usize(..hosts.len())]
            }
            _ => arena.rng.usize(..arena.pool.len()),
        };
        let at = matches!(victim, Victim::Worker | Victim::Host).then_some(worker);
        match victim {
            Victim::Nats(n) => arena.cluster.node(n).signal("STOP"),
            Victim::Redis => arena.cluster.redis.signal("STOP"),
            Victim::Worker | Victim::Host | Victim::All => arena.pool.freeze(at),
        }
        let in_hand = at_rest(arena, at).await;
        if in_hand > 0 || start.elapsed() > CATCH {
            return (worker, in_hand);
        }
        match victim {
            Victim::Nats(n) => arena.cluster.node(n).signal("CONT"),
            Victim::Redis => arena.cluster.redis.signal("CONT"),
            Victim::Worker | Victim::Host | Victim::All => arena.pool.thaw(),
        }
        let pause = Duration::from_millis(arena.rng.u64(1..20));
        arena.wait(pause).await;
    }
}

/// What is in hand once the last word of those who are frozen has passed the proxy.
async fn at_rest(arena: &Arena, at: Option<usize>) -> usize {
    let mut before = None;
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = arena.pool.in_hand(&arena.nats, at);
        if before == Some(now) || now == 0 {
            return now;
        }
        before = Some(now);
    }
}

async fn harm_line(arena: &mut Arena, link: Link, harm: Harm, length: Duration) {
    let (faults, counter) = harm.faults(length.as_secs_f64());
    let fired = |arena: &Arena| {
        arena
            .proxies(link)
            .map(|proxy| proxy.fired_of(counter))
            .collect::<Vec<u64>>()
    };
    let before = fired(arena);
    for proxy in arena.proxies(link) {
        proxy.set(faults.clone());
        if matches!(harm, Harm::Cut | Harm::Refuse) {
            // A refusal is felt by those who come anew.
            proxy.cut();
        }
    }
    arena.wait(length).await;
    let happened = |arena: &Arena| {
        fired(arena)
            .iter()
            .zip(&before)
            .all(|(after, before)| after > before)
    };
    let start = Instant::now();
    while !happened(arena) && start.elapsed() < HAPPEN {
        arena.wait(Duration::from_millis(50)).await;
    }
    let times = fired(arena).iter().sum::<u64>() - before.iter().sum::<u64>();
    let name = Act::Line(link, harm).name();
    let all = happened(arena);
    arena.proxies(link).for_each(Proxy::heal);
    arena
        .report
        .must(all, format!("`{name}` did not happen within {HAPPEN:?}"));
    arena.report.fault(&name, times);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_schedule_and_every_act_is_in_it() {
        let acts: Vec<Act> = Harm::ALL.map(|harm| Act::Line(Link::Nats, harm)).to_vec();
        let draw = |seed| schedule(&mut fastrand::Rng::with_seed(seed), &acts, 0..100, 5);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(
            acts.iter()
                .all(|act| draw(7).iter().any(|step| step.act == *act))
        );
    }
}
