//! Note that nats-server ended in order, for the next `oncue up` of the same data: a server that had time to write has lost nothing,
//! so nothing has to be published again. It holds for one start, and for the same run of the machine: after a power cut nobody
//! knows what of that was on disk.

use std::fs;
use std::io;
use std::path::Path;

use oncue_core::bus::Bus;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::{Store, StoreError};

use super::servers::NATS_DATA;

/// Name of the note, in the folder of the data.
const NOTE: &str = "nats-ended";
/// Number that the system draws anew each time it starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Takes the note away; whether it was there and holds.
pub fn take(data: &Path) -> bool {
    let note = data.join(NOTE);
    let said = fs::read_to_string(&note);
    // One that cannot be taken away would hold for the next start as well.
    let is_taken = fs::remove_file(&note).is_ok();
    is_taken && said.is_ok_and(|said| !said.is_empty() && said == boot())
}

/// Whether nats-server has never run on this data.
pub fn is_new(data: &Path) -> bool {
    let mut kept = match fs::read_dir(data.join(NATS_DATA)) {
        Ok(kept) => kept,
        Err(e) => return e.kind() == io::ErrorKind::NotFound,
    };
    kept.next().is_none()
}

/// Writes the note. That it cannot be written only costs the next start some copies.
pub fn write(data: &Path) {
    let _ = fs::write(data.join(NOTE), boot());
}

fn boot() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

/// Whether what servers before this one may have lost has been published again.
pub async fn is_all_restored(
    manifests: &[Manifest],
    bus: &Bus,
    store: &Store,
) -> Result<bool, StoreError> {
    let server = bus.server_id();
    for manifest in manifests {
        if !store.is_restored(&manifest.name, &server).await? {
            return Ok(false);
        }
    }
    Ok(true)
}
