//! Every event type of a descriptor set, for those who carry payloads without being built for them: the gateway
//! checks what clients send, the CLI shows what passes.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::prost_types::FileDescriptorSet;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};

use crate::{DESCRIPTORS, Format};

/// The event types of one or several descriptor sets.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    entries: BTreeMap<String, Entry>,
}

/// One event type of the contract.
#[derive(Clone, Debug)]
pub struct Entry {
    pub ty: String,
    /// Name of the field that holds the key; empty when the type has none.
    pub key_field: String,
    message: MessageDescriptor,
}

/// Why a payload or a descriptor set was refused, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogError {
    /// The type is not in the contract; near names are offered.
    UnknownType { ty: String, near: Vec<String> },
    /// The payload is not a message of its type.
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
    /// The types this crate was built with.
    pub fn builtin() -> Self {
        let mut catalog = Self::default();
        catalog
            .add(DESCRIPTORS)
            .expect("the embedded descriptor set is the one prost compiled");
        catalog
    }

    /// Adds the event types of an encoded `FileDescriptorSet`, such as another repository's `DESCRIPTORS`.
    pub fn add(&mut self, descriptor_set: &[u8]) -> Result<(), CatalogError> {
        let unreadable = |e: &dyn std::fmt::Display| {
            CatalogError::Malformed(format!("not a descriptor set: {e}"))
        };
        let set = FileDescriptorSet::decode(descriptor_set).map_err(|e| unreadable(&e))?;
        // The library panics on a syntax it does not know.
        let known = |syntax: &str| ["", "proto2", "proto3"].contains(&syntax);
        if let Some(file) = set.file.iter().find(|file| !known(file.syntax())) {
            let why = format!(
                "{} has the syntax {:?}; write proto3",
                file.name(),
                file.syntax()
            );
            return Err(CatalogError::Malformed(why));
        }
        let pool = DescriptorPool::decode(descriptor_set).map_err(|e| unreadable(&e))?;
        let Some(option) = pool.get_extension_by_name("oncue.v1.event") else {
            return Ok(());
        };
        for message in pool.all_messages() {
            let options = message.options();
            let value = options.get_extension(&option);
            let Some(event) = value
                .as_message()
                .filter(|_| options.has_extension(&option))
            else {
                continue;
            };
            let text = |name| {
                event
                    .get_field_by_name(name)
                    .and_then(|v| v.as_str().map(str::to_owned))
                    .unwrap_or_default()
            };
            let entry = Entry {
                ty: text("type"),
                key_field: text("key"),
                message: message.clone(),
            };
            self.entries.insert(entry.ty.clone(), entry);
        }
        Ok(())
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

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
        let all = || {
            self.entries
                .keys()
                .filter(|t| !t.starts_with("dlq.") && !t.starts_with("timer."))
        };
        let same: Vec<String> = all().filter(|t| t.starts_with(&domain)).cloned().collect();
        if same.is_empty() {
            all().cloned().collect()
        } else {
            same
        }
    }
}

impl Entry {
    pub(crate) fn message(&self) -> &MessageDescriptor {
        &self.message
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

    /// The payload as canonical proto3 JSON.
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

    /// The payload as protobuf.
    pub fn to_protobuf(&self, format: Format, payload: &[u8]) -> Result<Vec<u8>, CatalogError> {
        Ok(self.decode(format, payload)?.encode_to_vec())
    }

    fn decode(&self, format: Format, payload: &[u8]) -> Result<DynamicMessage, CatalogError> {
        let malformed = |e: &dyn std::fmt::Display| {
            CatalogError::Malformed(format!("not a {}: {e}", self.schema()))
        };
        match format {
            Format::Protobuf => {
                DynamicMessage::decode(self.message.clone(), payload).map_err(|e| malformed(&e))
            }
            Format::Json => {
                let mut json = serde_json::Deserializer::from_slice(payload);
                let options = DeserializeOptions::new().deny_unknown_fields(false);
                let message = DynamicMessage::deserialize_with_options(
                    self.message.clone(),
                    &mut json,
                    &options,
                )
                .map_err(|e| malformed(&e))?;
                json.end().map_err(|e| malformed(&e))?;
                Ok(message)
            }
        }
    }
}
