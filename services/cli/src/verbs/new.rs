//! `oncue new`: an app that runs, in a folder of its own.

use std::path::{Path, PathBuf};

use oncue_core::app::AppName;

use crate::exit::{self, Failure};
use crate::terminal::paint::{GOOD, paint, say};

use super::vendor;

/// Files of the app, with the names of the parts that are filled in.
const FILES: [(&str, &str); 12] = [
    ("Cargo.toml", include_str!("new/template/Cargo.toml.in")),
    ("build.rs", include_str!("new/template/build.rs.in")),
    (
        "proto/orders.proto",
        include_str!("new/template/orders.proto.in"),
    ),
    ("src/lib.rs", include_str!("new/template/lib.rs.in")),
    (
        "src/bin/bill-order.rs",
        include_str!("new/template/bill-order.rs.in"),
    ),
    (
        "src/bin/count-sales.rs",
        include_str!("new/template/count-sales.rs.in"),
    ),
    ("tests/flow.rs", include_str!("new/template/flow.rs.in")),
    (
        "tests/servers.rs",
        include_str!("new/template/servers.rs.in"),
    ),
    ("oncue.toml", include_str!("new/template/oncue.toml.in")),
    ("README.md", include_str!("new/template/README.md.in")),
    (".gitignore", include_str!("new/template/gitignore.in")),
    (
        ".github/workflows/ci.yml",
        include_str!("new/template/ci.yml.in"),
    ),
];

/// Files of an app in Python.
const PYTHON_FILES: [(&str, &str); 9] = [
    (
        "proto/orders.proto",
        include_str!("new/template/orders.proto.in"),
    ),
    (
        "functions/bill_order.py",
        include_str!("new/template/python/bill_order.py.in"),
    ),
    (
        "functions/count_sales.py",
        include_str!("new/template/python/count_sales.py.in"),
    ),
    (
        "tests/test_functions.py",
        include_str!("new/template/python/test_functions.py.in"),
    ),
    (
        "oncue.toml",
        include_str!("new/template/python/oncue.toml.in"),
    ),
    (
        "requirements.txt",
        include_str!("new/template/python/requirements.txt.in"),
    ),
    (
        "README.md",
        include_str!("new/template/python/README.md.in"),
    ),
    (
        ".gitignore",
        include_str!("new/template/python/gitignore.in"),
    ),
    (
        ".github/workflows/ci.yml",
        include_str!("new/template/python/ci.yml.in"),
    ),
];

/// Files of an app in TypeScript.
const TYPESCRIPT_FILES: [(&str, &str); 10] = [
    (
        "proto/orders.proto",
        include_str!("new/template/orders.proto.in"),
    ),
    (
        "functions/bill-order.ts",
        include_str!("new/template/typescript/bill-order.ts.in"),
    ),
    (
        "functions/count-sales.ts",
        include_str!("new/template/typescript/count-sales.ts.in"),
    ),
    (
        "tests/functions.test.ts",
        include_str!("new/template/typescript/functions.test.ts.in"),
    ),
    (
        "oncue.toml",
        include_str!("new/template/typescript/oncue.toml.in"),
    ),
    (
        "package.json",
        include_str!("new/template/typescript/package.json.in"),
    ),
    (
        "tsconfig.json",
        include_str!("new/template/typescript/tsconfig.json.in"),
    ),
    (
        "README.md",
        include_str!("new/template/typescript/README.md.in"),
    ),
    (
        ".gitignore",
        include_str!("new/template/typescript/gitignore.in"),
    ),
    (
        ".github/workflows/ci.yml",
        include_str!("new/template/typescript/ci.yml.in"),
    ),
];

/// Names that cargo takes for no package, and those of the crates that an app's own depends on.
const TAKEN: [&str; 11] = [
    "test",
    "core",
    "std",
    "alloc",
    "build",
    "deps",
    "pbjson",
    "pbjson-types",
    "prost",
    "serde",
    "tokio",
];

/// Checkout that this program was built from; where it runs elsewhere, there is none.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Runtime, contract and code generator in a checkout.
const SOURCES: [&str; 3] = ["services/runtime/function", "proto", "proto/codegen"];
/// Runtime, contract and code generator among the crates that came with an installed `oncue`.
const INSTALLED: [&str; 3] = ["oncue", "oncue-proto", "oncue-build"];
/// Source for functions in Python, in a checkout.
const PYTHON: &str = "services/runtime/python";

/// Source for functions in TypeScript, as npm packs it: in a checkout, once it was built there.
const TYPESCRIPT: &str = ".oncue/typescript/oncue.tgz";

/// Language of an app's functions.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Language {
    Rust,
    Python,
    #[value(name = "typescript", alias = "ts")]
    TypeScript,
}

