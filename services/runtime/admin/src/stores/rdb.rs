//! Keys in a snapshot of Redis as its replicas get it, the RDB format. Read by hand, since there is no crate for it that is
//! kept: as much as it takes to find where each value ends, and to take hashes apart that are too large for one command.
//! Values are not looked into; they go back by `RESTORE`, to which Redis gives its own checks.

use std::io::{self, Read};

use crc::{CRC_64_REDIS, Crc};
use oncue_proto::oncue::v1::{BackupEntry, BackupField};

/// Checksum at the end of a dumped value.
const CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_REDIS);
/// Fields of a hash in one entry.
const FIELDS_AT_A_TIME: usize = 512;
/// Largest string that a snapshot may hold, as of Redis itself.
const LONGEST_STRING: u64 = 512 << 20;

/// Bytes between two keys that say what follows; smaller ones are types of values.
mod opcode {
    /// Three lengths, of a slot of a cluster.
    pub const SLOT_INFO: u8 = 244;
    /// Code of a function library, a string.
    pub const FUNCTION: u8 = 245;
    /// Seconds since the next key was used, a length; only under LRU.
    pub const IDLE: u8 = 248;
    /// Counter of uses of the next key, one byte; only under LFU.
    pub const FREQUENCY: u8 = 249;
    /// Two strings about the server that wrote it.
    pub const AUXILIARY: u8 = 250;
    /// Two lengths: keys of the database, and those that expire.
    pub const SIZES: u8 = 251;
    /// Unix milliseconds at which the next key expires, eight bytes, the lowest first.
    pub const EXPIRES_MS: u8 = 252;
    /// Unix seconds at which the next key expires, four bytes.
    pub const EXPIRES: u8 = 253;
    /// Number of the database of the keys from here on, a length.
    pub const DATABASE: u8 = 254;
    /// Nothing follows but a checksum of eight bytes.
    pub const END: u8 = 255;
}

/// Type of a hash of separate fields; smaller hashes are one string.
const HASH: u8 = 4;

/// Reader of a snapshot.
pub struct SnapshotReader<R> {
    input: Tape<R>,
    /// Version of the format, which dumped values name.
    version: u16,
    /// Database that the next keys are in, and the one that is wanted.
    database: u64,
    wanted: u64,
    /// Hash in parts, and its fields that are still to come.
    hash: Option<BackupEntry>,
    fields_left: u64,
}

/// Input whose bytes are kept while the tape runs.
struct Tape<R> {
    input: R,
    /// Bytes since the tape was started; `None` while it stands. A value is written back just as it was read, so nothing here has
    /// to know all of its encodings.
    kept: Option<Vec<u8>>,
}

