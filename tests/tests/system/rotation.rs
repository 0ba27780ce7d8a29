//! Everything by which programs and servers know each other is replaced while events flow: keys, passwords and certificates. And
//! whoever is shut out does nothing more. The long form is `make rotation`.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nkeys::KeyPair;
use oncue_core::bus::Bus;
use oncue_core::config::NatsServer;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, free_port, until, wait_for_port};
use serde_json::Value;

use crate::connections::Authority;
use crate::locks::part;

/// Views that are published meanwhile, unless `EVENTS` says otherwise.
const EVENTS: usize = 1_000;
/// Views in a second.
const RATE: usize = 400;
const PAGES: usize = 100;
/// Time in which whoever is shut out must have stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// Servers that want keys, passwords and certificates, and who has them.
struct House {
    cluster: Cluster,
    keys: PathBuf,
    authority: Authority,
    nats_port: u16,
    redis_port: u16,
    nats: Process,
    _redis: Process,
}

impl House {
    async fn start() -> Self {
        let app = format!(
            "[functions.count-views]\n{QUICK_REDELIVERY}\n[functions.rank-pages]\n{QUICK_REDELIVERY}\n"
        );
        let mut cluster = Cluster::new(&app).await;
        let authority = Authority::new("rotation");
        authority.sign("server");
        authority.sign("client");
        let (nats_port, redis_port) = (free_port(), free_port());
        cluster.set("ONCUE_NATS_URL", &format!("tls://127.0.0.1:{nats_port}"));
        cluster.set(
            "ONCUE_REDIS_URL",
            &format!("rediss://127.0.0.1:{redis_port}"),
        );
        for store in ["NATS", "REDIS"] {
            for (part, file) in [
                ("CA", "ca.pem"),
                ("CERTIFICATE", "client.pem"),
                ("KEY", "client.key"),
            ] {
                cluster.set(&format!("ONCUE_{store}_{part}"), &authority.file(file));
            }
        }
        let keys = cluster.dir.join("keys");
        let written = cluster.output("oncue", &["rights", "--write", &keys.display().to_string()]);
        assert!(written.status.success(), "{written:?}");
        let nats = nats(&cluster, &authority, nats_port);
        let redis = redis(&cluster, &authority, redis_port);
        wait_for_port(nats_port).await;
        wait_for_port(redis_port).await;
        let mut house = Self {
            cluster,
            keys,
            authority,
            nats_port,
            redis_port,
            nats,
            _redis: redis,
        };
        let (code, said) = house.operator(&["apply"]).await;
        assert_eq!(code, Some(0), "{said}");
        house
    }

    fn worker(&mut self, function: &str) -> Process {
        let role = format!("fn.{function}");
        part(&mut self.cluster, &self.keys, &role, function, &[])
    }

    /// Exit code and output of a command, as the operator.
    async fn operator(&mut self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = part(&mut self.cluster, &self.keys, "operator", "oncue", args);
        (command.exit().await, command.log())
    }

    /// Bus of somebody with a certificate, and with the key of a role where one is named.
    async fn bus(&self, role: Option<&str>) -> Bus {
        let mut server = NatsServer::from(format!("tls://127.0.0.1:{}", self.nats_port));
        server.tls = self.cluster.config().nats.tls;
        server.credentials = role.map(|role| self.file(role, "nk"));
        Bus::connect(server, "test").await.expect("let in")
    }

    fn file(&self, role: &str, kind: &str) -> PathBuf {
        self.keys.join(role).join(format!("{role}.{kind}"))
    }

    fn secret(&self, role: &str, kind: &str) -> String {
        let text = std::fs::read_to_string(self.file(role, kind)).expect("a secret");
        text.trim().to_owned()
    }

    /// Has nats-server read its accounts after a change.
    fn change_accounts(&self, change: impl FnOnce(String) -> String) {
        let file = self.keys.join("servers/accounts.conf");
        let text = std::fs::read_to_string(&file).expect("the accounts");
        std::fs::write(&file, change(text)).expect("written");
        self.nats.signal("HUP");
    }

