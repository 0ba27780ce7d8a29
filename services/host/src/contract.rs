//! Event types of the app: compiled from its `.proto` files when the host starts, so that an author needs no build step
//! and no generated file.

use std::path::{Path, PathBuf};

use oncue_core::config::Config;
use oncue_proto::Catalog;
use oncue_proto::event::{PLATFORM_DOMAINS, stream_of_type};
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

/// File of the platform's own events on which a function may act: those of the object store. It is in every contract.
const FILE_EVENTS: &str = "oncue/v1/file.proto";
/// Files that come with the host: the one that every contract imports, and that one.
const OWN_FILES: [(&str, &str); 2] = [
    (
        "oncue/v1/event.proto",
        include_str!("../../../proto/oncue/v1/event.proto"),
    ),
    (
        FILE_EVENTS,
        include_str!("../../../proto/oncue/v1/file.proto"),
    ),
];

/// Encoded descriptor set of the `.proto` files below the folder `proto`.
///
/// # Errors
/// A file that cannot be read or compiled; a sentence with its place.
pub fn of_app(config: &Config) -> Result<Vec<u8>, String> {
    let folder = config.beside(&config.proto);
    if folder.is_dir() {
        return compile(&folder);
    }
    Ok(Vec::new())
}

/// Encoded descriptor set of all `.proto` files below a folder, with all that they import.
fn compile(folder: &Path) -> Result<Vec<u8>, String> {
    let mut files = Vec::new();
    let found = find(folder, folder, &mut files);
    found.map_err(|e| format!("{}: {e}", folder.display()))?;
    files.sort();
    if !files.iter().any(|file| file.as_os_str() == FILE_EVENTS) {
        files.push(FILE_EVENTS.into());
    }
    let mut compiler = protox::Compiler::with_file_resolver(resolver(folder));
    let compiled = compiler.include_imports(true).open_files(files);
    match compiled {
        Ok(compiler) => own_types(compiler.encode_file_descriptor_set(), folder),
        // As debug it has file, line and column.
        Err(e) => Err(format!("{}/{e:?}", folder.display())),
    }
}

/// Refuses types in domains of the platform; returns the set.
fn own_types(set: Vec<u8>, folder: &Path) -> Result<Vec<u8>, String> {
    // One that cannot be read is refused where it is used, with its reason.
    let catalog = Catalog::default().with(&set).unwrap_or_default();
    let mut entries = catalog.entries();
    let taken = entries.find(|entry| {
        !entry.is_of_platform() && PLATFORM_DOMAINS.contains(&stream_of_type(&entry.ty))
    });
    match taken {
        None => Ok(set),
        Some(entry) => Err(format!(
            "{}: {}: event type {:?} is in a domain of the platform's own ({}); begin the type with a domain of the app, like \
             shop.order.placed",
            folder.display(),
            entry.schema(),
            entry.ty,
            PLATFORM_DOMAINS.join(", ")
        )),
    }
}

/// Adds the `.proto` files below a folder, by their paths from `root`.
fn find(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(root, &path, files)?;
        } else if path.extension().is_some_and(|end| end == "proto") {
            files.extend(path.strip_prefix(root).map(Path::to_owned));
        }
    }
    Ok(())
}

/// Finds imports in the app's folder first, so that a copy of the option there is the app's to change.
fn resolver(folder: &Path) -> impl FileResolver + 'static {
    let mut chain = ChainFileResolver::new();
    chain.add(IncludeFileResolver::new(folder.to_owned()));
    chain.add(OwnFiles);
    chain.add(GoogleFileResolver::new());
    chain
}

/// The files that come with the host.
struct OwnFiles;

impl FileResolver for OwnFiles {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match OWN_FILES.iter().find(|(own, _)| *own == name) {
            Some((_, source)) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_of_the_platforms_is_refused() {
        let folder = std::env::temp_dir().join(format!("oncue-contract-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        for (ty, is_taken) in [("shop.order.placed", true), ("dlq.order.placed", false)] {
            let text = format!(
                "syntax = \"proto3\";\npackage shop;\nimport \"oncue/v1/event.proto\";\nmessage Placed {{\n  \
                 option (oncue.v1.event) = {{ type: \"{ty}\" }};\n}}\n"
            );
            std::fs::write(folder.join("shop.proto"), text).expect("written");
            let compiled = compile(&folder);
            assert_eq!(compiled.is_ok(), is_taken, "{compiled:?}");
            if let Err(why) = compiled {
                assert!(why.contains("shop.Placed") && why.contains(ty), "{why}");
            }
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
