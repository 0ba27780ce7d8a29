//! Paths of the gateway that every app has, and what they answer with.

use serde_json::{Map, Value, json};

use super::{Described, Document, Operation, reference};

/// Problems of whoever sends an event, as status codes: not allowed, too slow, an id that stands for another event, too large,
/// another media type, too often, no room or no server.
pub(super) const TAKES: &[u16] = &[403, 408, 409, 413, 415, 429, 503];

/// Schemas besides those of the contract: answers as the gateway writes them. A field that may be `null` says so; one that is
/// not listed in `required` may be absent.
pub(super) fn schemas() -> Map<String, Value> {
    let time = json!({ "type": "integer", "description": "Unix milliseconds" });
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let maybe_time = json!({ "type": ["integer", "null"], "description": "Unix milliseconds" });
    let step = json!({
        "type": "object",
        "properties": {
            "function": text, "since": time, "started": maybe_time, "ended": maybe_time, "attempts": number,
            "state": { "enum": ["pending", "running", "waiting", "done", "dead", "removed", "lost"] },
            "failed": maybe_time, "why": { "type": ["string", "null"] },
        },
    });
    let event = json!({
        "type": "object",
        "properties": {
            "id": text, "type": text, "key": text, "source": text, "cause": text, "time": time, "depth": number,
            "steps": { "type": "array", "items": reference("Step") },
        },
    });
    let flow = json!({
        "type": "object",
        "required": ["id", "status", "open", "events"],
        "properties": {
            "id": text, "status": { "enum": ["complete", "running", "failed", "lost"] }, "open": number, "dead": number,
            "lost": number, "started": time, "ended": maybe_time, "waits_for": { "oneOf": [reference("Step"), { "type": "null" }] },
            "events": { "type": "array", "items": reference("FlowEvent") },
        },
    });
    let accepted = json!({
        "type": "object",
        "required": ["id", "flow"],
        "properties": {
            "id": text, "flow": text, "type": text, "key": text, "traceparent": text, "stream": text, "sequence": number,
            "duplicate": { "type": "boolean", "description": "It was taken before, and counts once" },
            "tracked": { "type": "boolean", "description": "The flow can be looked up and waited for" },
            "open": number, "waits_for": { "oneOf": [reference("Step"), { "type": "null" }] },
        },
    });
    let problem = json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "pattern": "^urn:oncue:problem:" }, "title": text, "status": number,
            "detail": text, "instance": text, "trace_id": text,
        },
    });
    let cloud_event = json!({
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": { "const": "1.0" }, "id": text, "source": text, "type": text,
            "time": { "type": "string", "format": "date-time" }, "datacontenttype": text,
            "data": {}, "data_base64": { "type": "string", "contentEncoding": "base64" },
        },
    });
    let verdict = json!({
        "type": "object",
        "required": ["status"],
        "description": "What became of one event: `status` is that of an answer to it alone, `problem` says why it was not taken",
        "properties": { "id": text, "status": number, "accepted": reference("Accepted"), "problem": reference("Problem") },
    });
    let verdicts = json!({
        "type": "object",
        "required": ["events"],
        "properties": { "events": { "type": "array", "items": reference("Verdict") } },
    });
    let named = [
        ("Accepted", accepted),
        ("CloudEvent", cloud_event),
        ("Flow", flow),
        ("FlowEvent", event),
        ("Problem", problem),
        ("Step", step),
        ("Verdict", verdict),
        ("Verdicts", verdicts),
    ];
    named
        .map(|(name, schema)| (name.to_owned(), schema))
        .into_iter()
        .collect()
}

/// Header under whose value an event counts once.
pub(super) fn idempotency_key() -> Value {
    header(
        "Idempotency-Key",
        "What is sent again under it by the same client counts once",
    )
}

/// Header by which a client waits.
pub(super) fn prefer() -> Value {
    header(
        "Prefer",
        "`wait=SECONDS`: answer with the whole flow once it is complete [RFC 7240]",
    )
}

/// Parameter that may stand in a header; text without a form of its own.
fn header(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string" } })
}

/// Parameter that may stand behind the path; text without a form of its own.
fn query(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": { "type": "string" } })
}

