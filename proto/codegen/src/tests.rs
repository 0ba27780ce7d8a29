//! A small foreign contract, and the words its author hears.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Compiles `shop/a.proto` made of these messages, with the event option at hand.
fn compile(messages: &str) -> Result<String, String> {
    compile_files(&[(
        "shop/a.proto",
        &format!("package shop.v1;\nimport \"oncue/v1/event.proto\";\n{messages}"),
    )])
}

/// Compiles files that exist nowhere but here, and returns `events.rs`.
fn compile_files(files: &[(&str, &str)]) -> Result<String, String> {
    static FOLDERS: AtomicU32 = AtomicU32::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = env::temp_dir().join(format!("oncue-build-{}-{number}", std::process::id()));
    for (name, text) in files {
        let path = folder.join("proto").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, format!("syntax = \"proto3\";\n{text}")).expect("written");
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let include = folder.join("proto");
    let done = compile_into(&folder, &names, &[include.to_str().expect("UTF-8")])
        .map_err(|e| e.to_string());
    let code = done.map(|()| {
        assert!(fs::metadata(folder.join("descriptors.bin")).is_ok_and(|file| file.len() > 10));
        fs::read_to_string(folder.join("events.rs")).expect("events.rs")
    });
    fs::remove_dir_all(folder).expect("removed");
    code
}

fn event(name: &str, options: &str, fields: &str) -> String {
    format!("message {name} {{ option (oncue.v1.event) = {{ {options} }}; {fields} }}\n")
}

#[test]
fn a_message_with_the_option_is_an_event() {
    let keyed = event(
        "OrderPlaced",
        "type: \"shop.order.placed\", key: \"type\"",
        "string type = 1;",
    );
    let bare = event("ShopOpened", "type: \"shop.door.opened-wide\"", "");
    let code = compile(&(keyed + &bare + "message Plain {}")).expect("a contract");
    for expected in [
        "impl ::oncue_proto::Event for OrderPlaced",
        "const TYPE: &'static str = \"shop.order.placed\"; const SCHEMA: &'static str = \"shop.v1.OrderPlaced\"; const KEYED: bool = true;",
        "fn key(&self) -> &str { &self.r#type }",
        "fn contract() -> &'static ::oncue_proto::Contract { &super::super::CONTRACT }",
        "const TYPE: &'static str = \"shop.door.opened-wide\";",
        "const KEYED: bool = false; fn key(&self) -> &str { \"\" }",
        "pub static CONTRACT: ::oncue_proto::Contract",
        "pub mod shop {",
        "pub mod v1 {",
        "pub const DESCRIPTORS: &[u8]",
        "/shop.v1.serde.rs",
    ] {
        assert!(code.contains(expected), "no {expected:?} in\n{code}");
    }
    assert!(
        !code.contains("Plain"),
        "a message without the option is none"
    );
}

#[test]
fn packages_that_share_a_name_share_a_module() {
    let one = ("shop/v1/a.proto", "package shop.v1; message A {}");
    let two = ("shop/v2/a.proto", "package shop.v2; message A {}");
    let code = compile_files(&[one, two]).expect("two packages");
    assert_eq!(code.matches("pub mod shop").count(), 1, "{code}");
    assert!(code.contains("mod v1") && code.contains("mod v2"), "{code}");
}

/// That it compiles is seen in `tests/tests/odd_protos.rs`.
#[test]
fn names_are_those_of_prost() {
    let outer = "message SMSSent { OPTION message inner_one { INNER string self = 1; } string orderId = 1; }";
    let option = "option (oncue.v1.event) = { type: \"shop.sms.sent\", key: \"orderId\" };";
    let inner = "option (oncue.v1.event) = { type: \"shop.sms.read\", key: \"self\" };";
    let messages = outer.replace("OPTION", option).replace("INNER", inner);
    let code = compile_files(&[(
        "shop/a.proto",
        &format!("package Shop.type.self;\nimport \"oncue/v1/event.proto\";\n{messages}"),
    )]);
    let code = code.expect("a contract");
    for expected in [
        "pub mod shop {",
        "pub mod r#type {",
        "pub mod self_ {",
        "/shop.r#type.self_.rs",
        "/shop.r#type.self_.serde.rs",
        "impl ::oncue_proto::Event for SmsSent",
        "{ &self.order_id }",
        "impl ::oncue_proto::Event for sms_sent::InnerOne",
        "const SCHEMA: &'static str = \"Shop.type.self.SMSSent.inner_one\";",
        "{ &self.self_ }",
        "{ &super::super::super::CONTRACT }",
    ] {
        assert!(code.contains(expected), "no {expected:?} in\n{code}");
    }
}

