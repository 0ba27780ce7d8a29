//! Bounds that somebody has set for functions while the app runs, taken over by the pools: at start, when they change, and now and then,
//! in case a change was not heard.

use std::convert::Infallible;
use std::time::Duration;

use oncue_admin::AdminError;
use oncue_admin::services::bounds;
use oncue_core::bus::Bus;
use oncue_core::config::{Config, Scale};

use super::autoscaler::Pools;
use super::log::LogPrinter;
use crate::exit::Failure;

/// Longest time after which the bounds are looked at again, whether or not a change was heard.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Time after which a change that was heard is stored on all servers.
const SETTLED: Duration = Duration::from_secs(1);

/// Takes bounds over until the connection closes for good.
///
/// # Errors
/// The subscription is refused, or the connection closes.
pub async fn follow(
    bus: &Bus,
    pools: &Pools,
    config: &Config,
    log: &LogPrinter,
) -> Result<Infallible, Failure> {
    let changes = bus.subscribe(&bounds::subject(bus.app(), "*")).await;
    let mut changes = changes.map_err(Failure::silent)?;
    let mut wait = LOOK_AGAIN;
    loop {
        // What cannot be read changes nothing: the next look is soon.
        let _ = take_over(bus, pools, config, log).await;
        wait = match tokio::time::timeout(wait, changes.next()).await {
            Ok(None) => return Err(Failure::silent("the connection to NATS is closed")),
            // Heard, and perhaps not stored yet by the server that is asked.
            Ok(Some(_)) => SETTLED,
            Err(_) => LOOK_AGAIN,
        };
    }
}

/// Gives each pool the bounds that are set for it, or those of the file.
///
/// # Errors
/// NATS does not answer; the pools keep what they have.
pub async fn take_over(
    bus: &Bus,
    pools: &Pools,
    config: &Config,
    log: &LogPrinter,
) -> Result<(), AdminError> {
    let set = bounds::all(bus).await?;
    let mut pools = pools.lock();
    for (function, pool) in pools.iter_mut() {
        let of_file = config.function(function).scale();
        let scale = match set.get(function) {
            Some(set) => Scale {
                min: set.min,
                max: set.max,
                ..of_file
            },
            None => of_file,
        };
        if pool.limits.scale == scale {
            continue;
        }
        pool.limits.scale = scale;
        let Scale { min, max, .. } = scale;
        let why = match set.get(function) {
            Some(set) => format!("as {} has set it: {}", set.by, set.reason),
            None => "as oncue.toml says".to_owned(),
        };
        log.note(&format!("{function} has {min} to {max} workers, {why}"));
    }
    Ok(())
}
