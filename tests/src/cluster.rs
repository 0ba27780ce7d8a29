//! Servers of a test's own: nats-server and redis-server on free ports with private data, and the real binaries as
//! children, all gone when the test ends.

pub mod replicas;
mod message;
mod process;
mod provide;

use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fmt::{Display, Write as _};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_core::contract;
use oncue_core::store::{StateValue, Store};

use self::provide::Providing;
use self::replicas::{Node, Replica, ha_file};

pub use self::message::Stored;
pub use self::process::{Process, children, descendants, send};

/// Longest wait for anything; a generous limit against hanging, not an expectation.
const WAIT_LIMIT: Duration = Duration::from_mins(1);

/// Said by a server once it listens. Redis may still have to load its data then.
const NATS_READY: &str = "Server is ready";
const REDIS_READY: &str = "Server initialized";

/// Name of a test's folder, before the number of its process.
const FOLDER: &str = "oncue-test-";
/// Age from which the folder of a test that is no more is removed: somebody may still look into a younger one.
const LEFT_OVER: Duration = Duration::from_hours(1);

/// JetStream's code for a sequence that has no message.
const NO_MESSAGE: u64 = 10_037;

/// Limits that let a test see redelivery within seconds.
pub const QUICK_REDELIVERY: &str = "ack_wait = \"2s\"";

/// `oncue.toml` of the app that all tests are of, unless it names another one.
pub fn named(config: &str) -> String {
    let name = if config.contains("[app]") {
        ""
    } else {
        "\n[app]\nname = \"app\"\n"
    };
    format!("{config}{name}")
}

/// Streams for a cluster with a gateway, which needs them all: together they fit on a disk that is nearly full.
pub const SMALL_STREAMS: &str = "[streams]\nweb.max_bytes = \"64MiB\"\nfiles.max_bytes = \"64MiB\"\ndlq.max_bytes = \"64MiB\"\n\
                         objects.max_bytes = \"64MiB\"\n";

pub struct Cluster {
    pub dir: PathBuf,
    pub nats_port: u16,
    pub redis_port: u16,
    pub nats: Process,
    pub redis: Process,
    /// The nats-servers of a cluster, but for the first.
    pub peers: Vec<Process>,
    /// Of Redis, where it is set up as in the profile `ha`.
    pub replica: Option<Replica>,
    /// Takes effect with the next start.
    pub servers: Servers,
    env: Vec<(String, String)>,
    /// Programs that were provided for, with their arguments and the file of their app.
    provided: Mutex<BTreeSet<String>>,
}

/// How the servers are started, and where our programs lie; the default is what most tests want.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    /// The nats-servers of a cluster; none for a server of its own.
    pub nodes: Vec<Node>,
    /// Redis as the profile `ha` has it.
    pub redis_ha: bool,
    /// Settings of nats-server besides those of JetStream.
    pub nats: String,
    /// Settings of `jetstream { }`.
    pub jetstream: String,
    /// Where data lies; default is the test's own directory.
    pub nats_dir: Option<PathBuf>,
    pub redis_dir: Option<PathBuf>,
    /// Arguments in addition; the last of a kind counts.
    pub redis_args: Vec<String>,
    pub redis_env: Vec<(String, String)>,
    /// Folder of our programs; default is where this one lies.
    pub programs: Option<PathBuf>,
}

impl Cluster {
    /// Starts both servers and writes `oncue.toml`.
    pub async fn new(config: &str) -> Self {
        Self::with(config, Servers::default()).await
    }

