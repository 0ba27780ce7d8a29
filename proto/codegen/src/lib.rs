//! From `.proto` files to events, in three lines of any repository's `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     oncue_build::compile(&["shop/order.proto"], &["proto"])
//! }
//! ```
//!
//! and one line in its library: `include!(concat!(env!("OUT_DIR"), "/events.rs"));`. That brings one module per
//! proto package, `DESCRIPTORS` (the encoded descriptor set, for whatever must decode payloads it was not built
//! with) and, for every message with the option `(oncue.v1.event)`, an `impl oncue_proto::Event`.
//! The including crate needs `oncue-proto`, `prost`, `pbjson`, `pbjson-types` and `serde`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor, Value};
use protox::Compiler;
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

const OPTION_FILE: &str = "oncue/v1/event.proto";
const OPTION_SOURCE: &str = include_str!("../../oncue/v1/event.proto");

/// Compiles `protos` (paths relative to one of `includes`) into `$OUT_DIR/events.rs`.
///
/// # Errors
/// A message that says which file or message is wrong and what to write instead.
pub fn compile(protos: &[&str], includes: &[&str]) -> Result<(), Box<dyn Error>> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: call this from build.rs")?;
    compile_into(Path::new(&out), protos, includes)
}

fn compile_into(out: &Path, protos: &[&str], includes: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut compiler = Compiler::with_file_resolver(resolver(includes));
    compiler.include_imports(true).open_files(protos)?;
    let encoded = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(encoded.as_slice())?;
    let events = events(&pool, protos)?;

    let paths = includes
        .iter()
        .flat_map(|include| protos.iter().map(|proto| Path::new(include).join(proto)));
    for path in paths.filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let packages = generate_types(&encoded, &pool, protos, out)?;
    fs::write(out.join("descriptors.bin"), &encoded)?;
    fs::write(out.join("events.rs"), module_tree(&packages, &events))?;
    Ok(())
}

/// `oncue/v1/event.proto` comes with this crate, so that a foreign repository need not copy it.
fn resolver(includes: &[&str]) -> impl FileResolver + 'static {
    struct Option_;
    impl FileResolver for Option_ {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name == OPTION_FILE {
                File::from_source(name, OPTION_SOURCE)
            } else {
                Err(protox::Error::file_not_found(name))
            }
        }
    }
    let mut chain = ChainFileResolver::new();
    for include in includes {
        chain.add(IncludeFileResolver::new(PathBuf::from(include)));
    }
    chain.add(Option_);
    chain.add(GoogleFileResolver::new());
    chain
}

/// prost types and their JSON mapping, for the files asked for; what they import is expected elsewhere.
fn generate_types(
    encoded: &[u8],
    pool: &DescriptorPool,
    protos: &[&str],
    out: &Path,
) -> Result<Vec<String>, Box<dyn Error>> {
    // The whole set, since prost looks through fields into imported messages; what is external it leaves out.
    let set = prost_reflect::prost_types::FileDescriptorSet::decode(encoded)?;
    let own = set.file.iter().filter(|file| protos.contains(&file.name()));
    let mut packages: Vec<String> = own.map(|file| file.package().to_owned()).collect();
    packages.sort();
    packages.dedup();

    let mut config = prost_build::Config::new();
    config
        .out_dir(out)
        .enable_type_names()
        .bytes(["."])
        .compile_well_known_types();
    config.extern_path(".google.protobuf", "::pbjson_types");
    let foreign = pool.files().any(|file| file.package_name() == "oncue.v1")
        && !packages.iter().any(|p| p == "oncue.v1");
    if foreign {
        config.extern_path(".oncue.v1", "::oncue_proto::oncue::v1");
    }
    config.compile_fds(set)?;

    let prefixes: Vec<String> = packages
        .iter()
        .map(|package| format!(".{package}"))
        .collect();
    pbjson_build::Builder::new()
        .register_descriptors(encoded)?
        .out_dir(out)
        .ignore_unknown_fields()
        .extern_path(".google.protobuf", "::pbjson_types")
        .build(&prefixes)?;
    Ok(packages)
}

struct EventMessage {
    message: MessageDescriptor,
    ty: String,
    key: String,
}

