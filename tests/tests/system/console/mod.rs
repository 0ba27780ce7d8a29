//! The console over HTTP, with real servers behind it and workers that only say who they are; in `redrive` the program
//! itself, with real workers.

mod guards;
mod letters;
mod login;
mod looking;
mod metrics;
mod notices;
mod redrive;
mod restarting;
mod rows;
mod schedules;
mod searching;
mod streams;
mod truth;
mod watchers;
mod writing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncue_console::App;
use oncue_console::access::Access;
use oncue_console::access::oidc::Door;
use oncue_console::server::{Guards, serve};
use oncue_core::bus::{Bus, PubAck, layout};
use oncue_core::store::Store;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use oncue_proto::{Catalog, Format};
use oncue_tests::cluster::Cluster;
use oncue_tests::http::live::watch_until;
use oncue_tests::http::{self, Answer, JSON};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TOKEN: &str = "a-token-of-some-length";

/// Another name, and a proxy, which is this very machine.
const CONFIG: &str = "[console]\nhosts = [\"console.example\"]\nproxies = [\"127.0.0.1\"]\n";

/// A console on a port of its own, with the servers it stands on.
struct Console {
    cluster: Cluster,
    bus: Bus,
    store: Store,
    at: SocketAddr,
}

impl Console {
    /// Without a token: anybody on this machine may look.
    async fn open() -> Self {
        Self::with(None, false).await
    }

    async fn with(token: Option<&str>, write: bool) -> Self {
        Self::on(Cluster::new(CONFIG).await, token, write).await
    }

    /// With this configuration.
    async fn of(config: &str) -> Self {
        Self::on(Cluster::new(config).await, None, false).await
    }