    /// A command to Redis as the operator.
    fn redis(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args([
                "-p",
                &self.redis_port.to_string(),
                "--tls",
                "--no-auth-warning",
            ])
            .args(["--cacert", &self.authority.file("ca.pem")])
            .args(["--cert", &self.authority.file("client.pem")])
            .args(["--key", &self.authority.file("client.key")])
            .args([
                "--user",
                "app.operator",
                "--pass",
                &self.secret("operator", "redis"),
            ])
            .args(args)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Replaces key and password of a role as deploy/SECURITY.md says: both are good for a while, then the old ones no more.
    async fn replace_credentials(&self, role: &str) {
        let user = format!("app.{role}");
        let old = KeyPair::from_seed(&self.secret(role, "nk"))
            .expect("a seed")
            .public_key();
        let key = KeyPair::new_user();
        let new = key.public_key();
        self.change_accounts(|text| {
            let line = text
                .lines()
                .find(|line| line.contains(&old))
                .expect("its user");
            let beside = format!("{line}\n{}", line.replace(&old, &new));
            text.replace(line, &beside)
        });
        let old_password = self.secret(role, "redis");
        let password = key.seed().expect("a seed");
        assert_eq!(
            self.redis(&["ACL", "SETUSER", &user, &format!(">{password}")]),
            "OK"
        );
        replace(&self.file(role, "nk"), &key.seed().expect("a seed"));
        replace(&self.file(role, "redis"), &password);
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.change_accounts(|text| {
            let lines = text.lines().filter(|line| !line.contains(&old));
            lines.map(|line| format!("{line}\n")).collect()
        });
        assert_eq!(
            self.redis(&["ACL", "SETUSER", &user, &format!("<{old_password}")]),
            "OK"
        );
        // So that it has to come back with what its file holds now.
        self.redis(&["CLIENT", "KILL", "USER", &user]);
    }

    /// Replaces the certificates of servers and clients.
    fn replace_certificates(&self) {
        let before = std::fs::read(self.authority.file("client.pem")).expect("a certificate");
        self.authority.sign("server");
        self.authority.sign("client");
        let after = std::fs::read(self.authority.file("client.pem")).expect("a certificate");
        assert_ne!(before, after);
        self.nats.signal("HUP");
        let pem = self.authority.file("server.pem");
        let key = self.authority.file("server.key");
        let set = ["CONFIG", "SET", "tls-cert-file", &pem, "tls-key-file", &key];
        assert_eq!(self.redis(&set), "OK");
    }

    /// Sum of what each page was viewed.
    fn counted(&self) -> usize {
        let sum = "local sum = 0 for _, row in ipairs(redis.call('KEYS', 'app:{p*}:s:pages:*')) do \
                   sum = sum + redis.call('HGET', row, 'views') end return sum";
        self.redis(&["EVAL", sum, "0"]).parse().expect("a number")
    }

    async fn until_all_is_applied(&mut self, views: usize) {
        until("all is applied", async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (code, text) = self.operator(&["audit"]).await;
            let line = text.lines().find(|line| line.starts_with("count-views"))?;
            let line = line.replace(',', "");
            let numbers: Vec<&str> = line.split_whitespace().collect();
            let views = views.to_string();
            (code == Some(0) && numbers[1] == views && numbers[2] == views).then_some(())
        })
        .await;
    }
}

fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).expect("written");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("ours");
    std::fs::rename(beside, file).expect("replaced");
}

fn nats(cluster: &Cluster, authority: &Authority, port: u16) -> Process {
    let conf = cluster.dir.join("house.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\ninclude \"keys/servers/accounts.conf\"\n\
         tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        cluster.dir.join("house-nats").display(),
        authority.file("server.pem"),
        authority.file("server.key"),
        authority.file("ca.pem"),
    );
    std::fs::write(&conf, text).expect("written");
    let args = ["-c", &conf.display().to_string()];
    cluster.spawn_program("nats-server", "nats-server".as_ref(), &args)
}

fn redis(cluster: &Cluster, authority: &Authority, port: u16) -> Process {
    let folder = cluster.dir.join("house-redis");
    std::fs::create_dir_all(&folder).expect("a folder");
    let settings = [
        ("--port", "0".to_owned()),
        ("--bind", "127.0.0.1".to_owned()),
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", authority.file("server.pem")),
        ("--tls-key-file", authority.file("server.key")),
        ("--tls-ca-cert-file", authority.file("ca.pem")),
        ("--dir", folder.display().to_string()),
        ("--appendonly", "yes".to_owned()),
        (
            "--aclfile",
            cluster
                .dir
                .join("keys/servers/redis.acl")
                .display()
                .to_string(),
        ),
    ];
    let args: Vec<&str> = settings
        .iter()
        .flat_map(|(name, value)| [*name, value])
        .collect();
    cluster.spawn_program("redis-server", "redis-server".as_ref(), &args)
}

/// Publishes views at a steady rate, by somebody who has no key and so none that is replaced.
async fn load(bus: Bus, events: usize) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for from in (0..events).step_by(RATE / 10) {
        ticks.tick().await;
        for n in from..events.min(from + RATE / 10) {
            let view = format!("{{\"page\":\"/{}\",\"visitor\":\"{n}\"}}", n % PAGES);
            bus.publish_plain("web.page.viewed".to_owned(), view.into())
                .await
                .expect("published");
        }
    }
    // An answer comes behind all that was published.
    bus.flush().await;
}

