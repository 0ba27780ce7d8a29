//! Names and identities: pure functions of what they name, so that any language can compute them.

use std::{fmt, io};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{MAX_ID, PARTITIONS, Unreadable, unreadable};

/// Checks an id from outside: 1 to [`MAX_ID`] bytes without control characters.
pub fn check_id(id: String) -> Result<String, Unreadable> {
    if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(unreadable(format!(
            "the event id must be 1 to {MAX_ID} bytes without control characters"
        )));
    }
    Ok(id)
}

/// Type of the events of a subject, its first three tokens: `web.page.viewed.<key>` is of type `web.page.viewed`.
pub fn type_of_subject(subject: &str) -> &str {
    subject
        .match_indices('.')
        .nth(2)
        .map_or(subject, |(at, _)| &subject[..at])
}

/// Domains whose events are the platform's own: no contract of an app has any, and no client writes to them.
pub const PLATFORM_DOMAINS: [&str; 3] = ["dlq", "timer", "oncue"];

/// Name of the stream of a type: its domain, the first token.
pub fn stream_of_type(ty: &str) -> &str {
    ty.split('.').next().unwrap_or(ty)
}

/// Subject of an event: `<type>.<key token>`, or the bare type for an empty key. The token is the key itself where a
/// NATS token may hold it, and 128 bits of its SHA-256 otherwise.
pub fn subject(ty: &str, key: &str) -> String {
    match key {
        "" => ty.to_owned(),
        key if key.len() <= 64 && key.chars().all(is_token_char) => format!("{ty}.{key}"),
        key => format!("{ty}.{}", short_hash(&[key.as_bytes()])),
    }
}

/// Whether a key with this character may stand in a subject as it is: safe for clients in any language.
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Partition of a key: CRC-32 (zlib) modulo [`PARTITIONS`], so that any language can compute it.
pub fn partition(key: &str) -> u32 {
    crc32fast::hash(key.as_bytes()) % PARTITIONS
}

/// SHA-256 over the parts, each behind its length so that no two lists of parts collide; the first 16 bytes.
/// Lengths are 64-bit integers in big-endian order.
pub fn hash(parts: &[&[u8]]) -> [u8; 16] {
    hash_from(Context::new(&SHA256), parts)
}

/// [`hash`] that goes on from what was taken in before.
fn hash_from(mut sha: Context, parts: &[&[u8]]) -> [u8; 16] {
    for part in parts {
        sha.update(&(part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let mut out = [0; 16];
    out.copy_from_slice(&sha.finish().as_ref()[..16]);
    out
}

/// Trace id of a flow whose root event brought none: every function that acts on it derives the same.
pub fn trace_id(flow: &str) -> [u8; 16] {
    hash(&[b"trace", flow.as_bytes()])
}

/// `traceparent` of a flow nobody traces: unsampled, with the trace id that everybody derives from the flow, so that
/// ids in answers and logs agree.
pub fn untraced(flow: &str) -> String {
    let span = hash(&[b"span", flow.as_bytes()])[..8].try_into();
    traceparent(trace_id(flow), span.unwrap_or([1; 8]), 0)
}

/// Version 00 of the header [W3C Trace Context section 3.2.2], written digit by digit: every event that follows
/// carries one.
/// 55 bytes in lower case.
pub fn traceparent(trace: [u8; 16], span: [u8; 8], flags: u8) -> String {
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    push_hex(&trace, &mut text);
    text.push('-');
    push_hex(&span, &mut text);
    text.push('-');
    push_hex(&[flags], &mut text);
    text
}

/// Digits of lower-case hex.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends bytes in hex.
fn push_hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(HEX[usize::from(digit)]));
        }
    }
}

/// [`hash`] of the parts in base64url without padding: 22 characters, all of which a NATS token may hold.
fn short_hash(parts: &[&[u8]]) -> String {
    URL_SAFE_NO_PAD.encode(hash(parts))
}

