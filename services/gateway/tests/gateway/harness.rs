//! Servers of a test's own, a gateway on a port of its own, and an HTTP client simple enough to misbehave on purpose.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_gateway::App;
use oncue_gateway::server::{Guards, serve};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Longer than anything here may take; a test that hangs is a test that fails.
pub const LONG: Duration = Duration::from_secs(30);
pub const VIEWED: &str = "/v1/events/web.page.viewed";
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// nats-server and redis-server; both end with the test.
pub struct Servers {
    pub nats: Child,
    pub redis: Child,
    pub nats_url: String,
    pub redis_port: u16,
    dir: PathBuf,
}

impl Servers {
    pub async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!(
            "oncue-gateway-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        std::fs::create_dir_all(dir.join("nats")).unwrap();
        let ports = dir.join("ports");
        std::fs::create_dir_all(&ports).unwrap();
        let (nats, nats_url) = nats(&dir, &ports).await;
        let redis_port = free_port();
        let redis = Command::new("redis-server")
            .args([
                "--port",
                &redis_port.to_string(),
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
            TcpStream::connect(("127.0.0.1", redis_port)).await.is_ok()
        })
        .await;
        Self {
            nats,
            redis,
            nats_url,
            redis_port,
            dir,
        }
    }

    pub fn config(&self, more: &str) -> Config {
        Config::parse(&self.config_text(more), None, |_| None).expect("a configuration")
    }

    pub fn config_text(&self, more: &str) -> String {
        let (nats, redis) = (&self.nats_url, self.redis_port);
        format!("[nats]\nurl = \"{nats}\"\n[redis]\nurl = \"redis://127.0.0.1:{redis}\"\n{more}")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One Redis command.
    pub async fn redis(&self, words: &[&str]) {
        self.redis_text(words).await;
    }

    /// One Redis command and the first line of its answer, or all of it for a text.
    pub async fn redis_text(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis_port))
            .await
            .unwrap();
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            let _ = write!(command, "${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(command.as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        assert!(!answer.is_empty() && !answer.starts_with('-'), "{answer}");
        let Some(length) = answer
            .strip_prefix('$')
            .and_then(|length| length.trim().parse().ok())
        else {
            return answer;
        };
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.nats.start_kill();
        let _ = self.redis.start_kill();
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

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
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

/// A gateway with all it stands on.
pub struct World {
    pub servers: Servers,
    pub bus: Bus,
    pub at: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    pub served: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    pub async fn start() -> Self {
        Self::with("", Guards::default()).await
    }

    pub async fn with(config: &str, guards: Guards) -> Self {
        let servers = Servers::start().await;
        let config = servers.config(config);
        let mut catalog = config.catalog().unwrap();
        catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
        let app: Arc<App> = App::start(&config, catalog, guards)
            .await
            .expect("a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, app, async {
            let _ = stopped.await;
        }));
        let bus = Bus::connect(&servers.nats_url, "test").await.unwrap();
        Self {
            servers,
            bus,
            at,
            stop: Some(stop),
            served: Some(served),
        }
    }

    pub fn stop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        request(self.at, method, path, headers, body.as_ref()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// State of a stream.
    pub async fn stream(&self, name: &str) -> Value {
        self.bus
            .api(&format!("STREAM.INFO.{name}"), &Value::Null)
            .await
            .unwrap()["state"]
            .clone()
    }

    pub async fn messages(&self, stream: &str) -> u64 {
        self.stream(stream).await["messages"].as_u64().unwrap()
    }

    /// Headers (as text) and payload of a stored message.
    pub async fn message(&self, stream: &str, sequence: u64) -> (String, Vec<u8>) {
        use base64::Engine as _;
        let query = serde_json::json!({ "seq": sequence });
        let answer = self
            .bus
            .api(&format!("STREAM.MSG.GET.{stream}"), &query)
            .await
            .unwrap();
        let part = |name: &str| {
            base64::engine::general_purpose::STANDARD
                .decode(answer["message"][name].as_str().unwrap())
                .unwrap()
        };
        (String::from_utf8(part("hdrs")).unwrap(), part("data"))
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Checks that this is a problem document of this status and class, and returns its detail.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem = self.json();
        assert_eq!(
            problem["type"],
            format!("urn:oncue:problem:{code}"),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
        assert!(
            problem["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty())
        );
        assert!(
            problem["instance"]
                .as_str()
                .is_some_and(|path| path.starts_with('/'))
        );
        assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32));
        problem["detail"].as_str().unwrap().to_owned()
    }
}

pub async fn request(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    let mut stream = TcpStream::connect(at).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let message = [head.as_bytes(), b"\r\n", body].concat();
    // A refusal may come before the whole body is written.
    let (_, answer) = tokio::join!(writer.write_all(&message), answer(&mut reader));
    answer.expect("an answer")
}

/// Reads to the end of the connection.
pub async fn answer(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Answer> {
    let mut all = Vec::new();
    timeout(LONG, reader.read_to_end(&mut all))
        .await
        .expect("the connection stays open")
        .ok()?;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(all[..end].to_vec()).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        head,
        body: all[end + 4..].to_vec(),
    })
}
