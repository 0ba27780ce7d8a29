//! Payloads that a person has typed.

use serde_json::Value;

use crate::{Entry, Format};

impl Entry {
    /// Payload as JSON, if the contract takes it: checked in the order in which a mistake is explained best, JSON, an
    /// object, the contract, unknown fields. A field that the contract does not know is most likely a slip of the hand, and a
    /// decoder would drop it in silence; one that is [`HIDDEN`](crate::HIDDEN) was copied from where it was shown.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn read_by_hand(&self, text: &str) -> Result<Value, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let given = value.as_object().ok_or("the payload is a JSON object")?;
        self.check(Format::Json, text.as_bytes())
            .map_err(|e| e.to_string())?;
        if self.is_sensitive() {
            let revealed = self.reveal(&mut value.clone(), &Value::Null);
            revealed.map_err(|e| e.to_string())?;
        }
        let fields: Vec<String> = self.field_names().collect();
        for name in given.keys() {
            if !fields.iter().any(|field| same_field(field, name)) {
                let schema = self.schema();
                let fields = fields.join(", ");
                return Err(format!("{schema} has no field {name:?}; it has {fields}"));
            }
        }
        Ok(value)
    }
}

/// Whether two spellings name one field: proto3 JSON takes `media_type` and `mediaType`.
fn same_field(one: &str, other: &str) -> bool {
    one.replace('_', "").to_lowercase() == other.replace('_', "").to_lowercase()
}
