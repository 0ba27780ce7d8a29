//! Fields that a contract calls sensitive, and payloads without them.

use std::collections::BTreeSet;

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use serde_json::Value;

/// Name in JSON that follows from one in a `.proto`: `first_name` is `firstName`.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &first.into_iter().chain(letters).collect::<String>()
    })
}

/// Text that stands in place of a sensitive field.
pub const HIDDEN: &str = "(sensitive)";

/// Full names of the sensitive fields of a descriptor set, `shop.v1.OrderPlaced.email`.
#[derive(Clone, Debug, Default)]
pub(crate) struct SensitiveFields(BTreeSet<String>);

impl SensitiveFields {
    /// Reads the option of every field; none where the set is of a version that has no such option.
    pub(crate) fn of(pool: &DescriptorPool) -> Self {
        let Some(option) = pool.get_extension_by_name("oncue.v1.sensitive") else {
            return Self::default();
        };
        let messages = pool.all_messages();
        let fields = messages.flat_map(|message| message.fields().collect::<Vec<_>>());
        let sensitive = fields.filter(|field| {
            let options = field.options();
            options.get_extension(&option).as_bool() == Some(true)
        });
        Self(
            sensitive
                .map(|field| field.full_name().to_owned())
                .collect(),
        )
    }

    /// Names of such fields, as contracts and as JSON write them; without those of the platform's own messages.
    pub(crate) fn names(&self, pool: &DescriptorPool) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for full_name in self.0.iter().filter(|name| !name.starts_with("oncue.v1.")) {
            let Some((message, name)) = full_name.rsplit_once('.') else {
                continue;
            };
            names.insert(name.to_owned());
            let message = pool.get_message_by_name(message);
            let field = message.and_then(|message| message.get_field_by_name(name));
            // A field of an earlier version has the name in JSON that follows from its own.
            names.insert(field.map_or_else(|| camel(name), |field| field.json_name().to_owned()));
        }
        names
    }

    /// Fields that one of both calls so.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    /// Whether the message holds such a field, however deep.
    pub(crate) fn are_in(&self, message: &MessageDescriptor) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![message.clone()];
        while let Some(message) = open.pop().filter(|_| !self.0.is_empty()) {
            if !seen.insert(message.full_name().to_owned()) {
                continue;
            }
            for field in message.fields() {
                if self.0.contains(field.full_name()) {
                    return true;
                }
                if let Kind::Message(inner) = field.kind() {
                    open.push(inner);
                }
            }
        }
        false
    }

    /// Puts [`HIDDEN`] where such a field is, in the canonical JSON of a message. What is empty stays so: it says
    /// nothing, and that it is missing may be why somebody looks.
    pub(crate) fn hide(&self, message: &MessageDescriptor, json: &mut Value) {
        // Messages that have a form of their own, such as times, are no objects of their fields.
        let Some(members) = json.as_object_mut().filter(|_| !self.0.is_empty()) else {
            return;
        };
        for field in message.fields() {
            let Some(value) = members.get_mut(field.json_name()) else {
                continue;
            };
            if self.0.contains(field.full_name()) {
                if !is_empty(value) {
                    *value = HIDDEN.into();
                }
            } else if let Kind::Message(inner) = field.kind() {
                self.hide_in(&inner, field.is_map(), value);
            }
        }
    }

    /// Puts what a field held where an edited message still has [`HIDDEN`]; elements of lists by their places, if there are
    /// as many as before.
    ///
    /// # Errors
    /// Path of a field that is hidden, of which the message before has nothing.
    pub(crate) fn reveal(
        &self,
        message: &MessageDescriptor,
        edited: &mut Value,
        before: &Value,
        path: &str,
    ) -> Result<(), String> {
        let Some(members) = edited.as_object_mut().filter(|_| !self.0.is_empty()) else {
            return Ok(());
        };
        for field in message.fields() {
            // People write either spelling.
            for name in [field.json_name(), field.name()] {
                let Some(value) = members.get_mut(name) else {
                    continue;
                };
                let path = below(path, name);
                let before = &before[field.json_name()];
                if self.0.contains(field.full_name()) {
                    if value == HIDDEN {
                        if before.is_null() {
                            return Err(path);
                        }
                        *value = before.clone();
                    }
                } else if let Kind::Message(inner) = field.kind() {
                    self.reveal_in(&inner, field.is_map(), value, before, &path)?;
                }
            }
        }
        Ok(())
    }

    /// [`reveal`](Self::reveal) in every message of a field.
    fn reveal_in(
        &self,
        inner: &MessageDescriptor,
        is_map: bool,
        value: &mut Value,
        before: &Value,
        path: &str,
    ) -> Result<(), String> {
        match value {
            Value::Object(entries) if is_map => {
                let Kind::Message(of_entry) = inner.map_entry_value_field().kind() else {
                    return Ok(());
                };
                for (name, value) in entries {
                    self.reveal(&of_entry, value, &before[name.as_str()], &below(path, name))?;
                }
            }
            Value::Array(values) => {
                // Where one was put in or taken away, places do not say which is which.
                let is_same = before.as_array().map(Vec::len) == Some(values.len());
                for (at, value) in values.iter_mut().enumerate() {
                    let before = if is_same { &before[at] } else { &Value::Null };
                    self.reveal(inner, value, before, &below(path, &at.to_string()))?;
                }
            }
            one => self.reveal(inner, one, before, path)?,
        }
        Ok(())
    }

    /// [`hide`](Self::hide) in every message of a field.
    fn hide_in(&self, inner: &MessageDescriptor, is_map: bool, value: &mut Value) {
        match value {
            Value::Object(entries) if is_map => {
                let Kind::Message(of_entry) = inner.map_entry_value_field().kind() else {
                    return;
                };
                for value in entries.values_mut() {
                    self.hide(&of_entry, value);
                }
            }
            Value::Array(values) => {
                for value in values {
                    self.hide(inner, value);
                }
            }
            one => self.hide(inner, one),
        }
    }
}

/// A path of fields, for messages: `customer.email`.
fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Whether a field holds nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows hold what an earlier version of the contract called sensitive under the name that it had there.
    #[test]
    fn a_field_that_is_gone_keeps_its_names() {
        let gone = SensitiveFields(["shop.v1.Order.home_address".to_owned()].into());
        let names = gone.names(&DescriptorPool::new());
        assert_eq!(
            names.into_iter().collect::<Vec<_>>(),
            ["homeAddress", "home_address"]
        );
    }
}
