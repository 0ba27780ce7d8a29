//! The OpenAPI document: what it says is there is there, and what is answered is in it.

use oncue_gateway::server::Guards;
use oncue_tests::http::{Answer, JSON};
use serde_json::{Value, json};

use super::Gateway;

const CONFIG: &str = r#"
[gateway]
expose = ["pages"]
stream = ["web.page.milestone"]
[[route]]
path = "/orders/{page}/views"
event = "web.page.viewed"
fields = { visitor = "header.x-visitor", referrer = "body.from.page" }
response = "web.page.milestone"
status = 201
failure = [{ type = "web.trends.published", status = 409 }]
timeout = "0s"
[[route]]
path = "/orders/{id}/views"
row = "pages"
[[route]]
method = "PUT"
path = "/raw/{*page}"
event = "web.page.viewed"
"#;

#[tokio::test]
async fn every_path_of_the_document_is_answered() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let answer = gateway.get("/openapi.json").await;
    let document = answer.ok_json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "app");
    let paths = document["paths"].as_object().unwrap();
    let mut asked = 0;
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{table}", "pages").replace(['{', '}'], "");
            let body = if method == "get" { "" } else { "{}" };
            let method = method.to_uppercase();
            let headers = [JSON, ("prefer", "wait=0"), ("last-event-id", "complete")];
            // A stream has no end, and is asked for wrongly.
            let path = path.replace("/v1/stream", "/v1/stream?type=none");
            let answer = gateway.send(&method, &path, &headers, body).await;
            let said = answer.text();
            assert_ne!(answer.status, 405, "{method} {path}: {said}");
            assert!(!said.contains("\"there is no /"), "{method} {path}: {said}");
            asked += 1;
        }
    }
    assert!(asked >= 17, "{asked}");
    references_lead_somewhere(&document);
}

#[tokio::test]
async fn credentials_and_webhooks_are_described() {
    let config = r#"
[auth.clients]
keys = true
scopes = ["events"]
[auth.people]
issuer = "https://id.example.com"
audience = ["shop"]
[gateway]
auth = "clients"
[[route]]
path = "/mine"
row = "pages"
key = "claim.sub"
auth = "people"
[[webhook]]
name = "github"
kind = "github"
secrets = ["env:PATH"]
event = "web.page.viewed"
"#;
    let gateway = Gateway::with(config, Guards::default()).await;
    let document = gateway.get("/openapi.json").await.ok_json();
    let paths = &document["paths"];
    assert_eq!(
        paths["/v1/flows/{id}"]["get"]["security"],
        json!([{ "bearer": ["events"] }, { "key": ["events"] }])
    );
    assert_eq!(paths["/mine"]["get"]["security"], json!([{ "bearer": [] }]));
    assert_eq!(paths["/healthz"]["get"]["security"], Value::Null);
    let webhook = &paths["/v1/webhooks/github"]["post"];
    assert_eq!(webhook["security"], json!([]));
    let schemes = document["components"]["securitySchemes"].as_object();
    let schemes: Vec<&String> = schemes.unwrap().keys().collect();
    assert_eq!(schemes, ["bearer", "key"]);
    let sent = gateway.send("POST", "/v1/webhooks/github", &[JSON], "{}");
    sent.await.problem(401, "unsigned");
}

fn references_lead_somewhere(document: &Value) {
    let mut references = 0;
    let mut next = vec![document];
    while let Some(value) = next.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
            references += 1;
        }
        match value {
            Value::Object(members) => next.extend(members.values()),
            Value::Array(values) => next.extend(values),
            _ => {}
        }
    }
    assert!(references > 50, "{references}");
}

#[tokio::test]
async fn a_route_is_described_as_it_is_written() {
    let gateway = Gateway::with(CONFIG, Guards::default()).await;
    let document = gateway.get("/openapi.json").await.ok_json();
    let item = &document["paths"]["/orders/{page}/views"];
    let post = &item["post"];
    assert_eq!(
        post["responses"]["201"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/web.PageMilestone"
    );
    let conflict = post["responses"]["409"]["content"].as_object().unwrap();
    assert_eq!(conflict.len(), 2, "the event or a problem: {conflict:?}");
    let body = &post["requestBody"]["content"]["application/json"]["schema"];
    let from = json!({ "type": "object", "properties": { "page": { "type": "string" } } });
    assert_eq!(body["properties"], json!({ "from": from }));
    let names: Vec<&str> = post["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["page", "Idempotency-Key", "Prefer", "x-visitor"]);
    // Two routes of one shape are one path.
    assert_eq!(item["get"]["parameters"][0]["name"], "page");
    assert_eq!(item["get"]["parameters"][0]["description"], "id");
    let put = &document["paths"]["/raw/{page}"]["put"];
    assert!(
        put["requestBody"]["content"]["application/json"]["schema"]["properties"]["visitor"]
            .is_object()
    );
    assert!(document["paths"]["/v1/events/web.page.viewed"]["post"].is_object());
    assert!(
        document["paths"]
            .get("/v1/events/web.page.milestone")
            .is_none(),
        "not public"
    );
}

/// Whether the document knows an answer. What is no path of it is nobody's, and what a browser or a proxy has broken on the
/// way is no answer of an operation.
pub fn is_documented(document: &Value, method: &str, path: &str, answer: &Answer) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let Some(paths) = document["paths"].as_object() else {
        return document.is_null();
    };
    let mut items = paths.iter().filter(|(template, _)| matches(template, path));
    let method = if method == "HEAD" { "get" } else { method };
    // One without parameters is meant before one with.
    let item = items
        .clone()
        .find(|(template, _)| !template.contains('{'))
        .or_else(|| items.next());
    let Some(operation) = item.and_then(|(_, item)| item.get(method.to_lowercase())) else {
        return true;
    };
    // Of another host nothing is said.
    operation.get("servers").is_some()
        || operation["responses"]
            .get(answer.status.to_string())
            .is_some()
}

/// Whether a path is of a template. The last parameter of a row may hold slashes.
fn matches(template: &str, path: &str) -> bool {
    let mut names = template.split('/');
    let mut given = path.split('/');
    loop {
        match (names.next(), given.next()) {
            (None, None) => return true,
            (Some(name), Some(value)) if name.starts_with('{') => {
                if value.is_empty() {
                    return false;
                }
            }
            (Some(name), Some(value)) if name == value => {}
            (None, Some(_)) => return template.ends_with("{key}"),
            _ => return false,
        }
    }
}
