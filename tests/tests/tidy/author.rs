//! How much an author of functions meets in the package `oncue`, counted from its source.

use crate::circles::paths;
use crate::source::{Source, bare, is_word, packages};
use crate::tree::none;

/// Names re-exported at the root: those to learn.
const MOST_NAMES: usize = 12;

/// Public items in all: the names at the root, public modules with what is public in them, and public methods.
const MOST_ITEMS: usize = 60;

/// Public items of the test kit, `oncue::testing`, which an author meets in tests alone.
const MOST_TEST_ITEMS: usize = 32;

/// Module of the test kit.
const TEST_KIT: &str = "testing";

/// Names and items that are public to users of a crate.
#[derive(Debug, Default)]
struct Surface {
    names: Vec<String>,
    items: Vec<String>,
    /// Of the test kit.
    test_items: Vec<String>,
}

#[test]
fn authors_have_few_names_to_learn() {
    let packages = packages();
    let oncue = packages
        .iter()
        .find(|package| package.package == "oncue")
        .expect("the package oncue");
    let surface = surface(&oncue.files);
    assert!(surface.names.iter().any(|name| name.ends_with("run")));
    let mut found = Vec::new();
    for (kind, all, most) in [
        ("names at the root", &surface.names, MOST_NAMES),
        ("public items", &surface.items, MOST_ITEMS),
        (
            "public items of the test kit",
            &surface.test_items,
            MOST_TEST_ITEMS,
        ),
    ] {
        if all.len() > most {
            let all_lines = all.join("\n    ");
            found.push(format!(
                "{} {kind} of oncue, at most {most} may be:\n    {all_lines}",
                all.len()
            ));
        }
    }
    none(&found);
}

fn surface(files: &[Source]) -> Surface {
    let mut surface = Surface::default();
    let root = file(files, "lib").expect("a lib.rs");
    for item in items(&root.text) {
        match item.kind {
            "mod" if item.name == TEST_KIT => {
                let mut items = Vec::new();
                public_module(files, &item.name, &mut items);
                for path in items {
                    methods(files, &path, &mut surface.test_items);
                    surface.test_items.push(path);
                }
            }
            "mod" => public_module(files, &item.name, &mut surface.items),
            _ => surface.names.push(item.name),
        }
    }
    for path in &surface.names {
        // A type brings its methods; a function, or a name of another crate, is one item.
        surface.items.push(path.clone());
        methods(files, path, &mut surface.items);
    }
    surface
}

/// Methods of a type that is re-exported by this path.
fn methods(files: &[Source], path: &str, found: &mut Vec<String>) {
    let Some((module, name)) = path.rsplit_once("::") else {
        return;
    };
    if let Some(file) = file(files, &module.replace("self::", "")) {
        let own = items(&file.text).into_iter();
        let own = own.filter(|item| item.within.as_deref() == Some(name));
        found.extend(own.map(|item| format!("{path}::{}", item.name)));
    }
}

fn public_module(files: &[Source], module: &str, found: &mut Vec<String>) {
    found.push(format!("mod {module}"));
    let Some(file) = file(files, module) else {
        return;
    };
    for item in items(&file.text) {
        match (item.kind, &item.within) {
            ("mod", _) => public_module(files, &format!("{module}::{}", item.name), found),
            (_, Some(owner)) => found.push(format!("{module}::{owner}::{}", item.name)),
            (_, None) => found.push(format!("{module}::{}", item.name)),
        }
    }
}

/// File of a module, `a::b` in `a/b.rs` or `a/b/mod.rs`.
fn file<'a>(files: &'a [Source], module: &str) -> Option<&'a Source> {
    let name = module.replace("::", "/");
    let folder = format!("{name}/mod");
    files
        .iter()
        .find(|file| file.name == name || file.name == folder)
}

/// One thing that is `pub`.
struct Item {
    kind: &'static str,
    name: String,
    /// Type whose method it is.
    within: Option<String>,
}

const KINDS: [&str; 9] = [
    "fn", "struct", "enum", "trait", "type", "static", "mod", "use", "const",
];

