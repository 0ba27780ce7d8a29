//! Note that nats-server ended in order, for the next `oncue up` of the same data: a server that had time to write has lost nothing,
//! so nothing has to be published again. It holds for one start, for the same run of the machine (after a power cut nobody knows what
//! of that was on disk), and only with the Redis of that run, which has the other half of it.

use std::fs;
use std::io;
use std::path::Path;

use oncue_core::bus::Bus;
use oncue_core::store::{Store, StoreError};

use super::servers::NATS_DATA;

/// Name of the note, in the folder of the data.
const NOTE: &str = "nats-ended";
/// Number that the system draws anew each time it starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Knowledge of the server before, ahead of the start of the next one.
pub struct Before {
    /// Id of the server that ended in order.
    ended: Option<String>,
    /// Whether nats-server has never run on this data.
    is_new: bool,
}

impl Before {
    /// Takes the note away, and reads it.
    pub fn take(data: &Path) -> Self {
        let note = data.join(NOTE);
        let said = fs::read_to_string(&note).unwrap_or_default();
        // One that cannot be taken away would hold for the next start as well.
        let is_taken = fs::remove_file(&note).is_ok();
        let ended = said
            .split_once('\n')
            .filter(|(boot_id, _)| is_taken && !boot_id.is_empty() && *boot_id == boot().trim());
        Self {
            ended: ended.map(|(_, server)| server.to_owned()),
            is_new: is_empty(&data.join(NATS_DATA)),
        }
    }

    /// Whether nothing of what Redis has kept can be missing in NATS. The half in Redis is taken away.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn has_lost_nothing(&self, store: &Store) -> Result<bool, StoreError> {
        let other_half = store.take_ended_server().await?;
        if self.is_new {
            // A NATS without data has lost nothing where Redis knows nothing either.
            return Ok(!store.is_used().await?);
        }
        Ok(self.ended.is_some() && self.ended == other_half)
    }
}

/// Notes in Redis that this server is about to end, where whatever servers before it may have lost has been published again: of each
/// function, whether it runs here or not. Returns the server's id then.
///
/// # Errors
/// Redis does not answer.
pub async fn begin(
    functions: impl Iterator<Item = String>,
    bus: &Bus,
    store: &Store,
) -> Result<Option<String>, StoreError> {
    let server = bus.server_id();
    let registered = store.registered().await?;
    for function in functions.chain(registered) {
        let is_restored = store.is_restored(&function, &server).await?;
        if !is_restored && !store.kept(&function, 0, 0).await?.is_empty() {
            return Ok(None);
        }
    }
    store.set_ended_server(&server).await?;
    Ok(Some(server))
}

/// Writes the note, once the server has ended in order. That it cannot be written only costs the next start some copies.
pub fn write(data: &Path, server: &str) {
    let _ = fs::write(data.join(NOTE), format!("{}\n{server}", boot().trim()));
}

fn boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

fn is_empty(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut kept) => kept.next().is_none(),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}