/// Adds what every gateway has.
pub(super) fn add(gateway: &Described<'_>, document: &mut Document) {
    events(gateway, document);
    webhooks(gateway, document);
    files(document);
    flows(document);
    if !gateway.expose.is_empty() {
        state(gateway, document);
    }
    if !gateway.heard.is_empty() {
        stream(gateway, document);
    }
    let plain = [
        (
            "/healthz",
            "health",
            "The process lives",
            "text/plain",
            &[][..],
        ),
        (
            "/readyz",
            "ready",
            "Events are taken and state can be read",
            "text/plain",
            &[503],
        ),
        (
            "/metrics",
            "metrics",
            "Counts, for Prometheus and OpenMetrics",
            "text/plain",
            &[],
        ),
        (
            "/openapi.json",
            "openapi",
            "This document",
            "application/json",
            &[],
        ),
        (
            "/v1/client.js",
            "client",
            "Module for browsers: events, flows, rows, streams",
            "text/javascript",
            &[],
        ),
    ];
    for (path, id, summary, media_type, problems) in plain {
        let mut operation = Operation::new(id, summary, problems).other(200, summary, media_type);
        if path == "/v1/client.js" {
            operation = operation.answer(304, "As `If-None-Match` has it", None);
        }
        document.add(path, "get", operation);
    }
}

/// Paths of events: one for each public type, and one for all of them as CloudEvents.
fn events(gateway: &Described<'_>, document: &mut Document) {
    for entry in gateway.catalog.entries().filter(|entry| entry.public) {
        entry.add_schemas(&mut document.schemas);
        let id = format!("send_{}", entry.ty.replace('.', "_"));
        let summary = format!("Sends {}", entry.ty);
        let operation = send(id, summary, TAKES, &reference(entry.schema()));
        let path = format!("/v1/events/{}", entry.ty);
        document.add(&path, "post", operation);
    }
    let summary = "Sends a CloudEvent of any public type, or a batch of them";
    let problems = &[403, 404, 408, 409, 413, 415, 429, 503];
    let any = send("send".into(), summary.into(), problems, &json!({}));
    document.add("/v1/events", "post", any);
    let handshake = Operation::new(
        "handshake",
        "Whether a sender of CloudEvents may send [HTTP 1.1 Web Hooks for Event Delivery]",
        &[403],
    )
    .answer(
        200,
        "It may; `WebHook-Allowed-Origin` and `WebHook-Allowed-Rate` say so",
        None,
    )
    .parameter(header("WebHook-Request-Origin", "Name of the sender"));
    document.add("/v1/events", "options", handshake);
}

/// Paths of webhooks, whose signatures stand in for a credential.
fn webhooks(gateway: &Described<'_>, document: &mut Document) {
    let text = json!({ "type": "string" });
    let delivered = json!({
        "type": "object",
        "required": ["id", "flow", "duplicate"],
        "properties": { "id": text, "flow": text, "duplicate": { "type": "boolean" } },
    });
    let challenge = json!({ "type": "object", "properties": { "challenge": text } });
    for webhook in &gateway.webhooks {
        let id = format!("webhook_{}", webhook.name);
        let summary = format!("A signed delivery, which becomes {}", webhook.event);
        let mut operation = Operation::new(id, summary, TAKES)
            .answer(
                200,
                "The challenge of a new sender",
                Some(challenge.clone()),
            )
            .answer(202, "Taken, now or before", Some(delivered.clone()))
            .answer(204, "None that is wanted", None)
            .body(json!({ "required": true, "content": { "application/json": {} } }));
        operation.more.insert("security".into(), json!([]));
        let path = format!("/v1/webhooks/{}", webhook.name);
        document.add(&path, "post", operation);
    }
}

/// Operation that takes an event, as it is or as a CloudEvent, or a batch of them.
fn send(id: String, summary: String, problems: &'static [u16], payload: &Value) -> Operation {
    let content = json!({
        "application/json": { "schema": payload },
        "application/protobuf": {},
        "application/cloudevents+json": { "schema": reference("CloudEvent") },
        "application/cloudevents-batch+json": { "schema": { "type": "array", "items": reference("CloudEvent") } },
    });
    let whole = "The whole flow, which was waited for";
    let taken = json!({ "oneOf": [reference("Accepted"), reference("Verdicts")] });
    let some = "Some of a batch were taken; send it again as it is";
    let wrong = "The event is wrong, or one of the batch, of which none was taken";
    // 400 has two forms: a problem for one event, verdicts for a batch.
    let mut operation = Operation::new(id, summary, problems)
        .answer(200, whole, Some(reference("Flow")))
        .answer(202, "Taken; `Location` is its flow", Some(taken))
        .answer(207, some, Some(reference("Verdicts")))
        .answer(400, wrong, Some(reference("Verdicts")))
        .parameter(idempotency_key())
        .parameter(prefer())
        .parameter(header("Oncue-Track", "`1`: keep a ledger of the flow"))
        .body(json!({ "required": true, "content": content }));
    let problem = json!({ "schema": reference("Problem") });
    operation.answers["400"]["content"]["application/problem+json"] = problem;
    operation
}

