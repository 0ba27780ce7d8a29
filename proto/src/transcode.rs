//! JSON to protobuf without a message in between, for the path of every event that comes as JSON to a function in another
//! language: a tenth of what the reader that knows all of proto3 JSON takes.
//!
//! It reads what clients write: numbers as numbers or in quotes, text, times in UTC, nested messages, lists. Whatever else
//! may stand in proto3 JSON, and every mistake, it leaves to that reader, which decides alone what is right and says what is
//! wrong. So this one needs no words for errors; what it writes is byte for byte the same, as a test holds against it.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

/// How a message, and those inside it, are written. Made once for an event type.
#[derive(Debug)]
pub struct Transcoder {
    /// The event's own first; others by their place.
    messages: Vec<Shape>,
}

/// Fields of one message.
#[derive(Debug, Default)]
struct Shape {
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    /// Name in JSON, and as the `.proto` spells it.
    names: [String; 2],
    number: u32,
    value: Value,
    is_list: bool,
    /// Whether a list of numbers is one field.
    is_packed: bool,
    /// Whether a default is written as well.
    has_presence: bool,
}

/// Kind of a value, as far as it is read here.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text,
    Bytes,
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Double,
    /// By name.
    Enum(HashMap<String, i32>),
    Timestamp,
    /// Place among the messages.
    Message(usize),
    /// Left to the other reader.
    Odd,
}

impl Value {
    fn wire_type(&self) -> WireType {
        match self {
            Self::Double => WireType::SixtyFourBit,
            Self::Bool
            | Self::Int32
            | Self::Int64
            | Self::Uint32
            | Self::Uint64
            | Self::Enum(_) => WireType::Varint,
            _ => WireType::LengthDelimited,
        }
    }
}

impl Transcoder {
    /// A transcoder for a message.
    pub fn of(message: &MessageDescriptor) -> Self {
        let mut messages = vec![Shape::default()];
        let mut known = HashMap::from([(message.full_name().to_owned(), 0)]);
        let mut next = vec![message.clone()];
        // A message may hold itself.
        while let Some(message) = next.pop() {
            let place = known[message.full_name()];
            let fields = message.fields().map(|field| {
                let value = value(&field, |inner| {
                    *known
                        .entry(inner.full_name().to_owned())
                        .or_insert_with(|| {
                            next.push(inner.clone());
                            messages.push(Shape::default());
                            messages.len() - 1
                        })
                });
                Field {
                    names: [field.json_name().to_owned(), field.name().to_owned()],
                    number: field.number(),
                    is_packed: field.is_packed(),
                    is_list: field.is_list(),
                    has_presence: field.supports_presence(),
                    value,
                }
            });
            let fields = fields.collect();
            messages[place] = Shape { fields };
        }
        Self { messages }
    }

    /// The message as protobuf; `None` for what the other reader has to see.
    pub fn read(&self, json: &[u8]) -> Option<Vec<u8>> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let mut bytes = Vec::with_capacity(json.len());
        let message = MessageSeed {
            all: self,
            place: 0,
            bytes: &mut bytes,
        };
        message.deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        Some(bytes)
    }
}

/// Kind of a field. Groups, maps, fields of which one excludes another, and most well-known types are left out.
fn value(field: &FieldDescriptor, place: impl FnOnce(&MessageDescriptor) -> usize) -> Value {
    let is_one_of = field
        .containing_oneof()
        .is_some_and(|oneof| oneof.fields().count() > 1);
    if field.is_map()
        || field.is_group()
        || is_one_of
        || field.cardinality() == Cardinality::Required
    {
        return Value::Odd;
    }
    match field.kind() {
        Kind::String => Value::Text,
        Kind::Bytes => Value::Bytes,
        Kind::Bool => Value::Bool,
        Kind::Int32 => Value::Int32,
        Kind::Int64 => Value::Int64,
        Kind::Uint32 => Value::Uint32,
        Kind::Uint64 => Value::Uint64,
        Kind::Double => Value::Double,
        Kind::Enum(names) if !names.full_name().starts_with("google.protobuf.") => Value::Enum(
            names
                .values()
                .map(|value| (value.name().to_owned(), value.number()))
                .collect(),
        ),
        Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {
            Value::Timestamp
        }
        Kind::Message(inner) if !inner.full_name().starts_with("google.protobuf.") => {
            Value::Message(place(&inner))
        }
        _ => Value::Odd,
    }
}

