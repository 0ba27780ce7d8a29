//! Every event type of a descriptor set, for those who carry payloads without being built for them: the gateway
//! checks what clients send, the CLI shows what passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::prost_types::FileDescriptorSet;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions,
};

use crate::event;
use crate::sensitive::{HIDDEN, SensitiveFields};
use crate::transcode::Transcoder;
use crate::{DESCRIPTORS, Format};

/// Event types of one or several descriptor sets, by name. Cheap to clone: descriptors are shared.
///
/// ```
/// use oncue_proto::{Catalog, Format};
///
/// let catalog = Catalog::builtin().with(oncue_app_events::DESCRIPTORS)?;
/// let viewed = catalog.get("web.page.viewed")?;
/// assert_eq!(viewed.check(Format::Json, br#"{"page":"/home"}"#)?, "/home");
/// # Ok::<(), oncue_proto::CatalogError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// By event type, so that lists are sorted.
    entries: BTreeMap<String, Entry>,
}

/// One event type of the contract.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Dotted name, `web.page.viewed`.
    pub ty: String,
    /// Name of the field that holds the key; empty when the type has none.
    pub key_field: String,
    /// Whether clients may publish it through the gateway.
    pub public: bool,
    /// Descriptor of the payload, by which it is decoded without generated types.
    message: MessageDescriptor,
    /// Reads most of what comes as JSON.
    transcoder: Arc<Transcoder>,
    /// Of the whole descriptor set.
    sensitive: Arc<SensitiveFields>,
}

/// Why a payload or a descriptor set was refused, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogError {
    /// The type is not in the contract; near names are offered.
    UnknownType { ty: String, near: Vec<String> },
    /// The payload is not a message of its type.
    ///
    /// Set or payload, with the reason.
    Malformed(String),
    /// The key field is empty.
    EmptyKey(String),
}

impl std::fmt::Display for CatalogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType { ty, near } if near.is_empty() => {
                write!(f, "unknown event type {ty:?}")
            }
            Self::UnknownType { ty, near } => {
                write!(f, "unknown event type {ty:?}; known: {}", near.join(", "))
            }
            Self::Malformed(why) => f.write_str(why),
            Self::EmptyKey(field) => write!(
                f,
                "field {field:?} is the key of this event and must not be empty"
            ),
        }
    }
}

impl std::error::Error for CatalogError {}

impl Catalog {
    /// Types of the platform itself: dead letters, timers, uploads.
    pub fn builtin() -> Self {
        let mut catalog = Self::default();
        catalog.add_builtin();
        catalog
    }

    /// Names of the fields that an app's contract calls sensitive, as contracts and as JSON write them: what rows hold under
    /// such a name came from there.
    pub fn sensitive_names(&self) -> BTreeSet<String> {
        let entries = self.entries.values();
        entries
            .flat_map(|entry| entry.sensitive.names(entry.message.parent_pool()))
            .collect()
    }

    /// Adds the types of the platform; they replace others of the same names.
    pub fn add_builtin(&mut self) {
        self.add(DESCRIPTORS)
            .expect("the embedded descriptor set is the one prost compiled");
    }

    /// This catalog and the event types of one more set; see [`add`](Self::add).
    ///
    /// # Errors
    /// The set cannot be read.
    pub fn with(mut self, descriptor_set: &[u8]) -> Result<Self, CatalogError> {
        self.add(descriptor_set)?;
        Ok(self)
    }

    /// Adds the event types of an encoded `FileDescriptorSet`, such as another repository's `DESCRIPTORS`.
    /// A type that is known already is replaced.
    ///
    /// # Errors
    /// The set cannot be read, or its files contradict each other.
    pub fn add(&mut self, descriptor_set: &[u8]) -> Result<(), CatalogError> {
        let set = FileDescriptorSet::decode(descriptor_set).map_err(unreadable)?;
        // The library panics on a syntax it does not know.
        if let Some(file) = set
            .file
            .iter()
            .find(|file| !["", "proto2", "proto3"].contains(&file.syntax()))
        {
            return Err(CatalogError::Malformed(format!(
                "{} has the syntax {:?}; write proto3",
                file.name(),
                file.syntax()
            )));
        }
        let pool = DescriptorPool::decode(descriptor_set).map_err(unreadable)?;
        // A set without the option has no events.
        let Some(option) = pool.get_extension_by_name("oncue.v1.event") else {
            return Ok(());
        };
        let sensitive = Arc::new(SensitiveFields::of(&pool));
        for message in pool.all_messages() {
            let options = message.options();
            if !options.has_extension(&option) {
                continue;
            }
            let value = options.get_extension(&option);
            let Some(option_of) = value.as_message() else {
                continue;
            };
            let ty = text_field(option_of, "type");
            // Of two versions of a contract, what one of them calls sensitive stays so.
            let before = self.entries.get(&ty);
            let sensitive = before.map_or_else(
                || sensitive.clone(),
                |before| Arc::new(sensitive.and(&before.sensitive)),
            );
            let is_own = event::PLATFORM_DOMAINS.contains(&event::stream_of_type(&ty));
            let entry = Entry {
                ty,
                key_field: text_field(option_of, "key"),
                // Rights follow from this, and nobody may write letters or schedules.
                public: flag(option_of, "public") && !is_own,
                transcoder: Arc::new(Transcoder::of(&message)),
                message: message.clone(),
                sensitive,
            };
            self.entries.insert(entry.ty.clone(), entry);
        }
        Ok(())
    }