#[tokio::test]
async fn every_credential_and_certificate_is_replaced_under_load_and_one_is_revoked() {
    let events = std::env::var("EVENTS").ok();
    let events = events.map_or(EVENTS, |text| text.parse().expect("a number"));
    let mut house = House::start().await;
    let mut workers = vec![
        house.worker("count-views"),
        house.worker("count-views"),
        house.worker("rank-pages"),
    ];
    for worker in &workers {
        worker.wait_for_line("\"message\":\"ready\"").await;
    }
    let publishing = tokio::spawn(load(house.bus(None).await, events));
    let mut rounds = 0;
    let mut seeds = BTreeSet::new();
    let mut passwords = BTreeSet::new();
    while rounds < 2 || !publishing.is_finished() {
        for role in ["fn.count-views", "fn.rank-pages", "operator"] {
            seeds.insert(house.secret(role, "nk"));
            passwords.insert((role, house.secret(role, "redis")));
            house.replace_credentials(role).await;
            house.replace_certificates();
        }
        let victim = rounds % 2;
        workers[victim].kill();
        workers[victim] = house.worker("count-views");
        rounds += 1;
    }
    publishing.await.expect("all are published");
    assert_eq!(seeds.len(), 3 * rounds, "each time another");
    println!(
        "{events} events, {rounds} rounds of three credentials and all certificates, {rounds} kills"
    );
    house.until_all_is_applied(events).await;
    assert_eq!(house.counted(), events, "lost or doubled");
    // All that was replaced is refused.
    for seed in &seeds {
        let file = house.cluster.dir.join("old.nk");
        replace(&file, seed);
        let mut server = NatsServer::from(format!("tls://127.0.0.1:{}", house.nats_port));
        server.tls = house.cluster.config().nats.tls;
        server.credentials = Some(file);
        assert!(
            Bus::connect(server, "old").await.is_err(),
            "an old key is good"
        );
    }
    for (role, password) in &passwords {
        let said = house.redis(&["AUTH", &format!("app.{role}"), password]);
        assert!(said.starts_with("WRONGPASS"), "{role}: {said}");
    }
    revoked(&mut house, events).await;
    for worker in &mut workers {
        assert!(worker.is_alive(), "{}", worker.log());
    }
}

/// A function is shut out: within seconds its workers do nothing more, and once it is let in again they go on where they were.
async fn revoked(house: &mut House, events: usize) {
    let key = KeyPair::from_seed(&house.secret("fn.count-views", "nk")).expect("a seed");
    let key = key.public_key();
    let accounts = house.keys.join("servers/accounts.conf");
    let before = std::fs::read_to_string(&accounts).expect("the accounts");
    let began = Instant::now();
    house.change_accounts(|text| {
        let lines = text.lines().filter(|line| !line.contains(&key));
        lines.map(|line| format!("{line}\n")).collect()
    });
    assert_eq!(house.redis(&["ACL", "DELUSER", "app.fn.count-views"]), "1");
    let bus = house.bus(Some("operator")).await;
    let waiting = async || {
        let asked = bus
            .api("CONSUMER.INFO.web.app_count-views", &Value::Null)
            .await;
        asked.ok().and_then(|info| info["num_waiting"].as_u64())
    };
    until("nobody pulls any more", async || {
        (waiting().await == Some(0)).then_some(())
    })
    .await;
    assert!(began.elapsed() < STOPPED, "{:?}", began.elapsed());
    let anybody = house.bus(None).await;
    load(anybody, PAGES).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(house.counted(), events, "it goes on");
    let asked = bus.api("CONSUMER.INFO.web.app_count-views", &Value::Null);
    let pending = asked.await.expect("its consumer")["num_pending"].as_u64();
    assert_eq!(pending, Some(PAGES as u64), "they wait");
    house.change_accounts(|_| before);
    // The file has its rights, and the password that it had at first.
    let users = std::fs::read_to_string(house.keys.join("servers/redis.acl")).expect("users");
    let user = users
        .lines()
        .find(|line| line.starts_with("user app.fn.count-views "))
        .expect("its user");
    let password = format!(">{}", house.secret("fn.count-views", "redis"));
    let mut again = vec!["ACL", "SETUSER"];
    again.extend(user.split_whitespace().skip(1));
    again.extend(["resetpass", &password]);
    assert_eq!(house.redis(&again), "OK");
    house.until_all_is_applied(events + PAGES).await;
    assert_eq!(house.counted(), events + PAGES);
}
