//! Changes of a contract that events of the old one do not survive: what was written is read as something else, or not
//! at all. Both encodings count, protobuf by number and JSON by name.

use std::collections::HashSet;
use std::fmt;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::Catalog;

/// Change of one event type that breaks what was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Break {
    /// Event type, `web.page.viewed`.
    pub ty: String,
    /// Field with its message, `web.PageViewed.page`, or value of an enum; the message alone for its key.
    pub place: String,
    /// Change, and the way around it.
    pub why: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.ty, self.place, self.why)
    }
}

/// Changes from `old` to `new` that break events, sorted. Types that only one of them has are none.
///
/// | change | breaks | way around it |
/// |---|---|---|
/// | a field or enum value is removed | what it held is dropped unseen | reserve its number and its name |
/// | a number has another name, a name another number | JSON, protobuf | add a field of another name and number |
/// | another type, or one value where there was a list | both | add a field of another name and number |
/// | the key is another field | rows stand under the old key | another event type |
///
/// `int32` may become `int64`, and `uint32` `uint64`.
pub fn breaks(old: &Catalog, new: &Catalog) -> Vec<Break> {
    compare(old, new, Strictness::Breaks)
}

/// Differences by which one side reads something else than the other has written, sorted: of a field, a value or a key that
/// both have. What only one of them has is none, so an older and a newer version may work side by side.
pub fn clashes(known: &Catalog, own: &Catalog) -> Vec<Break> {
    compare(known, own, Strictness::Clashes)
}

/// Differences that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// All that breaks what was written.
    Breaks,
    /// Different meanings of what both sides have.
    Clashes,
}

fn compare(old: &Catalog, new: &Catalog, strictness: Strictness) -> Vec<Break> {
    let mut found = Vec::new();
    for before in old.entries() {
        let Ok(after) = new.get(&before.ty) else {
            continue;
        };
        let mut comparison = Comparison {
            ty: &before.ty,
            strictness,
            compared: HashSet::new(),
            found: &mut found,
        };
        if before.key_field != after.key_field {
            let why = format!(
                "has the key {:?} where it had {:?}, and rows stand under it: make another event type",
                after.key_field, before.key_field
            );
            comparison.note(before.schema().to_owned(), why);
        }
        comparison.messages(before.message(), after.message());
    }
    found.sort();
    found.dedup();
    found
}

/// Comparison of one event type.
struct Comparison<'c> {
    ty: &'c str,
    strictness: Strictness,
    /// Messages that were compared; they may hold themselves.
    compared: HashSet<String>,
    found: &'c mut Vec<Break>,
}

impl Comparison<'_> {
    fn note(&mut self, place: String, why: String) {
        let ty = self.ty.to_owned();
        self.found.push(Break { ty, place, why });
    }

    fn messages(&mut self, old: &MessageDescriptor, new: &MessageDescriptor) {
        if !self.compared.insert(old.full_name().to_owned()) {
            return;
        }
        for before in old.fields() {
            let place = before.full_name().to_owned();
            let number = before.number();
            let name = before.name();
            let by_number = new.get_field(number);
            let by_name = new.get_field_by_name(name);
            match (by_number, by_name) {
                (Some(after), _) if after.name() == name => self.fields(&before, &after),
                (Some(after), _) => {
                    let why = format!(
                        "is called {} now: JSON holds the old name; add a field of another number and reserve {number} \
                         and {name:?}",
                        after.name()
                    );
                    self.note(place, why);
                }
                (None, Some(after)) => {
                    let why = format!(
                        "has the number {} where it had {number}: add a field of another name, and reserve {number} \
                         and {name:?}",
                        after.number()
                    );
                    self.note(place, why);
                }
                (None, None) if is_reserved(new, number, name) => {}
                (None, None) if self.strictness == Strictness::Clashes => {}
                (None, None) => {
                    let why = format!(
                        "is removed: reserve its number and name (`reserved {number}; reserved {name:?};`), so that \
                         nobody uses them for something else"
                    );
                    self.note(place, why);
                }
            }
        }
    }

    fn fields(&mut self, old: &FieldDescriptor, new: &FieldDescriptor) {
        let place = old.full_name().to_owned();
        if is_many(old) != is_many(new) || old.is_map() != new.is_map() {
            let why = format!("was {}, and is {}: add a field", shape(old), shape(new));
            return self.note(place, why);
        }
        match (old.kind(), new.kind()) {
            (Kind::Message(old), Kind::Message(new)) => self.messages(&old, &new),
            (Kind::Enum(old), Kind::Enum(new)) => self.enums(&old, &new),
            (Kind::Int32, Kind::Int64) | (Kind::Uint32, Kind::Uint64) => {}
            (Kind::Int64, Kind::Int32) | (Kind::Uint64, Kind::Uint32)
                if self.strictness == Strictness::Clashes => {}
            (before, after) if before == after => {}
            (before, after) => {
                let why = format!("was {before:?}, and is {after:?}: add a field");
                self.note(place, why);
            }
        }
    }

    fn enums(&mut self, old: &EnumDescriptor, new: &EnumDescriptor) {
        for before in old.values() {
            let name = before.name();
            let number = before.number();
            let after = new.get_value_by_name(name);
            if after.as_ref().is_some_and(|after| after.number() == number)
                || (after.is_none() && self.strictness == Strictness::Clashes)
            {
                continue;
            }
            let reserved = new.reserved_ranges().any(|range| range.contains(&number))
                && new.reserved_names().any(|reserved| reserved == name);
            if !reserved {
                let why = format!(
                    "is no longer {number}: give it back, or reserve number and name of a value that is removed"
                );
                self.note(format!("{}.{name}", old.full_name()), why);
            }
        }
    }
}

fn is_reserved(message: &MessageDescriptor, number: u32, name: &str) -> bool {
    message
        .reserved_ranges()
        .any(|range| range.contains(&number))
        && message.reserved_names().any(|reserved| reserved == name)
}

fn is_many(field: &FieldDescriptor) -> bool {
    field.cardinality() == Cardinality::Repeated
}

/// Shape of a field, for people.
fn shape(field: &FieldDescriptor) -> &'static str {
    if field.is_map() {
        "a map"
    } else if field.is_list() {
        "a list"
    } else {
        "one value"
    }
}