    /// All event types, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One event type by its dotted name.
    ///
    /// # Errors
    /// [`CatalogError::UnknownType`], with the names that may have been meant.
    pub fn get(&self, ty: &str) -> Result<&Entry, CatalogError> {
        self.entries
            .get(ty)
            .ok_or_else(|| CatalogError::UnknownType {
                ty: ty.to_owned(),
                near: self.near(ty),
            })
    }

    /// Types of the same domain, or all when the domain is unknown too: the list a mistyped name needs.
    fn near(&self, ty: &str) -> Vec<String> {
        let domain = format!("{}.", ty.split('.').next().unwrap_or_default());
        // Nobody sends the platform's own notes by hand.
        let all: Vec<&String> = self
            .entries
            .keys()
            .filter(|known| !known.starts_with("dlq.") && !known.starts_with("timer."))
            .collect();
        let same: Vec<String> = all
            .iter()
            .filter(|known| known.starts_with(&domain))
            .map(|known| (*known).clone())
            .collect();
        if same.is_empty() {
            all.into_iter().cloned().collect()
        } else {
            same
        }
    }
}

/// Refuses integers that no field can hold: the reader below would make them the nearest one that fits. JSON without a
/// long number, which is nearly all of it, is not read for this.
fn check_integers(message: &MessageDescriptor, json: &[u8]) -> Result<(), String> {
    let mut digits = 0;
    let is_long = json.iter().any(|byte| {
        digits = match byte {
            b'0'..=b'9' => digits + 1,
            // A fraction may be behind more than a float holds, and an exponent makes a long number of a short one.
            b'.' if digits >= EXACT_DIGITS => LONG_NUMBER,
            b'e' | b'E' if digits > 0 => LONG_NUMBER,
            _ => 0,
        };
        digits >= LONG_NUMBER
    });
    if !is_long {
        return Ok(());
    }
    // What is no JSON the reader below names.
    serde_json::from_slice(json).map_or(Ok(()), |value| check_integers_of(message, &value))
}

/// Messages that stand for an integer which may be left out.
const WRAPPERS: [&str; 4] = [
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
];

/// Digits from which a number may be more than 64 bits hold.
const LONG_NUMBER: u32 = 19;
/// Digits from which a float may not hold a number to its last one.
const EXACT_DIGITS: u32 = 16;

/// [`check_integers`] of a message that was read.
fn check_integers_of(message: &MessageDescriptor, value: &serde_json::Value) -> Result<(), String> {
    let Some(members) = value.as_object() else {
        return Ok(());
    };
    for (name, value) in members {
        let by_name = message.get_field_by_json_name(name);
        let Some(field) = by_name.or_else(|| message.get_field_by_name(name)) else {
            continue;
        };
        let values = match value {
            serde_json::Value::Array(values) => values.iter().collect(),
            other => vec![other],
        };
        for value in values {
            check_integers_in(&field.kind(), name, value)?;
        }
    }
    Ok(())
}

/// [`check_integers`] of one value of a field.
fn check_integers_in(kind: &Kind, name: &str, value: &serde_json::Value) -> Result<(), String> {
    match kind {
        Kind::Message(entry) if entry.is_map_entry() => {
            let kind = entry.map_entry_value_field().kind();
            let mut values = value.as_object().into_iter().flatten();
            values.try_for_each(|(_, value)| check_integers_in(&kind, name, value))
        }
        // As JSON has it, the value alone.
        Kind::Message(wrapper) if WRAPPERS.contains(&wrapper.full_name()) => {
            check_integer(name, value)
        }
        Kind::Message(inner) => check_integers_of(inner, value),
        Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Fixed32
        | Kind::Fixed64
        | Kind::Sfixed32
        | Kind::Sfixed64 => check_integer(name, value),
        _ => Ok(()),
    }
}