#[test]
fn packages_of_one_module_share_it() {
    let one = ("shop/a.proto", "package shop; message A {}");
    let two = ("shop/b.proto", "package Shop; message B {}");
    let code = compile_files(&[one, two]).expect("two packages");
    assert_eq!(code.matches("pub mod shop").count(), 1, "{code}");
    assert_eq!(code.matches("/shop.serde.rs").count(), 1, "{code}");
}

#[test]
fn a_file_needs_a_package() {
    let bare = ("a.proto", "message A {}");
    let why = compile_files(&[bare]).expect_err("no package");
    assert!(
        why.contains("a.proto") && why.contains("`package shop.v1;`"),
        "{why}"
    );
    // One that is only imported as well.
    let user = (
        "shop/b.proto",
        "package shop; import \"a.proto\"; message B { A a = 1; }",
    );
    let why = compile_files(&[user, bare]).expect_err("no package");
    assert!(why.starts_with("a.proto:"), "{why}");
}

#[test]
fn the_platform_s_types_are_its_own() {
    let types = [
        "dlq.order.placed",
        "timer.order.placed",
        "oncue.order.placed",
        "files.file.uploaded",
    ];
    for ty in types {
        let message = event("Bad", &format!("type: {ty:?}"), "");
        let why = compile(&message).expect_err(ty);
        for expected in ["shop.v1.Bad", ty, "the platform's own"] {
            assert!(why.contains(expected), "no {expected:?} in {why}");
        }
        let own = format!("package oncue.v1;\nimport \"oncue/v1/event.proto\";\n{message}");
        let code = compile_files(&[("oncue/v1/own.proto", &own)]);
        assert!(code.is_ok(), "{code:?}");
    }
    // What an app makes of an upload.
    let inspected = event("Inspected", "type: \"files.file.inspected\"", "");
    assert!(compile(&inspected).is_ok());
}

#[test]
fn mistakes_are_named_with_their_message() {
    let types = [
        "",
        "shop",
        "shop.order",
        "shop.order.placed.twice",
        "Shop.order.placed",
        "shop..placed",
        "shop.1st.sold",
        "shop.order_line.made",
    ];
    for ty in types {
        let why = compile(&event("Bad", &format!("type: {ty:?}"), "")).expect_err(ty);
        assert!(
            why.contains("shop.v1.Bad")
                && why.contains(&format!("{ty:?}"))
                && why.contains("web.page.viewed"),
            "{why}"
        );
    }
    let keys = [
        ("string name = 1;", "there is no field \"id\""),
        ("uint64 id = 1;", "key field \"id\" must be a single string"),
        (
            "repeated string id = 1;",
            "key field \"id\" must be a single string",
        ),
        ("optional string id = 1;", "neither optional"),
        (
            "oneof which { string id = 1; string name = 2; }",
            "nor in a oneof",
        ),
        (
            "string id = 1 [(oncue.v1.sensitive) = true];",
            "key field \"id\" is sensitive",
        ),
    ];
    for (fields, expected) in keys {
        let why = compile(&event(
            "Bad",
            "type: \"shop.order.placed\", key: \"id\"",
            fields,
        ))
        .expect_err(expected);
        assert!(
            why.contains("shop.v1.Bad") && why.contains(expected),
            "{why}"
        );
    }
}

#[test]
fn a_type_names_one_message() {
    let twice = ["One", "Other"]
        .map(|name| event(name, "type: \"shop.order.placed\"", ""))
        .concat();
    let why = compile(&twice).expect_err("one type, two messages");
    for expected in ["shop.v1.One", "shop.v1.Other", "\"shop.order.placed\""] {
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn what_cannot_be_compiled_says_where() {
    let why = compile("message Broken { string = 1; }").expect_err("no protobuf");
    assert!(
        why.contains("shop/a.proto") || why.contains("expected"),
        "{why}"
    );
    let why = compile_files(&[("shop/a.proto", "import \"shop/gone.proto\";")])
        .expect_err("no such file");
    assert!(why.contains("shop/gone.proto"), "{why}");
}
