//! Nested data of a row, JSON, read with a default for each field that an older program did not write: that of the row's
//! `Default` where it has the struct, and zero, empty or `None` inside lists, maps and options.
//!
//! serde knows whether a field may be absent, and says so only by missing it. So a row is read again for each field of
//! each struct that was missed, now with that field filled.

use std::collections::HashSet;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::Value;

use super::{State, Text};

/// JSON of data, with a word for each number that is not finite: JSON itself writes `null`, which is none of its numbers when
/// it is read.
pub(super) fn to_json<T: Serialize + ?Sized>(data: &T) -> Result<Value, serde_json::Error> {
    let mut json = serde_json::to_value(data)?;
    if has_null(&json)
        && let Ok(exact) = serde_value::to_value(data)
    {
        name_numbers(&mut json, &exact);
    }
    Ok(json)
}

fn has_null(json: &Value) -> bool {
    match json {
        Value::Null => true,
        Value::Array(elements) => elements.iter().any(has_null),
        Value::Object(entries) => entries.values().any(has_null),
        _ => false,
    }
}

/// Writes the words of numbers that are not finite, where the data has them.
fn name_numbers(json: &mut Value, exact: &serde_value::Value) {
    use serde_value::Value as Exact;
    match (json, exact) {
        (json @ Value::Null, Exact::F64(number)) => *json = word(*number),
        (json @ Value::Null, Exact::F32(number)) => *json = word((*number).into()),
        (json, Exact::Option(Some(inner)) | Exact::Newtype(inner)) => name_numbers(json, inner),
        (Value::Array(all), Exact::Seq(exact)) => {
            for (json, exact) in all.iter_mut().zip(exact) {
                name_numbers(json, exact);
            }
        }
        (Value::Object(all), Exact::Map(exact)) => {
            for (name, exact) in exact {
                let name = serde_json::to_value(name);
                let name = name.map(|name| {
                    name.as_str()
                        .map_or_else(|| name.to_string(), str::to_owned)
                });
                if let Some(json) = name.ok().and_then(|name| all.get_mut(&name)) {
                    name_numbers(json, exact);
                }
            }
        }
        _ => {}
    }
}

/// Whether the text of a field may hold such a word.
pub(super) fn has_word(text: &[u8]) -> bool {
    // Every event of a key passes here, and few texts have either letter.
    [&b"Infinity"[..], b"NaN"]
        .iter()
        .any(|word| text.contains(&word[0]) && text.windows(word.len()).any(|part| part == *word))
}

/// Word of a number that is not finite, as Protobuf's JSON has it.
fn word(number: f64) -> Value {
    let word = match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    };
    word.into()
}

/// Error of reading a row: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Names from the row down to the place, the innermost first.
    path: Vec<String>,
    message: String,
    /// Field that serde has missed, once known with its struct.
    missing: Option<Missing>,
}

/// Field of a nested struct that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Missing {
    /// Name of the struct; empty until it is known.
    of: &'static str,
    field: &'static str,
}

impl Fault {
    /// The fault inside a field or element of this name.
    pub fn within(mut self, name: &str) -> Self {
        self.path.push(name.to_owned());
        self
    }

    /// The fault in a struct of this name.
    fn of(mut self, name: &'static str) -> Self {
        if let Some(missing) = self
            .missing
            .as_mut()
            .filter(|missing| missing.of.is_empty())
        {
            missing.of = name;
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, "field {}: ", path.join("."))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            path: Vec::new(),
            message: message.to_string(),
            missing: None,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            missing: Some(Missing { of: "", field }),
            ..Self::custom(format_args!("{field} is missing"))
        }
    }
}

/// Fields of nested structs that are filled where they are missing.
#[derive(Default)]
pub(super) struct Filled {
    fields: HashSet<Missing>,
    /// The row's default, once a field was missed.
    default: Option<Value>,
}

impl Filled {
    /// Fills the field that was missed from now on; `false` for another fault, and one that filling did not cure.
    pub fn fill<S: State>(&mut self, fault: &Fault) -> bool {
        let Some(missing) = fault.missing.clone() else {
            return false;
        };
        if self.default.is_none() {
            self.default = to_json(&S::default()).ok();
        }
        !missing.of.is_empty() && self.fields.insert(missing)
    }

    /// Nested data in a field of the row.
    pub fn nested(&self, field: &str, value: Value) -> Nested<'_> {
        let default = self.default.as_ref().and_then(|row| row.get(field));
        Nested {
            value,
            default,
            filled: self,
        }
    }
}

/// Nested data.
pub(super) struct Nested<'f> {
    value: Value,
    /// Value in the row's default at this place.
    default: Option<&'f Value>,
    filled: &'f Filled,
}

impl<'f> Nested<'f> {
    /// Data inside of this.
    fn inner(&self, value: Value, default: Option<&'f Value>) -> Self {
        Self {
            value,
            default,
            filled: self.filled,
        }
    }

    fn visit_fields<'de, V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Object(map) = self.value.take() else {
            return Err(de::Error::custom(format_args!("{name}: not an object")));
        };
        let absent = fields.iter().filter(|field| !map.contains_key(**field));
        let fill = absent
            .map(|field| Missing { of: name, field })
            .filter(|missing| self.filled.fields.contains(missing))
            .map(|missing| missing.field)
            .collect();
        let entries = Entries {
            of: self,
            stored: map.into_iter(),
            fill,
            next: None,
        };
        visitor.visit_map(entries).map_err(|fault| fault.of(name))
    }
}

