//! A flow without a ledger, put together again from what is left of it: events in the streams by their flow and cause,
//! what consumers have acknowledged, and dead letters.

use std::collections::BTreeMap;

use oncue_admin::dead_letters::{self, Letter};
use oncue_admin::trail::{self, Cue, Hit, Patience, Searched, Sources};
use oncue_core::bus::info::ConsumerInfo;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::bus::{Bus, StoredMessage};
use oncue_core::config::Config;
use oncue_core::model::flow::{Flow, FlowEvent, Step, StepState, tree};
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::Catalog;

use crate::exit::Failure;
use crate::paint::progress;
use crate::{ps, when};

/// The flow of an event, as far as the streams still hold it.
pub async fn rebuild(
    bus: &Bus,
    store: Option<&Store>,
    config: &Config,
    catalog: &Catalog,
    id: &str,
    functions: &[Manifest],
    patience: Patience,
) -> Result<(Option<Flow>, Searched), Failure> {
    let streams = ps::streams(bus)
        .await?
        .into_iter()
        .filter(|name| name != DLQ && name != TIMER)
        .collect();
    let functions: Vec<Cue<'_>> = functions
        .iter()
        .map(|m| (&*m.triggers, &*m.emits))
        .collect();
    progress(format_args!("looking for {id} in the streams"));
    let sources = Sources {
        bus,
        streams,
        store,
        config,
    };
    let followed = trail::follow(sources, id, &functions, patience).await;
    progress("");
    let (hits, searched) = followed.map_err(Failure::silent)?;
    let built = if hits.is_empty() {
        None
    } else {
        Some(build(bus, catalog, &hits).await?)
    };
    Ok((built, searched))
}

async fn build(bus: &Bus, catalog: &Catalog, hits: &[Hit]) -> Result<Flow, Failure> {
    let flow = hits[0].incoming.meta.flow.clone();
    let consumers = ps::consumers(bus).await?;
    let letters = dead_letters::all(bus).await.map_err(Failure::silent)?;
    let letters: BTreeMap<(&str, &str), &Letter> = letters
        .iter()
        .filter(|letter| letter.content.flow_id == flow)
        .map(|letter| {
            (
                (
                    letter.content.event_id.as_str(),
                    letter.content.function.as_str(),
                ),
                letter,
            )
        })
        .collect();
    let mut events: Vec<FlowEvent> = Vec::with_capacity(hits.len());
    for hit in hits {
        let id = &hit.incoming.meta.id;
        let mut steps: Vec<Step> = consumers
            .iter()
            .filter(|(_, (of, info))| *of == hit.stream && acts_on(info, &hit.found))
            .map(|(function, (_, info))| {
                step(
                    function,
                    info,
                    hit,
                    emitted(hits, id, function),
                    letters.get(&(&**id, function)).copied(),
                )
            })
            .collect();
        steps.sort_by(|a, b| a.function.cmp(&b.function));
        events.push(FlowEvent {
            steps,
            ..hit.event(catalog)
        });
    }
    let started = events.iter().map(|event| event.time).min().unwrap_or(0);
    let open = events
        .iter()
        .flat_map(|event| &event.steps)
        .filter(|step| step.state.is_open())
        .count() as u64;
    Ok(Flow {
        id: flow,
        open,
        started,
        ended: None,
        events: tree(events),
    })
}

/// When the first event that a function has made of this one came.
fn emitted(hits: &[Hit], cause: &str, function: &str) -> Option<u64> {
    let is_own = |hit: &&Hit| {
        let meta = &hit.incoming.meta;
        meta.cause == cause && meta.source.strip_prefix('/') == Some(function)
    };
    hits.iter().filter(is_own).map(|hit| hit.found.time).min()
}

/// Whether a consumer ever got, or will get, a message.
fn acts_on(consumer: &ConsumerInfo, found: &StoredMessage) -> bool {
    let config = &consumer.config;
    let since = match config.deliver_policy.as_str() {
        "new" => consumer.created_ms().unwrap_or(0),
        _ => 0,
    };
    found.time >= since
        && config
            .filters()
            .any(|filter| matches(filter, &found.subject))
}

fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(token), Some(found)) if token == "*" || token == found => {}
            _ => return false,
        }
    }
}

fn step(
    function: &str,
    consumer: &ConsumerInfo,
    hit: &Hit,
    emitted: Option<u64>,
    letter: Option<&Letter>,
) -> Step {
    let sequence = hit.found.sequence;
    let state = match letter {
        Some(_) => StepState::Dead,
        None if emitted.is_some() || sequence <= consumer.ack_floor.stream_seq => StepState::Done,
        None if sequence <= consumer.delivered.stream_seq => StepState::Running,
        None => StepState::Pending,
    };
    let died = letter.map(|letter| when::ms(letter.content.at.as_ref()));
    Step {
        function: function.to_owned(),
        state,
        since: hit.found.time,
        started: None,
        ended: died.or(emitted).filter(|_| !state.is_open()),
        attempts: letter.map_or(0, |letter| letter.content.attempts),
        failed: died,
        why: letter.map(|letter| letter.content.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_matched_as_the_server_does() {
        assert!(
            matches("web.page.viewed", "web.page.viewed")
                && matches("web.page.viewed.*", "web.page.viewed.home")
        );
        assert!(matches("files.>", "files.file.removed.x") && !matches("files.>", "files"));
        assert!(
            !matches("web.page.viewed.*", "web.page.viewed")
                && !matches("web.page.viewed", "web.page.viewed.home")
        );
    }
}
