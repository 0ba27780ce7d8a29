//! `oncue docs`: the AsyncAPI 3.0 document of the app: every event type of the contract as a channel, every
//! function's trigger and emissions as operations; or the OpenAPI document of its gateway. Nothing in it is written by hand, so it
//! cannot drift.

use oncue_admin::topology::Topology;
use oncue_core::bus::layout::{DLQ, TIMER};
use oncue_core::model::manifest::Manifest;
use oncue_core::model::openapi::{self, Described};
use oncue_proto::event::stream_of_type;
use oncue_proto::{Catalog, Entry};
use serde_json::{Map, Value, json};

use crate::exit::{self, Failure};
use crate::settings::{Address, Settings};
use crate::terminal::paint::say;

#[derive(clap::Args)]
pub struct Args {
    /// Print the OpenAPI 3.1 document of the gateway instead, as it serves it at /openapi.json. Needs no server.
    #[arg(long)]
    openapi: bool,
    /// Title of the document. Default: Oncue, and for --openapi the name of the app.
    #[arg(long)]
    title: Option<String>,
    /// Version of the application it is about.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    app_version: String,
}

/// Prints the document, as JSON.
pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.openapi {
        say(serde_json::to_string_pretty(&openapi(args, settings).await?).unwrap_or_default());
        return Ok(exit::OK);
    }
    let bus = settings.bus().await.ok();
    let store = settings.store().await.ok();
    let topology = settings.topology(bus.as_ref(), store.as_ref()).await?;
    let catalog = settings.catalog().await?;
    let document = document(args, settings, &catalog, &topology);
    say(serde_json::to_string_pretty(&document).unwrap_or_default());
    Ok(exit::OK)
}

/// Document of the gateway, from configuration and contract.
async fn openapi(args: &Args, settings: &Settings) -> Result<Value, Failure> {
    let config = &settings.config;
    let catalog = settings.catalog().await?;
    let routes = config.routes(&catalog).map_err(Failure::usage)?;
    Ok(openapi::document(&Described {
        title: args.title.as_deref().unwrap_or(config.app.as_str()),
        version: &args.app_version,
        catalog: &catalog,
        routes: &routes,
        expose: &config.gateway.expose,
        heard: &config.gateway.stream,
        auths: &config.auths,
        auth: config.gateway.auth.as_deref(),
        webhooks: config.webhooks.iter().collect(),
    }))
}

fn document(args: &Args, settings: &Settings, catalog: &Catalog, topology: &Topology) -> Value {
    let types = types(catalog, topology);
    let mut channels = Map::new();
    let mut messages = Map::new();
    let mut schemas = Map::new();
    for ty in &types {
        let entry = catalog.get(ty).ok();
        channels.insert(ty.clone(), channel(ty, entry));
        messages.insert(ty.clone(), message(ty, entry));
        if let Some(entry) = entry {
            entry.add_schemas(&mut schemas);
        }
    }
    let operations: Map<String, Value> = topology.manifests().flat_map(operations).collect();
    let place = Address::of(settings.config.nats.url.expose(), 4222);
    let nats = place.map_or_else(
        || "127.0.0.1:4222".to_owned(),
        |place| format!("{}:{}", place.host, place.port),
    );
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": args.title.as_deref().unwrap_or("Oncue"), "version": args.app_version,
            "description": "Events and functions. An event is a CloudEvent 1.0 in binary mode: attributes in NATS headers, the payload as \
                protobuf or as its canonical JSON." },
        "defaultContentType": "application/json",
        "servers": { "nats": { "host": nats, "protocol": "nats", "description": "JetStream, one stream for each domain" } },
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// Types that clients may send or functions declare; of the platform's own only what functions name.
fn types(catalog: &Catalog, topology: &Topology) -> Vec<String> {
    let theirs = catalog
        .entries()
        .map(|entry| entry.ty.as_str())
        .filter(|ty| ![DLQ, TIMER].contains(&stream_of_type(ty)));
    let mut types: Vec<String> = theirs.chain(topology.types()).map(str::to_owned).collect();
    types.sort();
    types.dedup();
    types
}

