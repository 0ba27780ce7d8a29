//! Protobuf written by hand, where generated types would want every string once more.

use prost::encoding::{WireType, encode_key, encode_varint};

/// The head of a field of `len` bytes that follow.
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

#[inline]
pub fn put_bytes(field: u32, content: &[u8], bytes: &mut Vec<u8>) {
    put(field, content.len(), bytes);
    bytes.extend_from_slice(content);
}