/// Public items of a file, but for those hidden from docs. Fields are part of their type.
fn items(text: &str) -> Vec<Item> {
    let code = bare(text);
    let mut found = Vec::new();
    let mut within = None;
    let mut hidden = false;
    let mut exported = false;
    let mut rest = code.as_str();
    while !rest.is_empty() {
        let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
        let line = &rest[..end];
        if line.starts_with("impl") {
            within = owner(line);
        } else if line.starts_with('}') {
            within = None;
        }
        let trimmed = line.trim();
        if trimmed.starts_with("#[") {
            hidden |= trimmed.contains("doc(hidden)");
            exported |= trimmed.contains("macro_export");
            rest = &rest[end..];
            continue;
        }
        let seen = !std::mem::take(&mut hidden);
        let is_exported = std::mem::take(&mut exported);
        if let Some(item) = trimmed.strip_prefix("pub ").filter(|_| seen) {
            let statement = rest.split(';').next().unwrap_or_default();
            found.extend(read(item, statement, within.as_ref()));
        } else if let Some(name) = trimmed.strip_prefix("macro_rules! ")
            && is_exported
            && seen
        {
            found.push(Item {
                kind: "fn",
                name: name.trim_end_matches(['{', ' ']).to_owned(),
                within: None,
            });
        }
        rest = &rest[end..];
    }
    found
}

/// Type an `impl` block is of; none for the impl of a trait, whose items are the trait's.
fn owner(line: &str) -> Option<String> {
    let mut depth = 0;
    let mut header = String::new();
    for c in line.trim_start_matches("impl").chars() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ if depth == 0 => header.push(c),
            _ => {}
        }
    }
    let header = header.trim().trim_end_matches('{').trim();
    let own = !header.contains(" for ");
    own.then(|| {
        header
            .split(|c| !is_word(c))
            .next()
            .unwrap_or_default()
            .to_owned()
    })
}

fn read(item: &str, statement: &str, within: Option<&String>) -> Vec<Item> {
    let mut words = item
        .split(|c| !is_word(c))
        .filter(|word| !["async", "unsafe", ""].contains(word));
    let mut kind = words.next().unwrap_or_default();
    let mut name = words.next().unwrap_or_default();
    if kind == "const" && name == "fn" {
        kind = "fn";
        name = words.next().unwrap_or_default();
    }
    let Some(kind) = KINDS.iter().find(|known| **known == kind) else {
        return Vec::new();
    };
    if *kind != "use" {
        return vec![Item {
            kind,
            name: name.to_owned(),
            within: within.cloned(),
        }];
    }
    let leaves = paths(statement.trim_start().trim_start_matches("pub use "));
    leaves
        .iter()
        .map(|path| Item {
            kind,
            name: path.join("::"),
            within: None,
        })
        .collect()
}

#[test]
fn the_surface_is_read_from_the_source() {
    let source = |name: &str, text: &str| Source {
        path: String::new(),
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let files = [
        source(
            "lib",
            "mod a;\npub mod b;\npub mod testing;\nmod c;\npub use a::{One, two};\npub use other::Three;\n#[macro_export]\nmacro_rules! four {\n}\n",
        ),
        source(
            "a",
            "pub struct One { pub field: u8 }\nimpl One {\n    pub fn five() {}\n    #[doc(hidden)]\n    pub fn hidden() {}\n    fn own() {}\n}\nimpl X<Y> for One {\n    fn six() {}\n}\npub fn two() {}\npub struct Inner;\nimpl Inner {\n    pub fn seven() {}\n}\n",
        ),
        source(
            "b/mod",
            "pub(crate) fn no() {}\npub const fn eight() {}\npub struct Nine<T>(T);\nimpl<T: Into<X>> Nine<T> {\n    pub async fn ten() {}\n}\n",
        ),
        source("c", "pub fn nobody_sees_it() {}"),
        source("testing", "pub use self::kit::Kit;\npub fn eleven() {}"),
        source(
            "testing/kit",
            "pub struct Kit;\nimpl Kit {\n    pub fn twelve() {}\n}\n",
        ),
    ];
    let surface = surface(&files);
    assert_eq!(surface.names, ["a::One", "a::two", "other::Three", "four"]);
    let mut items = surface.items;
    items.sort();
    let expected = [
        "a::One",
        "a::One::five",
        "a::two",
        "b::Nine",
        "b::Nine::ten",
        "b::eight",
        "four",
        "mod b",
        "other::Three",
    ];
    assert_eq!(items, expected);
    let mut test_items = surface.test_items;
    test_items.sort();
    let expected = [
        "mod testing",
        "testing::eleven",
        "testing::self::kit::Kit",
        "testing::self::kit::Kit::twelve",
    ];
    assert_eq!(test_items, expected);
}
