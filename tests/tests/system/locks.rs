//! Servers that `oncue up` starts tell apart who comes. Acts that are nobody's right are tried by everybody, against NATS by
//! raw lines and with replies that lead into the API, and against Redis; then both are as they were.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use oncue_core::bus::Bus;
use oncue_core::config::{NatsServer, RedisServer};
use oncue_core::store::Store;
use oncue_tests::cluster::{
    Cluster, Process, free_port, in_repository, send, until, wait_for_port,
};
use oncue_tests::http::{JSON, request};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const APP: &str = "[functions.count-views]\n[functions.rank-pages]\n[functions.inspect-file]\n[functions.track-file]\n";
/// Page views that are there before anybody tries anything.
const VIEWS: usize = 20;

/// App whose servers `oncue up` has started and locked.
struct Locked {
    cluster: Cluster,
    up: Process,
    nats: u16,
    redis: u16,
    keys: PathBuf,
}

impl Locked {
    async fn start() -> Self {
        let mut cluster = Cluster::new(APP).await;
        let nats = free_port();
        let redis = free_port();
        cluster.set("ONCUE_NATS_URL", &format!("nats://127.0.0.1:{nats}"));
        cluster.set("ONCUE_NATS_MONITOR", &format!("127.0.0.1:{}", free_port()));
        cluster.set("ONCUE_REDIS_URL", &format!("redis://127.0.0.1:{redis}"));
        let console = format!("127.0.0.1:{}", free_port());
        cluster.set("ONCUE_CONSOLE_LISTEN", &console);
        let up = cluster.up().await;
        let keys = cluster.dir.join(".oncue/keys");
        let locked = Self {
            cluster,
            up,
            nats,
            redis,
            keys,
        };
        let mut anybody = Raw::connect(nats, None).await;
        for n in 0..VIEWS {
            let view = format!("{{\"page\":\"/{n}\",\"visitor\":\"v\"}}");
            anybody.publish("web.page.viewed", "", &view).await;
        }
        let said = anybody.done().await;
        assert!(
            !said.contains("-ERR"),
            "public types are for everybody: {said}"
        );
        locked.counted(VIEWS).await;
        locked
    }

    /// Waits until so many views are counted.
    async fn counted(&self, views: usize) {
        until("all views are counted", async || {
            let (_, text) = self.oncue(&["audit", "count-views", "--json"]);
            let audit: Value = serde_json::from_str(&text).ok()?;
            let applied = audit
                .pointer("/0/applied")
                .or(audit.pointer("/functions/0/applied"));
            (applied?.as_u64()? >= views as u64).then_some(())
        })
        .await;
    }

    fn oncue(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.cluster.output("oncue", args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    }

    /// As [`oncue`](Self::oncue), while the test's own tasks go on.
    async fn oncue_async(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut process = self.cluster.spawn("oncue", args);
        (process.exit().await, process.log())
    }

    fn seed(&self, role: &str) -> PathBuf {
        self.keys.join(format!("{role}.nk"))
    }

    /// Bus of the operator.
    async fn bus(&self) -> Bus {
        let mut server = NatsServer::from(format!("nats://127.0.0.1:{}", self.nats));
        server.credentials = Some(self.seed("operator"));
        Bus::connect(server, "test").await.expect("the operator")
    }

    async fn store(&self) -> Store {
        self.try_store().await.expect("the operator")
    }

    async fn try_store(&self) -> Option<Store> {
        let url = format!("redis://app.operator@127.0.0.1:{}", self.redis);
        let mut server = RedisServer::from(url);
        server.password_file = Some(self.keys.join("operator.redis"));
        let app = self.cluster.config().app;
        Store::look(server, &app).await.ok()
    }
}

/// Ends Redis with kill -9 and waits until `oncue up` has started it again.
async fn restart_redis(locked: &Locked) {
    let before = redis_pid(locked).await.expect("Redis runs");
    assert!(send(before, "KILL"), "Redis could not be killed");
    until("another Redis answers", async || {
        (redis_pid(locked).await? != before).then_some(())
    })
    .await;
}

async fn redis_pid(locked: &Locked) -> Option<u32> {
    let info = locked.try_store().await?.info("server").await.ok()?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))?;
    pid.trim().parse().ok()
}

/// Redis reads its own log as a user, and leaves out what that user may not do.
#[tokio::test]
async fn a_locked_redis_that_is_killed_keeps_every_commit() {
    let locked = Locked::start().await;
    restart_redis(&locked).await;
    locked.counted(VIEWS).await;
    let (code, said) = locked.oncue(&["audit"]);
    assert_eq!(code, Some(0), "{said}");
}

/// nats-server shows an account its own streams alone: what an unlocked run has taken is there under locks, and the other way
/// round.
#[tokio::test]
async fn locking_what_was_open_loses_sight_of_nothing() {
    let mut locked = Locked::start().await;
    for (round, unlocked) in ["true", "false", "true"].into_iter().enumerate() {
        assert_eq!(locked.up.stop().await, Some(0), "{}", locked.up.log());
        locked.cluster.set("ONCUE_UNLOCKED", unlocked);
        locked.up = locked.cluster.up().await;
        let mut anybody = Raw::connect(locked.nats, None).await;
        let view = "{\"page\":\"/\",\"visitor\":\"v\"}";
        anybody.publish("web.page.viewed", "", view).await;
        let said = anybody.done().await;
        assert!(!said.contains("-ERR"), "{said}");
        locked.counted(VIEWS + round + 1).await;
        let (_, doctor) = locked.oncue(&["doctor"]);
        assert_eq!(
            doctor.contains("NATS is open"),
            unlocked == "true",
            "{doctor}"
        );
    }
    let (code, said) = locked.oncue(&["audit"]);
    assert_eq!(code, Some(0), "{said}");
}

