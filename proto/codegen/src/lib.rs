//! From `.proto` files to events, in three lines of any repository's `build.rs`:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     oncue_build::compile(&["shop/order.proto"], &["proto"])
//! }
//! ```
//!
//! and one line in its library, `include!(concat!(env!("OUT_DIR"), "/events.rs"));`, with an event like this one in
//! `proto/shop/order.proto`:
//!
//! ```proto
//! import "oncue/v1/event.proto";
//!
//! message OrderPlaced {
//!   option (oncue.v1.event) = { type: "shop.order.placed", key: "order" };
//!   string order = 1;
//! }
//! ```
//!
//! That brings one module per
//! proto package, `DESCRIPTORS` (the encoded descriptor set, for whatever must decode payloads it was not built
//! with), `CONTRACT` (the same for the events, which bring it along) and, for every message with the option
//! `(oncue.v1.event)`, an `impl oncue_proto::Event`.
//! The including crate needs `oncue-proto`, `prost`, `pbjson`, `pbjson-types` and `serde`.
//!
//! No `protoc` is needed: protox compiles, prost writes the types, pbjson their canonical proto3 JSON.
//!
//! Programs that carry events without being built with them (gateway, console, command line) ask the functions'
//! programs for the descriptor set (`FUNCTION --contract`), or read it from the bus, where `oncue apply` stores it. The build
//! leaves the same set at `$OUT_DIR/descriptors.bin`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use heck::ToUpperCamelCase as _;
use prost::Message as _;
use prost_build::Module;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};
use protox::Compiler;
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

/// The one file that every contract imports, under the name by which it does.
const OPTION_FILE: &str = "oncue/v1/event.proto";
const OPTION_SOURCE: &str = include_str!("../oncue/v1/event.proto");

/// Folder of the platform's own files, which alone declare the events below.
const PLATFORM_FOLDER: &str = "oncue/v1/";
/// Domains that no app may have: streams that the platform itself writes to, and its name.
const PLATFORM_DOMAINS: [&str; 3] = ["dlq", "timer", "oncue"];
/// Event of the gateway in a domain that apps share: what they make of an upload is an event of `files` as well.
const UPLOADED: &str = "files.file.uploaded";

/// Compiles `protos` (paths relative to one of `includes`) into `$OUT_DIR/events.rs`, and the descriptor set of all
/// that they import into `$OUT_DIR/descriptors.bin`. To be called from `build.rs`; it is run again when one of them
/// changes.
///
/// # Errors
/// A message that says which file or message is wrong and what to write instead.
pub fn compile(protos: &[&str], includes: &[&str]) -> Result<(), Box<dyn Error>> {
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: call this from build.rs")?;
    compile_into(Path::new(&out), protos, includes)
}

/// Compiles into a folder that is named, for tests.
fn compile_into(out: &Path, protos: &[&str], includes: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut compiler = Compiler::with_file_resolver(resolver(includes));
    compiler.include_imports(true).open_files(protos)?;
    let encoded = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(encoded.as_slice())?;
    check_packages(&pool)?;
    let events = events(&pool, protos)?;

    // Files from this crate and from Google lie in no include; a new version of them comes with a new build.
    let paths = includes
        .iter()
        .flat_map(|include| protos.iter().map(|proto| Path::new(include).join(proto)));
    for path in paths.filter(|path| path.exists()) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    let modules = generate_types(&encoded, &pool, protos, out)?;
    fs::write(out.join("descriptors.bin"), &encoded)?;
    fs::write(out.join("events.rs"), module_tree(&modules, &events))?;
    Ok(())
}

/// `oncue/v1/event.proto` comes with this crate, so that a foreign repository need not copy it.
fn resolver(includes: &[&str]) -> impl FileResolver + 'static {
    struct OptionFile;
    impl FileResolver for OptionFile {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name == OPTION_FILE {
                File::from_source(name, OPTION_SOURCE)
            } else {
                Err(protox::Error::file_not_found(name))
            }
        }
    }
    // What the author has comes first, so that a copy of the option in their own tree is theirs to change.
    let mut chain = ChainFileResolver::new();
    for include in includes {
        chain.add(IncludeFileResolver::new(PathBuf::from(include)));
    }
    chain.add(OptionFile);
    chain.add(GoogleFileResolver::new());
    chain
}

