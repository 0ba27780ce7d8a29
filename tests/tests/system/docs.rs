//! `oncue docs` against the official schema of AsyncAPI 3.0.0 (npm package @asyncapi/specs 6.11.1, Apache-2.0).

use oncue_proto::{Catalog, Format};
use oncue_tests::cluster::Cluster;
use serde_json::{Value, json};

const OFFICIAL: &str = include_str!("../../asyncapi/3.0.0.json");
const CONFIG: &str = "[functions.count-views]\n[functions.inspect-file]\n[functions.publish-trends]\n\
                      [[schedule]]\nfunction = \"publish-trends\"\nevery = \"1h\"\n";

async fn document() -> Value {
    let cluster = Cluster::new(CONFIG).await;
    let output = cluster.output("oncue", &["docs", "--title", "A test"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("a JSON document")
}

fn mistakes(official: &jsonschema::Validator, document: &Value) -> Vec<String> {
    official
        .iter_errors(document)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect()
}

#[tokio::test]
async fn the_document_is_valid_by_the_official_schema() {
    let good = document().await;
    let official: Value = serde_json::from_str(OFFICIAL).expect("the official schema is JSON");
    let official = jsonschema::validator_for(&official).expect("the official schema is a schema");
    assert_eq!(mistakes(&official, &good), [""; 0]);
    assert_eq!(
        (&good["asyncapi"], &good["info"]["title"]),
        (&json!("3.0.0"), &json!("A test"))
    );
    assert_eq!(
        good["operations"]["count-views.receive.web.page.viewed"]["action"],
        "receive"
    );
    assert_eq!(
        good["operations"]["inspect-file.send.files.file.rejected"]["action"],
        "send"
    );
    assert_eq!(
        good["channels"]["web.page.viewed"]["address"],
        "web.page.viewed.{key}"
    );
    assert!(
        good["channels"]["timer.function.fired"].is_object()
            && good["channels"]["dlq.letter.dropped"].is_null()
    );
    let broken: [fn(&mut Value); 3] = [
        |d| d["operations"]["count-views.receive.web.page.viewed"]["action"] = "hear".into(),
        |d| d["info"]["title"] = Value::Null,
        |d| d["channels"]["web.page.viewed"]["adress"] = "typo".into(),
    ];
    for (at, damage) in broken.into_iter().enumerate() {
        let mut document = good.clone();
        damage(&mut document);
        assert!(
            !mistakes(&official, &document).is_empty(),
            "damage {at} passes"
        );
    }
}

#[tokio::test]
async fn payloads_as_we_write_them_are_valid_by_their_schemas() {
    let document = document().await;
    let check = |name: &str, payload: &Value| {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}"), "components": document["components"] });
        jsonschema::validator_for(&schema)
            .expect("a schema")
            .is_valid(payload)
    };
    let catalog = Catalog::builtin()
        .with(oncue_app_events::DESCRIPTORS)
        .expect("a contract");
    let written = |ty: &str, json: &str| {
        catalog
            .get(ty)
            .unwrap()
            .to_json(Format::Json, json.as_bytes())
            .expect("a payload")
    };
    let view = written(
        "web.page.viewed",
        r#"{"page":"/home","at":"2026-01-02T03:04:05Z"}"#,
    );
    assert!(check("web.PageViewed", &view), "{view}");
    let upload = written(
        "files.file.uploaded",
        r#"{"file":"f","size":"9007199254740993"}"#,
    );
    assert!(check("files.FileUploaded", &upload), "{upload}");
    for wrong in [
        json!({ "page": 7 }),
        json!({ "page": "" }),
        json!({}),
        json!([]),
    ] {
        assert!(!check("web.PageViewed", &wrong), "{wrong} passes");
    }
}