    pub async fn with(config: &str, servers: Servers) -> Self {
        let dir = new_folder();
        // Functions in other languages act on the events of the demo, unless a test has its own.
        let proto = if config.contains("proto = ") {
            String::new()
        } else {
            format!("proto = \"{}\"\n", in_repository("proto/app").display())
        };
        let config = format!("{proto}{config}");
        std::fs::write(dir.join("oncue.toml"), named(&config)).expect("oncue.toml");
        let nats = async {
            match servers.nodes.first() {
                // Its peers know its port.
                Some(node) => {
                    let nats = node.start(&dir);
                    nats.wait_for_line(NATS_READY).await;
                    (node.port, nats)
                }
                None => on_a_free_port(NATS_READY, |port| start_nats(&dir, port, &servers)).await,
            }
        };
        let redis = on_a_free_port(REDIS_READY, |port| start_redis(&dir, port, &servers));
        let ((nats_port, nats), (redis_port, redis)) = tokio::join!(nats, redis);
        let env = [
            ("ONCUE_NATS_URL", nats_url(nats_port, &servers.nodes)),
            ("ONCUE_REDIS_URL", format!("redis://127.0.0.1:{redis_port}")),
            ("ONCUE_CONFIG", dir.join("oncue.toml").display().to_string()),
            ("ONCUE_CONSOLE_LISTEN", "127.0.0.1:0".into()),
            ("OTEL_SDK_DISABLED", "true".into()),
        ];
        let env = env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let peers = servers
            .nodes
            .iter()
            .skip(1)
            .map(|node| node.start(&dir))
            .collect();
        let mut cluster = Self {
            dir,
            nats_port,
            redis_port,
            nats,
            redis,
            peers,
            replica: None,
            servers,
            env,
            provided: Mutex::default(),
        };
        if cluster.servers.redis_ha {
            cluster.replica = Some(cluster.follow(free_port()).await);
        }
        if !cluster.servers.nodes.is_empty() {
            cluster.elected().await;
        }
        if cluster.config().functions.is_empty() {
            cluster.store_contract().await;
        }
        cluster
    }

    /// Has programs know the events of the demo, where no function brings them.
    async fn store_contract(&self) {
        // A test of servers that refuse has its reasons.
        if let Ok(bus) = Bus::connect(&self.config().nats, "test").await {
            let bus = bus.of_app(&self.config().app);
            let _ = contract::store(&bus, "demo", oncue_app_events::DESCRIPTORS.to_vec()).await;
        }
    }

