//! The messages of the function protocol. They are made here, and not with the other messages of the platform, so that
//! authors of functions in Rust do not compile them.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILE: &str = "oncue/v1/function.proto";
    println!("cargo:rerun-if-changed=../../proto/{FILE}");
    let mut compiler = protox::Compiler::new(["../../proto"])?;
    compiler.include_imports(true).open_files([FILE])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(
        out.join("function.binpb"),
        compiler.encode_file_descriptor_set(),
    )?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
