//! Rights of everybody who comes to the servers of an app, computed from what its functions declare and from nothing else.
//!
//! # NATS
//!
//! Permissions inside one account isolate nobody: the server sends its answers to whatever reply subject it is told, the
//! JetStream API among them. So everybody has an account of their own, without JetStream, and imports from the app's account
//! the subjects they may publish to. What they subscribe to they hear of their own account only.
//!
//! | account | who | what |
//! |---|---|---|
//! | `APP` | operator, console | streams, consumers, everything |
//! | `APP:fn:FUNCTION` | the workers of a function | its consumer, its letters, the types it emits, its use of files |
//! | `APP:gateway` | gateways | public types, those of its routes, files, looks at streams and consumers |
//! | `APP:public` | clients without credentials | public types |
//!
//! # Redis
//!
//! One user for each, `APP.FUNCTION` and so on, with the keys that carry its name and the tables it declares. The operator
//! alone loads code, which would run with the rights of whoever calls it.

pub mod accounts;
pub mod compare;
pub mod folders;
mod peers;
pub mod keys;
pub mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use oncue_core::app::AppName;
use oncue_core::bus::layout;
pub use oncue_core::config::Role;
use oncue_core::config::{Config, Response, Target};
use oncue_core::model::manifest::{FileUse, Manifest};
use oncue_proto::Catalog;
use oncue_proto::event::stream_of_type;

/// Number of answers to a request: an account that exports it must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answers {
    /// One, or none.
    One,
    /// Several.
    Many,
}

/// Subject that somebody may publish to, as the app's account calls it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Publish {
    /// May hold wildcards.
    pub subject: String,
    /// Number of answers that come.
    pub answers: Answers,
    /// Reason, for people.
    pub why: String,
}

/// Access to keys of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reads.
    Read,
    /// Reads and writes.
    Full,
}

/// Keys of Redis that somebody may touch, without the app in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPattern {
    /// Glob, as Redis takes it.
    pub pattern: String,
    /// Kind of access.
    pub access: Access,
    /// Reason, for people.
    pub why: &'static str,
}

/// Rights of one role.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Whose they are.
    pub role: Role,
    /// Subjects to publish to; empty for a role of the app's own account, which may do everything.
    pub publishes: Vec<Publish>,
    /// Subjects of the app's account that it hears.
    pub hears: Vec<(String, &'static str)>,
    /// Name under which it answers questions on `$SRV`.
    pub answers_as: Option<String>,
    /// Keys in Redis; `None` for a role that has none to do there, empty for one that may do everything.
    pub keys: Option<Vec<KeyPattern>>,
}

/// Rights of all roles of an app.
#[derive(Debug, Clone)]
pub struct Rights {
    /// App whose they are.
    pub app: AppName,
    /// Beginning of the subjects at which answers are heard.
    pub inbox_prefix: String,
    /// In the order operator, console, gateway, functions by name, public.
    pub grants: Vec<Grant>,
}

impl Rights {
    /// Rights by the functions, the file, and the event types of the app.
    pub fn of(config: &Config, manifests: &[Manifest], catalog: &Catalog) -> Self {
        let mut grants = vec![
            trusted(Role::Operator),
            trusted(Role::Console),
            gateway(config, manifests, catalog),
        ];
        let mut functions: Vec<&Manifest> = manifests.iter().collect();
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        grants.extend(
            functions
                .into_iter()
                .map(|manifest| function(config, manifest)),
        );
        grants.push(public(catalog));
        Self {
            app: config.app.clone(),
            inbox_prefix: config.nats.inbox_prefix.clone(),
            grants,
        }
    }

    /// Roles that have credentials.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.grants.iter().map(|grant| &grant.role)
    }
}

fn trusted(role: Role) -> Grant {
    Grant {
        role,
        publishes: Vec::new(),
        hears: Vec::new(),
        answers_as: None,
        keys: Some(Vec::new()),
    }
}

/// Requests to JetStream's API and other subjects, collected with their reasons.
#[derive(Default)]
struct Publishes(Vec<Publish>);

impl Publishes {
    fn add(&mut self, answers: Answers, subject: String, why: impl Into<String>) {
        if self.0.iter().any(|known| known.subject == subject) {
            return;
        }
        self.0.push(Publish {
            subject,
            answers,
            why: why.into(),
        });
    }

    fn one(&mut self, subject: String, why: &str) {
        self.add(Answers::One, subject, why);
    }

    fn api(&mut self, request: impl fmt::Display, why: &str) {
        self.add(Answers::One, format!("$JS.API.{request}"), why);
    }

    fn api_many(&mut self, request: impl fmt::Display, why: &str) {
        self.add(Answers::Many, format!("$JS.API.{request}"), why);
    }

