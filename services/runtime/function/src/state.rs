//! State rows: a struct on one side, a plain Redis hash on the other, one field per struct field. Text stays text,
//! numbers are decimal, `None` is an absent field, anything nested is JSON.

mod nested;
mod plain;

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserializer, Serialize, forward_to_deserialize_any};
use serde_json::Value;

use self::nested::{Fault, Filled, Nested, to_json};
use crate::error::{Result, reject};
use oncue_core::store::{Fields, SCHEMA};

/// A state row: a struct that a function gets as `&mut`, one for each key. `()` is none.
///
/// ```
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct Page { views: u64, title: Option<String> }
/// impl oncue::State for Page { const TABLE: &'static str = "pages"; }
/// ```
///
/// Any serde struct will do, or a map for rows whose fields are data. A field added later starts with its `Default`, in
/// nested structs too; inside lists, maps and options, where no default can be seen, with zero, empty or `None`.
/// In Redis a row is a plain hash: text stays text, numbers are decimal, `None` is an absent field, anything nested is JSON.
/// Numbers that are not finite are `Infinity`, `-Infinity` and `NaN`, nested ones as strings; in a flattened field or an enum with a
/// tag they are refused.
///
/// A field that is renamed or gets another type makes a new version of the row:
///
/// ```
/// # use std::collections::BTreeMap;
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct Page { visits: u64 }
/// impl oncue::State for Page {
///     const TABLE: &'static str = "pages";
///     const VERSION: u32 = 2;
///
///     fn upgrade(_from: u32, fields: &mut BTreeMap<String, String>) -> oncue::Result<()> {
///         if let Some(views) = fields.remove("views") {
///             fields.insert("visits".to_owned(), views);
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait State: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// Name of the table, `[a-z0-9-]+`; empty for no state.
    const TABLE: &'static str;
    /// Version of the rows that this struct reads and writes. An older row is upgraded when its key's next event comes;
    /// an event whose row is newer waits for a worker that knows it.
    const VERSION: u32 = 1;

    /// Makes the fields of a row of version `from` those of version `from + 1`: name and text of each, as in Redis.
    ///
    /// # Errors
    /// Fields that cannot be upgraded; events of the row fail with that.
    fn upgrade(from: u32, fields: &mut BTreeMap<String, String>) -> Result<()> {
        let _ = fields;
        Err(reject(format_args!(
            "State::upgrade has no step from version {from}"
        )))
    }
}

impl State for () {
    const TABLE: &'static str = "";
}

/// A row that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RowError {
    /// Written by a newer version of the function: one of its workers can read it.
    #[error("the row has version {stored}, this program knows up to {known}")]
    Newer { stored: u32, known: u32 },
    /// A field that is not of its type, or an upgrade that failed.
    #[error("{0}")]
    Unreadable(String),
}

/// The fields of a row, sorted by name, with the version of the row where that is not the first.
///
/// # Errors
/// The state is neither a struct nor a map, or serde refuses it.
pub fn to_fields<S: State>(state: &S) -> Result<Fields, String> {
    let mut fields = match plain::fields(state) {
        Ok(fields) => fields,
        Err(_) => fields_by_json(state)?,
    };
    // Sorted, so that two rows are compared field by field with a binary search.
    fields.sort();
    if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        // A name that comes twice, as a flattened map may have it: the last one counts.
        fields = fields_by_json(state)?;
        fields.sort();
    }
    if S::VERSION > 1 {
        let version = (SCHEMA.to_owned(), S::VERSION.to_string().into_bytes());
        let at = fields.partition_point(|field| *field < version);
        fields.insert(at, version);
    }
    Ok(fields)
}

/// Fields of a row of any shape that JSON has an object for.
fn fields_by_json<S: Serialize>(state: &S) -> Result<Fields, String> {
    let Value::Object(map) = to_json(state).map_err(|e| e.to_string())? else {
        return Err("a state row must be a struct or a map".into());
    };
    let fields = map
        .into_iter()
        .filter_map(|(name, value)| Some((stored_name(&name).into_owned(), field_text(value)?)));
    Ok(fields.collect())
}