fn events(pool: &DescriptorPool, protos: &[&str]) -> Result<Vec<EventMessage>, Box<dyn Error>> {
    let Some(option) = pool.get_extension_by_name("oncue.v1.event") else {
        return Ok(Vec::new());
    };
    let mut events = Vec::new();
    for message in pool
        .all_messages()
        .filter(|m| protos.contains(&m.parent_file().name()))
    {
        let options = message.options();
        if !options.has_extension(&option) {
            continue;
        }
        let value = options.get_extension(&option);
        let Some(value) = value.as_message() else {
            continue;
        };
        let text = |name| {
            value
                .get_field_by_name(name)
                .and_then(|v: std::borrow::Cow<Value>| v.as_str().map(str::to_owned))
        };
        let event = EventMessage {
            ty: text("type").unwrap_or_default(),
            key: text("key").unwrap_or_default(),
            message,
        };
        check(&event)?;
        events.push(event);
    }
    check_unique(&events)?;
    Ok(events)
}

fn check(event: &EventMessage) -> Result<(), String> {
    let (name, ty, key) = (event.message.full_name(), &event.ty, &event.key);
    let token = |t: &str| {
        t.starts_with(|c: char| c.is_ascii_lowercase())
            && t.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if ty.split('.').count() != 3 || !ty.split('.').all(token) {
        return Err(format!(
            "{name}: event type {ty:?} must be three tokens of a-z, 0-9 and '-', domain.noun.verb, like web.page.viewed"
        ));
    }
    if key.is_empty() {
        return Ok(());
    }
    match event.message.get_field_by_name(key) {
        Some(field)
            if field.kind() == Kind::String
                && !field.is_list()
                && field.containing_oneof().is_none() =>
        {
            Ok(())
        }
        Some(_) => Err(format!(
            "{name}: key field {key:?} must be a single string, neither optional nor in a oneof"
        )),
        None => Err(format!(
            "{name}: there is no field {key:?} to take the key from"
        )),
    }
}

/// A type names one message: two messages of one type could not be told apart on the bus.
fn check_unique(events: &[EventMessage]) -> Result<(), String> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for event in events {
        if let Some(other) = seen.insert(&event.ty, event.message.full_name()) {
            return Err(format!(
                "{} and {other} both claim the event type {:?}",
                event.message.full_name(),
                event.ty
            ));
        }
    }
    Ok(())
}

/// One nested Rust module per proto package, each with its types, their JSON mapping and their events.
fn module_tree(packages: &[String], events: &[EventMessage]) -> String {
    let mut code = String::from(
        "/// Every message and event of this crate, as an encoded `google.protobuf.FileDescriptorSet`.\n\
         pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/descriptors.bin\"));\n",
    );
    let bodies = packages
        .iter()
        .map(|package| (package.split('.').collect(), package_body(package, events)))
        .collect();
    code.push_str(&modules(bodies));
    code
}

/// Packages that share a prefix (`shop.v1`, `shop.v2`) share the outer module.
fn modules(bodies: Vec<(Vec<&str>, String)>) -> String {
    let mut code = String::new();
    let mut inner: BTreeMap<&str, Vec<(Vec<&str>, String)>> = BTreeMap::new();
    for (path, body) in bodies {
        match path.split_first() {
            None => code.push_str(&body),
            Some((first, rest)) => inner.entry(first).or_default().push((rest.to_vec(), body)),
        }
    }
    for (name, bodies) in inner {
        let _ = write!(
            code,
            "#[allow(clippy::all, clippy::pedantic)] pub mod r#{name} {{\n{}}}\n",
            modules(bodies)
        );
    }
    code
}

fn package_body(package: &str, events: &[EventMessage]) -> String {
    let mut code = String::new();
    let _ = writeln!(
        code,
        "include!(concat!(env!(\"OUT_DIR\"), \"/{package}.rs\"));"
    );
    let _ = writeln!(
        code,
        "include!(concat!(env!(\"OUT_DIR\"), \"/{package}.serde.rs\"));"
    );
    for event in events
        .iter()
        .filter(|e| e.message.package_name() == package)
    {
        code.push_str(&event_impl(event));
    }
    code
}

fn event_impl(event: &EventMessage) -> String {
    let key = if event.key.is_empty() {
        "\"\"".to_owned()
    } else {
        format!("&self.r#{}", event.key)
    };
    format!(
        "impl ::oncue_proto::Event for {} {{ const TYPE: &'static str = {:?}; const SCHEMA: &'static str = {:?}; \
         const KEYED: bool = {}; fn key(&self) -> &str {{ {key} }} }}\n",
        event.message.name(),
        event.ty,
        event.message.full_name(),
        !event.key.is_empty(),
    )
}

#[cfg(test)]
mod tests;
