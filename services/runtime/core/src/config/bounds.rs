//! `[bounds]`: what one event and one row may measure, by whatever way they come. Checked before anything is taken or
//! committed, so that no server finds out afterwards.

use serde::Deserialize;

use super::Size;

/// `[bounds]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    /// Longest key of an event, and longest field or member of a blind operation. Default 1 KiB, at most 4 KiB: it
    /// stands in a message's headers twice, percent-encoded.
    pub key: Size,
    /// Headers of an event, names and all, as NATS carries them. Default 16 KiB, at most 48 KiB: the server takes 64,
    /// and headers are added on the way.
    pub headers: Size,
    /// Most events that follow from one event at once. Default 256.
    pub outputs: usize,
    /// Bytes of all of them, headers included. Default 1 MiB. Each is also bound by the server's `max_payload`.
    pub output_bytes: Size,
    /// Fields of a row, names and values. Default 1 MiB.
    pub row: Size,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            key: Size(1 << 10),
            headers: Size(16 << 10),
            outputs: 256,
            output_bytes: Size(1 << 20),
            row: Size(1 << 20),
        }
    }
}

impl Bounds {
    /// Largest `key` that can be configured.
    pub const MAX_KEY: u64 = 4 << 10;
    /// Largest `headers` that can be configured.
    pub const MAX_HEADERS: u64 = 48 << 10;
    /// Bounds that nothing exceeds, for broken twins.
    pub const NONE: Self = Self {
        key: Size(u64::MAX),
        headers: Size(u64::MAX),
        outputs: usize::MAX,
        output_bytes: Size(u64::MAX),
        row: Size(u64::MAX),
    };

    /// Checks the key of an event. Empty is a matter of the contract.
    ///
    /// # Errors
    ///
    /// A sentence for people, with the bound and its name.
    pub fn check_key(&self, key: &str) -> Result<(), String> {
        check("a key", key.len(), self.key, "key")
    }

    /// Checks the name of a field or a member that a blind operation changes.
    ///
    /// # Errors
    ///
    /// A sentence for people, with the bound and its name.
    pub fn check_member(&self, member: &str) -> Result<(), String> {
        check("a field or member", member.len(), self.key, "key")
    }

    /// Checks the size of an event's headers on the wire.
    ///
    /// # Errors
    ///
    /// A sentence for people, with the bound and its name.
    pub fn check_headers(&self, bytes: usize) -> Result<(), String> {
        check("headers", bytes, self.headers, "headers")
    }

    /// Checks the size of a row.
    ///
    /// # Errors
    ///
    /// A sentence for people, with the bound and its name.
    pub fn check_row(&self, bytes: usize) -> Result<(), String> {
        check("a row", bytes, self.row, "row")
    }
}

/// Compares a size with its bound.
fn check(what: &str, bytes: usize, bound: Size, name: &str) -> Result<(), String> {
    if bytes as u64 <= bound.0 {
        return Ok(());
    }
    Err(format!(
        "{what} of {bytes} bytes, at most {} are allowed ([bounds] {name} in oncue.toml)",
        bound.0
    ))
}