/// Refuses a number, or the text of one, that is no integer of 64 bits.
fn check_integer(name: &str, value: &serde_json::Value) -> Result<(), String> {
    let text = match value {
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::String(text) => text.clone(),
        _ => return Ok(()),
    };
    // As a float it is exact below 2^53, and whatever is no number the reader names itself.
    let is_exact = text
        .parse::<f64>()
        .is_ok_and(|n| n.abs() < 9_007_199_254_740_992.0);
    if is_exact || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() {
        return Ok(());
    }
    Err(format!(
        "field {name:?} holds {text}, which no integer of 64 bits can be"
    ))
}

/// Error of a set that cannot be decoded.
fn unreadable(why: impl std::fmt::Display) -> CatalogError {
    CatalogError::Malformed(format!("not a descriptor set: {why}"))
}

/// A text field of the option; empty where it is not set.
fn text_field(option: &DynamicMessage, name: &str) -> String {
    option
        .get_field_by_name(name)
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A flag of the option; `false` where it is not set, or where the set is of a version that has no such flag.
fn flag(option: &DynamicMessage, name: &str) -> bool {
    option
        .get_field_by_name(name)
        .and_then(|value| value.as_bool())
        .unwrap_or_default()
}

impl Entry {
    /// Descriptor of the message, for schemas.
    pub(crate) fn message(&self) -> &MessageDescriptor {
        &self.message
    }

    /// Whether the message is in a file that comes with the platform.
    pub fn is_of_platform(&self) -> bool {
        self.message.parent_file().name().starts_with("oncue/v1/")
    }

    /// Full name of the protobuf message.
    pub fn schema(&self) -> &str {
        self.message.full_name()
    }

    /// Names of the message's fields as the `.proto` spells them, for messages to people.
    pub fn field_names(&self) -> impl Iterator<Item = String> {
        self.message.fields().map(|field| field.name().to_owned())
    }

    /// Reads the payload whole and returns its key. Unknown fields are fine: a newer producer may know more.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] and [`CatalogError::EmptyKey`].
    pub fn check(&self, format: Format, payload: &[u8]) -> Result<String, CatalogError> {
        let message = self.decode(format, payload)?;
        if self.key_field.is_empty() {
            return Ok(String::new());
        }
        let key = message
            .get_field_by_name(&self.key_field)
            .and_then(|v| v.as_str().map(str::to_owned));
        key.filter(|key| !key.is_empty())
            .ok_or_else(|| CatalogError::EmptyKey(self.key_field.clone()))
    }

    /// Reader of the key of such events: the field that the contract names, or another one.
    ///
    /// # Errors
    /// There is no such field, or it is no text; a sentence for people.
    pub fn key_reader(&self, field: Option<&str>) -> Result<KeyReader, String> {
        let name = field.unwrap_or(&self.key_field);
        if name.is_empty() {
            return Ok(KeyReader {
                field: None,
                name: String::new(),
            });
        }
        let found = self.message.get_field_by_name(name);
        let is_text = found
            .as_ref()
            .is_some_and(|field| field.kind() == Kind::String && !field.is_list());
        match found {
            Some(field) if is_text => Ok(KeyReader {
                field: Some(field.number()),
                name: name.to_owned(),
            }),
            _ => Err(format!(
                "{} has no text field {name:?} that could be its key; it has {}",
                self.schema(),
                self.field_names().collect::<Vec<_>>().join(", ")
            )),
        }
    }

    /// The payload as canonical proto3 JSON, with every field, whether it is set or not: whoever looks at an event
    /// wants to see all there is to it.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`]: the payload is not of this type.
    pub fn to_json(
        &self,
        format: Format,
        payload: &[u8],
    ) -> Result<serde_json::Value, CatalogError> {
        let options = SerializeOptions::new()
            .skip_default_fields(false)
            .use_proto_field_name(false);
        self.decode(format, payload)?
            .serialize_with_options(serde_json::value::Serializer, &options)
            .map_err(|e| CatalogError::Malformed(e.to_string()))
    }

    /// [`to_json`](Self::to_json) for those who only look: fields that the contract calls sensitive hold
    /// [`HIDDEN`](crate::HIDDEN), unless they are empty.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`]: the payload is not of this type. Of a type with sensitive fields it does not say
    /// why, since that may quote one.
    pub fn to_view(
        &self,
        format: Format,
        payload: &[u8],
    ) -> Result<serde_json::Value, CatalogError> {
        match self.to_json(format, payload) {
            Ok(mut json) => {
                self.sensitive.hide(&self.message, &mut json);
                Ok(json)
            }
            Err(_) if self.is_sensitive() => {
                Err(self.malformed("why is not said, since it has sensitive fields"))
            }
            Err(why) => Err(why),
        }
    }

    /// As [`to_protobuf`](Self::to_protobuf), for what is shown to others than who sent it.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`]: the payload is not of this type. Of a type with sensitive fields it does not say
    /// why, since that may quote one.
    pub fn to_protobuf_discreetly(
        &self,
        format: Format,
        payload: &[u8],
    ) -> Result<Vec<u8>, CatalogError> {
        self.to_protobuf(format, payload).map_err(|why| {
            if self.is_sensitive() {
                self.malformed("why is not said, since it has sensitive fields")
            } else {
                why
            }
        })
    }

    /// Whether such events hold a sensitive field, however deep: then nobody shows their bytes either.
    pub fn is_sensitive(&self) -> bool {
        self.sensitive.are_in(&self.message)
    }

    /// Gives an edited view its hidden fields back, as the event that was looked at has them; elements of lists by
    /// their places, if there are as many as before.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`]: a field is hidden, and the event before holds none such.
    pub fn reveal(
        &self,
        edited: &mut serde_json::Value,
        before: &serde_json::Value,
    ) -> Result<(), CatalogError> {
        let revealed = self.sensitive.reveal(&self.message, edited, before, "");
        revealed.map_err(|path| {
            CatalogError::Malformed(format!(
                "field {path:?} is {HIDDEN:?}, and the event before has nothing there to be kept; write a value"
            ))
        })
    }

    /// The payload as protobuf. Unknown fields of JSON are dropped, those of protobuf kept.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`]: the payload is not of this type.
    pub fn to_protobuf(&self, format: Format, payload: &[u8]) -> Result<Vec<u8>, CatalogError> {
        let plain = match format {
            Format::Json => self.transcoder.read(payload),
            Format::Protobuf => None,
        };
        if let Some(bytes) = plain {
            return Ok(bytes);
        }
        Ok(self.decode(format, payload)?.encode_to_vec())
    }

    /// The whole message. JSON may use any spelling that proto3 JSON allows; what follows it is a mistake.
    fn decode(&self, format: Format, payload: &[u8]) -> Result<DynamicMessage, CatalogError> {
        match format {
            Format::Protobuf => DynamicMessage::decode(self.message.clone(), payload)
                .map_err(|why| self.malformed(why)),
            Format::Json if crate::has_byte_order_mark(payload) => {
                Err(self.malformed(crate::BEGINS_WITH_MARK))
            }
            Format::Json => {
                check_integers(&self.message, payload).map_err(|why| self.malformed(why))?;
                let mut json = serde_json::Deserializer::from_slice(payload);
                let options = DeserializeOptions::new().deny_unknown_fields(false);
                let message = DynamicMessage::deserialize_with_options(
                    self.message.clone(),
                    &mut json,
                    &options,
                )
                .map_err(|why| self.malformed(why))?;
                json.end().map_err(|why| self.malformed(why))?;
                Ok(message)
            }
        }
    }

    /// Error of a payload, with the schema it should have had.
    fn malformed(&self, why: impl std::fmt::Display) -> CatalogError {
        CatalogError::Malformed(format!("not a {}: {why}", self.schema()))
    }
}

/// Reader of the key of encoded events, which leaves the rest of them alone.
#[derive(Clone, Debug)]
pub struct KeyReader {
    /// Number of the field; `None` where such events have no key.
    field: Option<u32>,
    /// Name of the field, for messages.
    name: String,
}

impl KeyReader {
    /// Key of a payload in protobuf; empty where such events have none.
    ///
    /// # Errors
    /// [`CatalogError::Malformed`] for what is no protobuf, [`CatalogError::EmptyKey`].
    pub fn read(&self, mut payload: &[u8]) -> Result<String, CatalogError> {
        let mut key = &payload[..0];
        while !payload.is_empty() {
            let (number, wire) = decode_key(&mut payload).map_err(no_protobuf)?;
            if self.field == Some(number) && wire == WireType::LengthDelimited {
                let length = decode_varint(&mut payload).map_err(no_protobuf)?;
                let split = payload.split_at_checked(length as usize);
                // Of a field that stands there twice the last one counts.
                (key, payload) = split.ok_or_else(|| no_protobuf("it ends too early"))?;
            } else {
                skip_field(wire, number, &mut payload, DecodeContext::default())
                    .map_err(no_protobuf)?;
            }
        }
        let key = std::str::from_utf8(key).map_err(no_protobuf)?;
        if key.is_empty() && self.field.is_some() {
            return Err(CatalogError::EmptyKey(self.name.clone()));
        }
        Ok(key.to_owned())
    }
}

/// Error of bytes that are no protobuf at all.
fn no_protobuf(why: impl std::fmt::Display) -> CatalogError {
    CatalogError::Malformed(format!("not readable as protobuf: {why}"))
}
