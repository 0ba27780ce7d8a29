//! Two promises kept by compiling: the programs in README.md, and a contract outside `oncue-proto` (see `tests/shop.rs`).

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const README: &str = "../README.md";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={README}");
    // Without it the tidy test fails, and says so better than a build can.
    let readme = fs::read_to_string(README).unwrap_or_default();
    let out = env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    fs::write(Path::new(&out).join("readme.rs"), modules(&readme))?;
    oncue_build::compile(&["shop/order.proto", "shop/money.proto"], &["proto"])
}

/// Every ```rust block as a module of its own.
fn modules(readme: &str) -> String {
    let (mut code, mut blocks, mut inside) = (String::new(), 0, false);
    for line in readme.lines() {
        match line {
            _ if !inside && line.starts_with("```rust") => {
                let _ = writeln!(
                    code,
                    "#[allow(dead_code, clippy::all, clippy::pedantic)]\nmod block_{blocks} {{"
                );
                (inside, blocks) = (true, blocks + 1);
            }
            "```" if inside => {
                code.push_str("}\n");
                inside = false;
            }
            _ if inside => {
                let _ = writeln!(code, "{line}");
            }
            _ => {}
        }
    }
    let _ = writeln!(code, "const BLOCKS: usize = {blocks};");
    code
}