/// Name of a field in Redis: [`SCHEMA`] is where the row's version stands, so a field that an author, or data, calls so
/// gets one more `_`.
pub(crate) fn stored_name(name: &str) -> Cow<'_, str> {
    if name.starts_with('_') && name.trim_start_matches('_') == &SCHEMA[1..] {
        Cow::Owned(format!("_{name}"))
    } else {
        Cow::Borrowed(name)
    }
}

/// Fields as their author named them, without the version of the row.
pub(crate) fn author_fields(fields: &Fields) -> Fields {
    let named = fields
        .iter()
        .filter_map(|(name, value)| Some((named(name)?.to_owned(), value.clone())));
    named.collect()
}

/// Name of a field as its author wrote it; `None` for the version of the row.
fn named(stored: &str) -> Option<&str> {
    if stored == SCHEMA {
        return None;
    }
    let is_shifted = stored.starts_with("__") && stored.trim_start_matches('_') == &SCHEMA[1..];
    Some(if is_shifted { &stored[1..] } else { stored })
}

/// Text of a field as `redis-cli` shows it; `None` where the field is absent.
fn field_text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into_bytes()),
        other => Some(other.to_string().into_bytes()),
    }
}

/// The struct of a row of its own version. Fields it does not know are left alone.
///
/// # Errors
/// A field holds text that is not of its type, such as `ten` for a number.
pub fn from_fields<S: State>(fields: &Fields) -> Result<S, String> {
    // serde would want `#[serde(default)]` on every struct; here a field that is absent has its default without it.
    let defaults = to_fields(&S::default())?;
    let missing = defaults
        .iter()
        .filter(|(name, _)| fields.binary_search_by(|(f, _)| f.cmp(name)).is_err());
    let mut filled = Filled::default();
    loop {
        let all = fields.iter().chain(missing.clone());
        let all = all.filter_map(|(name, value)| {
            let name = named(name)?;
            let value = Text {
                bytes: value,
                name,
                filled: &filled,
            };
            let name = Text {
                bytes: name.as_bytes(),
                ..value
            };
            Some((name, value))
        });
        match S::deserialize(Fieldwise(MapDeserializer::new(all))) {
            Ok(state) => return Ok(state),
            // Whether a field of a nested struct may be absent is known once serde has missed it.
            Err(fault) if filled.fill::<S>(&fault) => {}
            Err(fault) => return Err(fault.to_string()),
        }
    }
}

/// The fields of an older row in the form of the current version.
fn upgraded<S: State>(fields: &Fields, stored: u32) -> Result<Fields, String> {
    let mut texts = BTreeMap::new();
    for (name, value) in fields {
        let Some(name) = named(name) else { continue };
        let text =
            String::from_utf8(value.clone()).map_err(|_| format!("field {name}: not UTF-8"))?;
        texts.insert(name.to_owned(), text);
    }
    for from in stored..S::VERSION {
        S::upgrade(from, &mut texts).map_err(|e| format!("upgrade from version {from}: {e}"))?;
    }
    let texts = texts.into_iter();
    let mut fields: Fields = texts
        .map(|(name, text)| (stored_name(&name).into_owned(), text.into_bytes()))
        .collect();
    fields.sort();
    Ok(fields)
}

/// Version of a row as stored, for a program that knows versions up to `known`; a row that was never written has that
/// one. Runs no code of an author.
pub(crate) fn stored_version(fields: &Fields, known: u32) -> Result<u32, RowError> {
    let Ok(at) = fields.binary_search_by(|(name, _)| name.as_str().cmp(SCHEMA)) else {
        return Ok(if fields.is_empty() { known } else { 1 });
    };
    let text = &fields[at].1;
    let version = std::str::from_utf8(text).ok().and_then(|v| v.parse().ok());
    match version {
        Some(stored) if stored > known => Err(RowError::Newer { stored, known }),
        Some(stored) => Ok(stored),
        None => Err(RowError::Unreadable(format!(
            "field {SCHEMA}: not a version"
        ))),
    }
}

/// All fields as a map, or as the map inside a newtype: `struct Counts(BTreeMap<String, u64>)` is a row as well.
struct Fieldwise<D>(D);

