//! Promises kept by compiling: the programs in README.md and in deploy/GUIDE.md, the contract of the guide, a contract
//! outside `oncue-proto` (see `tests/shop.rs`), and that of the conformance suite.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const README: &str = "../README.md";
const GUIDE: &str = "../deploy/GUIDE.md";

fn main() -> Result<(), Box<dyn Error>> {
    // Without a page a test fails, and says so better than a build can.
    let readme = page(README);
    let guide = page(GUIDE);
    let out = env::var("OUT_DIR")?;
    let out = Path::new(&out);
    fs::write(out.join("readme.rs"), modules(&readme, ""))?;
    fs::write(out.join("guide.rs"), modules(&guide, "use crate::shop;"))?;
    let contract = blocks(&guide, "proto").concat();
    let folder = out.join("guide");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("guide.proto"), contract)?;
    let folder = folder.to_str().ok_or("a folder whose name is no text")?;
    oncue_build::compile(
        &[
            "shop/order.proto",
            "shop/money.proto",
            "guide.proto",
            "conform.proto",
            "odd/capitals.proto",
            "odd/empty.proto",
            "odd/keywords.proto",
            "odd/lower.proto",
            "odd/self.proto",
        ],
        &["proto", folder, "conformance"],
    )
}

fn page(path: &str) -> String {
    println!("cargo:rerun-if-changed={path}");
    fs::read_to_string(path).unwrap_or_default()
}

/// Content of every block of this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if inside && line == "```" {
            inside = false;
        } else if inside {
            if let Some(block) = found.last_mut() {
                block.extend([line, "\n"]);
            }
        } else if line.starts_with(&fence) {
            inside = true;
            found.push(String::new());
        }
    }
    found
}

/// Every ```rust block as a module of its own, with `prelude` before it.
fn modules(page: &str, prelude: &str) -> String {
    let blocks = blocks(page, "rust");
    let mut code = String::new();
    for (number, block) in blocks.iter().enumerate() {
        let _ = writeln!(
            code,
            "#[allow(dead_code, unused_imports, clippy::all, clippy::pedantic)]\nmod block_{number} {{\n{prelude}\n{block}}}"
        );
    }
    let _ = writeln!(code, "const BLOCKS: usize = {};", blocks.len());
    code
}
