fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "oncue/v1/event.proto",
        "oncue/v1/platform.proto",
        "oncue/v1/file.proto",
    ];
    oncue_build::compile(&protos, &["."])
}