    async fn on(cluster: Cluster, token: Option<&str>, write: bool) -> Self {
        let config = cluster.config();
        let bus = cluster.bus().await;
        let store = cluster.store().await;
        for domain in [layout::TIMER, layout::DLQ, "web"] {
            bus.provide(&layout::stream(&config.app, domain, &config.stream(domain)))
                .await
                .expect("a stream");
        }
        let mut catalog = Catalog::builtin();
        catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
        let door = Door::new(&config).expect("a door");
        let access = Access::new(token, write, door).expect("a token");
        let folder = cluster.dir.clone();
        let app = App::start(config, catalog, folder, access, Guards::default())
            .await
            .expect("a console");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, app, std::future::pending()));
        Self {
            cluster,
            bus,
            store,
            at,
        }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        http::request(self.at, method, path, headers, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// As somebody who has logged in.
    async fn get_as(&self, cookie: &str, path: &str) -> Answer {
        self.send("GET", path, &[("cookie", cookie)], "").await
    }

    async fn post_as(&self, cookie: &str, path: &str, body: &Value) -> Answer {
        let headers = [JSON, ("cookie", cookie)];
        self.send("POST", path, &headers, &body.to_string()).await
    }

    async fn login(&self) -> String {
        login(self.at).await
    }

    /// An event as a worker or the gateway would send it.
    async fn publish(&self, meta: &Meta, key: &str, payload: Value) -> PubAck {
        let headers = event::headers(meta, key, Format::Json);
        let headers = headers
            .into_iter()
            .map(|(name, value)| Header {
                name: name.to_owned(),
                value,
            })
            .collect();
        let subject = event::subject(&meta.ty, key);
        self.bus
            .publish(&Envelope {
                subject,
                headers,
                payload: payload.to_string().into(),
            })
            .await
            .unwrap()
    }

    /// A dead letter of an event that said its page is `/broken`.
    async fn set_aside(&self, function: &str, id: &str, site: &str) -> u64 {
        let envelope = Envelope {
            subject: "web.page.viewed".into(),
            headers: vec![Header {
                name: "ce-id".into(),
                value: id.into(),
            }],
            payload: r#"{"page":"/broken","visitor":"v"}"#.into(),
        };
        let letter = DeadLetter {
            function: function.into(),
            reason: "rejected".into(),
            message: format!("cannot take {id}"),
            site: site.into(),
            event_id: id.into(),
            event_type: "web.page.viewed".into(),
            flow_id: id.into(),
            stream: "web".into(),
            key: "/broken".into(),
            envelope: Some(envelope),
            ..DeadLetter::default()
        };
        let header = Header {
            name: "traceparent".into(),
            value: format!("00-{:032x}-{:016x}-01", 7, 7),
        };
        let subject = format!("dlq.app.{function}");
        let envelope = Envelope {
            subject,
            headers: vec![header],
            payload: letter.encode_to_vec().into(),
        };
        self.bus.publish(&envelope).await.unwrap().sequence
    }

    /// Answers like a worker of this function, and counts on with every answer.
    async fn pretend(&self, function: &str, triggers: &[&str], emits: &[&str]) -> Arc<AtomicU64> {
        let manifest = json!({ "name": function, "version": "9", "stream": "web", "triggers": triggers, "filters": [],
            "table": null, "emits": emits, "limits": { "concurrency": 10, "reserved_concurrency": 10, "timeout": "30s",
            "attempts": 6, "ack_wait": "30s", "start": "all" } });
        self.pretend_as(manifest).await
    }

    /// Answers like a worker with this manifest.
    async fn pretend_as(&self, manifest: Value) -> Arc<AtomicU64> {
        let handled = Arc::new(AtomicU64::new(0));
        for verb in ["STATS", "INFO"] {
            let mut asked = self.bus.subscribe(&format!("$SRV.{verb}")).await.unwrap();
            let (bus, handled, manifest) = (self.bus.clone(), handled.clone(), manifest.clone());
            tokio::spawn(async move {
                while let Some(question) = asked.next().await {
                    let count = handled.load(Ordering::Relaxed);
                    let body = json!({ "name": manifest["name"], "id": "here-1", "version": "9", "started": "2026-01-01T00:00:00Z",
                        "endpoints": [{ "num_requests": count, "processing_time": count * 1_000_000, "last_error": "",
                        "metadata": { "manifest": manifest.to_string() },
                        "data": { "delivered": count, "applied": count, "in_flight": 3,
                            "duration_ms": { "bounds": [1, 10], "counts": [count, 0, 0] } } }] });
                    bus.publish_plain(question.reply.unwrap(), body.to_string().into())
                        .await
                        .unwrap();
                }
            });
        }
        self.bus.flush().await;
        handled
    }

    /// Answers like an `oncue up` that keeps these functions.
    async fn supervise(&self, functions: &Value) {
        let body = json!({ "name": "oncue-up", "id": "oncue-up-1", "version": "9",
            "endpoints": [{ "num_requests": 0, "data": functions }] });
        let mut asked = self.bus.subscribe("$SRV.STATS").await.unwrap();
        let bus = self.bus.clone();
        tokio::spawn(async move {
            while let Some(question) = asked.next().await {
                let answered = bus.publish_plain(question.reply.unwrap(), body.to_string().into());
                answered.await.unwrap();
            }
        });
        self.bus.flush().await;
    }

    /// What the console pushes, until something in it is so.
    async fn watch_until(&self, event: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        watch_until(self.at, event, is_so).await
    }
}

/// Logs in as ann and returns the cookie.
async fn login(at: SocketAddr) -> String {
    let body = json!({ "token": TOKEN, "name": "ann" }).to_string();
    let answer = http::request(at, "POST", "/api/login", &[JSON], &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let cookie = answer.header("set-cookie").expect("a cookie");
    cookie.split(';').next().unwrap_or_default().to_owned()
}

/// A root event of `web.page.viewed`.
fn viewed(id: &str) -> Meta {
    Meta {
        id: id.to_owned(),
        source: "/gateway".into(),
        ty: "web.page.viewed".into(),
        time: event::now_ms(),
        timed: true,
        flow: id.to_owned(),
        cause: String::new(),
        hops: 0,
        traceparent: Some(format!("00-{:032x}-{:016x}-01", 5, 5)),
        tracestate: None,
        baggage: None,
        redrive: None,
        tracked: false,
    }
}