/// A second app on this machine finds the servers of the first: it is told at once what they are, and how to have its own.
#[tokio::test]
async fn another_app_is_told_that_the_servers_are_locked() {
    let mut locked = Locked::start().await;
    let folder = locked.cluster.dir.join("another");
    std::fs::create_dir(&folder).expect("a folder");
    let config = folder.join("oncue.toml");
    let text = std::fs::read_to_string(locked.cluster.dir.join("oncue.toml")).expect("read");
    std::fs::write(&config, text).expect("written");
    locked
        .cluster
        .set("ONCUE_CONFIG", &config.display().to_string());
    for listen in ["ONCUE_GATEWAY_LISTEN", "ONCUE_CONSOLE_LISTEN"] {
        let free = format!("127.0.0.1:{}", free_port());
        locked.cluster.set(listen, &free);
    }
    for command in ["up", "ps", "apply"] {
        let mut process =
            locked
                .cluster
                .spawn_program("oncue", &locked.cluster.program("oncue"), &[command]);
        let code = process.exit().await;
        let said = process.log();
        assert!(
            code != Some(0) && said.contains("this NATS is locked"),
            "{command}: {said}"
        );
        if command == "up" {
            assert!(said.contains("--nats nats://127.0.0.1:"), "{said}");
        }
    }
}

/// With a user `default` that is off and may do nothing, as many files of others have it, the same kill loses all; whoever
/// looks is told so before.
#[tokio::test]
async fn a_redis_whose_default_user_may_nothing_is_refused_before_it_loses_its_log() {
    let locked = Locked::start().await;
    let nothing = ["reset", "off"].map(str::to_owned);
    let store = locked.store().await;
    store.set_user("default", &nothing).await.expect("set");
    for command in ["doctor", "apply"] {
        let mut process = locked.cluster.spawn("oncue", &[command]);
        let code = process.exit().await;
        let said = process.log();
        assert!(
            code != Some(0) && said.contains("would leave out every commit"),
            "{command}: {said}"
        );
    }
    let file = locked.keys.join("redis.acl");
    let text = std::fs::read_to_string(&file).expect("the users");
    let others = text.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert!(text.starts_with("user default "), "{text}");
    std::fs::write(&file, format!("user default off\n{others}\n")).expect("written");
    restart_redis(&locked).await;
    let (code, said) = locked.oncue(&["audit"]);
    assert_ne!(code, Some(0), "the loss was not there: {said}");
}

/// Connection to NATS that says what it is told to, and whatever replies to whatever subject.
pub struct Raw {
    socket: BufReader<TcpStream>,
}

impl Raw {
    pub async fn connect(port: u16, seed: Option<&Path>) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("NATS");
        let mut socket = BufReader::new(socket);
        let mut info = String::new();
        socket.read_line(&mut info).await.expect("INFO");
        let info: Value = serde_json::from_str(info.trim_start_matches("INFO ")).expect("JSON");
        let mut hello =
            json!({ "verbose": false, "pedantic": false, "headers": true, "no_responders": true });
        if let Some(seed) = seed {
            let seed = std::fs::read_to_string(seed).expect("a seed");
            let key = KeyPair::from_seed(seed.trim()).expect("a seed");
            let nonce = info["nonce"].as_str().unwrap_or_default();
            let signature = key.sign(nonce.as_bytes()).expect("signed");
            hello["nkey"] = key.public_key().into();
            hello["sig"] = URL_SAFE_NO_PAD.encode(signature).into();
        }
        let mut raw = Self { socket };
        raw.write(&format!("CONNECT {hello}\r\nSUB _INBOX.raw.> 1\r\n"))
            .await;
        raw
    }

    /// A line that is closed shows when the server is asked next.
    pub async fn write(&mut self, text: &str) {
        let _ = self.socket.get_mut().write_all(text.as_bytes()).await;
    }

    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &str) {
        let size = payload.len();
        self.write(&format!("PUB {subject} {reply} {size}\r\n{payload}\r\n"))
            .await;
    }

    /// All that the server has said up to here.
    pub async fn done(&mut self) -> String {
        self.try_done().await.expect("the line is open")
    }

    /// As [`done`](Self::done); `None` where the server has closed the line.
    pub async fn try_done(&mut self) -> Option<String> {
        self.socket.get_mut().write_all(b"PING\r\n").await.ok()?;
        let mut said = Vec::new();
        while !said.ends_with(b"PONG\r\n") {
            let mut part = [0; 4096];
            let read = self.socket.read(&mut part).await.ok()?;
            if read == 0 {
                return None;
            }
            said.extend_from_slice(&part[..read]);
        }
        Some(String::from_utf8_lossy(&said).into_owned())
    }

    /// Whether the server does not let in who has this seed.
    async fn refuses(port: u16, seed: &Path) -> bool {
        Self::connect(port, Some(seed))
            .await
            .try_done()
            .await
            .is_none()
    }
}

/// Act of somebody, as subject, reply and payload.
type Act = (String, String, String);

fn act(subject: &str, reply: &str, payload: &str) -> Act {
    (subject.to_owned(), reply.to_owned(), payload.to_owned())
}