/// Error for whatever is left to the other reader. Nobody sees its text.
fn odd<E: Error>() -> E {
    E::custom("odd")
}

/// A message, written behind what there is.
struct MessageSeed<'w> {
    all: &'w Transcoder,
    place: usize,
    bytes: &'w mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = &self.all.messages[self.place].fields;
        // Where each field begins, by its number: they are written in the order of numbers.
        let mut starts: Vec<FieldStart> = Vec::with_capacity(fields.len());
        let begin = self.bytes.len();
        while let Some(field) = map.next_key_seed(NameSeed(fields))? {
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // Of two the last one counts.
            if starts.iter().any(|start| start.number == field.number) {
                return Err(odd());
            }
            starts.push(FieldStart {
                number: field.number,
                at: self.bytes.len(),
            });
            map.next_value_seed(FieldSeed(FieldWriter {
                all: self.all,
                field,
                bytes: self.bytes,
            }))?;
        }
        if !starts.is_sorted_by_key(|start| start.number) {
            sort(&starts, self.bytes, begin);
        }
        Ok(())
    }
}

struct FieldStart {
    number: u32,
    at: usize,
}

/// Puts fields, which begin where `starts` says, into the order of their numbers.
fn sort(starts: &[FieldStart], bytes: &mut Vec<u8>, begin: usize) {
    let written = bytes.split_off(begin);
    let ends = starts[1..].iter().map(|start| start.at);
    let ends = ends.chain([begin + written.len()]);
    let mut order: Vec<_> = starts.iter().zip(ends).collect();
    order.sort_by_key(|(start, _)| start.number);
    for (start, end) in order {
        bytes.extend_from_slice(&written[start.at - begin..end - begin]);
    }
}

/// The field of a name; `None` for one that nobody knows.
struct NameSeed<'w>(&'w [Field]);

impl<'de, 'w> DeserializeSeed<'de> for NameSeed<'w> {
    type Value = Option<&'w Field>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for NameSeed<'w> {
    type Value = Option<&'w Field>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        // An extension.
        if name.starts_with('[') {
            return Err(odd());
        }
        let mut fields = self.0.iter();
        // The name in JSON comes first, should another field be spelled so.
        let found = fields.find(|field| field.names[0] == name);
        Ok(found.or_else(|| self.0.iter().find(|field| field.names[1] == name)))
    }
}

/// A field that is read, and where it is written.
struct FieldWriter<'w> {
    all: &'w Transcoder,
    field: &'w Field,
    bytes: &'w mut Vec<u8>,
}

/// Whole field: one value, or a list.
struct FieldSeed<'w>(FieldWriter<'w>);

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        let Self(writer) = self;
        match writer.field.value {
            Value::Odd => Err(odd()),
            _ if writer.field.is_list => reader.deserialize_any(ListVisitor(writer)),
            _ => writer.deserialize(reader),
        }
    }
}

struct ListVisitor<'w>(FieldWriter<'w>);

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let FieldWriter { all, field, bytes } = self.0;
        let mut packed = Vec::new();
        loop {
            let bytes = if field.is_packed {
                &mut packed
            } else {
                &mut *bytes
            };
            let element = FieldWriter { all, field, bytes };
            if list.next_element_seed(element)?.is_none() {
                break;
            }
        }
        if !packed.is_empty() {
            encode_key(field.number, WireType::LengthDelimited, bytes);
            write_block(&packed, bytes);
        }
        Ok(())
    }
}

/// One value, with its key unless it stands in a packed list.
impl<'de> DeserializeSeed<'de> for FieldWriter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.field.value {
            Value::Text | Value::Bytes | Value::Timestamp => reader.deserialize_str(self),
            _ => reader.deserialize_any(self),
        }
    }
}

