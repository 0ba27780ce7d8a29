//! Event types of the app: compiled from its `.proto` files when the host starts, so that an author needs no build step
//! and no generated file.

use std::path::{Path, PathBuf};

use oncue_core::config::Config;
use oncue_proto::merge_sets;
use protox::file::{
    ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver,
};

/// Folder of the app's `.proto` files, beside `oncue.toml`.
const FOLDER: &str = "proto";

/// File that every contract imports, which comes with the host.
const OPTION_FILE: &str = "oncue/v1/event.proto";
const OPTION_SOURCE: &str = include_str!("../../../proto/oncue/v1/event.proto");

/// Encoded descriptor set of the `.proto` files below `proto/` and of the sets that `contracts` names.
///
/// # Errors
/// A file that cannot be read or compiled; a sentence with its place.
pub fn of_app(config: &Config) -> Result<Vec<u8>, String> {
    let mut sets = Vec::new();
    let folder = config.beside(Path::new(FOLDER));
    if folder.is_dir() {
        sets.push(compile(&folder)?);
    }
    for path in &config.contracts {
        let set = std::fs::read(path);
        sets.push(set.map_err(|e| format!("contract {}: {e}", path.display()))?);
    }
    Ok(merge_sets(sets.iter().map(Vec::as_slice)))
}

/// Encoded descriptor set of all `.proto` files below a folder, with all that they import.
fn compile(folder: &Path) -> Result<Vec<u8>, String> {
    let mut files = Vec::new();
    let found = find(folder, folder, &mut files);
    found.map_err(|e| format!("{}: {e}", folder.display()))?;
    files.sort();
    let mut compiler = protox::Compiler::with_file_resolver(resolver(folder));
    let compiled = compiler.include_imports(true).open_files(files);
    match compiled {
        Ok(compiler) => Ok(compiler.encode_file_descriptor_set()),
        Err(e) => Err(format!("{}/{e}", folder.display())),
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
    chain.add(OptionFile);
    chain.add(GoogleFileResolver::new());
    chain
}

/// The option that makes a message an event.
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
