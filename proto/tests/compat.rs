//! Contracts compared: what events of the old one do not survive is found, whatever else may be added.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use oncue_proto::Catalog;
use oncue_proto::compat::{breaks, clashes};

/// Contract with one event `shop.order.placed` of this body, and whatever stands beside it.
fn contract(body: &str, beside: &str, key: &str) -> Catalog {
    static CONTRACTS: AtomicUsize = AtomicUsize::new(0);
    let number = CONTRACTS.fetch_add(1, Ordering::Relaxed);
    let name = format!("oncue-compat-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let text = format!(
        "syntax = \"proto3\";\npackage shop;\nimport \"oncue/v1/event.proto\";\n{beside}\n\
         message OrderPlaced {{ option (oncue.v1.event) = {{ type: \"shop.order.placed\", key: \"{key}\" }};\n{body} }}\n"
    );
    fs::write(folder.join("shop.proto"), text).expect("written");
    let includes = [folder.as_path(), Path::new(env!("CARGO_MANIFEST_DIR"))];
    let mut compiler = protox::Compiler::new(includes).expect("a compiler");
    compiler.include_imports(true);
    compiler.open_file("shop.proto").expect("compiled");
    // Of the compiler itself: types decoded in between would lose the option.
    let set = compiler.encode_file_descriptor_set();
    fs::remove_dir_all(&folder).expect("removed");
    Catalog::default().with(&set).expect("a descriptor set")
}

fn order(body: &str) -> Catalog {
    contract(&format!("string order = 1; {body}"), "", "order")
}

/// Places that break, without the words.
fn places(old: &Catalog, new: &Catalog) -> Vec<String> {
    breaks(old, new).into_iter().map(|b| b.place).collect()
}

#[test]
fn what_is_added_breaks_nothing() {
    let old = order("int32 amount = 2;");
    for body in [
        "int32 amount = 2;",
        "int64 amount = 2;",
        "int32 amount = 2; string note = 3; repeated string more = 4;",
        "reserved 2; reserved \"amount\"; int64 cents = 3;",
    ] {
        assert_eq!(breaks(&old, &order(body)), [], "{body}");
    }
}

#[test]
fn what_is_read_as_something_else_is_named() {
    let old = order("int32 amount = 2;");
    for (body, word) in [
        ("", "is removed"),
        ("reserved 2;", "is removed"),
        ("reserved \"amount\";", "is removed"),
        ("int32 sum = 2;", "is called sum now"),
        ("int32 amount = 3;", "has the number 3"),
        ("string amount = 2;", "was int32"),
        ("uint32 amount = 2;", "was int32"),
        ("repeated int32 amount = 2;", "was one value, and is a list"),
        (
            "map<string, int32> amount = 2;",
            "was one value, and is a map",
        ),
    ] {
        let found = breaks(&old, &order(body));
        assert_eq!(found.len(), 1, "{body}: {found:?}");
        assert_eq!(found[0].place, "shop.OrderPlaced.amount", "{body}");
        assert_eq!(found[0].ty, "shop.order.placed");
        assert!(found[0].why.starts_with(word), "{body}: {}", found[0].why);
    }
    // An integer that becomes narrower, too.
    assert_eq!(
        places(&order("int64 n = 2;"), &order("int32 n = 2;")).len(),
        1
    );
}

#[test]
fn messages_and_enums_inside_are_compared() {
    let with = |beside: &str| {
        let body = "string order = 1; repeated Line lines = 2; Kind kind = 3;";
        contract(body, beside, "order")
    };
    let line = "message Line { string sku = 1; Line part = 2; }";
    let kind = "enum Kind { NONE = 0; GIFT = 1; }";
    let old = with(&format!("{line}{kind}"));
    assert_eq!(places(&old, &old), [""; 0]);
    let renamed = with(&format!(
        "message Line {{ string article = 1; Line part = 2; }}{kind}"
    ));
    assert_eq!(places(&old, &renamed), ["shop.Line.sku"]);
    let other_kind = with(&format!("{line}enum Kind {{ NONE = 0; PRESENT = 1; }}"));
    assert_eq!(places(&old, &other_kind), ["shop.Kind.GIFT"]);
    let reserved = with(&format!(
        "{line}enum Kind {{ NONE = 0; reserved 1; reserved \"GIFT\"; }}"
    ));
    assert_eq!(places(&old, &reserved), [""; 0]);
}

#[test]
fn another_key_breaks_what_stands_under_the_old_one() {
    let body = "string order = 1; string customer = 2;";
    let old = contract(body, "", "order");
    let new = contract(body, "", "customer");
    assert_eq!(places(&old, &new), ["shop.OrderPlaced"]);
    assert_eq!(
        places(&Catalog::builtin(), &new),
        [""; 0],
        "a type that is new"
    );
}

/// An older and a newer version side by side read the same, as long as what both have means one thing.
#[test]
fn what_only_one_side_has_is_no_clash() {
    let old = order("int32 amount = 2;");
    for (body, count) in [
        ("", 0),
        ("int64 amount = 2; string note = 3;", 0),
        ("string amount = 2;", 1),
        ("int32 sum = 2;", 1),
        ("int32 amount = 3;", 1),
        ("repeated int32 amount = 2;", 1),
    ] {
        let new = order(body);
        assert_eq!(clashes(&old, &new).len(), count, "{body}");
        // Whichever of them was there first.
        assert_eq!(clashes(&new, &old).len(), count, "{body}");
    }
    let body = "string order = 1; Kind kind = 2;";
    let kinds = ["NONE = 0; GIFT = 1;", "NONE = 0;", "NONE = 0; GIFT = 2;"];
    let [old, fewer, moved] =
        kinds.map(|kinds| contract(body, &format!("enum Kind {{ {kinds} }}"), "order"));
    assert_eq!(clashes(&old, &fewer), []);
    assert_eq!(clashes(&old, &moved).len(), 1);
    let body = "string order = 1; string customer = 2;";
    let keys = ["order", "customer"].map(|key| contract(body, "", key));
    assert_eq!(clashes(&keys[0], &keys[1]).len(), 1);
}