    /// Environment of everything started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Takes a variable out of the environment of everything started from now on.
    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(n, _)| n != name);
    }

    /// `oncue.toml` as a program started here would read it.
    pub fn config(&self) -> Config {
        self.config_of(&self.env)
    }

    fn config_of(&self, env: &[(String, String)]) -> Config {
        let path = env.iter().find(|(name, _)| name == "ONCUE_CONFIG");
        let path = path.map_or_else(|| self.dir.join("oncue.toml"), |(_, path)| path.into());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let config = Config::parse(&text, None, |name| {
            let found = env.iter().find(|(n, _)| n == name)?;
            Some(found.1.clone())
        });
        // One with a mistake is for the program to complain of.
        config.unwrap_or_else(|_| {
            Config::parse(&named(""), None, |_| None).expect("the smallest file is right")
        })
    }

    /// Environment of everything that is started here.
    pub fn env(&self) -> impl Iterator<Item = (String, String)> {
        self.env.iter().cloned()
    }

    /// Starts one of our binaries; a worker is up when it has said "ready".
    pub async fn start(&self, binary: &str) -> Process {
        let process = self.spawn(binary, &[]);
        process.wait_for_line("\"message\":\"ready\"").await;
        process
    }

    pub async fn start_all(&self, binaries: &[&str]) -> Vec<Process> {
        let processes: Vec<Process> = binaries
            .iter()
            .map(|binary| self.spawn(binary, &[]))
            .collect();
        for process in &processes {
            process.wait_for_line("\"message\":\"ready\"").await;
        }
        processes
    }

    pub fn spawn(&self, binary: &str, args: &[&str]) -> Process {
        self.spawn_with(binary, args, &[])
    }

    /// Starts one of our binaries with more environment of its own.
    pub fn spawn_with(&self, binary: &str, args: &[&str], env: &[(&str, String)]) -> Process {
        self.provide(&self.program(binary), args, env);
        let mut command = self.command(self.program(binary));
        command
            .args(args)
            .envs(env.iter().map(|(name, value)| (*name, value)));
        self.child(binary, command, binary)
    }

    /// Starts one of our binaries on servers that somebody else has laid out.
    pub fn spawn_bare(&self, binary: &str, env: &[(&str, String)]) -> Process {
        let mut command = self.command(self.program(binary));
        command.envs(env.iter().map(|(name, value)| (*name, value)));
        self.child(binary, command, binary)
    }

    /// Starts `oncue up` on our servers, without a trace viewer, and waits until it is ready.
    pub async fn up(&mut self) -> Process {
        self.set(
            "ONCUE_GATEWAY_LISTEN",
            &format!("127.0.0.1:{}", free_port()),
        );
        self.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        let process = self.spawn("oncue", &["up"]);
        process.wait_for_line("Ctrl-C finishes").await;
        process
    }

    /// Starts a binary under another program, which gets its path as the last argument.
    pub fn spawn_under(&self, wrapper: &[&str], binary: &str) -> Process {
        self.provide(&self.program(binary), &[], &[]);
        let mut command = self.command(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.program(binary));
        self.child(binary, command, &format!("{}-{binary}", wrapper[0]))
    }

    /// Starts a program of somebody else.
    pub fn spawn_program(&self, name: &str, program: &Path, args: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(args);
        self.child(name, command, name)
    }

    /// Starts a binary with at most `kib` KiB of address space.
    pub fn spawn_limited(&self, binary: &str, kib: u64) -> Process {
        self.provide(&built(binary), &[], &[]);
        let limit = format!("ulimit -v {kib}; exec \"$0\"");
        let mut command = self.command("bash");
        command.args(["-c", &limit]).arg(built(binary));
        self.child(binary, command, &format!("limited-{binary}"))
    }

    /// Starts a binary that has crash points, with what is to happen at them (see `oncue_core::failpoint`).
    pub fn spawn_faulty(&self, binary: &str, failpoints: &str) -> Process {
        let program = built(&format!("failpoints/{binary}"));
        self.provide(&program, &[], &[]);
        let mut command = self.command(program);
        command.env("FAILPOINTS", failpoints);
        self.child(binary, command, &format!("faulty-{binary}"))
    }

    /// What a program with this environment needs on the servers, to be made before it starts. Asked past any proxy, which
    /// may live in the test's own thread.
    fn providing(&self, more: &[(&str, String)]) -> Providing {
        let mut env = self.env.clone();
        for (name, value) in more {
            env.retain(|(n, _)| n != name);
            env.push(((*name).to_owned(), value.clone()));
        }
        let redis = env
            .iter()
            .find(|(name, url)| name == "ONCUE_REDIS_URL" && url.starts_with("redis+sentinel://"));
        let redis = redis.map_or_else(|| self.redis_url(), |(_, url)| url.clone());
        Providing {
            nats: nats_url(self.nats_port, &self.servers.nodes),
            redis,
            config: self.config_of(&env),
            env,
        }
    }

    /// Makes what a program needs before its first start, as `oncue apply` does. Once: what a test takes away afterwards is
    /// gone.
    fn provide(&self, program: &Path, args: &[&str], more: &[(&str, String)]) {
        let is_host = program.ends_with("oncue-host") && args.len() == 1;
        let is_gateway = program.ends_with("oncue-gateway");
        if !(is_host || is_gateway || args.is_empty()) {
            return;
        }
        let what = format!("{} {args:?} {more:?} {:?}", program.display(), self.env);
        if !self.provided.lock().insert(what) {
            return;
        }
        let providing = self.providing(more);
        if is_gateway {
            providing.gateway();
        } else {
            providing.function(program, args);
        }
    }

    /// Notes that both servers were emptied: what programs need is made anew before they start again.
    pub fn emptied(&self) {
        self.provided.lock().clear();
    }

    /// Makes what a function needs once more, as `oncue apply` does after somebody has taken something away.
    pub fn apply(&self, binary: &str) {
        self.apply_with(binary, &[]);
    }

    /// As [`apply`](Self::apply) with more environment, such as the file of another app.
    pub fn apply_with(&self, binary: &str, env: &[(&str, String)]) {
        self.providing(env).function(&self.program(binary), &[]);
    }

    /// Makes the streams that a gateway wants.
    pub fn provide_gateway(&self) {
        self.providing(&[]).gateway();
    }

    fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_port)
    }

    /// A command with our environment, in the test's directory.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env()).current_dir(&self.dir);
        command
    }

    /// Starts a command that writes into a log of its own.
    fn child(&self, name: &str, command: Command, log: &str) -> Process {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Process::spawn(name, command, self.dir.join(format!("{log}-{number}.log")))
    }

    /// Runs one of our binaries to its end.
    pub fn output(&self, binary: &str, args: &[&str]) -> std::process::Output {
        self.command(self.program(binary))
            .args(args)
            .output()
            .expect("the binary runs")
    }

    /// Path of one of our binaries.
    pub fn program(&self, binary: &str) -> PathBuf {
        self.servers
            .programs
            .as_ref()
            .map_or_else(|| built(binary), |folder| folder.join(binary))
    }

    pub async fn bus(&self) -> Bus {
        Bus::connect(&nats_url(self.nats_port, &self.servers.nodes), "test")
            .await
            .expect("NATS")
    }

    pub async fn any_store(&self) -> crate::any_store::AnyStore {
        self.store().await.into()
    }

    pub async fn store(&self) -> Store {
        self.store_of(&AppName::default()).await
    }

    pub async fn store_of(&self, app: &AppName) -> Store {
        let store = Store::look(self.redis_url().as_str(), app)
            .await
            .expect("Redis");
        store.lay_out().await.expect("a layout");
        store
    }

    /// Publishes as a client that knows nothing of us: bare `PUB` lines on a socket, no header, no library.
    pub fn plain_publish<'a>(&self, messages: impl IntoIterator<Item = (&'a str, String)>) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.nats_port)).expect("NATS");
        let mut lines = String::from("CONNECT {\"verbose\":false}\r\nSUB _INBOX.plain.* 1\r\n");
        let mut sent = 0;
        for (subject, payload) in messages {
            sent += 1;
            let _ = write!(
                lines,
                "PUB {subject} _INBOX.plain.{sent} {}\r\n{payload}\r\n",
                payload.len()
            );
        }
        lines.push_str("PING\r\n");
        socket.write_all(lines.as_bytes()).expect("NATS takes it");
        // PONG says that the server has read all of it, the answer to the last that its stream has it. Where no stream takes
        // it there is none.
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("a time-out");
        let last = format!("MSG _INBOX.plain.{sent} ");
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        while !answer.contains("PONG") || !answer.contains(&last) {
            match socket.read(&mut buffer) {
                Ok(n) => {
                    assert!(n > 0, "NATS closed the connection: {answer}");
                    answer.push_str(&String::from_utf8_lossy(&buffer[..n]));
                }
                Err(_) if answer.contains("PONG") => break,
                Err(e) => panic!("NATS does not answer: {e}"),
            }
        }
    }

    /// Runs `redis-cli` as an operator would.
    pub fn redis_cli(&self, args: &[&str]) -> String {
        let output = self.redis_command(args).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// One Redis command that must succeed, and its answer.
    pub fn redis_ok(&self, args: &[&str]) -> String {
        // With `-e` an error goes to stderr, and ends it with another exit code than 0.
        let args = [&["-e"], args].concat();
        let output = self.redis_command(&args).output().expect("redis-cli");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{args:?}: {text}");
        text
    }

    fn redis_command(&self, args: &[&str]) -> Command {
        let port = self.redis_port.to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port]).args(args);
        command
    }

    /// All messages of a stream as subject, headers and payload.
    pub async fn messages(&self, bus: &Bus, stream: &str) -> Vec<Stored> {
        let state = bus.stream_info(stream).await.expect("stream info").state;
        let mut stored = Vec::new();
        // A stream that never had a message begins at 0, which is no sequence.
        for sequence in state.first_seq.max(1)..=state.last_seq {
            stored.extend(self.message(bus, stream, sequence).await);
        }
        stored
    }

    /// Message at a sequence; `None` where there is none.
    pub async fn message(&self, bus: &Bus, stream: &str, sequence: u64) -> Option<Stored> {
        let question = serde_json::json!({ "seq": sequence });
        answered(&format!("message {sequence} of {stream}"), async || {
            let answer = bus
                .api(&format!("STREAM.MSG.GET.{stream}"), &question)
                .await;
            match answer {
                Ok(answer) => Ok(Some(Stored::read(&answer["message"]))),
                Err(e) if e.err_code == NO_MESSAGE => Ok(None),
                Err(e) => Err(e),
            }
        })
        .await
    }

    /// Messages that a stream holds. A stream that is not there is none that is empty.
    pub async fn count(&self, bus: &Bus, stream: &str) -> u64 {
        answered(&format!("the stream {stream}"), async || {
            bus.stream_info(stream).await
        })
        .await
        .state
        .messages
    }

    /// Waits until a consumer has nothing pending and nothing in flight.
    pub async fn drained(&self, bus: &Bus, stream: &str, consumer: &str) {
        wait_for(&format!("{consumer} is done"), async || {
            let info = bus.consumer_info(stream, consumer).await;
            info.is_ok_and(|info| info.is_idle())
        })
        .await;
    }

    /// One field of a state row, empty if it is not there.
    pub async fn field(&self, store: &Store, table: &str, key: &str, field: &str) -> String {
        self.row(store, table, key)
            .await
            .remove(field)
            .unwrap_or_default()
    }

    /// All fields of a state row.
    pub async fn row(&self, store: &Store, table: &str, key: &str) -> HashMap<String, String> {
        let what = format!("the row {key} of {table}");
        let fields = match answered(&what, async || store.show(table, key).await).await {
            Some(StateValue::Row(row)) => row.fields,
            Some(_) => panic!("{what} is no row"),
            None => return HashMap::new(),
        };
        fields
            .into_iter()
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
            .collect()
    }

    /// Starts the NATS server again on its old data.
    pub async fn restart_nats(&mut self) {
        self.nats = start_nats(&self.dir, self.nats_port, &self.servers);
        self.nats.wait_for_line(NATS_READY).await;
    }

    /// Starts the Redis server again on its old data.
    pub async fn restart_redis(&mut self) {
        self.redis = start_redis(&self.dir, self.redis_port, &self.servers);
        self.redis.wait_for_line(REDIS_READY).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nats.kill();
        self.redis.kill();
        self.peers.clear();
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Folder that nobody has had: numbers of processes come again, and what a test that failed has left would be found.
fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            sweep();
        }
        let name = format!("{FOLDER}{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        match std::fs::create_dir(&dir) {
            Ok(()) => return dir,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => panic!("a directory for the test: {e}"),
        }
    }
}

