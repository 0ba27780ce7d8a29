//! Answers on the NATS services API, for the verbs that ask by a subject of their own.

use std::time::Duration;

use oncue_core::bus::Bus;
pub use oncue_core::bus::services::ServiceInstance as Instance;

use crate::exit::Failure;

/// Instances that answer on `subject`, until nothing has come for `gap`.
pub async fn ask(bus: &Bus, subject: &str, gap: Duration) -> Result<Vec<Instance>, Failure> {
    bus.service_instances(subject, gap)
        .await
        .map_err(Failure::silent)
}
