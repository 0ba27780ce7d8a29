//! Reason for which nobody has begun the step that a flow waits for, where the servers know one: its function is paused, or its
//! event was delayed.

use oncue_core::bus::Bus;
use oncue_core::bus::layout::TIMER;
use oncue_core::model::flow::{Flow, FlowEvent, StepState};
use oncue_proto::event::{self, stream_of_type};
use serde::Serialize;

use crate::AdminError;

/// Pauses that end later than this from now end when somebody resumes the function, milliseconds.
const ENDLESS: u64 = 50 * 365 * 24 * 3600 * 1000;

/// Reason for which a step has not begun. Times are Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Pause of its function; without an end, until somebody resumes it.
    Paused { until: Option<u64> },
    /// Delay of its event, which is due then.
    Due { at: u64 },
}

impl Hold {
    /// Reason for the step that the flow [waits for](Flow::waits_for). Costs two questions to NATS, and nothing where a worker has
    /// begun it.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn of(flow: &Flow, bus: &Bus) -> Result<Option<Self>, AdminError> {
        let Some((event, step)) = flow.waits_for() else {
            return Ok(None);
        };
        if step.state != StepState::Pending || event.ty.is_empty() {
            return Ok(None);
        }
        if let Some(at) = due(event, bus).await? {
            return Ok(Some(Self::Due { at }));
        }
        let stream = stream_of_type(&event.ty);
        match bus.consumer_info(stream, &step.function).await {
            Ok(consumer) if consumer.paused => {
                let until = consumer.config.pause_end_ms();
                let until = until.filter(|until| *until < event::now_ms() + ENDLESS);
                Ok(Some(Self::Paused { until }))
            }
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(AdminError::api(&step.function, e)),
        }
    }
}

/// Time at which a delayed event is due; `None` for one that is not delayed, or not any more.
async fn due(event: &FlowEvent, bus: &Bus) -> Result<Option<u64>, AdminError> {
    let id = &event.id;
    // Of ids from outside, none of which can be delayed.
    if id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_') {
        return Ok(None);
    }
    let function = event.source.strip_prefix('/').unwrap_or_default();
    let subject = bus.app().delayed(function, &event.ty, id);
    match bus.last_message(TIMER, &subject).await {
        Ok(message) => Ok(message.and_then(|message| {
            let rule = message.header("Nats-Schedule")?;
            event::parse_time(rule.strip_prefix("@at ")?)
        })),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(AdminError::api(TIMER, e)),
    }
}