/// Removes the folders of tests that failed, or were killed, long ago.
fn sweep() {
    let folders = std::fs::read_dir(std::env::temp_dir());
    for folder in folders.into_iter().flatten().flatten() {
        let name = folder.file_name();
        let test = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER)?.split('-').next());
        let is_dead = test.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        let changed = folder.metadata().and_then(|folder| folder.modified());
        let age = changed.ok().and_then(|changed| changed.elapsed().ok());
        if is_dead && age.is_some_and(|age| age > LEFT_OVER) {
            let _ = std::fs::remove_dir_all(folder.path());
        }
    }
}

fn nats_url(port: u16, nodes: &[Node]) -> String {
    let others = nodes.iter().skip(1).map(|node| node.port);
    let urls: Vec<String> = std::iter::once(port)
        .chain(others)
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    urls.join(",")
}

/// A server on a port of its own, once it listens. Somebody else may take a port between the moment it was found free and
/// the server's start: then it gets another one, and its clients never talk to that somebody.
async fn on_a_free_port(ready: &str, start: impl Fn(u16) -> Process) -> (u16, Process) {
    loop {
        let port = free_port();
        let server = start(port);
        if server.says(ready).await {
            return (port, server);
        }
        let log = server.log();
        assert!(
            log.to_lowercase().contains("address already in use"),
            "{} does not start:\n{log}",
            server.name
        );
    }
}