#[derive(clap::Args)]
pub struct Args {
    /// Name of the app and of its folder: a-z, 0-9 and `-`, beginning with a letter.
    name: String,
    /// Language of its functions. Default: rust; typescript where `npx oncue new` runs it.
    #[arg(long, value_enum)]
    lang: Option<Language>,
    /// Checkout of Oncue that the app depends on. Default: what came with this program where it was installed, else the
    /// checkout it was built from.
    #[arg(long, value_name = "DIR", conflicts_with = "oncue_git")]
    oncue_path: Option<PathBuf>,
    /// Repository of Oncue that the app depends on.
    #[arg(long, value_name = "URL")]
    oncue_git: Option<String>,
}

pub fn run(args: &Args) -> Result<u8, Failure> {
    let name = &args.name;
    check(name)?;
    let folder = Path::new(name);
    if folder.exists() {
        return Err(Failure::usage(format_args!("{name} is there already"))
            .advise("choose another name, or go to another folder"));
    }
    let mut words = vec![
        ("{{name}}", name.clone()),
        ("{{crate}}", name.replace('-', "_")),
        ("{{domain}}", name.replace('-', "")),
    ];
    let carried;
    let lang = args.lang.unwrap_or_else(default_language);
    let files = match lang {
        Language::Rust => {
            let dependency = Dependency::of(args)?;
            carried = dependency.carried;
            words.extend([
                ("{{source}}", dependency.source),
                ("{{runtime}}", dependency.runtime),
                ("{{proto}}", dependency.proto),
                ("{{codegen}}", dependency.codegen),
            ]);
            &FILES[..]
        }
        Language::Python => {
            let package = python_package(args)?;
            words.push(("{{package}}", package.requirement));
            carried = package.carried;
            &PYTHON_FILES[..]
        }
        Language::TypeScript => {
            let package = typescript_package(args)?;
            words.push(("{{package}}", package.requirement));
            carried = package.carried;
            &TYPESCRIPT_FILES[..]
        }
    };
    for (file, template) in files {
        let text = words
            .iter()
            .fold((*template).to_owned(), |text, (word, value)| {
                text.replace(word, value)
            });
        write(&folder.join(file), &text)
            .map_err(|e| Failure::failed(format_args!("{name}/{file}: {e}")))?;
    }
    if let Some((package, source)) = carried {
        package
            .copy(&source, folder)
            .map_err(|e| Failure::failed(format_args!("{name}/{}: {e}", package.path())))?;
    }
    let first = match lang {
        Language::Rust => "",
        Language::Python => {
            "    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n"
        }
        Language::TypeScript => "    npm install\n",
    };
    say(format_args!(
        "{} Then:\n\n    cd {name}\n{first}    oncue dev\n",
        paint(GOOD, format_args!("{name} is made."))
    ));
    Ok(exit::OK)
}

/// Language of who has not said any: whoever comes by npx has Node, and perhaps nothing else.
fn default_language() -> Language {
    match std::env::var("npm_lifecycle_event").as_deref() {
        Ok("npx") => Language::TypeScript,
        _ => Language::Rust,
    }
}

/// Place at which an app finds the package for its functions.
struct Source {
    /// Requirement as pip or npm reads it.
    requirement: String,
    /// Package that the app carries, and where it was installed; `None` where the app depends on a checkout or a repository.
    carried: Option<(vendor::Package, PathBuf)>,
}

impl Source {
    /// Source of a checkout, or of a repository.
    fn elsewhere(requirement: String) -> Self {
        Self {
            requirement,
            carried: None,
        }
    }
}

/// Source for functions in Python, as `requirements.txt` names it.
fn python_package(args: &Args) -> Result<Source, Failure> {
    if let Some(url) = &args.oncue_git {
        // Not `oncue @ URL`: pip takes no such URL without a host, as that of a clone on this machine.
        return Ok(Source::elsewhere(format!(
            "git+{url}#subdirectory={PYTHON}"
        )));
    }
    let installed = vendor::PYTHON.installed();
    if let Some(source) = installed.filter(|_| args.oncue_path.is_none()) {
        return Ok(Source {
            requirement: format!("./{}", vendor::PYTHON.path()),
            carried: Some((vendor::PYTHON, source)),
        });
    }
    let folder = checkout(args)?.join(PYTHON);
    Ok(Source::elsewhere(folder.display().to_string()))
}

/// Source for functions in TypeScript, as `package.json` names it: a file, since npm takes no part of a repository.
fn typescript_package(args: &Args) -> Result<Source, Failure> {
    if args.oncue_git.is_some() {
        return Err(Failure::usage(
            "npm cannot take the package for TypeScript out of a repository",
        )
        .advise("name a checkout with --oncue-path DIR"));
    }
    let installed = vendor::TYPESCRIPT.installed();
    if let Some(source) = installed.filter(|_| args.oncue_path.is_none()) {
        return Ok(Source {
            requirement: format!("file:{}", vendor::TYPESCRIPT.path()),
            carried: Some((vendor::TYPESCRIPT, source)),
        });
    }
    let packed = checkout(args)?.join(TYPESCRIPT);
    if packed.is_file() {
        return Ok(Source::elsewhere(format!("file:{}", packed.display())));
    }
    let missing = format_args!("{} is not there", packed.display());
    Err(Failure::usage(missing)
        .advise("make it with `deploy/install.sh typescript` in the checkout"))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}

