//! The profile `ha` with its locks: three nats-servers, two redis-servers and three sentinels, from the files in `deploy/ha` and
//! what `oncue rights --write --replicas` makes for them; in the clear, and encrypted.

use std::path::{Path, PathBuf};
use std::process::Command;

use oncue_core::bus::Bus;
use oncue_core::config::NatsServer;
use oncue_tests::cluster::replicas::ha_file;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, free_port, until, wait_for_port};

use crate::connections::Authority;
use crate::locks::part;

const VIEWS: usize = 60;

/// Servers of the profile, each on ports of its own.
struct Servers {
    dir: PathBuf,
    /// Who has signed their certificates, where they are encrypted.
    authority: Option<Authority>,
    nats: [u16; 3],
    routes: [u16; 3],
    redis: [u16; 2],
    sentinels: [u16; 3],
    running: Vec<Process>,
}

impl Servers {
    fn new(dir: &Path, authority: Option<Authority>) -> Self {
        Self {
            dir: dir.to_owned(),
            authority,
            nats: [(); 3].map(|()| free_port()),
            routes: [(); 3].map(|()| free_port()),
            redis: [(); 2].map(|()| free_port()),
            sentinels: [(); 3].map(|()| free_port()),
            running: Vec::new(),
        }
    }

    fn keys(&self) -> PathBuf {
        self.dir.join("ha/keys")
    }

    fn urls(&self) -> (String, String) {
        let (nats, redis) = match self.authority {
            Some(_) => ("tls", "rediss"),
            None => ("nats", "redis"),
        };
        let nats = self.nats.map(|port| format!("{nats}://127.0.0.1:{port}"));
        let sentinels = self.sentinels.map(|port| format!("127.0.0.1:{port}"));
        (
            nats.join(","),
            format!("{redis}+sentinel://{}/mymaster", sentinels.join(",")),
        )
    }

