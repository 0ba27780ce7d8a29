//! JSON schemas [2020-12] of the canonical proto3 JSON form of messages, for documents about the contract (AsyncAPI,
//! OpenAPI). A schema describes what is written and allows what is read besides, such as a number for a 64-bit
//! integer.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::catalog::Entry;

/// Where a document keeps its schemas.
const PLACE: &str = "#/components/schemas/";

impl Entry {
    /// Adds the schemas of the payload and of every message in it, by full name. They name each other as
    /// `#/components/schemas/NAME`. Unknown fields are allowed, as everywhere: a newer producer may know more.
    pub fn add_schemas(&self, schemas: &mut Map<String, Value>) {
        add(self.message(), schemas);
        let Some(schema) = schemas.get_mut(self.schema()) else {
            return;
        };
        // The key is the one field an event cannot do without.
        if let Some(field) = self.message().get_field_by_name(&self.key_field) {
            schema["required"] = json!([field.json_name()]);
            schema["properties"][field.json_name()]["minLength"] = 1.into();
        }
    }
}

/// Adds the schema of one message and, through its fields, of every message in it.
fn add(message: &MessageDescriptor, schemas: &mut Map<String, Value>) {
    let name = message.full_name();
    if schemas.contains_key(name) {
        return;
    }
    // Its place is taken before its fields are looked at: a message may hold itself.
    schemas.insert(name.to_owned(), Value::Null);
    let properties: Map<String, Value> = message
        .fields()
        .map(|field| (field.json_name().to_owned(), of_field(&field, schemas)))
        .collect();
    // Names are those of JSON, `mediaType` and not `media_type`: the gateway reads both and writes this one.
    schemas.insert(
        name.to_owned(),
        json!({ "title": message.name(), "type": "object", "properties": properties }),
    );
}

/// Schema of one field. A field that is absent has its default, so none is required.
fn of_field(field: &FieldDescriptor, schemas: &mut Map<String, Value>) -> Value {
    // A map is a repeated message of key and value on the wire, and an object in JSON.
    if field.is_map()
        && let Kind::Message(entry) = field.kind()
    {
        let value = of_kind(&entry.map_entry_value_field().kind(), schemas);
        return json!({ "type": "object", "additionalProperties": value });
    }
    let one = of_kind(&field.kind(), schemas);
    // A list that is absent is empty.
    if field.is_list() {
        json!({ "type": "array", "items": one })
    } else {
        one
    }
}

/// [Protobuf JSON mapping]: 64-bit integers and what no JSON number can say are strings, and read as numbers as well.
fn of_kind(kind: &Kind, schemas: &mut Map<String, Value>) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        // `NaN` and `Infinity` are strings.
        Kind::Double | Kind::Float => json!({ "type": ["number", "string"] }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({ "type": "integer", "format": "int32" })
        }
        Kind::Uint32 | Kind::Fixed32 => {
            json!({ "type": "integer", "minimum": 0, "format": "uint32" })
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({ "type": ["string", "integer"], "format": "int64" })
        }
        Kind::Uint64 | Kind::Fixed64 => {
            json!({ "type": ["string", "integer"], "format": "uint64" })
        }
        // By name; the number is read as well, but nobody should have to know it.
        Kind::Enum(of) => {
            json!({ "type": "string", "enum": of.values().map(|v| v.name().to_owned()).collect::<Vec<_>>() })
        }
        // Groups of proto2 are messages as well.
        Kind::Message(message) => of_message(message, schemas),
    }
}

/// Schema of a message: a reference to its own, except that well-known types have a JSON form of their own
/// [Protobuf JSON mapping].
fn of_message(message: &MessageDescriptor, schemas: &mut Map<String, Value>) -> Value {
    // Messages of a contract are referred to, since they may hold themselves.
    let Some(known) = message.full_name().strip_prefix("google.protobuf.") else {
        add(message, schemas);
        return json!({ "$ref": format!("{PLACE}{}", message.full_name()) });
    };
    match known {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" => json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$" }),
        // Paths joined by commas, and base64.
        "FieldMask" | "StringValue" | "BytesValue" => json!({ "type": "string" }),
        "BoolValue" => json!({ "type": "boolean" }),
        "Int32Value" | "UInt32Value" => json!({ "type": "integer" }),
        "Int64Value" | "UInt64Value" => json!({ "type": ["string", "integer"] }),
        "DoubleValue" | "FloatValue" => json!({ "type": ["number", "string"] }),
        "ListValue" => json!({ "type": "array" }),
        // Any JSON value at all.
        "Value" => json!({}),
        _ => json!({ "type": "object" }),
    }
}