/// Paths of files: stored under an id of the gateway's, with or without a name, read whole or by ranges, and what functions have
/// derived from them.
fn files(document: &mut Document) {
    let body = json!({ "required": true, "content": { "application/octet-stream": {} } });
    for (path, id, in_path) in [
        ("/v1/files/{file}", "put_file", &["Name of the file"][..]),
        ("/v1/files/", "put_unnamed_file", &[]),
    ] {
        let put = Operation::new(
            id,
            "Stores a file, which becomes files.file.uploaded",
            TAKES,
        )
        .in_path(in_path)
        .answer(
            200,
            "The whole flow, which was waited for",
            Some(reference("Flow")),
        )
        .answer(
            202,
            "Stored; `Location` is its flow",
            Some(reference("Accepted")),
        )
        .parameter(idempotency_key())
        .parameter(prefer())
        .parameter(header("Oncue-Owner", "Whose file it is"))
        .body(body.clone());
        document.add(path, "put", put);
    }
    for (path, id, in_path) in [
        ("/v1/files/{file}", "get_file", &["Id of the file"][..]),
        (
            "/v1/files/{file}/{kind}/{name}",
            "get_derived_file",
            &["Id of the file", "kind", "name"],
        ),
    ] {
        let get = Operation::new(id, "A file, or a range of it", &[404, 416, 429, 503])
            .in_path(in_path)
            .other(200, "Its bytes", "application/octet-stream")
            .other(206, "The range", "application/octet-stream")
            .answer(304, "As `If-None-Match` has it", None);
        document.add(path, "get", get);
    }
}

/// Path of a flow: 200 once it is complete, 202 while it is not, and a stream of its changes for whoever accepts one.
fn flows(document: &mut Document) {
    let mut get = Operation::new("get_flow", "What has become of a flow", &[404, 503])
        .in_path(&["id"])
        .answer(
            200,
            "The flow, or a stream of what changes",
            Some(reference("Flow")),
        )
        .answer(202, "Not complete yet", Some(reference("Flow")))
        .answer(204, "A stream that has ended", None)
        .parameter(prefer());
    get.answers["200"]["content"]["text/event-stream"] = json!({});
    document.add("/v1/flows/{id}", "get", get);
}

/// Paths of the tables that `expose` names; a row under the empty key has a path of its own.
fn state(gateway: &Described<'_>, document: &mut Document) {
    let tables: Vec<&str> = gateway.expose.iter().map(String::as_str).collect();
    let value = json!({ "type": "object", "description": "A row by its fields; or `members`, `ranking`, `count`" });
    for (path, in_path) in [
        ("/v1/state/{table}/{key}", &["table", "key"][..]),
        ("/v1/state/{table}/", &["table"]),
    ] {
        let id = if in_path.len() == 2 {
            "get_state"
        } else {
            "get_state_of_no_key"
        };
        let summary = format!(
            "What functions have made of their events; tables: {}",
            tables.join(", ")
        );
        let mut get = Operation::new(id, summary, &[404, 429, 503])
            .in_path(in_path)
            .answer(
                200,
                "The value, or a stream of what changes",
                Some(value.clone()),
            )
            .answer(304, "As `If-None-Match` has it", None);
        get.answers["200"]["content"]["text/event-stream"] = json!({});
        document.add(path, "get", get);
    }
}

/// Path of events as they happen, for the types that `[gateway] stream` names.
fn stream(gateway: &Described<'_>, document: &mut Document) {
    let types: Vec<&str> = gateway.heard.iter().map(String::as_str).collect();
    let ty =
        json!({ "name": "type", "in": "query", "required": true, "schema": { "enum": types } });
    let listen = Operation::new(
        "listen",
        "Events as they happen, resumed exactly",
        &[403, 404, 429, 503],
    )
    .other(
        200,
        "Server-sent events; the id of each is its place in the stream",
        "text/event-stream",
    )
    .parameter(ty)
    .parameter(query("key", "Only events of this key"))
    .parameter(header(
        "Last-Event-ID",
        "Id of the last event that was seen",
    ));
    document.add("/v1/stream", "get", listen);
}
