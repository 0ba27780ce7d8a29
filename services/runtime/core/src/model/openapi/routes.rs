//! Routes of the configuration as operations.

use serde_json::{Map, Value, json};

use super::api::{TAKES, idempotency_key, prefer};
use super::{Described, Document, Operation, reference};
use crate::config::{
    BoundField, Endpoint, EventTarget, FieldSource, Origin, RequestPart, Response, Target,
};

/// Adds every route, with its parameters, its body, and each answer by type and status.
pub(super) fn add(gateway: &Described<'_>, document: &mut Document) {
    for endpoint in gateway.routes.endpoints() {
        let Endpoint { route, target } = endpoint;
        let mut operation = match target {
            Target::Row { table, key } => of_row(table, key),
            Target::Event(event) => {
                event.entry.add_schemas(&mut document.schemas);
                of_event(gateway, endpoint, event, document)
            }
        };
        operation.id = id_of(endpoint);
        operation.in_path = route.parameters().into_iter().map(str::to_owned).collect();
        let auth = route.auth.as_deref();
        if let Some(security) = gateway.security(auth) {
            operation.more.insert("security".into(), security);
        }
        if let Some(host) = &route.host {
            let servers = json!([{ "url": format!("https://{host}") }]);
            operation.more.insert("servers".into(), servers);
        }
        // OpenAPI has no parameter for several segments; this one takes them.
        let path = route.path.replace("{*", "{");
        let method = route.method().name().to_lowercase();
        document.add(&path, &method, operation);
    }
}

/// `post_orders_order`
fn id_of(endpoint: &Endpoint) -> String {
    let words = endpoint.route.title();
    let words = words
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

/// Operation of a route to a row. A key that the path does not hold is a parameter, needed unless it has a default.
fn of_row(table: &str, key: &FieldSource) -> Operation {
    let row = json!({ "type": "object" });
    let summary = format!("Row of {table:?}");
    let operation = Operation::new("", summary, &[404, 429, 503])
        .answer(200, "The row, its fields by name", Some(row))
        .answer(304, "As `If-None-Match` has it", None);
    match key.part() {
        Some(part @ (RequestPart::Query(_) | RequestPart::Header(_))) => {
            let is_needed = matches!(key, FieldSource::Of { default: None, .. });
            operation.parameter(parameter(part, &json!({ "type": "string" }), is_needed))
        }
        _ => operation,
    }
}

/// Operation of a route to an event. What fields take from query and headers are parameters; what the body holds is its schema,
/// without the fields that the route sets itself.
fn of_event(
    gateway: &Described<'_>,
    endpoint: &Endpoint,
    target: &EventTarget,
    document: &mut Document,
) -> Operation {
    let entry = &target.entry;
    let mut operation = Operation::new("", format!("Becomes {}", entry.ty), TAKES)
        .answer(
            202,
            "Taken; `Location` is its flow",
            Some(reference("Accepted")),
        )
        .parameter(idempotency_key())
        .parameter(prefer());
    operation = match &target.response {
        Response::Accepted | Response::Flow(_) => operation.answer(
            200,
            "The whole flow, which was waited for",
            Some(reference("Flow")),
        ),
        Response::Event { statuses, .. } => {
            for (ty, status) in statuses {
                let Ok(answer) = gateway.catalog.get(ty) else {
                    continue;
                };
                answer.add_schemas(&mut document.schemas);
                operation = with_event(operation, ty, *status, answer.schema());
            }
            operation
        }
    };
    for field in &target.fields {
        if let Origin::Text { part, field, .. } = &field.origin
            && matches!(part, RequestPart::Query(_) | RequestPart::Header(_))
        {
            let schema = property(document, entry.schema(), field.name());
            operation = operation.parameter(parameter(part, &schema, false));
        }
    }
    if endpoint.route.reads_body() {
        let schema = body(document, endpoint, target);
        let content = json!({ "application/json": { "schema": schema } });
        operation = operation.body(json!({ "content": content }));
    }
    operation
}

/// Adds an event as an answer; several types may share a status.
fn with_event(mut operation: Operation, ty: &str, status: u16, schema: &str) -> Operation {
    let status = status.to_string();
    let mut schemas = vec![reference(schema)];
    let mut types = vec![ty.to_owned()];
    if let Some(before) = operation.answers.get(&status) {
        let before_schema = &before["content"]["application/json"]["schema"];
        let listed = before_schema["oneOf"].as_array();
        let earlier = listed
            .cloned()
            .unwrap_or_else(|| vec![before_schema.clone()]);
        schemas.splice(..0, earlier);
        let words = before["description"].as_str().unwrap_or_default();
        types.insert(
            0,
            words
                .trim_start_matches("First event of the flow: ")
                .to_owned(),
        );
    }
    let schema = match schemas.len() {
        1 => schemas.remove(0),
        _ => json!({ "oneOf": schemas }),
    };
    let mut content = json!({ "application/json": { "schema": schema } });
    // A failure may also be a problem that the gateway itself has.
    if TAKES.iter().any(|known| known.to_string() == status) {
        content["application/problem+json"] = json!({ "schema": reference("Problem") });
    }
    let description = format!("First event of the flow: {}", types.join(", "));
    let answer = json!({ "description": description, "content": content });
    operation.answers.insert(status, answer);
    operation
}

/// Schema of a field of a message that is in the document.
fn property(document: &Document, message: &str, field: &str) -> Value {
    let schema = document.schemas.get(message);
    let property = schema.and_then(|schema| schema["properties"].get(field));
    property.cloned().unwrap_or_else(|| json!({}))
}

/// Parameter by the part of a request that it stands in; nothing for a body and a claim.
fn parameter(part: &RequestPart, schema: &Value, is_needed: bool) -> Value {
    match part {
        RequestPart::Query(name) => {
            json!({ "name": name, "in": "query", "required": is_needed, "schema": schema })
        }
        RequestPart::Header(name) => {
            json!({ "name": name, "in": "header", "required": is_needed, "schema": schema })
        }
        RequestPart::Path(name) => {
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        }
        RequestPart::Body(_) | RequestPart::Claim(_) => Value::Null,
    }
}

/// Schema of a body: the event's without what the route sets, or an object of the members that are named.
fn body(document: &Document, endpoint: &Endpoint, target: &EventTarget) -> Value {
    let mut properties = Map::new();
    let mut required = Value::Null;
    if endpoint.route.merges_body()
        && let Some(schema) = document.schemas.get(target.entry.schema())
    {
        let all = schema["properties"].as_object().cloned();
        properties = all.unwrap_or_default();
        required = schema["required"].clone();
        for BoundField { name, .. } in &target.fields {
            properties.remove(name);
        }
    }
    for BoundField { name, origin, .. } in &target.fields {
        let Origin::Member { names, .. } = origin else {
            continue;
        };
        let schema = property(document, target.entry.schema(), name);
        match names.as_slice() {
            [] => return schema,
            [first, rest @ ..] => {
                let nested = rest.iter().rev().fold(
                    schema,
                    |inner, name| json!({ "type": "object", "properties": { name: inner } }),
                );
                let place = properties.entry(first.clone());
                merge(place.or_insert_with(|| json!({})), nested);
            }
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties });
    let names = required.as_array().into_iter().flatten();
    let needed: Vec<&str> = names
        .filter_map(Value::as_str)
        .filter(|name| properties.contains_key(*name))
        .collect();
    if !needed.is_empty() {
        schema["required"] = json!(needed);
    }
    schema
}

/// Adds members of one schema to those of another: two fields may come from one object.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