/// Writes prost types and their JSON mapping, for the files asked for; what they import is expected elsewhere. Returns
/// the modules of their packages, for each of which two files are in `out`.
fn generate_types(
    encoded: &[u8],
    pool: &DescriptorPool,
    protos: &[&str],
    out: &Path,
) -> Result<BTreeSet<Module>, Box<dyn Error>> {
    // The whole set, since prost looks through fields into imported messages; what is external it leaves out.
    let set = prost_reflect::prost_types::FileDescriptorSet::decode(encoded)?;
    let own = set.file.iter().filter(|file| protos.contains(&file.name()));
    // Several files may share a package, and `Shop` and `shop` a module; prost writes one file for all of them.
    let packages: BTreeSet<String> = own.map(|file| file.package().to_owned()).collect();
    let modules: BTreeSet<Module> = packages.iter().map(|package| module_of(package)).collect();

    // prost writes no file for a package without a type.
    for module in &modules {
        fs::write(out.join(types_file(module)), "")?;
    }
    let mut config = prost_build::Config::new();
    config
        .out_dir(out)
        .enable_type_names()
        .bytes(["."])
        .compile_well_known_types();
    // prost's own well-known types have no JSON.
    config.extern_path(".google.protobuf", "::pbjson_types");
    // Every other repository takes the platform's messages from where they were compiled once.
    let foreign = pool.files().any(|file| file.package_name() == "oncue.v1")
        && !packages.contains("oncue.v1");
    if foreign {
        config.extern_path(".oncue.v1", "::oncue_proto::oncue::v1");
    }
    config.compile_fds(set)?;
    generate_json(encoded, &packages, &modules, out)?;
    Ok(modules)
}

/// Writes the JSON mapping of all types of these packages. The files are named here and not by pbjson, which knows
/// fewer keywords than prost and would write that of `Shop` over that of `shop`.
fn generate_json(
    encoded: &[u8],
    packages: &BTreeSet<String>,
    modules: &BTreeSet<Module>,
    out: &Path,
) -> Result<(), Box<dyn Error>> {
    // pbjson wants names with a leading dot. A field of a newer producer is skipped, as protobuf does.
    let prefixes: Vec<String> = packages
        .iter()
        .map(|package| format!(".{package}"))
        .collect();
    let generated = pbjson_build::Builder::new()
        .register_descriptors(encoded)?
        .ignore_unknown_fields()
        .extern_path(".google.protobuf", "::pbjson_types")
        .generate(&prefixes, |_| Ok(Vec::new()))?;

    let mut files: BTreeMap<&Module, Vec<u8>> = BTreeMap::new();
    for module in modules {
        files.insert(module, Vec::new());
    }
    for (package, code) in generated {
        let parts: Vec<String> = package.path().iter().map(ToString::to_string).collect();
        // A prefix finds imported packages below it, too.
        if let Some(file) = files.get_mut(&module_of(&parts.join("."))) {
            file.extend(code);
        }
    }
    for (module, code) in files {
        fs::write(out.join(json_file(module)), code)?;
    }
    Ok(())
}

/// Module of a package: its parts in snake case, and none of them a keyword.
fn module_of(package: &str) -> Module {
    Module::from_protobuf_package_name(package)
}

/// File that prost writes for a module.
fn types_file(module: &Module) -> String {
    module.to_file_name_or("_")
}

/// File with the JSON mapping of the types of a module.
fn json_file(module: &Module) -> String {
    let parts: Vec<&str> = module.parts().collect();
    format!("{}.serde.rs", parts.join("."))
}

/// A message with the option, and what the option says.
struct EventMessage {
    message: MessageDescriptor,
    /// Three dotted tokens, `shop.order.placed`.
    ty: String,
    /// Name of the field that holds the key; empty for none.
    key: String,
}

/// All events of the files asked for; those of imported files are events of the crate that compiled these.
fn events(pool: &DescriptorPool, protos: &[&str]) -> Result<Vec<EventMessage>, Box<dyn Error>> {
    // Without an import of the option there is no event among them, only messages that events of others hold.
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
        let event = EventMessage {
            ty: text_field(value, "type"),
            key: text_field(value, "key"),
            message,
        };
        check(&event)?;
        events.push(event);
    }
    check_unique(&events)?;
    Ok(events)
}