/// Refuses a name that is none of an app, of a package, or of a stream.
fn check(name: &str) -> Result<(), Failure> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    let domain = name.replace('-', "");
    let reserved = ["dlq", "timer", "files", "oncue"].contains(&domain.as_str());
    if !begins
        || !name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        || name.ends_with('-')
    {
        return Err(Failure::usage(format_args!(
            "{name:?} is no name for an app: a-z, 0-9 and '-', beginning with a letter"
        )));
    }
    // Crates of Oncue begin so, those that there may be one day as well.
    let is_ours = name.starts_with("oncue-");
    if reserved || is_ours || TAKEN.contains(&name) || is_keyword(name) {
        return Err(Failure::usage(format_args!(
            "{name:?} is taken by Rust, cargo or Oncue; choose another name"
        )));
    }
    name.parse::<AppName>()
        .map(|_| ())
        .map_err(|e| Failure::usage(format_args!("{name:?}: {e}")))
}

/// Whether a name cannot be a crate's, since it is a word of the language.
fn is_keyword(name: &str) -> bool {
    const WORDS: &str = "as async await break const continue crate dyn else enum extern false fn for if impl in let loop \
                         match mod move mut pub ref return self static struct super trait true type unsafe use where \
                         while abstract become box do final gen macro override priv try typeof unsized virtual yield";
    WORDS.split_whitespace().any(|word| word == name)
}

/// Where the app's `Cargo.toml` finds Oncue: what all three crates have in common, and the rest of each.
struct Dependency {
    source: String,
    runtime: String,
    proto: String,
    codegen: String,
    /// Crates that the app carries, and where they are.
    carried: Option<(vendor::Package, PathBuf)>,
}

impl Dependency {
    fn of(args: &Args) -> Result<Self, Failure> {
        if let Some(url) = &args.oncue_git {
            let source = format!("git = {url:?}");
            return Ok(Self {
                source,
                runtime: String::new(),
                proto: String::new(),
                codegen: String::new(),
                carried: None,
            });
        }
        let installed = vendor::RUST.installed();
        if let Some(crates) = installed.filter(|_| args.oncue_path.is_none()) {
            return Ok(Self {
                carried: Some((vendor::RUST, crates)),
                ..Self::by_path(Path::new(&vendor::RUST.path()), INSTALLED)
            });
        }
        Ok(Self::by_path(&checkout(args)?, SOURCES))
    }

    /// The runtime, the contract and the code generator, as they lie in a folder.
    fn by_path(folder: &Path, [runtime, proto, codegen]: [&str; 3]) -> Self {
        Self {
            source: "path = ".to_owned(),
            runtime: quoted(folder, runtime),
            proto: quoted(folder, proto),
            codegen: quoted(folder, codegen),
            carried: None,
        }
    }
}

/// Checkout of Oncue that the app depends on.
fn checkout(args: &Args) -> Result<PathBuf, Failure> {
    let checkout = args.oncue_path.clone();
    let checkout = checkout.unwrap_or_else(|| PathBuf::from(CHECKOUT));
    let found = checkout.join(SOURCES[0]).join("Cargo.toml").is_file();
    let whole = checkout.canonicalize().ok().filter(|_| found);
    whole.ok_or_else(|| {
        Failure::usage(format_args!(
            "{} is no checkout of Oncue",
            checkout.display()
        ))
        .advise("name one with --oncue-path DIR, or its repository with --oncue-git URL")
    })
}

/// Path inside of a folder, as a string of TOML.
fn quoted(folder: &Path, inside: &str) -> String {
    format!("{:?}", folder.join(inside).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_all_can_bear_are_taken() {
        for name in ["shop", "my-shop2", "a", "oncues"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "Shop",
            "2nd",
            "-a",
            "a-",
            "a_b",
            "test",
            "async",
            "dlq",
            "a/b",
            "../x",
            "oncue",
            "oncue-proto",
            "oncue-build",
            "oncue-shop",
        ] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn every_word_of_the_templates_is_filled_in() {
        let words = [
            "name", "crate", "domain", "source", "runtime", "proto", "codegen", "package",
        ];
        for (file, template) in FILES.iter().chain(&PYTHON_FILES).chain(&TYPESCRIPT_FILES) {
            for part in template.split("{{").skip(1) {
                let word = part.split("}}").next().unwrap_or_default();
                assert!(words.contains(&word), "{file}: {word}");
            }
        }
    }
}
