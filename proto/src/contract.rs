//! The descriptor set of the crate in which an event was made, for whoever must decode payloads it was not built
//! with.

use std::sync::OnceLock;

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::{Catalog, DESCRIPTORS, Entry, Format, protobuf};

/// Every message and event of one crate: an encoded `google.protobuf.FileDescriptorSet`, and the catalog made of it.
///
/// `oncue-build` generates one `static` for each crate with events, and every event of the crate names it
/// ([`Event::contract`](crate::Event::contract)).
#[derive(Debug)]
pub struct Contract {
    /// Encoded `FileDescriptorSet`, as `oncue-build` leaves it; empty where there is none.
    descriptors: &'static [u8],
    // Most processes never need it: the generated types read all that is written as other producers write it.
    catalog: OnceLock<Catalog>,
}

/// `FileDescriptorSet.file` [google/protobuf/descriptor.proto], the only field of the message.
const FILE: u32 = 1;

/// For events whose `impl Event` was written by hand.
pub(crate) static NO_CONTRACT: Contract = Contract::new(&[]);

impl Contract {
    /// A contract from an encoded descriptor set; empty where there is none.
    pub const fn new(descriptors: &'static [u8]) -> Self {
        Self {
            descriptors,
            catalog: OnceLock::new(),
        }
    }

    /// The encoded `FileDescriptorSet`, with all that its files import.
    pub fn descriptors(&self) -> &'static [u8] {
        self.descriptors
    }

    /// Reads JSON by the descriptor of a message, which allows every spelling of proto3 JSON, such as `10.0` for a
    /// whole number. `None` when the contract does not know the type, or the payload is not of it.
    pub(crate) fn protobuf_of_json(&self, ty: &str, schema: &str, json: &[u8]) -> Option<Vec<u8>> {
        let entry = self.catalog().get(ty).ok()?;
        if entry.schema() != schema {
            return None;
        }
        entry.to_protobuf(Format::Json, json).ok()
    }

    /// Whether events of a type hold sensitive fields.
    pub(crate) fn is_sensitive(&self, ty: &str) -> bool {
        self.catalog().get(ty).is_ok_and(Entry::is_sensitive)
    }

    fn catalog(&self) -> &Catalog {
        self.catalog.get_or_init(|| {
            let mut catalog = Catalog::default();
            // A set that cannot be read knows no type; the generated types go on without it.
            let _ = catalog.add(self.descriptors);
            catalog
        })
    }
}

/// The files of an encoded set, each as its own bytes. Ends early at what is no descriptor set.
fn files_of(mut set: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Ok((FILE, WireType::LengthDelimited)) = decode_key(&mut set) {
        let Ok(length) = decode_varint(&mut set) else {
            break;
        };
        let Some((file, rest)) = set.split_at_checked(length as usize) else {
            break;
        };
        files.push(file);
        set = rest;
    }
    files
}

/// One descriptor set made of several, each file once. Whatever the platform itself knows is left out.
///
/// A program with events of two crates has two sets that both bring what both import. The bytes of the files stay as
/// they are: decoding them into generated types would lose the option `(oncue.v1.event)`, an extension.
pub fn merge<'a>(contracts: impl IntoIterator<Item = &'a Contract>) -> Vec<u8> {
    let sets = contracts.into_iter().map(|contract| contract.descriptors);
    merge_sets(sets.filter(|set| *set != DESCRIPTORS))
}

/// One encoded descriptor set made of several, each file once.
pub fn merge_sets<'a>(sets: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut files: Vec<&[u8]> = Vec::new();
    for set in sets {
        for file in files_of(set) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    let mut merged = Vec::new();
    for file in files {
        protobuf::put_bytes(FILE, file, &mut merged);
    }
    merged
}
