//! Fields of an event that come as text, from a path, a query or a header: what the text means, the contract says.

use base64::Engine as _;
use chrono::DateTime;
use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Value, json};

use crate::catalog::Entry;

/// Field of an event, to be read from text.
#[derive(Clone, Debug)]
pub struct TextField {
    /// Name in JSON, which is the one to write.
    name: String,
    kind: Kind,
    is_list: bool,
}

impl Entry {
    /// Name in JSON of a field, which may be given as the `.proto` spells it or as JSON does.
    ///
    /// # Errors
    /// There is no such field; a sentence for people.
    pub fn json_name(&self, name: &str) -> Result<String, String> {
        Ok(self.field(name)?.json_name().to_owned())
    }

    /// Every name under which JSON may hold a field: that of JSON, and that of the `.proto`.
    ///
    /// # Errors
    /// As for [`json_name`](Self::json_name).
    pub fn names_of(&self, name: &str) -> Result<[String; 2], String> {
        let field = self.field(name)?;
        Ok([field.json_name().to_owned(), field.name().to_owned()])
    }

    /// Reader of a field from text.
    ///
    /// # Errors
    /// There is no such field, or no text says what it holds; a sentence for people.
    pub fn text_field(&self, name: &str) -> Result<TextField, String> {
        let field = self.field(name)?;
        let kind = scalar(field.kind());
        let is_text = !matches!(&kind, Kind::Message(inner) if !is_time(inner.full_name()));
        if field.is_map() || !is_text {
            return Err(format!(
                "field {name:?} of {} holds a message, which no text says; take it from the body",
                self.schema()
            ));
        }
        Ok(TextField {
            name: field.json_name().to_owned(),
            is_list: field.is_list(),
            kind,
        })
    }

    fn field(&self, name: &str) -> Result<FieldDescriptor, String> {
        let message = self.message();
        let found = message.get_field_by_name(name);
        let found = found.or_else(|| message.get_field_by_json_name(name));
        found.ok_or_else(|| {
            format!(
                "{} has no field {name:?}; it has {}",
                self.schema(),
                self.field_names().collect::<Vec<_>>().join(", ")
            )
        })
    }
}

impl TextField {
    /// Name in JSON.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it holds any number of values.
    pub fn is_list(&self) -> bool {
        self.is_list
    }

    /// Value in canonical proto3 JSON; of a list, one of its values.
    ///
    /// # Errors
    /// The text is none of this field; the words follow a name of it.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        value(&self.kind, text).map_err(|wanted| format!("is {text:?}, which is {wanted}"))
    }
}

/// Wrappers of well-known types are written as what they wrap [Protobuf JSON mapping].
fn scalar(kind: Kind) -> Kind {
    let Kind::Message(message) = &kind else {
        return kind;
    };
    match message.full_name() {
        "google.protobuf.StringValue" => Kind::String,
        "google.protobuf.BoolValue" => Kind::Bool,
        "google.protobuf.BytesValue" => Kind::Bytes,
        "google.protobuf.Int32Value" => Kind::Int32,
        "google.protobuf.Int64Value" => Kind::Int64,
        "google.protobuf.UInt32Value" => Kind::Uint32,
        "google.protobuf.UInt64Value" => Kind::Uint64,
        "google.protobuf.FloatValue" => Kind::Float,
        "google.protobuf.DoubleValue" => Kind::Double,
        _ => kind,
    }
}

const TIMESTAMP: &str = "google.protobuf.Timestamp";
const DURATION: &str = "google.protobuf.Duration";

/// Whether a message is a well-known one that JSON writes as text.
fn is_time(message: &str) -> bool {
    message == TIMESTAMP || message == DURATION
}

/// Value of a kind; the error says what the text is not.
fn value(kind: &Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::String => Ok(text.into()),
        Kind::Bool => match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err("neither true nor false".into()),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            let whole = text.parse::<i32>();
            whole
                .map(Value::from)
                .map_err(|_| no_whole(i32::MIN, i32::MAX))
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            let whole = text.parse::<i64>();
            whole
                .map(Value::from)
                .map_err(|_| no_whole(i64::MIN, i64::MAX))
        }
        Kind::Uint32 | Kind::Fixed32 => {
            let whole = text.parse::<u32>();
            whole.map(Value::from).map_err(|_| no_whole(0, u32::MAX))
        }
        Kind::Uint64 | Kind::Fixed64 => {
            let whole = text.parse::<u64>();
            whole.map(Value::from).map_err(|_| no_whole(0, u64::MAX))
        }
        Kind::Float | Kind::Double => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.into()),
            _ => Err("no number".into()),
        },
        Kind::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(_) => Ok(text.into()),
            Err(_) => Err("no base64".into()),
        },
        Kind::Enum(of) => {
            if of.get_value_by_name(text).is_some() {
                return Ok(text.into());
            }
            let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
            Err(format!("none of {}", names.join(", ")))
        }
        Kind::Message(message) if message.full_name() == TIMESTAMP => {
            let time = DateTime::parse_from_rfc3339(text);
            time.map(|_| text.into())
                .map_err(|_| "no time like 2026-01-02T03:04:05Z".into())
        }
        Kind::Message(_) => {
            let seconds = text.strip_suffix('s').map(str::parse::<f64>);
            match seconds {
                Some(Ok(seconds)) if seconds.is_finite() => Ok(json!(text)),
                _ => Err("no duration like 1.5s".into()),
            }
        }
    }
}

fn no_whole(least: impl std::fmt::Display, most: impl std::fmt::Display) -> String {
    format!("no whole number from {least} to {most}")
}