fn start_nats(dir: &Path, port: u16, servers: &Servers) -> Process {
    if let Some(first) = servers.nodes.first() {
        return first.start(dir);
    }
    let store = servers.nats_dir.clone().unwrap_or_else(|| dir.join("nats"));
    // As much as it likes: by default it is a share of what is free, and a machine that is nearly full would have no stream.
    let room = if servers.jetstream.contains("max_file_store") {
        ""
    } else {
        "max_file_store: 100GB\n"
    };
    let jetstream = format!(
        "store_dir: \"{}\"\n{room}{}",
        store.display(),
        servers.jetstream
    );
    let conf = format!(
        "listen: \"127.0.0.1:{port}\"\n{}\njetstream {{ {jetstream} }}\n",
        servers.nats
    );
    std::fs::write(dir.join("nats.conf"), conf).expect("nats.conf");
    let mut command = Command::new("nats-server");
    command.arg("-c").arg(dir.join("nats.conf"));
    Process::spawn("nats-server", command, dir.join("nats.log"))
}

fn start_redis(dir: &Path, port: u16, servers: &Servers) -> Process {
    let mut command = Command::new("redis-server");
    if servers.redis_ha {
        command.arg(ha_file(dir, "redis.conf"));
    }
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--save",
        "",
        "--appendonly",
        "yes",
    ]);
    command
        .args(["--appendfsync", "always", "--dir"])
        .arg(servers.redis_dir.as_deref().unwrap_or(dir));
    command
        .args(&servers.redis_args)
        .envs(servers.redis_env.iter().cloned());
    Process::spawn("redis-server", command, dir.join("redis.log"))
}

/// A path as a string of TOML.
pub fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A file of this repository, or one that `make test` has put into it: Python and Node with what functions need.
pub fn in_repository(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository");
    let path = root.join(path);
    assert!(
        path.exists(),
        "{} is not there: `deploy/install.sh python` and `deploy/install.sh typescript` bring what functions need",
        path.display()
    );
    path
}

