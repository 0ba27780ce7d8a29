fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "oncue/v1/event.proto",
        "oncue/v1/platform.proto",
        "web/page.proto",
        "web/trends.proto",
    ];
    let protos = [&protos[..], &["files/file.proto", "files/thumbnail.proto"]].concat();
    oncue_build::compile(&protos, &["."])
}