    /// Text of a file of the profile; settings that wait behind a `#` hold where servers are encrypted.
    fn profile(&self, name: &str) -> String {
        let text = std::fs::read_to_string(ha_file(&self.dir, name));
        let text = text.expect("a file of the profile");
        let Some(authority) = &self.authority else {
            return text;
        };
        let lines = text.lines().map(|line| {
            let setting = line.trim_start().strip_prefix('#');
            setting
                .filter(|it| it.starts_with(|c: char| c.is_ascii_lowercase()))
                .unwrap_or(line)
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        ["server.pem", "server.key", "ca.pem"]
            .iter()
            .fold(text, |text, file| {
                text.replace(&format!("/etc/oncue/tls/{file}"), &authority.file(file))
            })
    }

    /// What makes a server of Redis listen at a port.
    fn port_option(&self) -> &'static str {
        match self.authority {
            Some(_) => "--tls-port",
            None => "--port",
        }
    }

    async fn start(&mut self) {
        // Here they share a host, so that their ports differ.
        let file = self.keys().join("nats/routes.conf");
        let mut text = std::fs::read_to_string(&file).expect("routes");
        for port in self.routes {
            text = text.replacen(":6222", &format!(":{port}"), 1);
        }
        std::fs::write(&file, text).expect("written");
        for node in 0..self.nats.len() {
            let process = self.nats(node);
            self.running.push(process);
        }
        for at in 0..self.redis.len() {
            let follows = (at > 0).then_some(self.redis[0]);
            let process = self.redis(at, follows);
            self.running.push(process);
            wait_for_port(self.redis[at]).await;
        }
        for port in self.sentinels {
            let process = self.sentinel(port);
            self.running.push(process);
            wait_for_port(port).await;
        }
    }

    fn nats(&self, node: usize) -> Process {
        let name = format!("nats-{node}");
        let text = self.profile("nats.conf");
        let conf = self.dir.join("ha").join(format!("{name}.conf"));
        let listen = format!("127.0.0.1:{}", self.routes[node]);
        std::fs::write(&conf, text.replace("0.0.0.0:6222", &listen)).expect("written");
        let mut command = Command::new("nats-server");
        let port = self.nats[node].to_string();
        command
            .arg("-c")
            .arg(conf)
            .args(["-n", &name, "-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(self.dir.join(&name));
        Process::spawn(&name, command, self.dir.join(format!("{name}.log")))
    }

    fn redis(&self, at: usize, follows: Option<u16>) -> Process {
        let name = format!("redis-{at}");
        let folder = self.dir.join(&name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let conf = folder.join("redis.conf");
        std::fs::write(&conf, self.profile("redis.conf")).expect("written");
        let port = self.redis[at].to_string();
        let mut command = Command::new("redis-server");
        command
            .arg(conf)
            .args(["--bind", "127.0.0.1", self.port_option(), &port, "--dir"])
            .arg(&folder)
            .args(["--repl-diskless-sync-delay", "0"]);
        if let Some(primary) = follows {
            command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
        }
        Process::spawn(&name, command, self.dir.join(format!("{name}.log")))
    }

    fn sentinel(&self, port: u16) -> Process {
        let own = std::fs::read_to_string(self.keys().join("sentinel/sentinel.conf"));
        let text = self
            .profile("sentinel.conf")
            .replace("port 26379", &format!("port {port}"))
            .replace("redis-1 6379", &format!("127.0.0.1 {}", self.redis[0]))
            .replace("mymaster 5000", "mymaster 1000")
            .replace("mymaster 60000", "mymaster 5000");
        let folder = self.dir.join(format!("sentinel-{port}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("sentinel.conf");
        let text = format!(
            "{text}\n{}\ndir {}\n",
            own.expect("its own"),
            folder.display()
        );
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        Process::spawn("sentinel", command, folder.join("log"))
    }

    /// Secret of a folder that is made for servers or a role.
    fn secret(&self, path: &str) -> String {
        let text = std::fs::read_to_string(self.keys().join(path)).expect(path);
        text.trim().to_owned()
    }

    /// Answer of a redis-server or a sentinel to a command, by a user.
    fn ask(&self, port: u16, user: Option<(&str, &str)>, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port.to_string()]);
        if let Some(authority) = &self.authority {
            command.args(["--tls", "--cacert", &authority.file("ca.pem")]);
        }
        if let Some((name, password)) = user {
            command.args(["--no-auth-warning", "--user", name, "--pass", password]);
        }
        let output = command.args(args).output().expect("redis-cli");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// Anybody publishes views, by one of the nats-servers.
    async fn publish(&self, node: usize, views: std::ops::Range<usize>) {
        let (urls, _) = self.urls();
        let url = urls.split(',').nth(node).expect("a server");
        let mut server = NatsServer::from(url);
        server.tls.ca = self
            .authority
            .as_ref()
            .map(|authority| authority.file("ca.pem").into());
        let anybody = Bus::connect(server, "test").await.expect("let in");
        for n in views {
            let view = format!("{{\"page\":\"/{n}\",\"visitor\":\"v\"}}");
            let sent = anybody.publish_plain("web.page.viewed".to_owned(), view.into());
            sent.await.expect("published");
        }
        anybody.flush().await;
    }
}

async fn all_are_counted(cluster: &mut Cluster, keys: &Path, views: usize) {
    until("all views are counted", async || {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut audit = part(cluster, keys, "operator", "oncue", &["audit"]);
        let code = audit.exit().await;
        let log = audit.log();
        let line = log.lines().find(|line| line.starts_with("count-views"))?;
        let numbers: Vec<&str> = line.split_whitespace().collect();
        let views = views.to_string();
        (code == Some(0) && numbers[1..=2] == [&views, &views]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn servers_that_stand_in_for_each_other_are_locked_and_fail_over() {
    fail_over(None).await;
}

#[tokio::test]
async fn they_fail_over_encrypted_by_the_settings_that_the_profile_names() {
    let authority = Authority::new("ha");
    authority.sign("server");
    fail_over(Some(authority)).await;
}

async fn fail_over(authority: Option<Authority>) {
    // Streams that say nothing, or stand in no file, have as many copies.
    let small = ["files", "objects", "dlq"]
        .map(|stream| format!("[streams.{stream}]\nmax_bytes = \"64MB\"\n"));
    let app = format!(
        "[functions.count-views]\n{QUICK_REDELIVERY}\n[streams.web]\nreplicas = 3\nmax_bytes = \"64MB\"\n{}",
        small.concat()
    );
    let mut cluster = Cluster::new(&app).await;
    if let Some(authority) = &authority {
        for store in ["NATS", "REDIS"] {
            cluster.set(&format!("ONCUE_{store}_CA"), &authority.file("ca.pem"));
        }
    }
    let mut servers = Servers::new(&cluster.dir, authority);
    let (nats, redis) = servers.urls();
    cluster.set("ONCUE_NATS_URL", &nats);
    cluster.set("ONCUE_REDIS_URL", &redis);
    let keys = servers.keys();
    let folder = keys.display().to_string();
    let written = cluster.output("oncue", &["rights", "--write", &folder, "--replicas"]);
    assert!(written.status.success(), "{written:?}");
    servers.start().await;
    until("the layout is there", async || {
        let mut apply = part(&mut cluster, &keys, "operator", "oncue", &["apply"]);
        (apply.exit().await == Some(0)).then_some(())
    })
    .await;
    let worker = part(&mut cluster, &keys, "fn.count-views", "count-views", &[]);
    worker.wait_for_line("\"message\":\"ready\"").await;
    servers.publish(1, 0..VIEWS / 2).await;
    all_are_counted(&mut cluster, &keys, VIEWS / 2).await;
    strangers_are_refused(&servers).await;
    until("every stream is on all three", async || {
        let mut doctor = part(&mut cluster, &keys, "operator", "oncue", &["doctor"]);
        doctor.exit().await;
        let said = doctor.log();
        said.contains("every stream has at least 3 copies, all up to date")
            .then_some(())
    })
    .await;

    // One of three, and the primary: sentinels name the other, and the first follows it once it is back.
    servers.running[0].kill();
    servers.running[3].kill();
    let client = servers.secret("sentinel/clients.redis");
    let of_client = Some(("oncue", client.as_str()));
    let second = servers.redis[1].to_string();
    until("sentinels name the other", async || {
        let asked = ["SENTINEL", "get-master-addr-by-name", "mymaster"];
        servers
            .ask(servers.sentinels[0], of_client, &asked)
            .contains(&second)
            .then_some(())
    })
    .await;
    servers.running[3] = servers.redis(0, None);
    // Whoever publishes without an ack needs a stream that has elected its leader.
    all_are_counted(&mut cluster, &keys, VIEWS / 2).await;
    servers.publish(2, VIEWS / 2..VIEWS).await;
    all_are_counted(&mut cluster, &keys, VIEWS).await;
    let operator = servers.secret("operator/operator.redis");
    until("the first follows", async || {
        servers
            .ask(
                servers.redis[1],
                Some(("app.operator", &operator)),
                &["INFO", "replication"],
            )
            .contains("state=online")
            .then_some(())
    })
    .await;
    let mut doctor = part(&mut cluster, &keys, "operator", "oncue", &["doctor"]);
    doctor.exit().await;
    let said = doctor.log();
    assert!(said.contains("all 3 sentinels name it"), "{said}");
    for locked in ["NATS is locked", "Redis is locked"] {
        assert!(said.contains(locked), "{said}");
    }
    // Whichever server is lost, each stream goes on.
    assert!(!said.contains("JetStream does not answer"), "{said}");
}

/// Nobody gets in who has nothing to prove, and who is one of them does no more than that needs.
async fn strangers_are_refused(servers: &Servers) {
    let (sentinel, redis) = (servers.sentinels[0], servers.redis[1]);
    let said = servers.ask(sentinel, None, &["SENTINEL", "masters"]);
    assert!(said.contains("NOAUTH"), "{said}");
    let client = servers.secret("sentinel/clients.redis");
    let of_client = Some(("oncue", client.as_str()));
    for order in [
        &["SENTINEL", "FAILOVER", "mymaster"][..],
        &["SENTINEL", "SET", "mymaster", "quorum", "1"],
        &["SENTINEL", "MONITOR", "evil", "127.0.0.1", "1", "1"],
        &["SENTINEL", "CONFIG", "GET", "*"],
    ] {
        let said = servers.ask(sentinel, of_client, order);
        assert!(said.contains("NOPERM"), "{order:?}: {said}");
    }
    let replica = servers.secret("replica/replica.redis");
    let sentinels = servers.secret("sentinel/sentinel.redis");
    for user in [("replica", replica.as_str()), ("sentinel", &sentinels)] {
        for order in [
            &["KEYS", "*"][..],
            &["GET", "x"],
            &["ACL", "LIST"],
            &["CONFIG", "GET", "*"],
        ] {
            let said = servers.ask(redis, Some(user), order);
            assert!(said.contains("NOPERM"), "{user:?} {order:?}: {said}");
        }
    }
    let said = servers.ask(redis, None, &["PSYNC", "?", "-1"]);
    assert!(said.contains("NOAUTH"), "{said}");
    // A server that proves nothing is no part of the cluster, whatever certificate it has.
    let conf = servers.dir.join("stranger.conf");
    let tls = servers.authority.as_ref().map(|authority| {
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?} }}",
            authority.file("server.pem"),
            authority.file("server.key"),
            authority.file("ca.pem")
        )
    });
    let text = format!(
        "jetstream {{}}\ncluster {{ name: oncue, routes: [\"nats://127.0.0.1:{}\"]\n{} }}\n",
        servers.routes[0],
        tls.unwrap_or_default()
    );
    std::fs::write(&conf, text).expect("written");
    let mut command = Command::new("nats-server");
    let port = free_port();
    command
        .arg("-c")
        .arg(&conf)
        .args(["-n", "stranger", "-a", "127.0.0.1", "-p", &port.to_string()])
        .args([
            "--cluster",
            &format!("nats://127.0.0.1:{}", free_port()),
            "-sd",
        ])
        .arg(servers.dir.join("stranger"));
    let stranger = Process::spawn("stranger", command, servers.dir.join("stranger.log"));
    stranger.wait_for_line("Authorization Violation").await;
}