impl<'de> Deserializer<'de> for Nested<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        match self.value.take() {
            Value::Object(map) => visitor.visit_map(Entries {
                stored: map.into_iter(),
                fill: Vec::new(),
                next: None,
                of: self,
            }),
            Value::Array(elements) => visitor.visit_seq(Elements {
                rest: elements.into_iter().enumerate(),
                of: self,
            }),
            scalar => scalar.deserialize_any(visitor).map_err(de::Error::custom),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.value.is_object() {
            self.visit_fields(name, fields, visitor)
        } else {
            self.deserialize_any(visitor)
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.value.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.value.take() {
            Value::String(name) => visitor.visit_enum(StringDeserializer::new(name)),
            Value::Object(map) if map.len() == 1 => {
                let entry = map.into_iter().next();
                let (name, data) = entry.unwrap_or_default();
                visitor.visit_enum(Variant {
                    name,
                    data: self.inner(data, None),
                })
            }
            other => Err(de::Error::custom(format_args!("{other} is no variant"))),
        }
    }

    /// A number, or the word of one that is not finite.
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let word = self
            .value
            .as_str()
            .and_then(|word| word.parse::<f64>().ok());
        match word.filter(|number| !number.is_finite()) {
            Some(number) => visitor.visit_f64(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

/// Value of a field: as stored, or filled.
enum Entry<'f> {
    Stored(Nested<'f>),
    Zero,
}

/// Entries of an object, and behind them the fields that are filled.
struct Entries<'f> {
    of: Nested<'f>,
    stored: serde_json::map::IntoIter,
    fill: Vec<&'static str>,
    /// Entry whose name was read.
    next: Option<NamedEntry<'f>>,
}

struct NamedEntry<'f> {
    name: String,
    value: Entry<'f>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let next = if let Some((name, value)) = self.stored.next() {
            let default = self.of.default.and_then(|all| all.get(&name));
            let value = Entry::Stored(self.of.inner(value, default));
            NamedEntry { name, value }
        } else if let Some(field) = self.fill.pop() {
            let default = self.of.default.and_then(|all| all.get(field));
            let value = default.map_or(Entry::Zero, |default| {
                Entry::Stored(self.of.inner(default.clone(), None))
            });
            let name = field.to_owned();
            NamedEntry { name, value }
        } else {
            return Ok(None);
        };
        // Names may be numbers or truth values too, which are their text.
        let name = Text {
            bytes: next.name.as_bytes(),
            name: &next.name,
            filled: self.of.filled,
        };
        let key = seed.deserialize(name)?;
        self.next = Some(next);
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(NamedEntry { name, value }) = self.next.take() else {
            return Err(de::Error::custom("a value without a name"));
        };
        let value = match value {
            Entry::Stored(nested) => seed.deserialize(nested),
            Entry::Zero => seed.deserialize(Zero),
        };
        value.map_err(|fault| fault.within(&name))
    }
}

/// Elements of an array.
struct Elements<'f> {
    of: Nested<'f>,
    rest: std::iter::Enumerate<std::vec::IntoIter<Value>>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((at, value)) = self.rest.next() else {
            return Ok(None);
        };
        let element = seed.deserialize(self.of.inner(value, None));
        Ok(Some(element.map_err(|e| e.within(&at.to_string()))?))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// Variant of an enum with its data.
struct Variant<'f> {
    name: String,
    data: Nested<'f>,
}

impl<'de, 'f> EnumAccess<'de> for Variant<'f> {
    type Error = Fault;
    type Variant = Nested<'f>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Nested<'f>), Fault> {
        let name: StringDeserializer<Fault> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self.data))
    }
}

impl<'de> VariantAccess<'de> for Nested<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        de::Deserialize::deserialize(self)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.visit_fields("variant", fields, visitor)
    }
}

/// Zero of any type: 0, `false`, empty, `None`, and of a struct that of its fields.
#[derive(Clone, Copy)]
struct Zero;

impl IntoDeserializer<'_, Fault> for Zero {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Each type's zero by the visit that takes it.
macro_rules! zeros {
    ($($method:ident $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            visitor.$visit($zero)
        }
    )*};
}

impl<'de> Deserializer<'de> for Zero {
    type Error = Fault;

    zeros! {
        deserialize_bool visit_bool(false);
        deserialize_i8 visit_u64(0); deserialize_i16 visit_u64(0); deserialize_i32 visit_u64(0);
        deserialize_i64 visit_u64(0); deserialize_i128 visit_u64(0);
        deserialize_u8 visit_u64(0); deserialize_u16 visit_u64(0); deserialize_u32 visit_u64(0);
        deserialize_u64 visit_u64(0); deserialize_u128 visit_u64(0);
        deserialize_f32 visit_f64(0.0); deserialize_f64 visit_f64(0.0);
        deserialize_char visit_char('\0'); deserialize_str visit_str(""); deserialize_string visit_str("");
        deserialize_bytes visit_bytes(&[]); deserialize_byte_buf visit_bytes(&[]);
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>()))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(SeqDeserializer::new(std::iter::repeat_n(self, len)))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(MapDeserializer::new(std::iter::empty::<(Self, Self)>()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let fields = fields.iter().map(|field| (*field, self));
        visitor.visit_map(MapDeserializer::new(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Fault> {
        Err(de::Error::custom(format_args!(
            "{name} is missing, and an enum has no zero; say #[serde(default)]"
        )))
    }

    forward_to_deserialize_any! { unit unit_struct identifier ignored_any }
}