impl FieldWriter<'_> {
    /// Begins the field; `false` where a default is not written.
    fn begin(&mut self, is_default: bool) -> bool {
        let Field {
            number,
            is_list,
            is_packed,
            has_presence,
            value,
            ..
        } = self.field;
        if is_default && !is_list && !has_presence {
            return false;
        }
        if !is_packed {
            encode_key(*number, value.wire_type(), self.bytes);
        }
        true
    }

    fn varint(mut self, number: u64) {
        if self.begin(number == 0) {
            encode_varint(number, self.bytes);
        }
    }

    fn block(mut self, content: &[u8]) {
        if self.begin(content.is_empty()) {
            write_block(content, self.bytes);
        }
    }

    /// A whole number that its kind can hold.
    fn integer<E: Error>(self, number: i128) -> Result<(), E> {
        let is_within = match self.field.value {
            Value::Int32 | Value::Enum(_) => i32::try_from(number).is_ok(),
            Value::Int64 => i64::try_from(number).is_ok(),
            Value::Uint32 => u32::try_from(number).is_ok(),
            Value::Uint64 => u64::try_from(number).is_ok(),
            _ => false,
        };
        if !is_within {
            return Err(odd());
        }
        // Negative ones take all 64 bits.
        self.varint(number as u64);
        Ok(())
    }
}

impl<'de> Visitor<'de> for FieldWriter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.field.value != Value::Bool {
            return Err(odd());
        }
        self.varint(u64::from(value));
        Ok(())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        if self.field.value == Value::Double {
            return self.visit_f64(number as f64);
        }
        self.integer(number.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        if self.field.value == Value::Double {
            return self.visit_f64(number as f64);
        }
        self.integer(number.into())
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        if self.field.value != Value::Double {
            return Err(odd());
        }
        if self.begin(number == 0.0) {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        match &self.field.value {
            Value::Text => self.block(text.as_bytes()),
            Value::Bytes => self.block(&STANDARD.decode(text).map_err(|_| odd())?),
            // The longest there is has twenty characters. A plus, and minus zero, are for the other reader.
            Value::Int32 | Value::Int64 | Value::Uint32 | Value::Uint64
                if text.len() <= 20 && !text.starts_with('+') && !text.starts_with("-0") =>
            {
                return self.integer(text.parse().map_err(|_| odd())?);
            }
            Value::Enum(names) => {
                let number = *names.get(text).ok_or_else(odd)?;
                return self.integer(number.into());
            }
            Value::Timestamp => {
                let time = Time::read(text).ok_or_else(odd)?;
                if self.begin(false) {
                    time.write(self.bytes);
                }
            }
            _ => return Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<(), A::Error> {
        let Value::Message(place) = self.field.value else {
            return Err(odd());
        };
        let mut content = Vec::new();
        let inner = MessageSeed {
            all: self.all,
            place,
            bytes: &mut content,
        };
        inner.visit_map(map)?;
        if self.begin(false) {
            write_block(&content, self.bytes);
        }
        Ok(())
    }
}

/// Content with its length in front.
fn write_block(content: &[u8], bytes: &mut Vec<u8>) {
    encode_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}

/// Moment, as `google.protobuf.Timestamp` holds it.
struct Time {
    seconds: i64,
    nanos: u32,
}

impl Time {
    /// Reads a time in UTC, `2026-01-31T12:00:00.5Z`; `None` for other zones and everything else.
    fn read(text: &str) -> Option<Self> {
        // With at most nine digits behind the point. A leap second each reader takes in its own way.
        let is_plain = text.is_ascii()
            && (20..=30).contains(&text.len())
            && text.as_bytes()[10] == b'T'
            && text.ends_with('Z')
            && !text[17..].starts_with("60")
            // Before the first year that there can be.
            && !text.starts_with("0000");
        if !is_plain {
            return None;
        }
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        Some(Self {
            seconds: time.timestamp(),
            nanos: time.timestamp_subsec_nanos(),
        })
    }

    /// Appends it with its length in front.
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut content = Vec::with_capacity(16);
        if self.seconds != 0 {
            encode_key(1, WireType::Varint, &mut content);
            encode_varint(self.seconds as u64, &mut content);
        }
        if self.nanos != 0 {
            encode_key(2, WireType::Varint, &mut content);
            encode_varint(self.nanos.into(), &mut content);
        }
        write_block(&content, bytes);
    }
}

#[cfg(test)]
mod tests;