/// A text field of the option; empty where it is not set.
fn text_field(option: &DynamicMessage, name: &str) -> String {
    option
        .get_field_by_name(name)
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// One part of an event type. It becomes a token of a NATS subject and part of a stream's name, so that the alphabet
/// is what both allow, and what reads the same in either case.
fn is_token(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_lowercase())
        && part
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Refuses a file without a package, asked for or imported: pbjson panics on it, and its types would have no module.
fn check_packages(pool: &DescriptorPool) -> Result<(), String> {
    let bare = pool.files().find(|file| file.package_name().is_empty());
    bare.map_or(Ok(()), |file| {
        Err(format!(
            "{}: the file has no package, from which its types take their module; write one below its `syntax`, like \
             `package shop.v1;`",
            file.name()
        ))
    })
}

/// Refuses an option that the bus or the store could not live with, in words for the author of the `.proto` file.
fn check(event: &EventMessage) -> Result<(), String> {
    check_type(event)?;
    if event.key.is_empty() {
        return Ok(());
    }
    check_key(event)
}

/// Refuses a type that is no name of an event, or the name of one of the platform's.
fn check_type(event: &EventMessage) -> Result<(), String> {
    let name = event.message.full_name();
    let ty = &event.ty;
    if ty.split('.').count() != 3 || !ty.split('.').all(is_token) {
        return Err(format!(
            "{name}: event type {ty:?} must be three tokens of a-z, 0-9 and '-', domain.noun.verb, like web.page.viewed"
        ));
    }
    if event
        .message
        .parent_file()
        .name()
        .starts_with(PLATFORM_FOLDER)
    {
        return Ok(());
    }
    let domain = ty.split('.').next().unwrap_or_default();
    if PLATFORM_DOMAINS.contains(&domain) {
        return Err(format!(
            "{name}: event type {ty:?} is in the domain {domain:?}, which is the platform's own; begin the type with a \
             domain of the app, like shop.order.placed"
        ));
    }
    if ty == UPLOADED {
        return Err(format!(
            "{name}: event type {ty:?} is the platform's own; import \"oncue/v1/file.proto\" in its place, or choose \
             another type"
        ));
    }
    Ok(())
}

/// Refuses a key that could not name a row.
fn check_key(event: &EventMessage) -> Result<(), String> {
    let name = event.message.full_name();
    let key = &event.key;
    if is_sensitive(event) {
        return Err(format!(
            "{name}: key field {key:?} is sensitive, and a key names rows and stands in every log; take the key from \
             another field"
        ));
    }
    // A key is one token of a subject and the name of a row, so it must be text, and always there.
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

/// Whether the key of an event is a field that nobody may see.
fn is_sensitive(event: &EventMessage) -> bool {
    let pool = event.message.parent_pool();
    let option = pool.get_extension_by_name("oncue.v1.sensitive");
    let field = event.message.get_field_by_name(&event.key);
    let flag = option.zip(field).map(|(option, field)| {
        let options = field.options();
        options.get_extension(&option).as_bool() == Some(true)
    });
    flag.unwrap_or(false)
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
fn module_tree(modules: &BTreeSet<Module>, events: &[EventMessage]) -> String {
    let mut code = String::from(
        "/// Every message and event of this crate, as an encoded `google.protobuf.FileDescriptorSet`.\n\
         pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!(\"OUT_DIR\"), \"/descriptors.bin\"));\n\
         /// Contract of the events of this crate, which bring it along.\n\
         pub static CONTRACT: ::oncue_proto::Contract = ::oncue_proto::Contract::new(DESCRIPTORS);\n",
    );
    let bodies = modules
        .iter()
        .map(|module| (module.parts().collect(), module_body(module, events)))
        .collect();
    code.push_str(&nested(bodies));
    code
}

/// Modules of all packages, each inside the module of the name before it. Lints are for the author's own code, so
/// they are off in all of it. Packages that share a prefix (`shop.v1`, `shop.v2`) share the outer module.
fn nested(bodies: Vec<(Vec<&str>, String)>) -> String {
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
            "#[allow(clippy::all, clippy::pedantic)] pub mod {name} {{\n{}}}\n",
            nested(bodies)
        );
    }
    code
}

/// Content of one package's module: the two files that were written for it, and its events.
fn module_body(module: &Module, events: &[EventMessage]) -> String {
    let mut code = String::new();
    for file in [types_file(module), json_file(module)] {
        let _ = writeln!(code, "include!(concat!(env!(\"OUT_DIR\"), \"/{file}\"));");
    }
    for event in events {
        if module_of(event.message.package_name()) == *module {
            code.push_str(&event_impl(event, module));
        }
    }
    code
}

/// The `impl` that makes a message an event.
fn event_impl(event: &EventMessage, module: &Module) -> String {
    let key = if event.key.is_empty() {
        "\"\"".to_owned()
    } else {
        format!("&self.{}", snake_name(&event.key))
    };
    // `CONTRACT` stands where the generated code is included, a module for each part of the package further up.
    let contract = format!("{}CONTRACT", "super::".repeat(module.len()));
    format!(
        "impl ::oncue_proto::Event for {} {{ const TYPE: &'static str = {:?}; const SCHEMA: &'static str = {:?}; \
         const KEYED: bool = {}; fn key(&self) -> &str {{ {key} }} \
         fn contract() -> &'static ::oncue_proto::Contract {{ &{contract} }} }}\n",
        type_path(&event.message),
        event.ty,
        event.message.full_name(),
        !event.key.is_empty(),
    )
}

/// Path of a message's type from the module of its package: `Placed`, or `order::Placed` for one inside `Order`.
fn type_path(message: &MessageDescriptor) -> String {
    let mut path = camel_name(message.name());
    let mut parent = message.parent_message();
    while let Some(outer) = parent {
        path = format!("{}::{path}", snake_name(outer.name()));
        parent = outer.parent_message();
    }
    path
}

/// Name that prost gives a type: `SmsSent` for `SMSSent`. In camel case only one name is Rust's own.
fn camel_name(name: &str) -> String {
    let name = name.to_upper_camel_case();
    if name == "Self" {
        return "Self_".to_owned();
    }
    name
}

/// Name that prost gives a field, and the module of what is nested in a message: `order_id` for `orderId`, `r#type` for
/// `type`, `self_` for `self`. Modules of packages are named by the same rule, and only theirs is public.
fn snake_name(name: &str) -> String {
    module_of(name).to_string()
}

#[cfg(test)]
mod tests;