/// Where cargo put our binaries: beside us, or beside the test's own directory.
pub fn built(binary: &str) -> PathBuf {
    let us = std::env::current_exe().expect("our own path");
    let folder = us.parent().expect("a folder");
    let folder = if folder.ends_with("deps") {
        folder.parent().expect("target directory")
    } else {
        folder
    };
    let path = folder.join(binary);
    assert!(
        path.exists(),
        "{} is not built: `make test` builds all binaries first",
        path.display()
    );
    path
}

/// A port nobody will take while a server is away: none of those that the system gives to whoever asks for any, and
/// never the same twice.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(32_768_u16);
    let mut taken = TAKEN.lock();
    loop {
        let port = fastrand::u16(5000..first.max(6000));
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            return port;
        }
    }
}

pub async fn wait_for_port(port: u16) {
    until(&format!("port {port} answers"), async || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    })
    .await;
}

/// What a check says that must fail, as the cluster is broken on purpose; that it does not fail is a failure.
pub async fn must_fail(what: &str, check: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(check)
        .catch_unwind()
        .await
        .expect_err(what);
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_default()
}

/// Asks again and again until there is an answer.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            start.elapsed() < WAIT_LIMIT,
            "waited {WAIT_LIMIT:?} in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Answer of a server. One that is only just being started again is asked again; what is refused for longer is no absence.
async fn answered<T, E: Display>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(e) => assert!(
                start.elapsed() < WAIT_LIMIT,
                "asked for {WAIT_LIMIT:?} in vain: {what}: {e}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Asks again and again until it is so.
pub async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    until(what, async || is_so().await.then_some(())).await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::time::SystemTime;

    use oncue_core::store::Keys;

    use super::*;

    /// A server that cannot answer just now is asked again: an error is no empty answer.
    #[tokio::test]
    async fn what_cannot_be_asked_is_not_absent() {
        let mut cluster = Cluster::new("").await;
        let (bus, store) = (cluster.bus().await, cluster.store().await);
        let key = Keys::default().row("tallies", "/a");
        cluster.redis_ok(&["HSET", &key, "count", "1"]);
        assert_eq!(cluster.field(&store, "tallies", "/none", "count").await, "");
        cluster.redis.kill();
        let port = cluster.redis_port;
        let (count, redis) = tokio::join!(cluster.field(&store, "tallies", "/a", "count"), async {
            start_redis(&cluster.dir, port, &cluster.servers)
        });
        assert_eq!(count, "1");
        cluster.redis = redis;

        let late = serde_json::json!({ "name": "late", "subjects": ["late"] });
        let (count, made) = tokio::join!(
            cluster.count(&bus, "late"),
            bus.api("STREAM.CREATE.late", &late)
        );
        assert_eq!((count, made.is_ok()), (0, true));
        assert!(cluster.message(&bus, "late", 1).await.is_none());
    }

    /// A port that somebody else took in the meantime is given up, and so is their server.
    #[tokio::test]
    async fn a_server_whose_port_is_taken_starts_on_another() {
        let dir = new_folder();
        let servers = Servers::default();
        let nats = TcpListener::bind("127.0.0.1:0").expect("a port");
        let redis = TcpListener::bind("127.0.0.1:0").expect("a port");
        for (ready, taken) in [(NATS_READY, &nats), (REDIS_READY, &redis)] {
            let taken = taken.local_addr().expect("an address").port();
            let starts = Cell::new(0);
            let (port, mut server) = on_a_free_port(ready, |port| {
                starts.set(starts.get() + 1);
                let port = if starts.get() == 1 { taken } else { port };
                if ready == NATS_READY {
                    start_nats(&dir, port, &servers)
                } else {
                    start_redis(&dir, port, &servers)
                }
            })
            .await;
            assert_eq!(starts.get(), 2);
            assert!(port != taken && server.is_alive());
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn old_folders_of_dead_tests_are_swept() {
        let old = SystemTime::now() - 2 * LEFT_OVER;
        let mut dead = Command::new("true").spawn().expect("true runs");
        dead.wait().expect("ended");
        let folder = |pid: u32, n: u32| {
            let folder = std::env::temp_dir().join(format!("{FOLDER}{pid}-sweep-{n}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            folder
        };
        let (left, young) = (folder(dead.id(), 1), folder(dead.id(), 2));
        let ours = folder(std::process::id(), 1);
        for folder in [&left, &ours] {
            let opened = File::open(folder).expect("opened");
            opened.set_modified(old).expect("a time");
        }
        sweep();
        assert!(!left.exists() && young.exists() && ours.exists());
        for folder in [young, ours] {
            std::fs::remove_dir(folder).expect("removed");
        }
    }
}
