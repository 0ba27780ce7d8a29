//! The fields of a row straight from serde, for rows that are structs or maps with plain values: no JSON in between, since
//! every event of a key passes here. What is nested in a field is left to JSON, and so is a row of another shape.

use std::fmt;

use serde::ser::{Impossible, SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::nested::to_json;
use super::{field_text, stored_name};
use oncue_core::store::Fields;

/// Reason why a value has no plain form here; JSON may have one.
#[derive(Debug)]
pub(super) struct NotPlain;

impl fmt::Display for NotPlain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not plain")
    }
}

impl std::error::Error for NotPlain {}

impl serde::ser::Error for NotPlain {
    fn custom<T: fmt::Display>(_: T) -> Self {
        NotPlain
    }
}

/// The fields of a row, in the order in which serde tells them.
pub(super) fn fields<S: Serialize>(row: &S) -> Result<Fields, NotPlain> {
    row.serialize(RowSerializer)
}

/// Text of a value that is plain, or of JSON; `None` where the field is absent.
fn text<T: Serialize + ?Sized>(value: &T) -> Result<Option<Vec<u8>>, NotPlain> {
    match value.serialize(TextSerializer) {
        Ok(text) => Ok(text),
        Err(_) => to_json(value).map(field_text).map_err(|_| NotPlain),
    }
}

/// Methods of a serializer that refuse what they are given.
macro_rules! not_plain {
    ($($method:ident($($ty:ty),*) -> $out:ty;)*) => {$(
        fn $method(self, $(_: $ty),*) -> Result<$out, NotPlain> {
            Err(NotPlain)
        }
    )*};
}

type NoFields = Impossible<Fields, NotPlain>;

struct RowSerializer;

impl Serializer for RowSerializer {
    type Ok = Fields;
    type Error = NotPlain;
    type SerializeSeq = NoFields;
    type SerializeTuple = NoFields;
    type SerializeTupleStruct = NoFields;
    type SerializeTupleVariant = NoFields;
    type SerializeMap = RowFields;
    type SerializeStruct = RowFields;
    type SerializeStructVariant = NoFields;

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<RowFields, NotPlain> {
        Ok(RowFields::with_capacity(len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<RowFields, NotPlain> {
        Ok(RowFields::with_capacity(len.unwrap_or(0)))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Fields, NotPlain> {
        value.serialize(self)
    }

    not_plain! {
        serialize_bool(bool) -> Fields;
        serialize_i8(i8) -> Fields; serialize_i16(i16) -> Fields; serialize_i32(i32) -> Fields; serialize_i64(i64) -> Fields;
        serialize_u8(u8) -> Fields; serialize_u16(u16) -> Fields; serialize_u32(u32) -> Fields; serialize_u64(u64) -> Fields;
        serialize_f32(f32) -> Fields; serialize_f64(f64) -> Fields; serialize_char(char) -> Fields;
        serialize_str(&str) -> Fields; serialize_bytes(&[u8]) -> Fields;
        serialize_none() -> Fields; serialize_unit() -> Fields; serialize_unit_struct(&'static str) -> Fields;
        serialize_unit_variant(&'static str, u32, &'static str) -> Fields;
        serialize_seq(Option<usize>) -> NoFields; serialize_tuple(usize) -> NoFields;
        serialize_tuple_struct(&'static str, usize) -> NoFields;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> NoFields;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> NoFields;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Fields, NotPlain> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Fields, NotPlain> {
        Err(NotPlain)
    }
}

/// Fields told so far.
struct RowFields {
    fields: Fields,
    /// Key of a map whose value comes next.
    key: Option<String>,
}

impl RowFields {
    fn with_capacity(fields: usize) -> Self {
        Self {
            // One more for the version of the row.
            fields: Fields::with_capacity(fields + 1),
            key: None,
        }
    }

    fn add<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), NotPlain> {
        if let Some(text) = text(value)? {
            self.fields.push((stored_name(name).into_owned(), text));
        }
        Ok(())
    }
}

impl SerializeStruct for RowFields {
    type Ok = Fields;
    type Error = NotPlain;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), NotPlain> {
        self.add(name, value)
    }

    fn end(self) -> Result<Fields, NotPlain> {
        Ok(self.fields)
    }
}

impl SerializeMap for RowFields {
    type Ok = Fields;
    type Error = NotPlain;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotPlain> {
        let text = key.serialize(TextSerializer)?.ok_or(NotPlain)?;
        self.key = Some(String::from_utf8(text).map_err(|_| NotPlain)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotPlain> {
        let key = self.key.take().ok_or(NotPlain)?;
        self.add(&key, value)
    }

    fn end(self) -> Result<Fields, NotPlain> {
        Ok(self.fields)
    }
}

type NoText = Impossible<Option<Vec<u8>>, NotPlain>;

/// Serializer of one plain value. Floats are JSON's, which has a form for each.
struct TextSerializer;

/// Methods for values whose text is what they display.
macro_rules! displayed {
    ($($method:ident $ty:ty;)*) => {$(
        fn $method(self, value: $ty) -> Result<Option<Vec<u8>>, NotPlain> {
            Ok(Some(value.to_string().into_bytes()))
        }
    )*};
}

impl Serializer for TextSerializer {
    type Ok = Option<Vec<u8>>;
    type Error = NotPlain;
    type SerializeSeq = NoText;
    type SerializeTuple = NoText;
    type SerializeTupleStruct = NoText;
    type SerializeTupleVariant = NoText;
    type SerializeMap = NoText;
    type SerializeStruct = NoText;
    type SerializeStructVariant = NoText;

    displayed! {
        serialize_bool bool;
        serialize_i8 i8; serialize_i16 i16; serialize_i32 i32; serialize_i64 i64;
        serialize_u8 u8; serialize_u16 u16; serialize_u32 u32; serialize_u64 u64;
    }

    fn serialize_str(self, text: &str) -> Result<Option<Vec<u8>>, NotPlain> {
        Ok(Some(text.as_bytes().to_vec()))
    }

    fn serialize_none(self) -> Result<Option<Vec<u8>>, NotPlain> {
        Ok(None)
    }

    fn serialize_unit(self) -> Result<Option<Vec<u8>>, NotPlain> {
        Ok(None)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Option<Vec<u8>>, NotPlain> {
        self.serialize_str(variant)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Option<Vec<u8>>, NotPlain> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Option<Vec<u8>>, NotPlain> {
        value.serialize(self)
    }

    not_plain! {
        serialize_f32(f32) -> Option<Vec<u8>>; serialize_f64(f64) -> Option<Vec<u8>>;
        serialize_char(char) -> Option<Vec<u8>>; serialize_bytes(&[u8]) -> Option<Vec<u8>>;
        serialize_unit_struct(&'static str) -> Option<Vec<u8>>;
        serialize_seq(Option<usize>) -> NoText; serialize_tuple(usize) -> NoText;
        serialize_tuple_struct(&'static str, usize) -> NoText;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> NoText;
        serialize_map(Option<usize>) -> NoText; serialize_struct(&'static str, usize) -> NoText;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> NoText;
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Option<Vec<u8>>, NotPlain> {
        Err(NotPlain)
    }
}