impl<'de, D: Deserializer<'de, Error = Fault>> Deserializer<'de> for Fieldwise<D> {
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
pub(crate) fn open<S: State>(fields: &Fields) -> Result<Box<dyn AnyRow>, RowError> {
    // Nothing was read: a new row, or `&mut ()`, of which nothing is written.
    if S::TABLE.is_empty() || fields.is_empty() {
        let now = S::default();
        return Ok(Box::new(TypedRow {
            kept: now.clone(),
            now,
            read: Fields::new(),
        }));
    }
    let stored = stored_version(fields, S::VERSION)?;
    let current = if stored < S::VERSION {
        Cow::Owned(upgraded::<S>(fields, stored).map_err(RowError::Unreadable)?)
    } else {
        Cow::Borrowed(fields)
    };
    let now: S = from_fields(&current).map_err(RowError::Unreadable)?;
    // What was there under the names that it knows, whatever its form: so a default is written once, a field that the handler
    // clears goes, and foreign fields stay.
    let known = to_fields(&now).map_err(RowError::Unreadable)?;
    let known = fields.iter().filter(|(name, _)| has_field(&known, name));
    let mut read: Fields = known.cloned().collect();
    if let Cow::Owned(current) = &current {
        // The upgrade has taken them away.
        let gone = fields
            .iter()
            .filter(|(name, _)| name != SCHEMA && !has_field(current, name));
        read.extend(gone.cloned());
        read.sort();
    }
    Ok(Box::new(TypedRow {
        kept: now.clone(),
        now,
        read,
    }))
}

/// Whether fields, which are sorted, hold one of this name.
fn has_field(fields: &Fields, name: &str) -> bool {
    let found = fields.binary_search_by(|(field, _)| field.as_str().cmp(name));
    found.is_ok()
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
        let set: Fields = now
            .into_iter()
            .filter(|field| self.read.binary_search(field).is_err())
            .collect();
        // Whoever buffers data, as serde does for flattened fields and tagged enums, reads a word and no number.
        if set.iter().any(|field| nested::has_word(&field.1)) {
            from_fields::<S>(&to_fields(&self.kept)?).map_err(|why| {
                format!("a number of the row is not finite, and cannot be stored there: {why}")
            })?;
        }
        Ok((set, gone))
    }
}

/// One field's text, read as whatever the struct wants: a field says nothing of its type, the struct does.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    /// Field of the row, for errors.
    name: &'a str,
    filled: &'a Filled,
}

impl<'a> Text<'a> {
    /// Text of the field.
    ///
    /// # Errors
    ///
    /// Bytes that are not UTF-8, which only a foreign tool can have written.
    fn str(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes).map_err(|e| self.fault(e))
    }

    /// Nested data, as `to_fields` has written it.
    fn json(self) -> Result<Nested<'a>, Fault> {
        let value = serde_json::from_slice(self.bytes).map_err(|e| self.fault(e))?;
        Ok(self.filled.nested(self.name, value))
    }

    fn fault(self, why: impl std::fmt::Display) -> Fault {
        <Fault as de::Error>::custom(why).within(self.name)
    }
}

impl IntoDeserializer<'_, Fault> for Text<'_> {
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
            let value = text.parse::<$ty>().map_err(|e| self.fault(format_args!("{text:?}: {e}")))?;
            visitor.$visit(value).map_err(|e: Fault| e.within(self.name))
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Fault;

    parsed! {
        deserialize_bool visit_bool bool;
        deserialize_i8 visit_i8 i8; deserialize_i16 visit_i16 i16; deserialize_i32 visit_i32 i32; deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8; deserialize_u16 visit_u16 u16; deserialize_u32 visit_u32 u32; deserialize_u64 visit_u64 u64;
        deserialize_f32 visit_f32 f32; deserialize_f64 visit_f64 f64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor
            .visit_str(self.str()?)
            .map_err(|e: Fault| e.within(self.name))
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
        let read = if self.bytes.starts_with(b"{") {
            self.json()?.deserialize_enum(name, variants, visitor)
        } else {
            visitor.visit_enum(StrDeserializer::new(self.str()?))
        };
        read.map_err(|e| e.within(self.name))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let read = self.json()?.deserialize_struct(name, fields, visitor);
        read.map_err(|e| e.within(self.name))
    }

    /// Nested data, as JSON; text that is no JSON is taken as text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.json() {
            Ok(nested) => nested
                .deserialize_any(visitor)
                .map_err(|e| e.within(self.name)),
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

    forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct seq tuple tuple_struct map ignored_any }
}

#[cfg(test)]
mod tests;
