//! Processes that die or freeze.

use super::Storm;
use crate::chaos::faults::Act;
use crate::chaos::report::{Plan, Report};

pub async fn workers(plan: Plan) -> Report {
    let mut storm = Storm::new("K-2");
    storm.pause_ms = 50..500;
    (storm.setup.misbehave, storm.setup.record) = (3, 3);
    storm.run(plan, &[Act::KillWorker]).await
}

pub async fn nats(plan: Plan) -> Report {
    // Redelivery is seen only if an ack was on its way, or an ack wait ran out meanwhile.
    let storm = Storm {
        redelivers: false,
        ..Storm::new("K-3")
    };
    storm.run(plan, &[Act::KillNats]).await
}

pub async fn redis(plan: Plan) -> Report {
    // Events stay in hand while Redis is away, so nothing has to be delivered again.
    let storm = Storm {
        redelivers: false,
        ..Storm::new("K-4")
    };
    storm.run(plan, &[Act::KillRedis]).await
}

pub async fn all(plan: Plan) -> Report {
    Storm::new("K-5").run(plan, &[Act::KillAll]).await
}

pub async fn zombies(plan: Plan) -> Report {
    let mut storm = Storm::new("Z-1");
    (storm.setup.misbehave, storm.setup.record) = (3, 3);
    storm.run(plan, &[Act::FreezeWorker]).await
}
