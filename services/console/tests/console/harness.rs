//! Servers of a test's own, a console on a port of its own, workers that only say who they are, and an HTTP client simple
//! enough to be anybody.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncue_console::App;
use oncue_console::access::Access;
use oncue_console::server::{Guards, serve};
use oncue_core::bus::{Bus, PubAck, layout};
use oncue_core::config::Config;
use oncue_core::store::Store;
use oncue_proto::Format;
use oncue_proto::event::{self, Meta};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Longer than anything here may take; a test that hangs is a test that fails.
pub const LONG: Duration = Duration::from_secs(30);
pub const TOKEN: &str = "a-token-of-some-length";
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// nats-server and redis-server; both end with the test.
struct Servers {
    _nats: Child,
    _redis: Child,
    nats_url: String,
    redis_url: String,
    dir: PathBuf,
}

impl Servers {
    async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!(
            "oncue-console-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        let ports = dir.join("ports");
        std::fs::create_dir_all(&ports).unwrap();
        let (nats, nats_url) = nats(&dir, &ports).await;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let redis = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(["--dir", dir.to_str().unwrap()])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server on PATH");
        wait_for("redis-server", || async {
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self {
            _nats: nats,
            _redis: redis,
            nats_url,
            redis_url: format!("redis://127.0.0.1:{port}"),
            dir,
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn nats(dir: &Path, ports: &Path) -> (Child, String) {
    let child = Command::new("nats-server")
        .args([
            "-js",
            "-a",
            "127.0.0.1",
            "-p",
            "-1",
            "-sd",
            dir.join("nats").to_str().unwrap(),
        ])
        .args(["--ports_file_dir", ports.to_str().unwrap()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("nats-server on PATH");
    let file = ports.join(format!("nats-server_{}.ports", child.id().unwrap()));
    let url = || -> Option<String> {
        let ports: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.to_owned())
    };
    wait_for("nats-server", || async { url().is_some() }).await;
    (child, url().unwrap())
}

/// Until it is so.
pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waited = timeout(LONG, async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// A console with all it stands on.
pub struct World {
    _servers: Servers,
    pub bus: Bus,
    pub store: Store,
    pub at: SocketAddr,
}

impl World {
    /// Without a token: anybody on this machine may look.
    pub async fn open() -> Self {
        Self::with(None, false).await
    }

    pub async fn with(token: Option<&str>, write: bool) -> Self {
        let servers = Servers::start().await;
        let text = format!(
            "[nats]\nurl = \"{}\"\n[redis]\nurl = \"{}\"\n",
            servers.nats_url, servers.redis_url
        );
        let config = Config::parse(&text, None, |_| None).expect("a configuration");
        let bus = Bus::connect(&servers.nats_url, "test").await.unwrap();
        let store = Store::connect(&servers.redis_url).await.unwrap();
        for domain in [layout::TIMER, layout::DLQ, "web"] {
            bus.require(&layout::stream(domain, &config.stream(domain)))
                .await
                .unwrap();
        }
        let mut catalog = config.catalog().unwrap();
        catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
        let access = Access::new(token, write).unwrap();
        let app = App::start(
            config,
            catalog,
            servers.dir.clone(),
            access,
            Guards::default(),
        )
        .await
        .expect("a console");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, app, std::future::pending()));
        Self {
            _servers: servers,
            bus,
            store,
            at,
        }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        request(self.at, method, path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// The cookie of who has logged in.
    pub async fn login(&self) -> String {
        let body = json!({ "token": TOKEN, "name": "ann" }).to_string();
        let answer = self.send("POST", "/api/login", &[JSON], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer
            .header("set-cookie")
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }

    /// An event as a worker or the gateway would send it.
    pub async fn publish(&self, meta: &Meta, key: &str, payload: Value) -> PubAck {
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
    pub async fn set_aside(&self, function: &str, id: &str, site: &str) -> u64 {
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
        let subject = format!("dlq.{function}");
        let envelope = Envelope {
            subject,
            headers: vec![header],
            payload: letter.encode_to_vec().into(),
        };
        self.bus.publish(&envelope).await.unwrap().sequence
    }

    /// Answers like a worker of this function, and counts on with every answer.
    pub async fn pretend(
        &self,
        function: &str,
        triggers: &[&str],
        emits: &[&str],
    ) -> Arc<AtomicU64> {
        let manifest = json!({ "name": function, "version": "9", "stream": "web", "triggers": triggers, "filters": [],
            "table": null, "emits": emits, "limits": { "concurrency": 10, "reserved_concurrency": 10, "timeout": "30s",
            "attempts": 6, "ack_wait": "30s", "start": "all" } });
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

    /// What the console pushes, until something in it is so.
    pub async fn watch_until(&self, event: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        let head = format!("GET /api/live HTTP/1.1\r\nhost: {}\r\n\r\n", self.at);
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut all, mut piece) = (String::new(), vec![0; 64 << 10]);
        let watched = timeout(LONG, async {
            loop {
                let read = stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "the stream ended: {all}");
                all.push_str(&String::from_utf8_lossy(&piece[..read]));
                while let Some((frame, rest)) = all
                    .split_once("\n\n")
                    .map(|(a, b)| (a.to_owned(), b.to_owned()))
                {
                    all = rest;
                    let data = frame
                        .split_once(&format!("event: {event}\ndata: "))
                        .map(|(_, data)| data);
                    let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                    if let Some(data) = data.filter(|data| is_so(data)) {
                        return data;
                    }
                }
            }
        });
        watched.await.expect("the console never said so")
    }
}

/// A root event of `web.page.viewed`.
pub fn viewed(id: &str) -> Meta {
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

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Checks that this is a problem document of this status and class, and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(
            problem["type"],
            format!("urn:oncue:problem:{code}"),
            "{problem}"
        );
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub async fn request(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        let _ = write!(head, "host: {at}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut all = String::new();
    timeout(LONG, stream.read_to_string(&mut all))
        .await
        .expect("the connection stays open")
        .unwrap();
    let (head, body) = all.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    // Written in pieces where its length was not known.
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
