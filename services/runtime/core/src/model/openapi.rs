//! OpenAPI 3.1 document of a gateway: its routes, its own paths, the schemas of the contract, and every status it answers
//! with. Made of configuration and contract, so it cannot drift; the gateway serves it, `oncue docs --openapi` prints it.

mod api;
mod routes;

use std::collections::{BTreeMap, BTreeSet};

use oncue_proto::Catalog;
use serde_json::{Map, Value, json};

use crate::config::{AuthConfig, Routes, WebhookConfig};

/// Gateway that a document is about.
#[derive(Debug)]
pub struct Described<'d> {
    /// Title and version of the app.
    pub title: &'d str,
    pub version: &'d str,
    pub catalog: &'d Catalog,
    pub routes: &'d Routes,
    /// Tables that anybody may see.
    pub expose: &'d BTreeSet<String>,
    /// Types that anybody may hear.
    pub heard: &'d BTreeSet<String>,
    /// Policies by their names.
    pub auths: &'d BTreeMap<String, AuthConfig>,
    /// Policy before all that has none of its own.
    pub auth: Option<&'d str>,
    pub webhooks: Vec<&'d WebhookConfig>,
}

impl Described<'_> {
    /// Credentials that a policy takes, each with the scopes that it needs.
    fn security(&self, auth: Option<&str>) -> Option<Value> {
        let policy = self.auths.get(auth?)?;
        let scopes: Vec<&String> = policy.scopes.iter().collect();
        let mut taken = vec![json!({ "bearer": scopes })];
        if policy.keys {
            taken.push(json!({ "key": scopes }));
        }
        Some(taken.into())
    }
}

/// The document.
pub fn document(gateway: &Described<'_>) -> Value {
    let mut document = Document {
        security: gateway.security(gateway.auth),
        ..Document::default()
    };
    document.schemas.extend(api::schemas());
    routes::add(gateway, &mut document);
    api::add(gateway, &mut document);
    let Document { paths, schemas, .. } = document;
    let mut written = json!({
        "openapi": "3.1.0",
        "info": {
            "title": gateway.title,
            "version": gateway.version,
            "description": "Requests become events; functions act on them. What is wrong with a request is said in a problem document (RFC 9457), \
                whose `type` tells programs the class.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Problem": {
                "description": "Problem document",
                "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
            } },
        },
    });
    if !gateway.auths.is_empty() {
        written["components"]["securitySchemes"] = json!({
            "bearer": { "type": "http", "scheme": "bearer", "description": "Token of the issuer, or an API key" },
            "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
        });
    }
    written
}

/// Parts of a document that grow.
#[derive(Default)]
struct Document {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
    /// Credentials that are asked for where nothing else is said.
    security: Option<Value>,
}

/// One method of a path.
struct Operation {
    id: String,
    summary: String,
    /// Names of the parameters in the path, in order.
    in_path: Vec<String>,
    /// Other parameters, as they stand in the document.
    parameters: Vec<Value>,
    /// Body of the request.
    body: Option<Value>,
    /// Answers that are no problems.
    answers: Map<String, Value>,
    /// Statuses of problems.
    problems: &'static [u16],
    /// Members of the operation besides these.
    more: Map<String, Value>,
}

impl Operation {
    fn new(id: impl Into<String>, summary: impl Into<String>, problems: &'static [u16]) -> Self {
        Self {
            id: id.into(),
            summary: summary.into(),
            in_path: Vec::new(),
            parameters: Vec::new(),
            body: None,
            answers: Map::new(),
            problems,
            more: Map::new(),
        }
    }

    fn answer(mut self, status: u16, description: &str, schema: Option<Value>) -> Self {
        let mut answer = json!({ "description": description });
        if let Some(schema) = schema {
            answer["content"] = json!({ "application/json": { "schema": schema } });
        }
        self.answers.insert(status.to_string(), answer);
        self
    }

    /// An answer of another media type.
    fn other(mut self, status: u16, description: &str, media_type: &str) -> Self {
        let content = json!({ media_type: {} });
        let answer = json!({ "description": description, "content": content });
        self.answers.insert(status.to_string(), answer);
        self
    }

    fn parameter(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    fn in_path(mut self, names: &[&str]) -> Self {
        self.in_path = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// Problems that any request can meet: no request at all, another host, a failure of the gateway.
const ANY: [u16; 3] = [400, 421, 500];
/// Problems of the door, which stands before all paths but [`OPEN`].
const DOOR: [u16; 3] = [401, 403, 429];
/// Paths that no door stands before.
const OPEN: [&str; 5] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/v1/client.js",
];

impl Document {
    /// Adds a method of a path. A path whose parameters alone have other names is the same one to OpenAPI, so it takes the
    /// names that came first; of two hosts with one path the first is shown.
    fn add(&mut self, path: &str, method: &str, operation: Operation) {
        let known = self.paths.keys().find(|known| shape(known) == shape(path));
        let path = known.cloned().unwrap_or_else(|| path.to_owned());
        let names = path.split('/').filter_map(|segment| {
            let name = segment.strip_prefix('{')?;
            name.strip_suffix('}')
        });
        let named = names.zip(&operation.in_path).map(|(name, described)| {
            let schema = json!({ "type": "string" });
            let mut parameter =
                json!({ "name": name, "in": "path", "required": true, "schema": schema });
            if name != described {
                parameter["description"] = described.clone().into();
            }
            parameter
        });
        let mut parameters: Vec<Value> = named.collect();
        parameters.extend(operation.parameters);
        let mut responses = operation.answers;
        let is_open = OPEN.contains(&path.as_str());
        let door: &[u16] = if is_open { &[] } else { &DOOR };
        for status in operation.problems.iter().chain(&ANY).chain(door) {
            responses
                .entry(status.to_string())
                .or_insert_with(|| json!({ "$ref": "#/components/responses/Problem" }));
        }
        let mut entry = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "responses": responses,
        });
        if !parameters.is_empty() {
            entry["parameters"] = parameters.into();
        }
        if let Some(body) = operation.body {
            entry["requestBody"] = body;
        }
        if let Some(security) = self.security.as_ref().filter(|_| !is_open) {
            entry["security"] = security.clone();
        }
        if let Some(members) = entry.as_object_mut() {
            members.extend(operation.more);
        }
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        if item.get(method).is_none() {
            item[method] = entry;
        }
    }
}

/// Path without the names of its parameters.
fn shape(path: &str) -> String {
    let segments = path.split('/');
    let bare = segments.map(|segment| {
        if segment.starts_with('{') {
            "{}"
        } else {
            segment
        }
    });
    bare.collect::<Vec<_>>().join("/")
}

/// Reference to a schema of the document.
fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