    /// An event type, with and without a key.
    fn event(&mut self, ty: &str, why: &str) {
        self.one(ty.to_owned(), why);
        self.one(format!("{ty}.*"), why);
    }

    /// Requests of every process when it starts.
    fn start(&mut self, app: &AppName) {
        let values = layout::VALUES;
        let secret = format!("$KV.oncue.{app}.id-secret");
        self.api(
            format_args!("DIRECT.GET.{values}.{secret}"),
            "reads the secret that ids of outputs are made with",
        );
    }

    /// Use of the app's files.
    fn files(&mut self, app: &AppName, usage: FileUse) {
        let bucket = app.bucket();
        if usage != FileUse::None {
            self.api(
                format_args!("DIRECT.GET.OBJ_{bucket}.$O.{bucket}.M.*"),
                "looks for files",
            );
            self.api(
                format_args!("STREAM.MSG.GET.OBJ_{bucket}"),
                "looks for files where a replica lags behind",
            );
            self.api_many(format_args!("DIRECT.GET.OBJ_{bucket}"), "reads files");
        }
        if usage == FileUse::Write {
            self.one(format!("$O.{bucket}.C.*"), "writes files");
            self.one(
                format!("$O.{bucket}.M.*"),
                "names, replaces and deletes files",
            );
            self.api(
                format_args!("STREAM.PURGE.OBJ_{bucket}"),
                "gives back the room of files that are replaced or deleted",
            );
        }
    }
}

fn function(config: &Config, manifest: &Manifest) -> Grant {
    let app = &config.app;
    let name = &manifest.name;
    let stream = &manifest.stream;
    let consumer = app.consumer(name);
    let mut publishes = Publishes::default();
    publishes.start(app);
    publishes.api(
        format_args!(
            "DIRECT.GET.{}.$KV.oncue.{app}.contract.{name}",
            layout::VALUES
        ),
        "compares its event types with those that were let in",
    );
    for domain in manifest.domains() {
        publishes.api(
            format_args!("STREAM.INFO.{domain}"),
            "compares the streams it needs with what they should be",
        );
    }
    publishes.api(
        "STREAM.NAMES",
        "tells a stream that is missing from one that is away",
    );
    publishes.api(
        format_args!("CONSUMER.INFO.{stream}.{consumer}"),
        "compares its consumer with what it should be",
    );
    publishes.api_many(
        format_args!("DIRECT.GET.{stream}"),
        "compares what Redis knows of its stream with the stream",
    );
    publishes.api_many(
        format_args!("CONSUMER.MSG.NEXT.{stream}.{consumer}"),
        "pulls its events",
    );
    for ack in [
        format!("$JS.ACK.{stream}.{consumer}.>"),
        format!("$JS.ACK.*.*.{stream}.{consumer}.>"),
    ] {
        publishes.one(ack, "acks its events");
    }
    publishes.one(app.letters(name), "sets events aside that it cannot handle");
    for ty in &manifest.emits {
        publishes.event(ty, "emits it");
        publishes.api(
            format_args!("STREAM.MSG.GET.{}", stream_of_type(ty)),
            "looks at what stands under the id of an output of its own",
        );
    }
    for ty in &manifest.delays {
        publishes.one(app.delayed(name, ty, "*"), "emits it for later");
    }
    publishes.files(app, manifest.files);
    Grant {
        role: Role::Function(name.clone()),
        publishes: publishes.0,
        hears: Vec::new(),
        answers_as: Some(name.clone()),
        keys: Some(function_keys(manifest)),
    }
}

fn full(pattern: impl Into<String>, why: &'static str) -> KeyPattern {
    KeyPattern {
        pattern: pattern.into(),
        access: Access::Full,
        why,
    }
}

fn read(pattern: impl Into<String>, why: &'static str) -> KeyPattern {
    KeyPattern {
        pattern: pattern.into(),
        access: Access::Read,
        why,
    }
}