impl<R: Read> Tape<R> {
    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.keep(&bytes);
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    /// So many bytes. A length that no string of Redis has is a snapshot that is damaged, and takes no memory.
    fn long(&mut self, length: u64) -> io::Result<Vec<u8>> {
        if length > LONGEST_STRING {
            return Err(broken(format_args!("a string of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        self.keep(&bytes);
        Ok(bytes)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
    }
}

fn broken(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("snapshot of Redis: {why}"),
    )
}

/// Length, or the encoding of a string that is no plain one.
enum Length {
    /// Number of bytes, or of what follows.
    Plain(u64),
    /// Encoding of a string: an integer of one, two or four bytes, or text that is compressed.
    Special(u8),
}

impl<R: Read> SnapshotReader<R> {
    /// Begins to read; `wanted` is the number of the database.
    ///
    /// # Errors
    /// Not a snapshot, or the input ends.
    pub fn new(input: R, wanted: u64) -> io::Result<Self> {
        let mut input = Tape { input, kept: None };
        let head = input.bytes::<9>()?;
        let text = std::str::from_utf8(&head).unwrap_or_default();
        let digits = text
            .trim_start_matches("REDIS")
            .trim_start_matches("VALKEY");
        let version = digits
            .parse()
            .map_err(|_| broken(format_args!("it begins with {text:?}")))?;
        Ok(Self {
            input,
            version,
            database: 0,
            wanted,
            hash: None,
            fields_left: 0,
        })
    }

    /// Next key that begins with `prefix`, or next part of one; `None` at the end. Parts of a hash come one behind the
    /// other, and each names the key.
    ///
    /// # Errors
    /// The input ends, or holds what this version of Oncue does not know.
    pub fn next(&mut self, prefix: &[u8]) -> io::Result<Option<BackupEntry>> {
        if let Some(part) = self.next_part()? {
            return Ok(Some(part));
        }
        let mut expires_at = 0;
        loop {
            match self.input.byte()? {
                opcode::END => return Ok(None),
                opcode::DATABASE => self.database = self.length()?,
                opcode::EXPIRES_MS => expires_at = u64::from_le_bytes(self.input.bytes()?),
                opcode::EXPIRES => {
                    expires_at = u64::from(u32::from_le_bytes(self.input.bytes()?)) * 1000;
                }
                opcode::AUXILIARY => {
                    self.string()?;
                    self.string()?;
                }
                opcode::SIZES => {
                    self.length()?;
                    self.length()?;
                }
                opcode::SLOT_INFO => {
                    for _ in 0..3 {
                        self.length()?;
                    }
                }
                opcode::IDLE => {
                    self.length()?;
                }
                opcode::FREQUENCY => {
                    self.input.byte()?;
                }
                opcode::FUNCTION => {
                    self.string()?;
                }
                kind => {
                    let key = self.string()?;
                    let is_wanted = self.database == self.wanted && key.starts_with(prefix);
                    let entry = BackupEntry {
                        key: key.into(),
                        expires_at,
                        ..BackupEntry::default()
                    };
                    expires_at = 0;
                    if let Some(entry) = self.value(kind, entry, is_wanted)? {
                        return Ok(Some(entry));
                    }
                }
            }
        }
    }

    /// Reads a value; `None` for one that is not wanted.
    fn value(
        &mut self,
        kind: u8,
        entry: BackupEntry,
        is_wanted: bool,
    ) -> io::Result<Option<BackupEntry>> {
        if is_wanted && kind == HASH {
            self.fields_left = self.length()?;
            self.hash = Some(entry);
            return self.next_part();
        }
        self.input.kept = is_wanted.then(|| vec![kind]);
        self.skip(kind)
            .map_err(|e| io::Error::new(e.kind(), format!("{e} (key {})", shown(&entry.key))))?;
        let Some(mut dump) = self.input.kept.take() else {
            return Ok(None);
        };
        dump.extend_from_slice(&self.version.to_le_bytes());
        let checksum = CRC.checksum(&dump);
        dump.extend_from_slice(&checksum.to_le_bytes());
        Ok(Some(BackupEntry {
            dump: dump.into(),
            ..entry
        }))
    }

    /// Next fields of the hash in parts; `None` when there are no more.
    fn next_part(&mut self) -> io::Result<Option<BackupEntry>> {
        let Some(hash) = self.hash.take().filter(|_| self.fields_left > 0) else {
            return Ok(None);
        };
        let mut part = BackupEntry {
            fields: Vec::new(),
            ..hash.clone()
        };
        while self.fields_left > 0 && part.fields.len() < FIELDS_AT_A_TIME {
            let name = self.string()?;
            let value = self.string()?;
            part.fields.push(BackupField {
                name: name.into(),
                value: value.into(),
            });
            self.fields_left -= 1;
        }
        self.hash = Some(hash);
        Ok(Some(part))
    }

    /// Reads over a value of this type.
    fn skip(&mut self, kind: u8) -> io::Result<()> {
        match kind {
            // Strings, and whatever small value is one: lists, sets, hashes and sorted sets in compact form.
            0 | 9..=13 | 16 | 17 | 20 => self.skip_strings(1),
            // Lists, also of compact parts, and sets.
            1 | 2 | 14 => {
                let count = self.length()?;
                self.skip_strings(count)
            }
            3 => {
                for _ in 0..self.length()? {
                    self.string()?;
                    // A number as text behind its length; the last three say what no number is.
                    let length = self.input.byte()?;
                    if length < 253 {
                        self.input.long(u64::from(length))?;
                    }
                }
                Ok(())
            }
            HASH => {
                let count = self.length()?;
                self.skip_strings(count.saturating_mul(2))
            }
            5 => {
                for _ in 0..self.length()? {
                    self.string()?;
                    self.input.bytes::<8>()?;
                }
                Ok(())
            }
            18 => {
                for _ in 0..self.length()? {
                    self.length()?;
                    self.string()?;
                }
                Ok(())
            }
            15 | 19 | 21 => self.skip_stream(kind),
            // Hashes whose fields expire.
            24 => {
                self.input.bytes::<8>()?;
                for _ in 0..self.length()? {
                    self.length()?;
                    self.skip_strings(2)?;
                }
                Ok(())
            }
            25 => {
                self.input.bytes::<8>()?;
                self.skip_strings(1)
            }
            other => Err(broken(format_args!(
                "a value of type {other}, which is not known"
            ))),
        }
    }

    fn skip_strings(&mut self, count: u64) -> io::Result<()> {
        for _ in 0..count {
            self.skip_string()?;
        }
        Ok(())
    }

    fn skip_stream(&mut self, kind: u8) -> io::Result<()> {
        let nodes = self.length()?;
        self.skip_strings(nodes.saturating_mul(2))?;
        let numbers = if kind == 15 { 3 } else { 8 };
        for _ in 0..numbers {
            self.length()?;
        }
        for _ in 0..self.length()? {
            self.skip_strings(1)?;
            for _ in 0..if kind == 15 { 2 } else { 3 } {
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.input.bytes::<24>()?;
                self.length()?;
            }
            for _ in 0..self.length()? {
                self.skip_strings(1)?;
                self.input.bytes::<8>()?;
                if kind == 21 {
                    self.input.bytes::<8>()?;
                }
                for _ in 0..self.length()? {
                    self.input.bytes::<16>()?;
                }
            }
        }
        Ok(())
    }

    fn length(&mut self) -> io::Result<u64> {
        match self.length_or_encoding()? {
            Length::Plain(length) => Ok(length),
            Length::Special(_) => Err(broken("a string where a length belongs")),
        }
    }

    fn length_or_encoding(&mut self) -> io::Result<Length> {
        let first = self.input.byte()?;
        let rest = u64::from(first & 0x3f);
        Ok(match first >> 6 {
            0 => Length::Plain(rest),
            1 => Length::Plain(rest << 8 | u64::from(self.input.byte()?)),
            2 if first == 0x80 => Length::Plain(u32::from_be_bytes(self.input.bytes()?).into()),
            2 => Length::Plain(u64::from_be_bytes(self.input.bytes()?)),
            _ => Length::Special(first & 0x3f),
        })
    }

    /// Reads over a string as it is stored.
    fn skip_string(&mut self) -> io::Result<()> {
        match self.length_or_encoding()? {
            Length::Plain(length) => self.input.long(length).map(|_| ()),
            Length::Special(0) => self.input.byte().map(|_| ()),
            Length::Special(1) => self.input.bytes::<2>().map(|_| ()),
            Length::Special(2) => self.input.bytes::<4>().map(|_| ()),
            Length::Special(3) => {
                let packed = self.length()?;
                self.length()?;
                self.input.long(packed).map(|_| ())
            }
            Length::Special(other) => Err(broken(format_args!("a string of encoding {other}"))),
        }
    }

    /// String as it was written: integers are stored as such, long strings packed.
    fn string(&mut self) -> io::Result<Vec<u8>> {
        let number = match self.length_or_encoding()? {
            Length::Plain(length) => return self.input.long(length),
            Length::Special(0) => i64::from(i8::from_le_bytes(self.input.bytes()?)),
            Length::Special(1) => i64::from(i16::from_le_bytes(self.input.bytes()?)),
            Length::Special(2) => i64::from(i32::from_le_bytes(self.input.bytes()?)),
            Length::Special(3) => {
                let packed = self.length()?;
                let length = self.length()?;
                let packed = self.input.long(packed)?;
                return unpack(&packed, length).ok_or_else(|| broken("a packed string"));
            }
            Length::Special(other) => {
                return Err(broken(format_args!("a string of encoding {other}")));
            }
        };
        Ok(number.to_string().into_bytes())
    }
}

/// Key for an error.
fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(&key[..key.len().min(80)]).into_owned()
}

/// Unpacks LZF: runs of bytes as they are, and copies of what came before.
fn unpack(packed: &[u8], length: u64) -> Option<Vec<u8>> {
    if length > LONGEST_STRING {
        return None;
    }
    let mut out = Vec::with_capacity(length as usize);
    let mut rest = packed.iter().copied();
    while let Some(control) = rest.next() {
        let control = usize::from(control);
        if control < 32 {
            for _ in 0..=control {
                out.push(rest.next()?);
            }
            continue;
        }
        let mut count = control >> 5;
        if count == 7 {
            count += usize::from(rest.next()?);
        }
        let back = (control & 0x1f) << 8 | usize::from(rest.next()?);
        let from = out.len().checked_sub(back + 1)?;
        // One by one: a copy may reach into itself.
        for at in from..from + count + 2 {
            out.push(*out.get(at)?);
        }
    }
    (out.len() as u64 == length).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_strings_come_back() {
        // "aaaaaaaaaa": one byte as it is, then nine that repeat it.
        assert_eq!(
            unpack(&[0, b'a', 0xe0, 0, 0], 10),
            Some(b"aaaaaaaaaa".to_vec())
        );
        assert_eq!(unpack(&[1, b'a', b'b'], 2), Some(b"ab".to_vec()));
        for broken in [&[0x20, 5][..], &[3, b'a'], &[0xe0]] {
            assert_eq!(unpack(broken, 3), None);
        }
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        assert!(SnapshotReader::new(&b"REDIS0011"[..], 0).is_ok());
        assert!(SnapshotReader::new(&b"VALKEY080"[..], 0).is_ok());
        assert!(SnapshotReader::new(&b"SQLite fo"[..], 0).is_err());
        let mut cut = SnapshotReader::new(&b"REDIS0011\x00\x01k\x05ab"[..], 0).expect("a head");
        assert!(cut.next(b"").is_err());
        let mut module = SnapshotReader::new(&b"REDIS0011\x07\x01k"[..], 0).expect("a head");
        let why = module.next(b"").expect_err("a module").to_string();
        assert!(why.contains("type 7") && why.contains("key k"), "{why}");
    }
}
