//! Identities: what credentials say of those who were let in.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Identity of a request, an extension of it behind [`enter`](super::enter). Claims are for handlers; they stand in no log and
/// no span.
#[derive(Clone)]
pub struct Identity {
    /// Name that no other client has: a limit by identity counts under it.
    pub subject: String,
    /// Rights of the credential.
    pub scopes: BTreeSet<String>,
    /// Claims of the token; of an API key its name as `sub`.
    pub claims: Map<String, Value>,
    /// Owner of what they upload, where the policy says which claim that is.
    pub owner: Option<String>,
    /// Unix milliseconds from which the credential is refused; `None` for never.
    pub expires: Option<u64>,
}

impl Identity {
    /// Text of a claim, also of a number or a truth value.
    pub fn claim(&self, name: &str) -> Option<String> {
        text(self.claims.get(name)?)
    }

    /// Texts of a claim that is one value or a list of them; none of anything else.
    pub fn claim_texts(&self, name: &str) -> Vec<String> {
        match self.claims.get(name) {
            Some(Value::Array(values)) => {
                let texts: Option<Vec<String>> = values.iter().map(text).collect();
                texts.unwrap_or_default()
            }
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

/// A claim as text; `None` for what is no single value.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