/// Keys of this beginning behind a partition, 0 to 255. A `*` in place of the number would reach keys of any kind: their ends are
/// for clients to choose.
fn in_partitions(
    keys: fn(String, &'static str) -> KeyPattern,
    rest: &str,
    why: &'static str,
) -> [KeyPattern; 3] {
    ["?", "??", "???"].map(|number| keys(format!("{{p{number}}}:{rest}"), why))
}

/// Keys that every process reads when it starts.
fn start_keys() -> [KeyPattern; 5] {
    [
        read("layout", "sees whether this Redis is laid out"),
        read("partitions", "sees whether this Redis is laid out"),
        read("epoch", "sees whether this Redis went back in time"),
        read("regressed:*", "sees whether this Redis went back in time"),
        read("id-secret", "compares the secret with that in NATS"),
    ]
}

fn function_keys(manifest: &Manifest) -> Vec<KeyPattern> {
    let name = &manifest.name;
    let mut keys = Vec::from(start_keys());
    let tables: BTreeSet<&String> = manifest.table.iter().chain(&manifest.changes).collect();
    for table in tables {
        let rows = format!("s:{table}:*");
        keys.extend(in_partitions(full, &rows, "rows of a table it declares"));
    }
    for (rest, why) in [
        (format!("r:{name}:*"), "attempts of an event"),
        (format!("o:{name}:*"), "outputs until they are published"),
        ("f:*".to_owned(), "ledgers of tracked flows"),
        (format!("w:{name}:*"), "rows of its steps, in tracked flows"),
    ] {
        keys.extend(in_partitions(full, &rest, why));
    }
    keys.extend([
        full(format!("d:{name}"), "what it has applied"),
        full(format!("u:{name}"), "index of its outputs"),
        full(
            format!("commits:{name}:*"),
            "what its workers have committed",
        ),
        full(
            format!("regressed:{name}"),
            "says that this Redis went back in time",
        ),
        full(
            format!("lease:restored:{name}:*"),
            "publishes again what NATS may have lost, one worker at a time",
        ),
        full("edges*", "which way events went"),
        full(format!("counts:{name}"), "what its workers have counted"),
        read("l:*", "who acts on a type"),
        read("streams", "sees whether NATS lost something"),
        read("history", "since when it acts on its types"),
        read("restoring", "sees whether it is being recovered"),
        read("backup", "forgets no output while a backup is taken"),
        read("progress", "sees how far it is"),
        read("functions", "sees what is declared"),
    ]);
    keys
}

/// Event types that clients of the gateway may cause: public ones, and those of routes and webhooks.
fn accepted(config: &Config, catalog: &Catalog) -> BTreeMap<String, &'static str> {
    let mut types = BTreeMap::new();
    for entry in catalog.entries().filter(|entry| entry.public) {
        types.insert(entry.ty.clone(), "is public");
    }
    for webhook in &config.webhooks {
        types
            .entry(webhook.event.clone())
            .or_insert("a webhook makes it");
    }
    for endpoint in config.routes(catalog).unwrap_or_default().endpoints() {
        if let Target::Event(target) = &endpoint.target {
            let ty = target.entry.ty.clone();
            types.entry(ty).or_insert("a route makes it");
        }
    }
    types
}

/// Event types that the gateway listens to.
fn heard(config: &Config, catalog: &Catalog) -> BTreeMap<String, &'static str> {
    let mut types = BTreeMap::new();
    for ty in &config.gateway.stream {
        types.insert(ty.clone(), "shown at GET /v1/stream");
    }
    for endpoint in config.routes(catalog).unwrap_or_default().endpoints() {
        let Target::Event(target) = &endpoint.target else {
            continue;
        };
        if let Response::Event { statuses, .. } = &target.response {
            for ty in statuses.keys() {
                types.entry(ty.clone()).or_insert("answers a route");
            }
        }
    }
    types
}

fn gateway(config: &Config, manifests: &[Manifest], catalog: &Catalog) -> Grant {
    let app = &config.app;
    let mut publishes = Publishes::default();
    publishes.start(app);
    for (ty, why) in accepted(config, catalog) {
        publishes.event(&ty, why);
    }
    publishes.event("files.file.uploaded", "says that a file has come");
    publishes.files(app, FileUse::Write);
    let mut streams: BTreeSet<&str> = catalog
        .entries()
        .map(|entry| stream_of_type(&entry.ty))
        .collect();
    for stream in [layout::TIMER, layout::DLQ] {
        streams.remove(stream);
        publishes.api(
            format_args!("STREAM.INFO.{stream}"),
            "sees whether it is there",
        );
    }
    for stream in &streams {
        publishes.api(
            format_args!("STREAM.INFO.{stream}"),
            "sees whether there is room",
        );
        publishes.api(
            format_args!("CONSUMER.LIST.{stream}"),
            "sees how far functions are behind",
        );
        publishes.api(
            format_args!("STREAM.MSG.GET.{stream}"),
            "looks at what stands under an id",
        );
        publishes.api_many(
            format_args!("DIRECT.GET.{stream}"),
            "reads events that clients follow",
        );
    }
    publishes.api(
        format_args!("STREAM.INFO.OBJ_{}", app.bucket()),
        "sees whether there is room",
    );
    for manifest in manifests {
        let consumer = app.consumer(&manifest.name);
        publishes.api(
            format_args!("CONSUMER.INFO.{}.{consumer}", manifest.stream),
            "waits for a flow to end",
        );
    }
    let values = layout::VALUES;
    publishes.api(format_args!("STREAM.INFO.{values}"), "lists the contracts");
    publishes.api(
        format_args!("STREAM.MSG.GET.{values}"),
        "reads the contracts",
    );
    let mut hears = vec![(
        format!("$KV.oncue.{app}.contract.*"),
        "takes a new contract at once",
    )];
    for (ty, why) in heard(config, catalog) {
        hears.push((format!("{ty}.*"), why));
        hears.push((ty, why));
    }
    let mut keys = Vec::from(start_keys());
    for table in &config.gateway.expose {
        let rows = format!("s:{table}:*");
        keys.extend(in_partitions(read, &rows, "rows that clients may read"));
    }
    for endpoint in config.routes(catalog).unwrap_or_default().endpoints() {
        if let Target::Row { table, .. } = &endpoint.target {
            let rows = format!("s:{table}:*");
            keys.extend(in_partitions(read, &rows, "rows that a route shows"));
        }
    }
    keys.extend(in_partitions(full, "f:*", "ledgers of tracked flows"));
    let taken = "what clients have taken of a limit";
    keys.extend(in_partitions(full, "g:*", taken));
    keys.extend([
        full("api-keys*", "keys of clients, and when they were used"),
        read("l:*", "who acts on a type"),
        read("functions", "what is declared"),
        read("streams", "sees whether NATS lost something"),
    ]);
    keys.sort();
    keys.dedup_by(|a, b| a.pattern == b.pattern);
    Grant {
        role: Role::Gateway,
        publishes: publishes.0,
        hears,
        answers_as: None,
        keys: Some(keys),
    }
}