/// Acts that are nobody's right but the operator's, in the names of the API that the role has.
fn forbidden(api: &str) -> Vec<Act> {
    let inbox = "_INBOX.raw.1";
    let consumer = r#"{"stream_name":"web","config":{"name":"evil","durable_name":"evil","ack_policy":"none"}}"#;
    let mut acts: Vec<Act> = [
        ("STREAM.DELETE.files", ""),
        ("STREAM.PURGE.web", ""),
        ("STREAM.MSG.DELETE.web", r#"{"seq":1}"#),
        (
            "STREAM.CREATE.evil",
            r#"{"name":"evil","subjects":["evil.>"]}"#,
        ),
        (
            "STREAM.UPDATE.web",
            r#"{"name":"web","subjects":["web.>"],"max_msgs":1}"#,
        ),
        (
            "STREAM.SNAPSHOT.web",
            r#"{"deliver_subject":"_INBOX.raw.2"}"#,
        ),
        ("STREAM.RESTORE.evil", "{}"),
        ("STREAM.LIST", ""),
        ("CONSUMER.DELETE.files.app_track-file", ""),
        (
            "CONSUMER.PAUSE.files.app_track-file",
            r#"{"pause_until":"2099-01-01T00:00:00Z"}"#,
        ),
        ("CONSUMER.RESET.files.app_track-file", r#"{"seq":1}"#),
        ("CONSUMER.CREATE.web.evil", consumer),
        ("CONSUMER.DURABLE.CREATE.web.evil", consumer),
        (
            "CONSUMER.MSG.NEXT.files.app_track-file",
            r#"{"no_wait":true}"#,
        ),
        ("STREAM.MSG.GET.dlq", r#"{"seq":1}"#),
        ("DIRECT.GET.dlq", r#"{"seq":1}"#),
        ("STREAM.MSG.GET.timer", r#"{"seq":1}"#),
    ]
    .map(|(request, body)| act(&format!("{api}.{request}"), inbox, body))
    .into();
    acts.extend(
        [
            "files.file.accepted",
            "files.redrive.app_track-file",
            "web.redrive.app_count-views",
            "dlq.app.track-file",
            "dlq.letter.dropped",
            "timer.schedule.app.evil",
            "timer.delayed.app.track-file.files.file.accepted.x",
            "timer.due.files.file.accepted",
            "timer.function.fired",
            "$JS.ACK.files.app_track-file.1.1.1.1.0",
            "$JS.ACK.x.x.files.app_track-file.1.1.1.1.0",
            "$KV.oncue.app.id-secret",
            "$KV.oncue.app.contract.track-file",
            "oncue.survived.app_track-file",
            "oncue.restart.app",
            "$SRV.PING",
            "$SYS.REQ.SERVER.PING",
            "$JS.EVENT.ADVISORY.x",
        ]
        .map(|subject| act(subject, inbox, "{}")),
    );
    acts
}

/// Acts that are somebody's right, with a reply that would have the server act in its own name.
fn tricks(own: &[(&str, &str)]) -> Vec<Act> {
    let targets = [
        "$JS.API.STREAM.DELETE.files",
        "$JS.API.CONSUMER.DELETE.files.app_track-file",
        "$JS.API.STREAM.PURGE.dlq",
        "files.file.accepted",
        "files.redrive.app_track-file",
        "dlq.app.track-file",
    ];
    let mut acts = Vec::new();
    for (subject, payload) in own {
        acts.extend(targets.map(|target| act(subject, target, payload)));
    }
    acts
}

/// Role that tries, nobody's for `None`, and acts that are its right: subject and payload.
type Tried = (Option<&'static str>, Vec<(&'static str, &'static str)>);

/// Subscriptions to what is somebody else's.
const LISTENS: [&str; 8] = [
    ">",
    "_INBOX.>",
    "files.>",
    "web.page.viewed",
    "$JS.API.>",
    "$JS.ACK.>",
    "dlq.>",
    "$KV.>",
];

/// Things that nobody may have changed: streams with their settings and messages by subject, but for what follows from public
/// types, and consumers with theirs.
async fn picture(bus: &Bus) -> BTreeMap<String, String> {
    let mut picture = BTreeMap::new();
    let list = bus.api("STREAM.LIST", &Value::Null).await.expect("streams");
    for stream in list["streams"].as_array().into_iter().flatten() {
        let name = stream["config"]["name"].as_str().unwrap_or_default();
        let config = stream["config"].to_string();
        picture.insert(name.to_owned(), config);
        let mut subjects = bus.stream_subjects(name, ">").await.unwrap_or_default();
        subjects.retain(|subject, _| !subject.starts_with("web.page."));
        picture.insert(format!("{name} subjects"), format!("{subjects:?}"));
        let consumers = bus
            .api(&format!("CONSUMER.LIST.{name}"), &Value::Null)
            .await;
        for consumer in consumers.expect("consumers")["consumers"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let paused = &consumer["paused"];
            picture.insert(
                format!("{name}/{}", consumer["name"]),
                format!("{} {paused}", consumer["config"]),
            );
        }
    }
    picture
}

/// Does all of it and returns what the server said to each.
async fn try_all(raw: &mut Raw, acts: &[Act]) -> Vec<String> {
    let mut said = Vec::new();
    for (subject, reply, payload) in acts {
        raw.publish(subject, reply, payload).await;
        said.push(raw.done().await);
    }
    said
}

fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before.keys().chain(after.keys());
    let mut found: Vec<String> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| format!("{name}: {:?} -> {:?}", before.get(name), after.get(name)))
        .collect();
    found.dedup();
    found
}

#[tokio::test]
async fn nobody_does_in_nats_what_is_not_theirs() {
    let locked = Locked::start().await;
    let bus = locked.bus().await;
    let before = picture(&bus).await;
    let view = "{\"page\":\"/\",\"visitor\":\"t\"}";
    let pull = r#"{"no_wait":true,"batch":1}"#;
    let roles: [Tried; 4] = [
        (None, vec![("web.page.viewed", view)]),
        (
            Some("fn.count-views"),
            vec![
                ("$JS.APX.CONSUMER.MSG.NEXT.web.app_count-views", pull),
                ("$JS.ACK.web.app_count-views.1.1.1.1.0", "+ACK"),
                ("$JS.APX.STREAM.INFO.web", ""),
                ("$JS.APX.DIRECT.GET.web", r#"{"seq":1}"#),
            ],
        ),
        (
            Some("fn.rank-pages"),
            vec![("$JS.APX.CONSUMER.MSG.NEXT.web.app_rank-pages", pull)],
        ),
        (
            Some("gateway"),
            vec![
                ("web.page.viewed", view),
                ("$JS.APX.STREAM.INFO.files", ""),
                ("$JS.APX.DIRECT.GET.OBJ_app_files", r#"{"seq":1}"#),
            ],
        ),
    ];
    let mut refused = 0;
    for (role, own) in roles {
        let name = role.unwrap_or("public");
        let seed = role.map(|role| locked.seed(role));
        let mut raw = Raw::connect(locked.nats, seed.as_deref()).await;
        for api in ["$JS.API", "$JS.APX"] {
            let acts = forbidden(api);
            for ((subject, ..), said) in acts.iter().zip(try_all(&mut raw, &acts).await) {
                assert!(
                    said.contains("Permissions Violation for Publish"),
                    "{name} on {subject}: {said}"
                );
                refused += 1;
            }
        }
        for (number, subject) in LISTENS.iter().enumerate() {
            raw.write(&format!("SUB {subject} {}\r\n", number + 10))
                .await;
            let said = raw.done().await;
            // Its own account, in which nobody else is.
            let is_own = *subject == "_INBOX.>";
            assert!(
                is_own || said.contains("Permissions Violation for Subscription"),
                "{name} hears {subject}: {said}"
            );
        }
        let acts = tricks(&own);
        try_all(&mut raw, &acts).await;
        refused += acts.len();
        let now = picture(&bus).await;
        assert_eq!(differences(&before, &now), [""; 0], "after {name}");
    }
    assert!(refused > 300, "only {refused} acts were tried");
    // All goes on, and `doctor` knows.
    let (_, doctor) = locked.oncue(&["doctor"]);
    assert!(
        doctor.contains("NATS is locked") && doctor.contains("Redis is locked"),
        "{doctor}"
    );
    let (code, wrong) = locked.oncue(&["audit"]);
    assert_eq!(code, Some(0), "{wrong}");
}

/// The same acts on servers that are open: the picture must change, or it would show nothing above.
#[tokio::test]
async fn on_open_servers_the_same_acts_are_seen() {
    let mut cluster = Cluster::new(APP).await;
    let _up = cluster.up().await;
    let bus = cluster.bus().await;
    let before = picture(&bus).await;
    let mut raw = Raw::connect(cluster.nats_port, None).await;
    let acts = tricks(&[(
        "$JS.API.CONSUMER.MSG.NEXT.web.app_count-views",
        r#"{"no_wait":true}"#,
    )]);
    try_all(&mut raw, &acts).await;
    let after = picture(&bus).await;
    assert_ne!(
        differences(&before, &after),
        [""; 0],
        "replies lead into the API"
    );
    let mut acts = forbidden("$JS.API");
    acts.retain(|(subject, ..)| subject.contains("CREATE"));
    try_all(&mut raw, &acts).await;
    let found = differences(&after, &picture(&bus).await);
    assert!(
        found.iter().any(|found| found.contains("evil")),
        "{found:?}"
    );
    let output = cluster.output("oncue", &["doctor"]);
    let doctor = String::from_utf8_lossy(&output.stdout);
    assert!(
        doctor.contains("NATS is open") && doctor.contains("Redis is open"),
        "{doctor}"
    );
}

/// Part of an app as a container has it: the configuration, and beside it the credentials that are mounted there.
pub fn part(
    cluster: &mut Cluster,
    keys: &Path,
    role: &str,
    binary: &str,
    args: &[&str],
) -> Process {
    let folder = cluster.dir.join("parts").join(role);
    if !folder.exists() {
        std::fs::create_dir_all(folder.join(".oncue")).expect("a folder");
        std::fs::copy(cluster.dir.join("oncue.toml"), folder.join("oncue.toml")).expect("copied");
        symlink(keys.join(role), folder.join(".oncue/keys")).expect("mounted");
    }
    let config = folder.join("oncue.toml").display().to_string();
    cluster.set("ONCUE_CONFIG", &config);
    cluster.spawn_program(binary, &cluster.program(binary), args)
}

/// Servers that somebody else starts, a container engine say, with what `oncue rights --write` has made for them.
#[tokio::test]
async fn credentials_are_written_for_servers_that_others_start() {
    let mut cluster = Cluster::new("[functions.count-views]\n[functions.rank-pages]\n").await;
    let (nats, redis) = (free_port(), free_port());
    cluster.set("ONCUE_NATS_URL", &format!("nats://127.0.0.1:{nats}"));
    cluster.set("ONCUE_REDIS_URL", &format!("redis://127.0.0.1:{redis}"));
    let keys = cluster.dir.join("keys");
    let write = || {
        let output = cluster.output("oncue", &["rights", "--write", &keys.display().to_string()]);
        assert!(output.status.success(), "{output:?}");
    };
    write();
    let seed = std::fs::read(keys.join("gateway/gateway.nk")).expect("a seed");
    write();
    let again = std::fs::read(keys.join("gateway/gateway.nk")).expect("a seed");
    assert_eq!(seed, again, "credentials that are there are kept");
    let users = std::fs::read_to_string(keys.join("servers/redis.acl")).expect("users");
    let password = std::fs::read_to_string(keys.join("gateway/gateway.redis")).expect("one");
    assert!(!users.contains(password.trim()), "only its hash");
    let mode = |path: &str| {
        let about = std::fs::metadata(keys.join(path)).expect(path);
        about.permissions().mode() & 0o777
    };
    assert_eq!(mode("fn.count-views"), 0o700);
    assert_eq!(mode("fn.count-views/fn.count-views.nk"), 0o600);
    let base = cluster.dir.join("oncue.conf");
    let store = cluster.dir.join("locked-nats");
    std::fs::create_dir(cluster.dir.join("locked-redis")).expect("a folder");
    let base_text = format!("jetstream {{ store_dir: \"{}\" }}\n", store.display());
    std::fs::write(&base, base_text).expect("written");
    // As in the containers, whose file this is.
    let included = cluster.dir.join("compose.conf");
    std::fs::copy(in_repository("deploy/compose/nats.conf"), &included).expect("copied");
    let nats_args = [
        "-c",
        &included.display().to_string(),
        "-a",
        "127.0.0.1",
        "-p",
        &nats.to_string(),
    ];
    let _nats = cluster.spawn_program("nats-server", "nats-server".as_ref(), &nats_args);
    let acl = keys.join("servers/redis.acl").display().to_string();
    let data = cluster.dir.join("locked-redis").display().to_string();
    let redis_args = [
        "--port",
        &redis.to_string(),
        "--dir",
        &data,
        "--appendonly",
        "yes",
        "--aclfile",
        &acl,
    ];
    let _redis = cluster.spawn_program("redis-server", "redis-server".as_ref(), &redis_args);
    wait_for_port(nats).await;
    wait_for_port(redis).await;
    let mut apply = part(&mut cluster, &keys, "operator", "oncue", &["apply"]);
    assert_eq!(apply.exit().await, Some(0), "{}", apply.log());
    let worker = part(&mut cluster, &keys, "fn.count-views", "count-views", &[]);
    worker.wait_for_line("\"message\":\"ready\"").await;
    let mut anybody = Raw::connect(nats, None).await;
    for n in 0..VIEWS {
        let view = format!("{{\"page\":\"/{n}\",\"visitor\":\"v\"}}");
        anybody.publish("web.page.viewed", "", &view).await;
    }
    let said = anybody.done().await;
    assert!(!said.contains("-ERR"), "{said}");
    let mut health = part(
        &mut cluster,
        &keys,
        "fn.count-views",
        "oncue",
        &["health", "count-views"],
    );
    assert_eq!(health.exit().await, Some(0), "{}", health.log());
    // It is the function that its container has credentials of, and nobody else.
    let mut ps = part(&mut cluster, &keys, "fn.count-views", "oncue", &["ps"]);
    assert_ne!(ps.exit().await, Some(0), "{}", ps.log());
    assert!(ps.log().contains("operator.nk"), "{}", ps.log());
    until("all views are counted", async || {
        let mut audit = part(
            &mut cluster,
            &keys,
            "operator",
            "oncue",
            &["audit", "count-views"],
        );
        let code = audit.exit().await;
        (code == Some(0) && audit.log().contains(&VIEWS.to_string())).then_some(())
    })
    .await;
}

/// Connection to Redis that says what it is told to.
pub struct Wire(TcpStream);

impl Wire {
    pub async fn connect(port: u16) -> Self {
        Self(
            TcpStream::connect(("127.0.0.1", port))
                .await
                .expect("Redis"),
        )
    }

    pub async fn say(&mut self, words: &[&str]) -> String {
        let parts = words
            .iter()
            .map(|word| format!("${}\r\n{word}\r\n", word.len()));
        let request = format!("*{}\r\n{}", words.len(), parts.collect::<String>());
        self.0.write_all(request.as_bytes()).await.expect("open");
        let mut answer = vec![0; 65536];
        let read = self.0.read(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }
}

/// Commands on what is not `rank-pages`' nor the gateway's to change.
fn commands() -> Vec<Vec<&'static str>> {
    let lines = [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "CONFIG GET requirepass",
        "CONFIG SET dir /tmp",
        "FUNCTION DELETE x",
        "FUNCTION FLUSH",
        "SCRIPT FLUSH",
        "ACL LIST",
        "ACL SETUSER evil on nopass ~* +@all",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "REPLICAOF NO ONE",
        "MONITOR",
        "BGSAVE",
        "SWAPDB 0 1",
        "SELECT 1",
        "HSET app:{p1}:s:pages:x views 1000",
        "DEL app:d:count-views",
        "DEL app:{p1}:o:count-views:0",
        "ZADD app:u:count-views 1 x",
        "DEL app:{p1}:r:count-views:x",
        "SET app:commits:count-views:x 1",
        "HSET app:regressed:count-views x y",
        "SET app:epoch 99",
        "SET app:id-secret x",
        "SET app:layout 9",
        "HDEL app:functions count-views",
        "SREM app:l:web.page.viewed count-views",
        "GET other:key",
        "SET other:key 1",
        // A row whose key ends as a ledger's does.
        "HSET app:{p1}:s:pages:zz}:f:1 views 1000",
        "DEL app:{p17}:s:pages:zz}:g:1",
    ];
    let mut commands: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let library = "#!lua name=evil\nredis.register_function('evil', function() return redis.call('FLUSHALL') end)";
    commands.push(vec!["FUNCTION", "LOAD", library]);
    commands.push(vec!["EVAL", "return redis.call('FLUSHALL')", "0"]);
    commands
}

#[tokio::test]
async fn nobody_does_in_redis_what_is_not_theirs() {
    let locked = Locked::start().await;
    let store = locked.store().await;
    let size = store.info("keyspace").await.expect("the operator may ask");
    let mut refused = 0;
    for role in ["fn.rank-pages", "fn.track-file", "gateway"] {
        let mut wire = Wire::connect(locked.redis).await;
        let password = std::fs::read_to_string(locked.keys.join(format!("{role}.redis")));
        let user = format!("app.{role}");
        let hello = wire
            .say(&["AUTH", &user, password.expect("a password").trim()])
            .await;
        assert_eq!(hello, "+OK\r\n", "{role}");
        for command in commands() {
            let said = wire.say(&command).await;
            assert!(said.starts_with("-NOPERM"), "{role}: {command:?}: {said}");
            refused += 1;
        }
    }
    // A name alone is nothing, and no name is nobody.
    let mut wire = Wire::connect(locked.redis).await;
    let wrong = wire.say(&["AUTH", "app.operator", "guess"]).await;
    assert!(wrong.starts_with("-WRONGPASS"), "{wrong}");
    for command in commands() {
        let said = wire.say(&command).await;
        assert!(said.starts_with("-NOAUTH"), "{command:?}: {said}");
        refused += 1;
    }
    assert!(refused > 130, "only {refused} commands were tried");
    let now = store.info("keyspace").await.expect("the operator may ask");
    let keys = |text: &str| {
        text.split("keys=")
            .nth(1)
            .map(|rest| rest.split(',').next().map(str::to_owned))
    };
    assert_eq!(keys(&size), keys(&now), "nothing came and nothing went");
    locked.counted(VIEWS).await;
}

/// A refusal in the middle of a commit would keep what was written before it: a user with too few rights must not come that
/// far.
#[tokio::test]
async fn a_worker_with_too_few_rights_does_not_begin() {
    let locked = Locked::start().await;
    let store = locked.store().await;
    let config = |role: &str| {
        let mut env = locked.cluster.config().nats.environment();
        env.retain(|(name, _)| *name != "ONCUE_NATS_API_PREFIX");
        env.extend([
            ("ONCUE_NATS_API_PREFIX", "$JS.APX".to_owned()),
            (
                "ONCUE_NATS_CREDENTIALS",
                locked.seed(role).display().to_string(),
            ),
            (
                "ONCUE_REDIS_URL",
                format!("redis://app.{role}@127.0.0.1:{}", locked.redis),
            ),
            (
                "ONCUE_REDIS_PASSWORD_FILE",
                locked
                    .keys
                    .join(format!("{role}.redis"))
                    .display()
                    .to_string(),
            ),
        ]);
        env
    };
    let right = locked
        .cluster
        .spawn_bare("rank-pages", &config("fn.rank-pages"));
    right.wait_for_line("\"message\":\"ready\"").await;
    // Somebody else's credentials, and its own without the rows.
    let other = locked
        .cluster
        .spawn_bare("rank-pages", &config("fn.track-file"));
    other.wait_for_line("may not SET").await;
    let fewer = [
        "resetkeys",
        "%R~app:*",
        "~app:d:rank-pages",
        "~app:commits:*",
        "~app:{p*}:o:*",
        "~app:u:*",
    ];
    let fewer = fewer.map(str::to_owned);
    store
        .set_user("app.fn.rank-pages", &fewer)
        .await
        .expect("set");
    let fewer = locked
        .cluster
        .spawn_bare("rank-pages", &config("fn.rank-pages"));
    fewer.wait_for_line("may not HSET").await;
}

/// What servers give beyond the rights, and what they lack, is named; `oncue restart` makes it right again.
#[tokio::test]
async fn running_servers_are_compared_with_the_rights() {
    let locked = Locked::start().await;
    let check = async || locked.oncue_async(&["rights", "--check"]).await;
    let (code, said) = check().await;
    assert_eq!(code, Some(0), "{said}");
    // Operator, console, gateway, four functions, and the public, who has nothing to do in Redis.
    assert!(said.contains("8 in NATS and 7 in Redis"), "{said}");

    let store = locked.store().await;
    let changes: [(&str, &[&str]); 4] = [
        (
            "app.fn.rank-pages",
            &["+config", "resetkeys", "~app:d:rank-pages", ">more"],
        ),
        ("app.fn.gone", &["on", "~*", "+@all", ">gone"]),
        ("app.fn.inspect-file", &["nopass", "(~* +@all)"]),
        ("default", &["on", "nopass"]),
    ];
    for (name, rules) in changes {
        let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
        store.set_user(name, &rules).await.expect("set");
    }
    let file = locked.keys.join("nats.conf");
    let right = std::fs::read_to_string(&file).expect("the accounts");
    let letters = "\"dlq.app.rank-pages\", ";
    let user = right
        .lines()
        .find(|line| line.contains("nkey") && line.contains(letters))
        .expect("the user of a function");
    let other = user.replace(letters, "\"dlq.app.count-views\", ");
    std::fs::write(&file, right.replace(user, &other)).expect("written");
    let is_nats = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "nats-server")
    };
    let nats = locked.up.children().into_iter().find(is_nats);
    let nats = nats.expect("nats-server runs");
    assert!(send(nats, "HUP"), "nats-server could not be told");

    let expected = [
        "NATS lets it publish dlq.app.count-views, which nothing declares",
        "NATS does not let it publish dlq.app.rank-pages",
        "Redis gives it +config, which nothing declares",
        "Redis does not give it ~app:{p??}:o:rank-pages:*",
        "Redis takes another password as well",
        "Redis has this user, who belongs to nobody of the app",
        "Redis lets in whoever gives no name",
        "function inspect-file\n  differs Redis lets it in without a password\n  differs Redis gives it more by selectors",
    ];
    until("every difference is named", async || {
        let (code, said) = check().await;
        let is_said = expected.iter().all(|sentence| said.contains(sentence));
        (code == Some(1) && is_said).then_some(())
    })
    .await;
    // A key that the server does not know.
    let key = locked.seed("fn.track-file");
    let before = std::fs::read_to_string(&key).expect("a seed");
    let stranger = KeyPair::new_user().seed().expect("a seed");
    std::fs::write(&key, stranger).expect("written");
    let (code, said) = check().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("function track-file\n  differs NATS does not"),
        "{said}"
    );
    std::fs::write(&key, before).expect("written");

    let (code, said) = locked.oncue_async(&["restart"]).await;
    assert_eq!(code, Some(0), "{said}");
    store
        .set_user("default", &["off".to_owned()])
        .await
        .expect("set");
    until("the servers give what is declared", async || {
        (check().await.0 == Some(0)).then_some(())
    })
    .await;
}

/// All credentials are replaced twice under load, and a worker is killed meanwhile: every event counts once, and what was good
/// before opens nothing.
#[tokio::test]
async fn credentials_are_replaced_under_load_and_the_old_ones_open_nothing() {
    let locked = Locked::start().await;
    let seed = |role: &str| std::fs::read_to_string(locked.seed(role)).expect("a seed");
    let old = locked.cluster.dir.join("old.nk");
    std::fs::write(&old, seed("fn.rank-pages")).expect("written");
    let password = locked.keys.join("fn.rank-pages.redis");
    let old_password = std::fs::read_to_string(&password).expect("a password");
    let port = locked.nats;
    let load = tokio::spawn(async move {
        let mut sent = 0;
        let mut anybody = Raw::connect(port, None).await;
        for round in 0..120 {
            for n in 0..25 {
                let view = format!("{{\"page\":\"/{n}\",\"visitor\":\"{round}\"}}");
                anybody.publish("web.page.viewed", "", &view).await;
            }
            // Cut off when its key is replaced as well; then it comes back as any client would.
            match anybody.try_done().await {
                Some(said) => assert!(!said.contains("-ERR"), "{said}"),
                None => anybody = Raw::connect(port, None).await,
            }
            sent += 25;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        sent
    });
    for _ in 0..2 {
        let (code, said) = locked.oncue_async(&["rights", "--rotate"]).await;
        assert_eq!(code, Some(0), "{said}");
    }
    assert_ne!(
        seed("fn.rank-pages"),
        std::fs::read_to_string(&old).expect("read")
    );
    load.await.expect("the load");
    assert!(Raw::refuses(locked.nats, &old).await, "the old key is good");
    let mut wire = Wire::connect(locked.redis).await;
    let said = wire
        .say(&["AUTH", "app.fn.rank-pages", old_password.trim()])
        .await;
    assert!(said.starts_with("-WRONGPASS"), "{said}");
    // Nothing that the streams took is lost or counted twice.
    let stream = locked
        .bus()
        .await
        .stream_info("web")
        .await
        .expect("the stream");
    until("all is applied", async || {
        let (code, text) = locked.oncue(&["audit"]);
        let line = text.lines().find(|line| line.starts_with("count-views"))?;
        let numbers: Vec<&str> = line.split_whitespace().collect();
        (code == Some(0) && numbers.get(1) == numbers.get(2)).then_some(())
    })
    .await;
    assert!(
        stream.state.last_seq > 2000,
        "only {} events came",
        stream.state.last_seq
    );
}

/// What Redis has refused anybody since it started, as it remembers it.
fn refused(locked: &Locked) -> String {
    let password = std::fs::read_to_string(locked.keys.join("operator.redis"));
    let password = password.expect("the operator has a password");
    let port = locked.redis.to_string();
    let output = std::process::Command::new("redis-cli")
        .args(["-p", &port, "--user", "app.operator", "--no-auth-warning"])
        .args(["-a", password.trim(), "ACL", "LOG"])
        .output()
        .expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does what clients of the gateway do, and leaves a letter.
async fn visit(locked: &Locked, gateway: std::net::SocketAddr) {
    let view = r#"{"page":"/a","visitor":"v"}"#;
    let wait = [JSON, ("prefer", "wait=5")];
    for n in 0..12 {
        let key = format!("view-{n}");
        let headers = [wait[0], wait[1], ("idempotency-key", key.as_str())];
        let sent = request(
            gateway,
            "POST",
            "/v1/events/web.page.viewed",
            &headers,
            view,
        )
        .await;
        assert!(sent.status == 200 || sent.status == 202, "{}", sent.text());
        let flow = format!("/v1/flows/{key}");
        assert_eq!(request(gateway, "GET", &flow, &[], "").await.status, 200);
    }
    let stored = request(gateway, "PUT", "/v1/files/a.txt", &[], "no picture").await;
    assert!(stored.status < 300, "{}", stored.text());
    let mut anybody = Raw::connect(locked.nats, None).await;
    anybody.publish("web.page.viewed", "", "garbage").await;
    anybody.done().await;
    until("the letter", async || {
        let (_, letters) = locked.oncue_async(&["dlq", "ls", "--json"]).await;
        letters.contains("group").then_some(())
    })
    .await;
}

/// Runs the commands of an operator.
async fn operate(locked: &Locked) {
    let backup = locked.cluster.dir.join("backup").display().to_string();
    for command in [
        &["ps"][..],
        &["map"],
        &[
            "map",
            "--drift",
            "--ignore",
            "unheard",
            "--ignore",
            "untriggered",
        ],
        &["audit"],
        &["doctor"],
        &["find", "--limit", "3"],
        &["flow", "view-1", "--rows"],
        &["state", "ls", "pages"],
        &["check"],
        &["apply"],
        &["pause", "count-views"],
        &["resume", "count-views"],
        &["keys", "add", "shop"],
        &["keys", "ls"],
        &["scale", "count-views", "--max", "2", "--reason", "a test"],
        &["scale", "count-views", "--reset"],
        &["restart", "rank-pages"],
        &["backup", &backup],
        &["dlq", "redrive", "--all", "--yes"],
        &["dlq", "drop", "--all", "--yes", "--why", "a test"],
        &["rights", "--check"],
    ] {
        let (code, said) = locked.oncue_async(command).await;
        // What is found is another matter than what is refused.
        assert!(
            code == Some(0) || code == Some(1),
            "{command:?}: {code:?} {said}"
        );
        assert!(
            !said.contains("NoPerm") && !said.contains("ermissions"),
            "{command:?}: {said}"
        );
    }
}

/// Rights that are too few show late, and often only as something that is not done: everybody does what they are there for, and
/// neither server has refused anything.
#[tokio::test]
async fn nobody_is_refused_what_they_need() {
    let mut locked = Locked::start().await;
    let config = locked.cluster.config();
    let gateway: std::net::SocketAddr = config.gateway.listen.parse().expect("an address");
    let console: std::net::SocketAddr = config.console.listen.parse().expect("an address");
    let get = async |at, path: &str| request(at, "GET", path, &[], "").await.status;
    visit(&locked, gateway).await;
    wait_for_port(console.port()).await;
    // People at the console and at the terminal.
    for path in [
        "functions/count-views",
        "events?type=web.page.viewed",
        "flows",
        "types",
        "find",
        "drift",
        "letters",
        "doctor",
        "logs?function=count-views",
        "notices",
        "schedules",
        "streams",
        "streams/web/messages",
        "tables",
        "tables/pages",
        "search?q=view-1",
    ] {
        let status = get(console, &format!("/api/{path}")).await;
        assert_eq!(status, 200, "{path}");
    }
    assert_eq!(get(console, "/metrics").await, 200);
    operate(&locked).await;
    // Workers look after what is left every few seconds, and a minute of the console is kept.
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    assert_eq!(refused(&locked).trim(), "");
    let log = locked.up.log();
    for words in ["ermissions Violation", "ermissions violation", "NoPerm"] {
        assert!(!log.contains(words), "{log}");
    }
    // The twin: what somebody may not do is in that log.
    let store = locked.store().await;
    let mut few = vec!["resetkeys".to_owned()];
    few.push("~app:nothing".to_owned());
    store
        .set_user("app.fn.count-views", &few)
        .await
        .expect("set");
    until("a refusal is seen", async || {
        (!refused(&locked).trim().is_empty()).then_some(())
    })
    .await;
    locked.up.kill();
}

/// Who keeps the data elsewhere need not say so to each command.
#[tokio::test]
async fn commands_find_the_credentials_of_an_up_that_keeps_its_data_elsewhere() {
    let mut cluster = Cluster::new(APP).await;
    let nats = format!("nats://127.0.0.1:{}", free_port());
    let redis = format!("redis://127.0.0.1:{}", free_port());
    cluster.set("ONCUE_NATS_URL", &nats);
    cluster.set("ONCUE_REDIS_URL", &redis);
    cluster.set("ONCUE_NATS_MONITOR", &format!("127.0.0.1:{}", free_port()));
    cluster.set(
        "ONCUE_GATEWAY_LISTEN",
        &format!("127.0.0.1:{}", free_port()),
    );
    cluster.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let elsewhere = cluster.dir.join("elsewhere");
    let data = elsewhere.display().to_string();
    let up = cluster.spawn("oncue", &["up", "--data", &data]);
    up.wait_for_line("Ctrl-C finishes").await;
    let ps = cluster.output("oncue", &["ps"]);
    let said = String::from_utf8_lossy(&ps.stderr);
    assert_eq!(ps.status.code(), Some(0), "{said}");
    assert!(elsewhere.join("keys").is_dir() && !cluster.dir.join(".oncue/keys").exists());
    // Without the note nobody knows them.
    std::fs::remove_file(cluster.dir.join(".oncue/elsewhere")).expect("a note");
    let ps = cluster.output("oncue", &["ps"]);
    let said = String::from_utf8_lossy(&ps.stderr);
    assert!(
        ps.status.code() != Some(0) && said.contains("locked"),
        "{said}"
    );
}