/// Channel of a type: its subject, with the key at its end where the contract names a field for the key.
fn channel(ty: &str, entry: Option<&Entry>) -> Value {
    let key = entry
        .map(|entry| entry.key_field.as_str())
        .filter(|field| !field.is_empty());
    let mut channel = json!({
        "address": ty,
        "title": ty,
        "servers": [{ "$ref": "#/servers/nats" }],
        "messages": { "event": { "$ref": format!("#/components/messages/{ty}") } },
    });
    if let Some(field) = key {
        channel["address"] = format!("{ty}.{{key}}").into();
        channel["description"] = format!("Also taken without the key, as {ty}.").into();
        let of = format!(
            "The field {field} where a NATS token may hold it ([A-Za-z0-9_-], at most 64), else a hash of it."
        );
        channel["parameters"] = json!({ "key": { "description": of } });
    }
    channel
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

/// Message of a type: attributes of a CloudEvent in binary mode as headers, and the schema of its payload. A type
/// that only a manifest names has no schema here.
fn message(ty: &str, entry: Option<&Entry>) -> Value {
    let headers = json!({
        "type": "object",
        "required": ["ce-id", "ce-source", "ce-type", "ce-specversion"],
        "properties": {
            "ce-specversion": { "type": "string", "const": "1.0" },
            "ce-id": text("Identity of the event: each function applies it at most once."),
            "ce-source": text("/FUNCTION that emitted it, or where it came from."),
            "ce-type": { "type": "string", "const": ty },
            "ce-time": { "type": "string", "format": "date-time" },
            "ce-subject": text("What the event is about: its key."),
            "ce-partitionkey": text("The key as well."),
            "ce-datacontenttype": { "type": "string", "enum": ["application/protobuf", "application/json"] },
            "ce-flowid": text("Id of the root event."),
            "ce-causationid": text("Id of the event that caused this one."),
            "ce-hopcount": text("Functions between the root event and this one."),
            "traceparent": text("W3C Trace Context."),
        },
    });
    let mut message =
        json!({ "name": ty, "title": ty, "contentType": "application/json", "headers": headers });
    if let Some(entry) = entry {
        message["payload"] = json!({ "$ref": format!("#/components/schemas/{}", entry.schema()) });
        message["x-protobuf-message"] = entry.schema().into();
    }
    message
}

/// One operation, with the name it has in the document.
fn operation(function: &str, action: &str, ty: &str, summary: &str) -> (String, Value) {
    let content = json!({
        "action": action,
        "channel": { "$ref": format!("#/channels/{ty}") },
        "messages": [{ "$ref": format!("#/channels/{ty}/messages/event") }],
        "summary": summary,
        "tags": [{ "name": function }],
    });
    (format!("{function}.{action}.{ty}"), content)
}

/// Operations of one function: what it receives and sends.
fn operations(manifest: &Manifest) -> Vec<(String, Value)> {
    let name = &manifest.name;
    let state = manifest
        .table
        .as_ref()
        .map_or_else(String::new, |table| format!(" and owns rows of {table:?}"));
    let receive = manifest.triggers.iter().map(|ty| {
        let (key, mut content) =
            operation(name, "receive", ty, &format!("{name} acts on {ty}{state}"));
        content["bindings"] = json!({ "nats": { "queue": name } });
        (key, content)
    });
    receive
        .chain(
            manifest
                .emits
                .iter()
                .map(|ty| operation(name, "send", ty, &format!("{name} may emit {ty}"))),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use oncue_core::config::Config;

    use super::*;
    use crate::verbs::map::formats::tests::topology;

    fn ours() -> Value {
        let topology = topology(&[
            (
                "count-views",
                &["web.page.viewed"],
                &["web.page.milestone"],
                Some("pages"),
            ),
            (
                "publish-trends",
                &["timer.function.fired"],
                &["web.trends.published"],
                None,
            ),
            ("foreign", &["shop.order.placed"], &[], None),
        ]);
        let config = Config::parse("", None, |_| None).expect("defaults");
        let settings = Settings {
            config,
            bin: "/nowhere".into(),
        };
        let args = Args {
            openapi: false,
            title: Some("Test".into()),
            app_version: "1".into(),
        };
        let catalog = Catalog::builtin()
            .with(oncue_app_events::DESCRIPTORS)
            .unwrap();
        document(&args, &settings, &catalog, &topology)
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = ours();
        let mut references = Vec::new();
        let mut next = vec![&document];
        while let Some(value) = next.pop() {
            match value {
                Value::Object(map) => {
                    references.extend(map.get("$ref").and_then(Value::as_str));
                    next.extend(map.values());
                }
                Value::Array(list) => next.extend(list),
                _ => {}
            }
        }
        assert!(references.len() > 20, "{}", references.len());
        for reference in references {
            assert!(
                document.pointer(&reference[1..]).is_some(),
                "{reference} leads nowhere"
            );
        }
    }
}
