//! Lines between workers and servers that are cut, half open, slow or treacherous.

use super::Storm;
use crate::chaos::arena::Link;
use crate::chaos::faults::{Act, Harm};
use crate::chaos::report::{Plan, Report};

fn both(harms: &[Harm]) -> Vec<Act> {
    let links = [Link::Nats, Link::Redis];
    links.into_iter().flat_map(|link| harms.iter().map(move |harm| Act::Line(link, *harm))).collect()
}

pub async fn partitions(plan: Plan) -> Report {
    let harms = [Harm::Cut, Harm::Refuse, Harm::HalfOpenUp, Harm::HalfOpenDown, Harm::HalfOpen, Harm::Freeze];
    Storm { redelivers: false, ..Storm::new("N-1") }.run(plan, &both(&harms)).await
}

pub async fn bad_lines(plan: Plan) -> Report {
    let harms = [Harm::Latency, Harm::Throttle, Harm::Slices, Harm::ResetUp, Harm::ResetDown];
    Storm { redelivers: false, ..Storm::new("N-2") }.run(plan, &both(&harms)).await
}
