//! Deliveries of this process, written down so that whoever starts in its place gives back what it had in hand. Without that
//! a process which died would hold its events for the rest of their ack wait: nobody else knows which they are.
//!
//! The file is a ring of the last deliveries, one write for each pull. Nothing is taken out of it again: to give back what is
//! settled does nothing, and what is older than the ack wait has come to somebody else by now.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::bus::pull::{Delivery, Ticket};
use oncue_proto::event;
use parking_lot::Mutex;

/// Variable that names the file; none is written without it.
const FILE: &str = "ONCUE_HANDS";
/// Deliveries in the ring: more than a worker has in hand by default, and than one pull brings.
const SLOTS: usize = 4096;
/// Bytes of a slot: 8 for the time (Unix milliseconds, little-endian), 1 for the length of the ticket, the ticket.
const SLOT: usize = 256;
const HEAD: usize = 9;

/// File of deliveries.
pub(crate) struct Hands {
    path: PathBuf,
    ring: Mutex<Ring>,
    /// Deliveries of the process before this one.
    left: Left,
}

struct Ring {
    file: File,
    /// Slot that is written next.
    next: usize,
}

impl Hands {
    /// The file that the environment names, emptied; what the process before this one had in hand is kept.
    pub fn open() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os(FILE).filter(|path| !path.is_empty())?);
        match Self::open_at(&path) {
            Ok(opened) => Some(opened),
            Err(e) => {
                tracing::warn!(error = %e, file = %path.display(), "events in hand are not written down");
                None
            }
        }
    }

    fn open_at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path)?;
        let mut slots = Vec::new();
        file.read_to_end(&mut slots)?;
        file.set_len(0)?;
        let ring = Mutex::new(Ring { file, next: 0 });
        Ok(Self {
            path: path.to_owned(),
            ring,
            left: Left(slots),
        })
    }

    /// Gives back what the process before this one had in hand and is not older than the ack wait, so that it is delivered
    /// at once, to whoever is there.
    pub async fn give_back_left(&self, bus: &Bus, ack_wait: Duration) {
        let since = event::now_ms().saturating_sub(ack_wait.as_millis() as u64);
        let mut count = 0;
        for ticket in self.left.tickets(since) {
            bus.retry(&ticket, Duration::ZERO).await;
            count += 1;
        }
        if count > 0 {
            bus.flush().await;
            tracing::info!(
                deliveries = count,
                "given back what the process before this one may have had in hand"
            );
        }
    }

    /// Writes deliveries down, before anything of theirs runs.
    pub fn note(&self, deliveries: &[Delivery]) {
        let now = event::now_ms();
        let mut slots = Vec::with_capacity(deliveries.len().min(SLOTS) * SLOT);
        for delivery in deliveries.iter().take(SLOTS) {
            let ticket = delivery.ticket();
            let ticket = ticket.as_str().as_bytes();
            // One that is too long waits for its ack wait.
            let Ok(length) = u8::try_from(ticket.len()) else {
                continue;
            };
            if ticket.len() > SLOT - HEAD {
                continue;
            }
            let mut slot = [0; SLOT];
            slot[..8].copy_from_slice(&now.to_le_bytes());
            slot[8] = length;
            slot[HEAD..HEAD + ticket.len()].copy_from_slice(ticket);
            slots.extend_from_slice(&slot);
        }
        let mut ring = self.ring.lock();
        let until_end = (SLOTS - ring.next) * SLOT;
        let (first, rest) = slots.split_at(until_end.min(slots.len()));
        let at = (ring.next * SLOT) as u64;
        let written = ring.file.write_all_at(first, at);
        let written = written.and_then(|()| ring.file.write_all_at(rest, 0));
        ring.next = (ring.next + slots.len() / SLOT) % SLOTS;
        if let Err(e) = written {
            tracing::debug!(error = %e, "events in hand are not written down");
        }
    }

    /// Nothing is in hand any more.
    pub fn empty(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Deliveries that a process had in hand which has ended.
struct Left(Vec<u8>);

impl Left {
    /// Tickets of deliveries that came at `since` (Unix milliseconds) or later.
    fn tickets(&self, since: u64) -> impl Iterator<Item = Ticket> {
        self.0.chunks_exact(SLOT).filter_map(move |slot| {
            let (time, rest) = slot.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first()?;
            let ticket = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
            (u64::from_le_bytes(*time) >= since).then(|| Ticket::from_text(ticket))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(time: u64, ticket: &str) -> Vec<u8> {
        let mut slot = vec![0; SLOT];
        slot[..8].copy_from_slice(&time.to_le_bytes());
        slot[8] = ticket.len() as u8;
        slot[HEAD..HEAD + ticket.len()].copy_from_slice(ticket.as_bytes());
        slot
    }

    #[test]
    fn what_is_young_and_a_ticket_is_given_back() {
        let ticket = "$JS.ACK.web.app_f.1.5.7.1.0";
        let slots = [
            slot(10, ticket),
            slot(9, ticket),
            slot(10, "web.page.viewed"),
            vec![0; SLOT],
            vec![1; SLOT / 2],
        ];
        let left = Left(slots.concat());
        let tickets: Vec<Ticket> = left.tickets(10).collect();
        assert_eq!(tickets.len(), 1);
        assert_eq!(tickets[0].as_str(), ticket);
    }
}