/// Secret of an app, from which the ids of outputs and dead letters are made, and those of what comes from a sender that is known,
/// so that no client can know one before it is used. 32 random bytes, kept in both servers.
#[derive(Clone)]
pub struct IdSecret {
    bytes: [u8; Self::LEN],
    /// SHA-256 that has taken in the secret, as one whole block: an id costs no more than without it.
    keyed: Context,
}

impl IdSecret {
    /// Bytes of a secret.
    pub const LEN: usize = 32;

    /// Secret of these bytes.
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        let mut keyed = Context::new(&SHA256);
        keyed.update(&bytes);
        keyed.update(&[0; Self::LEN]);
        Self { bytes, keyed }
    }

    /// Fresh secret, from the random numbers of the system.
    ///
    /// # Errors
    ///
    /// The system has none to give.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; Self::LEN];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        Ok(Self::new(bytes))
    }

    /// Secret from the form in which servers keep it; `None` where that is something else.
    pub fn of_text(text: &[u8]) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self::new(bytes.try_into().ok()?))
    }

    /// Form in which servers keep it: base64url without padding.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes)
    }

    /// Id of an output: the same for every run of `function` on the event `input`. `index` counts from 0, in the order
    /// in which a run returns its events. A keyed hash.
    ///
    /// Nothing but the id of the input counts: copies of an event may say different times, and whichever is applied, the
    /// same must follow.
    pub fn output_id(&self, input: &str, function: &str, index: usize) -> String {
        URL_SAFE_NO_PAD.encode(self.hash(&[
            b"output",
            input.as_bytes(),
            function.as_bytes(),
            &(index as u64).to_be_bytes(),
        ]))
    }

    /// Id of the dead letter of an event: one per function and redrive, however often it is written.
    pub fn dead_letter_id(&self, input: &str, function: &str, redrives: u32) -> String {
        let hash = self.hash(&[
            b"dlq",
            function.as_bytes(),
            input.as_bytes(),
            &redrives.to_be_bytes(),
        ]);
        URL_SAFE_NO_PAD.encode(hash)
    }

    /// Id of what a `client` sends under an idempotency key: the same whenever it uses the key, and nobody else's.
    pub fn client_id(&self, client: &str, key: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.hash(&[b"client", client.as_bytes(), key.as_bytes()]))
    }

    /// Id of the event that a `delivery` to a webhook becomes: both names, with a tag that nobody else can make; without that of
    /// the delivery where all would be longer than [`MAX_ID`].
    pub fn delivery_id(&self, webhook: &str, delivery: &str) -> String {
        let hash = self.hash(&[b"delivery", webhook.as_bytes(), delivery.as_bytes()]);
        let tag = URL_SAFE_NO_PAD.encode(hash);
        let whole = format!("{webhook}:{delivery}:{tag}");
        if whole.len() > MAX_ID {
            return format!("{webhook}:{tag}");
        }
        whole
    }

    /// [`hash`] with the secret in front.
    fn hash(&self, parts: &[&[u8]]) -> [u8; 16] {
        hash_from(self.keyed.clone(), parts)
    }
}

impl PartialEq for IdSecret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for IdSecret {}

/// Says nothing of the bytes: a log is read by many.
impl fmt::Debug for IdSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdSecret")
    }
}

/// A key that stays the same for every attempt of `function` at `event`; `step` tells several calls apart.
pub fn idempotency_key(event: &str, function: &str, step: &str) -> String {
    short_hash(&[
        b"idempotency",
        event.as_bytes(),
        function.as_bytes(),
        step.as_bytes(),
    ])
}

/// A new root id: UUID version 7, whose first bits are the time.
/// 32 lower-case hex digits without dashes.
pub fn new_id() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// Subject on which one function alone, by the name of its consumer, hears its redriven events; `redrive` is no noun of
/// any event type.
pub fn redrive_subject(stream: &str, consumer: &str) -> String {
    format!("{stream}.redrive.{consumer}")
}