fn public(catalog: &Catalog) -> Grant {
    let mut publishes = Publishes::default();
    for entry in catalog.entries().filter(|entry| entry.public) {
        publishes.event(&entry.ty, "is public");
    }
    Grant {
        role: Role::Public,
        publishes: publishes.0,
        hears: Vec::new(),
        answers_as: None,
        keys: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(more: &serde_json::Value) -> Manifest {
        let mut manifest = json!({
            "name": "count-views", "version": "1", "stream": "web", "triggers": ["web.page.viewed"],
            "filters": ["web.page.viewed", "web.page.viewed.*"], "table": "pages", "emits": ["web.page.milestone"],
            "limits": { "concurrency": 1, "reserved_concurrency": 1, "timeout": "1s", "attempts": 1, "ack_wait": "1s", "start": "all" },
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            manifest[name] = value.clone();
        }
        serde_json::from_value(manifest).expect("a manifest")
    }

    fn grant(more: &serde_json::Value) -> Grant {
        let config = Config::parse("[app]\nname = \"shop\"\n", None, |_| None).expect("a file");
        function(&config, &manifest(more))
    }

    fn subjects(grant: &Grant) -> Vec<&str> {
        let publishes = grant.publishes.iter();
        publishes.map(|publish| publish.subject.as_str()).collect()
    }

    #[test]
    fn a_function_may_do_what_it_declares_and_nothing_else() {
        let plain = grant(&json!({}));
        let may = subjects(&plain);
        for subject in [
            "$JS.API.CONSUMER.MSG.NEXT.web.shop_count-views",
            "dlq.shop.count-views",
            "web.page.milestone.*",
        ] {
            assert!(may.contains(&subject), "{subject} is not in {may:?}");
        }
        let words = [
            "$O.",
            "timer.delayed",
            "PURGE",
            "DELETE",
            "CREATE",
            "$KV.oncue.shop.contract.*",
        ];
        for word in words {
            assert!(
                !may.iter().any(|subject| subject.contains(word)),
                "{word} is in {may:?}"
            );
        }
        let keys: Vec<&str> = plain
            .keys
            .iter()
            .flatten()
            .map(|key| key.pattern.as_str())
            .collect();
        assert!(keys.contains(&"{p??}:s:pages:*") && !keys.contains(&"{p??}:s:visitors:*"));
    }

    #[test]
    fn each_declaration_brings_its_rights() {
        let more = grant(
            &json!({ "delays": ["web.page.milestone"], "changes": ["visitors"], "files": "read" }),
        );
        let may = subjects(&more);
        assert!(may.contains(&"timer.delayed.shop.count-views.web.page.milestone.*"));
        assert!(may.contains(&"$JS.API.DIRECT.GET.OBJ_shop_files"));
        assert!(
            !may.iter()
                .any(|subject| subject.contains(".C.") || subject.contains("PURGE"))
        );
        let keys = more.keys.iter().flatten();
        assert!(keys.clone().any(|key| key.pattern == "{p??}:s:visitors:*"));
        let writer = grant(&json!({ "files": "write" }));
        assert!(subjects(&writer).contains(&"$O.shop_files.C.*"));
    }
}
