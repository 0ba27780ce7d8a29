//! What can go wrong, and when it does: a schedule drawn from one seed, so that a failing run can be had again.

use std::time::Duration;

use super::arena::{ACK_WAIT, Arena, Link};
use crate::proxy::{Direction, Faults};

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    KillWorker,
    /// SIGSTOP for longer than the server waits, then SIGCONT.
    FreezeWorker,
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
}

impl Harm {
    pub const ALL: [Self; 12] = [
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
    ];

    /// What the proxy does, and the name under which it counts that.
    fn faults(self, seconds: f64) -> (Faults, &'static str) {
        let none = Faults::default();
        match self {
            Self::Cut => (none, "cut"),
            Self::Refuse => (Faults { refuse: true, ..none }, "refuse"),
            Self::HalfOpenUp => (Faults { swallow: &[Direction::Up], ..none }, "swallow"),
            Self::HalfOpenDown => (Faults { swallow: &[Direction::Down], ..none }, "swallow"),
            Self::HalfOpen => (Faults { swallow: &[Direction::Up, Direction::Down], ..none }, "swallow"),
            Self::Freeze => (Faults { freeze: true, ..none }, "freeze"),
            Self::Latency => {
                let latency = Duration::from_millis(500).min(Duration::from_secs_f64(seconds / 4.0));
                (Faults { latency, jitter: latency / 2, ..none }, "delay")
            }
            Self::Throttle => (Faults { bytes_per_second: 10_000, ..none }, "throttle"),
            Self::Slices => (Faults { slices: true, ..none }, "slice"),
            Self::ResetUp => (Faults { reset: Some(Direction::Up), ..none }, "reset"),
            Self::ResetDown => (Faults { reset: Some(Direction::Down), ..none }, "reset"),
            Self::LoseAnswer => (Faults { lose_answers: 1, ..none }, "lost answer"),
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
        }
    }
}

impl Act {
    pub fn name(self) -> String {
        match self {
            Self::KillWorker => "kill -9 worker".into(),
            Self::FreezeWorker => "SIGSTOP worker".into(),
            Self::KillNats => "kill -9 NATS".into(),
            Self::KillRedis => "kill -9 Redis".into(),
            Self::KillAll => "kill -9 all".into(),
            Self::Line(link, harm) => format!("{} {}", if link == Link::Nats { "NATS" } else { "Redis" }, harm.name()),
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
pub fn schedule(rng: &mut fastrand::Rng, acts: &[Act], pause_ms: std::ops::Range<u64>, seconds: u64) -> Vec<Step> {
    let mut order = acts.to_vec();
    rng.shuffle(&mut order);
    let (mut steps, mut total) = (Vec::new(), Duration::ZERO);
    while steps.len() < acts.len() || total < Duration::from_secs(seconds) {
        let act = order.get(steps.len()).copied().unwrap_or_else(|| acts[rng.usize(..acts.len())]);
        // Longer harm only where there is time for it.
        let most = (seconds * 1000 / acts.len() as u64).clamp(300, 6000);
        let length = match act {
            Act::FreezeWorker => ACK_WAIT * 3,
            Act::KillWorker => Duration::ZERO,
            _ => Duration::from_millis(rng.u64(150..most)),
        };
        let pause = Duration::from_millis(rng.u64(pause_ms.clone()));
        total += pause + length;
        steps.push(Step { pause, act, length });
    }
    steps
}

/// Plays a schedule. Each act finds events on their way: what befalls an idle house proves nothing.
pub async fn play(arena: &mut Arena, steps: &[Step]) {
    for step in steps {
        arena.wait(step.pause).await;
        arena.flowing().await;
        perform(arena, step.act, step.length).await;
    }
}

pub async fn perform(arena: &mut Arena, act: Act, length: Duration) {
    match act {
        Act::KillWorker => arena.crew.kill_one(&arena.house, &mut arena.rng),
        Act::FreezeWorker => {
            arena.crew.freeze_one(&mut arena.rng);
            arena.wait(length).await;
            arena.crew.thaw();
        }
        Act::KillNats => {
            arena.house.nats.kill();
            arena.wait(length).await;
            arena.house.restart_nats().await;
        }
        Act::KillRedis => {
            arena.house.redis.kill();
            arena.wait(length).await;
            arena.house.restart_redis().await;
        }
        Act::KillAll => {
            arena.house.redis.kill();
            arena.house.nats.kill();
            arena.crew.kill_all();
            tokio::time::sleep(length).await;
            arena.house.restart_nats().await;
            arena.house.restart_redis().await;
        }
        Act::Line(link, harm) => return harm_line(arena, link, harm, length).await,
    }
    arena.report.fault(&act.name(), 1);
}

async fn harm_line(arena: &mut Arena, link: Link, harm: Harm, length: Duration) {
    let (faults, counter) = harm.faults(length.as_secs_f64());
    let before = arena.proxy(link).fired_of(counter);
    let once = faults.reset.is_some() || faults.lose_answers > 0;
    arena.proxy(link).set(faults);
    if matches!(harm, Harm::Cut | Harm::Refuse) {
        // A refusal is felt by those who come anew.
        arena.proxy(link).cut();
    }
    let happened = |arena: &Arena| arena.proxy(link).fired_of(counter) - before;
    arena.wait(length).await;
    // What happens once, or to a line that is silent just now, may take its time.
    for _ in 0..if once { 200 } else { 40 } {
        if happened(arena) > 0 {
            break;
        }
        arena.wait(Duration::from_millis(50)).await;
    }
    let times = happened(arena);
    arena.proxy(link).heal();
    arena.report.fault(&Act::Line(link, harm).name(), times);
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
        assert!(acts.iter().all(|act| draw(7).iter().any(|step| step.act == *act)));
    }
}
