//! State rows: a struct on one side, a plain Redis hash on the other, one field per struct field. Text stays text,
//! numbers are decimal, `None` is an absent field, anything nested is JSON.

use std::any::Any;

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserializer, Serialize, forward_to_deserialize_any};
use serde_json::Value;

use oncue_core::store::Fields;

/// A state row: a struct that a function gets as `&mut`, one for each key. `()` is none.
///
/// ```
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct Page { views: u64, title: Option<String> }
/// impl oncue::State for Page { const TABLE: &'static str = "pages"; }
/// ```
///
/// Any serde struct will do, or a map for rows whose fields are data. A field added later starts with its `Default`.
/// In Redis a row is a plain hash: text stays text, numbers are decimal, `None` is an absent field, anything nested is JSON.
pub trait State: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// Name of the table, `[a-z0-9-]+`; empty for no state.
    const TABLE: &'static str;
}

impl State for () {
    const TABLE: &'static str = "";
}

/// The fields of a row, sorted by name.
///
/// # Errors
/// The state is neither a struct nor a map, or serde refuses it.
pub fn to_fields<S: Serialize>(state: &S) -> Result<Fields, String> {
    let Value::Object(map) = serde_json::to_value(state).map_err(|e| e.to_string())? else {
        return Err("a state row must be a struct or a map".into());
    };
    let mut fields: Fields = map
        .into_iter()
        .filter_map(|(name, value)| Some((name, field_text(value)?)))
        .collect();
    // Sorted, so that two rows are compared field by field with a binary search.
    fields.sort();
    Ok(fields)
}

/// Text of a field as `redis-cli` shows it; `None` where the field is absent.
fn field_text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into_bytes()),
        other => Some(other.to_string().into_bytes()),
    }
}

/// The struct of a row. Fields it does not know are left alone.
///
/// # Errors
/// A field holds text that is not of its type, such as `ten` for a number.
pub fn from_fields<S: State>(fields: &Fields) -> Result<S, String> {
    // serde would want `#[serde(default)]` on every struct; here a field that is absent has its default without it.
    let defaults = to_fields(&S::default())?;
    let missing = defaults
        .iter()
        .filter(|(name, _)| fields.binary_search_by(|(f, _)| f.cmp(name)).is_err());
    let all = fields
        .iter()
        .chain(missing)
        .map(|(name, value)| (Text(name.as_bytes()), Text(value)));
    S::deserialize(Fieldwise(MapDeserializer::new(all)))
        .map_err(|e| format!("row of {}: {e}", S::TABLE))
}

/// All fields as a map, or as the map inside a newtype: `struct Counts(BTreeMap<String, u64>)` is a row as well.
struct Fieldwise<D>(D);

impl<'de, D: Deserializer<'de, Error = de::value::Error>> Deserializer<'de> for Fieldwise<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A row in the hands of handlers, its type erased.
pub(crate) trait AnyRow: Send {
    /// The row as the handler's own type, for a downcast.
    fn as_any(&mut self) -> &mut dyn Any;
    /// The handler succeeded: its changes stay, for the commit and for the next event of the key.
    fn keep(&mut self);
    /// The handler failed: as if it had not run.
    fn undo(&mut self);
    /// Fields to set and fields to delete, against what was read.
    fn changes(&self) -> Result<(Fields, Vec<String>), String>;
}

/// A row while events of its key are handled, one after another.
struct TypedRow<S> {
    /// Row that the handler changes.
    now: S,
    /// Row after the last handler that succeeded.
    kept: S,
    /// Fields as they stand in Redis, sorted by name.
    read: Fields,
}

/// A row as read; empty fields make a new one.
pub(crate) fn open<S: State>(fields: &Fields) -> Result<Box<dyn AnyRow>, String> {
    // `&mut ()`: nothing was read and nothing is written.
    if S::TABLE.is_empty() {
        return Ok(Box::new(TypedRow {
            now: S::default(),
            kept: S::default(),
            read: Fields::new(),
        }));
    }
    let now: S = from_fields(fields)?;
    // What was there is what these fields say, so that a default is written once and foreign fields stay.
    let mut read = to_fields(&now)?;
    read.retain(|field| fields.binary_search(field).is_ok());
    Ok(Box::new(TypedRow {
        kept: now.clone(),
        now,
        read,
    }))
}

impl<S: State> AnyRow for TypedRow<S> {
    fn as_any(&mut self) -> &mut dyn Any {
        &mut self.now
    }

    // Two copies rather than one with a log of changes: a row is small, and a handler may change any of it.
    fn keep(&mut self) {
        self.kept.clone_from(&self.now);
    }

    fn undo(&mut self) {
        self.now.clone_from(&self.kept);
    }

    fn changes(&self) -> Result<(Fields, Vec<String>), String> {
        if S::TABLE.is_empty() {
            return Ok((Fields::new(), Vec::new()));
        }
        let now = to_fields(&self.kept)?;
        let gone = self
            .read
            .iter()
            .filter(|(name, _)| now.binary_search_by(|(f, _)| f.cmp(name)).is_err())
            .map(|(name, _)| name.clone())
            .collect();
        // A field with the value that was read is not written again.
        let set = now
            .into_iter()
            .filter(|field| self.read.binary_search(field).is_err())
            .collect();
        Ok((set, gone))
    }
}

/// One field's text, read as whatever the struct wants: a field says nothing of its type, the struct does.
#[derive(Clone, Copy)]
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Text of the field.
    ///
    /// # Errors
    ///
    /// Bytes that are not UTF-8, which only a foreign tool can have written.
    fn str(self) -> Result<&'a str, de::value::Error> {
        std::str::from_utf8(self.0).map_err(de::Error::custom)
    }

    /// Nested data, as `to_fields` has written it.
    fn json(self) -> Result<Value, de::value::Error> {
        serde_json::from_slice(self.0).map_err(de::Error::custom)
    }
}

impl IntoDeserializer<'_> for Text<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Numbers and truth values are written as their text, so they are read by `FromStr`.
macro_rules! parsed {
    ($($method:ident $visit:ident $ty:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            let text = self.str()?;
            visitor.$visit(text.parse::<$ty>().map_err(|e| de::Error::custom(format!("{text:?}: {e}")))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = de::value::Error;

    parsed! {
        deserialize_bool visit_bool bool;
        deserialize_i8 visit_i8 i8; deserialize_i16 visit_i16 i16; deserialize_i32 visit_i32 i32; deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8; deserialize_u16 visit_u16 u16; deserialize_u32 visit_u32 u32; deserialize_u64 visit_u64 u64;
        deserialize_f32 visit_f32 f32; deserialize_f64 visit_f64 f64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_str(self.str()?)
    }

    /// A field that is there is `Some`; `None` is one that is absent.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    /// `struct Cents(u64)` is written as what it holds.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    /// Nested data was written as JSON; an enum without data as its bare name.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if self.0.starts_with(b"{") {
            return self
                .json()?
                .deserialize_enum(name, variants, visitor)
                .map_err(de::Error::custom);
        }
        visitor.visit_enum(StrDeserializer::new(self.str()?))
    }

    /// Nested data, as JSON; text that is no JSON is taken as text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.json() {
            Ok(value) => value.deserialize_any(visitor).map_err(de::Error::custom),
            Err(_) => self.deserialize_str(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    /// The name of a field, which is never anything but text.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct seq tuple tuple_struct map struct ignored_any }
}

#[cfg(test)]
mod tests;
