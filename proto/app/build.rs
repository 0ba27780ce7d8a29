fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "web/page.proto",
        "web/trends.proto",
        "files/file.proto",
        "files/thumbnail.proto",
    ];
    oncue_build::compile(&protos, &["."])
}
