//! Protobuf written by hand, field by field into one buffer, where generated types would want every string once more.
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>.

use prost::encoding::{WireType, encode_key, encode_varint};

/// Writes the head of a length-delimited field (string, bytes, message) of `len` bytes, which the caller writes
/// behind it. One key byte and one length byte where the field is below 16 and the content shorter than 128 bytes.
#[inline]
pub fn put(field: u32, len: usize, bytes: &mut Vec<u8>) {
    if field < 16 && len < 128 {
        bytes.extend_from_slice(&[
            (field << 3 | WireType::LengthDelimited as u32) as u8,
            len as u8,
        ]); // as a rule
    } else {
        encode_key(field, WireType::LengthDelimited, bytes);
        encode_varint(len as u64, bytes);
    }
}

/// Writes a whole length-delimited field.
#[inline]
pub fn put_bytes(field: u32, content: &[u8], bytes: &mut Vec<u8>) {
    put(field, content.len(), bytes);
    bytes.extend_from_slice(content);
}
