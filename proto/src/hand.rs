//! Payloads that a person has typed.

use prost_reflect::{EnumDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use crate::{Entry, Format};

impl Entry {
    /// Payload as JSON, if the contract takes it: checked in the order in which a mistake is explained best, JSON, an
    /// object, the contract, unknown names. A field or a value of an enum that the contract does not know is most likely a slip of
    /// the hand, and a decoder would drop it in silence; one that is [`HIDDEN`](crate::HIDDEN) was copied from where it was shown.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn read_by_hand(&self, text: &str) -> Result<Value, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        if !value.is_object() {
            return Err("the payload is a JSON object".to_owned());
        }
        self.check(Format::Json, text.as_bytes())
            .map_err(|e| e.to_string())?;
        if self.is_sensitive() {
            let revealed = self.reveal(&mut value.clone(), &Value::Null);
            revealed.map_err(|e| e.to_string())?;
        }
        check_names(self.message(), &value)?;
        Ok(value)
    }
}

/// Refuses names that a message does not know.
fn check_names(message: &MessageDescriptor, value: &Value) -> Result<(), String> {
    // Well-known types have forms of their own, which the decoder has read.
    let Some(members) = value
        .as_object()
        .filter(|_| !is_googles(message.full_name()))
    else {
        return Ok(());
    };
    for (name, value) in members {
        let by_name = message.get_field_by_json_name(name);
        let Some(field) = by_name.or_else(|| message.get_field_by_name(name)) else {
            let fields: Vec<String> = message
                .fields()
                .map(|field| field.name().to_owned())
                .collect();
            return Err(format!(
                "{} has no field {name:?}; it has {}",
                message.full_name(),
                fields.join(", ")
            ));
        };
        check_names_in(&field.kind(), value)?;
    }
    Ok(())
}

/// [`check_names`] of the value of a field, or of each of a list.
fn check_names_in(kind: &Kind, value: &Value) -> Result<(), String> {
    if let Value::Array(values) = value {
        return values
            .iter()
            .try_for_each(|value| check_names_in(kind, value));
    }
    match kind {
        Kind::Message(entry) if entry.is_map_entry() => {
            let kind = entry.map_entry_value_field().kind();
            let mut values = value.as_object().into_iter().flatten();
            values.try_for_each(|(_, value)| check_names_in(&kind, value))
        }
        Kind::Message(inner) => check_names(inner, value),
        Kind::Enum(of) => check_value(of, value),
        _ => Ok(()),
    }
}

/// Refuses a name that an enum does not know; its numbers may be of a newer contract.
fn check_value(of: &EnumDescriptor, value: &Value) -> Result<(), String> {
    let Some(name) = value.as_str().filter(|_| !is_googles(of.full_name())) else {
        return Ok(());
    };
    if of.get_value_by_name(name).is_some() {
        return Ok(());
    }
    let values: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
    Err(format!(
        "{} has no value {name:?}; it has {}",
        of.full_name(),
        values.join(", ")
    ))
}

fn is_googles(name: &str) -> bool {
    name.starts_with("google.protobuf.")
}
