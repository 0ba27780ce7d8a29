//! Apps of several teams on one NATS and one Redis, each with its own accounts and users: whatever credential of one app
//! is tried on the other's, in whatever way, comes to nothing. Not even the operator's.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use oncue_tests::cluster::{Cluster, Process, free_port, must_fail, until, wait_for_port};

use crate::locks::{Raw, Wire};

const APPS: [&str; 2] = ["shop", "blog"];
const VIEWS: usize = 30;
/// Owner of Redis, who is of no app.
const OWNER: &str = "0wner";
/// Everybody who has credentials of an app.
const ROLES: [&str; 5] = [
    "operator",
    "console",
    "gateway",
    "fn.count-views",
    "fn.rank-pages",
];

/// Servers of nobody's, with two apps on them.
struct House {
    cluster: Cluster,
    nats: u16,
    redis: u16,
    servers: PathBuf,
    processes: Vec<Process>,
}

impl House {
    async fn open() -> Self {
        let mut cluster = Cluster::new("").await;
        let (nats, redis) = (free_port(), free_port());
        cluster.set("ONCUE_NATS_URL", &format!("nats://127.0.0.1:{nats}"));
        cluster.set("ONCUE_REDIS_URL", &format!("redis://127.0.0.1:{redis}"));
        let servers = cluster.dir.join("servers");
        let mut house = Self {
            cluster,
            nats,
            redis,
            servers,
            processes: Vec::new(),
        };
        for app in APPS {
            house.write(app, &["--max-storage", "40GiB", "--max-connections", "6"]);
        }
        let owner = format!("user owner on >{OWNER} ~* &* +@all\n");
        std::fs::write(house.servers.join("owner.acl"), owner).expect("written");
        house.write(
            APPS[0],
            &["--max-storage", "40GiB", "--max-connections", "6"],
        );
        house.start_servers().await;
        for app in APPS {
            house.load(app);
            let mut apply = house.part(app, "operator", "oncue", &["apply"]);
            assert_eq!(apply.exit().await, Some(0), "{}", apply.log());
            for function in ["count-views", "rank-pages"] {
                let worker = house.part(app, &format!("fn.{function}"), function, &[]);
                worker.wait_for_line("\"message\":\"ready\"").await;
                house.processes.push(worker);
            }
        }
        house
    }

    fn folder(&self, app: &str) -> PathBuf {
        self.cluster.dir.join(app)
    }

    /// Writes the credentials of an app, and its part of what the servers read.
    fn write(&self, app: &str, quota: &[&str]) {
        let folder = self.folder(app);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("oncue.toml");
        let text =
            format!("[app]\nname = \"{app}\"\n[functions.count-views]\n[functions.rank-pages]\n");
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let keys = folder.join("keys").display().to_string();
        let servers = self.servers.display().to_string();
        let args = [
            "--config",
            &config,
            "rights",
            "--write",
            &keys,
            "--servers",
            &servers,
        ];
        let output = self.cluster.output("oncue", &[&args[..], quota].concat());
        assert!(output.status.success(), "{output:?}");
    }

    async fn start_servers(&mut self) {
        let conf = self.servers.join("nats.conf");
        let store = self.cluster.dir.join("shared-nats");
        let text = format!(
            "jetstream {{ store_dir: \"{}\", max_file_store: 100GB }}\ninclude \"accounts.conf\"\n",
            store.display()
        );
        std::fs::write(&conf, text).expect("written");
        let conf = conf.display().to_string();
        let port = self.nats.to_string();
        let args = ["-c", &conf, "-a", "127.0.0.1", "-p", &port];
        let nats = self
            .cluster
            .spawn_program("nats-server", "nats-server".as_ref(), &args);
        let data = self.cluster.dir.join("shared-redis");
        std::fs::create_dir(&data).expect("a folder");
        let data = data.display().to_string();
        let acl = self.servers.join("redis.acl").display().to_string();
        let port = self.redis.to_string();
        let args = [
            "--port",
            &port,
            "--dir",
            &data,
            "--appendonly",
            "yes",
            "--aclfile",
            &acl,
        ];
        let redis = self
            .cluster
            .spawn_program("redis-server", "redis-server".as_ref(), &args);
        wait_for_port(self.nats).await;
        wait_for_port(self.redis).await;
        self.processes.extend([nats, redis]);
    }

    /// Loads an app's functions as the owner of Redis does.
    fn load(&self, app: &str) {
        let code = std::fs::File::open(self.servers.join(format!("{app}.lua"))).expect("a library");
        let port = self.redis.to_string();
        let output = std::process::Command::new("redis-cli")
            .args([
                "-p",
                &port,
                "--user",
                "owner",
                "--pass",
                OWNER,
                "--no-auth-warning",
                "-x",
            ])
            .args(["FUNCTION", "LOAD", "REPLACE"])
            .stdin(Stdio::from(code))
            .output();
        let output = output.expect("redis-cli");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with("oncue_"), "{said}");
    }

    /// A program with the credentials of one role and nothing else.
    fn part(&self, app: &str, role: &str, binary: &str, args: &[&str]) -> Process {
        let folder = self.folder(app).join("parts").join(role);
        if !folder.exists() {
            std::fs::create_dir_all(folder.join(".oncue")).expect("a folder");
            let config = self.folder(app).join("oncue.toml");
            std::fs::copy(config, folder.join("oncue.toml")).expect("copied");
            let keys = self.folder(app).join("keys").join(role);
            std::os::unix::fs::symlink(keys, folder.join(".oncue/keys")).expect("mounted");
        }
        let config = folder.join("oncue.toml").display().to_string();
        self.cluster
            .spawn_with(binary, args, &[("ONCUE_CONFIG", config)])
    }

    fn seed(&self, app: &str, role: &str) -> PathBuf {
        let folder = self.folder(app).join("keys").join(role);
        folder.join(format!("{role}.nk"))
    }

    async fn wire(&self, app: &str, role: &str) -> Wire {
        let folder = self.folder(app).join("keys").join(role);
        let password = std::fs::read_to_string(folder.join(format!("{role}.redis")));
        let mut wire = Wire::connect(self.redis).await;
        let user = format!("{app}.{role}");
        let said = wire
            .say(&["AUTH", &user, password.expect("a password").trim()])
            .await;
        assert_eq!(said, "+OK\r\n", "{user}");
        wire
    }

    /// Publishes with the credentials that an app gives to everybody.
    async fn publish(&self, app: &str, number: usize) {
        let mut raw = Raw::connect(self.nats, Some(&self.seed(app, "public"))).await;
        let view = format!("{{\"page\":\"/{app}-{number}\",\"visitor\":\"secret-of-{app}\"}}");
        raw.publish("web.page.viewed", "", &view).await;
        let said = raw.done().await;
        assert!(!said.contains("-ERR"), "{said}");
    }

    async fn audited(&self, app: &str, views: usize) {
        until("all views are counted", async || {
            let mut audit = self.part(
                app,
                "operator",
                "oncue",
                &["audit", "count-views", "--json"],
            );
            let code = audit.exit().await;
            let applied = format!("\"applied\":{views}");
            let text: String = audit.log().split_whitespace().collect();
            (code == Some(0) && text.contains(&applied)).then_some(())
        })
        .await;
    }
}

/// Commands of Redis by which somebody of one app would get at the other's, or at the whole server.
fn commands() -> Vec<Vec<String>> {
    let lines = [
        "GET blog:id-secret",
        "SET blog:id-secret x",
        "HGETALL blog:functions",
        "HSET blog:functions count-views x",
        "HSET blog:{p1}:s:pages:x views 1000",
        "DEL blog:d:count-views",
        "UNLINK blog:d:count-views",
        "ZADD blog:u:count-views 1 x",
        "DUMP blog:functions",
        "RESTORE blog:functions 0 x REPLACE",
        "COPY blog:functions shop:functions",
        "RENAME shop:functions blog:functions",
        "OBJECT ENCODING blog:functions",
        "MEMORY USAGE blog:functions",
        "TYPE blog:functions",
        "EXPIRE blog:functions 1",
        "SUNIONSTORE shop:x blog:l:web.page.viewed",
        "SORT blog:l:web.page.viewed STORE shop:x",
        "BITOP NOT shop:x blog:id-secret",
        "WATCH blog:functions",
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG GET dir",
        "CONFIG SET dir /tmp",
        "FUNCTION DELETE x",
        "FUNCTION FLUSH",
        "FUNCTION RESTORE x",
        "FUNCTION DUMP",
        "SCRIPT FLUSH",
        "ACL LIST",
        "ACL GETUSER blog.operator",
        "ACL SETUSER shop.operator ~* +@all",
        "ACL SAVE",
        "ACL LOAD",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "REPLICAOF NO ONE",
        "MONITOR",
        "SYNC",
        "PSYNC ? -1",
        "BGSAVE",
        "BGREWRITEAOF",
        "SHUTDOWN NOSAVE",
        "SWAPDB 0 1",
        "MODULE LIST",
        "MIGRATE 127.0.0.1 1 blog:functions 0 1000",
        "SUBSCRIBE __keyspace@0__:blog",
        "PUBLISH blog x",
        "SLOWLOG GET",
        "LATENCY RESET",
    ];
    let words = |line: &&str| line.split(' ').map(str::to_owned).collect();
    let mut commands: Vec<Vec<String>> = lines.iter().map(words).collect();
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let library = "#!lua name=oncue_evil\nredis.register_function('evil', function() return redis.call('FLUSHALL') end)";
    commands.push(owned(&["FUNCTION", "LOAD", "REPLACE", library]));
    commands.push(owned(&[
        "EVAL",
        "return redis.call('GET', 'blog:id-secret')",
        "0",
    ]));
    commands
}

/// Tries all of it as one app's roles, but for the words that this role may say of its own.
async fn redis_keeps_them_apart(house: &House) -> usize {
    let mut refused = 0;
    for role in ROLES {
        let mut wire = house.wire("shop", role).await;
        for command in commands() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let said = wire.say(&words).await;
            assert!(said.starts_with("-NOPERM"), "{role}: {words:?}: {said}");
            refused += 1;
        }
        // The other's functions can be called, with the caller's own rights: what they would touch is refused.
        let listed = house.owner().await.say(&["FUNCTION", "LIST"]).await;
        let names = listed
            .split("\r\n")
            .filter(|word| word.starts_with("oncue_tend_"));
        for name in names.filter(|name| !name.contains(&house.version("shop"))) {
            let said = wire
                .say(&["FCALL", name, "1", "blog:d:count-views", "10"])
                .await;
            assert!(said.contains("NOPERM"), "{role}: {name}: {said}");
            refused += 1;
        }
    }
    refused
}

impl House {
    /// Rights are compared by the owner of Redis, who alone sees its users.
    async fn compares_its_rights(&self, app: &str) {
        let folder = self.folder(app);
        let keys = folder.join("keys").display().to_string();
        let config = folder.join("oncue.toml").display().to_string();
        let redis = format!("redis://owner:{OWNER}@127.0.0.1:{}", self.redis);
        let env = [("ONCUE_CONFIG", config), ("ONCUE_REDIS_URL", redis)];
        let args = ["rights", "--check", "--keys", &keys];
        let mut check = self.cluster.spawn_with("oncue", &args, &env);
        assert_eq!(check.exit().await, Some(0), "{}", check.log());
        assert!(!check.log().contains("not asked"), "{}", check.log());
        let mut check = self.part(app, "operator", "oncue", &["rights", "--check"]);
        assert_ne!(check.exit().await, Some(0), "{}", check.log());
        assert!(
            check.log().contains("the owner of Redis"),
            "{}",
            check.log()
        );
    }

    async fn owner(&self) -> Wire {
        let mut wire = Wire::connect(self.redis).await;
        assert_eq!(wire.say(&["AUTH", "owner", OWNER]).await, "+OK\r\n");
        wire
    }

    /// Version of an app's library, which its names end with.
    fn version(&self, app: &str) -> String {
        let code = std::fs::read_to_string(self.servers.join(format!("{app}.lua")));
        let code = code.expect("a library");
        let name = code
            .lines()
            .next()
            .and_then(|line| line.split("oncue_").nth(1));
        name.expect("a name").trim().to_owned()
    }
}

/// What the other's accounts would be asked, taken or told.
const SUBJECTS: [&str; 12] = [
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.ACCOUNT.blog.CONNZ",
    "$SYS.REQ.ACCOUNT.blog.SUBSZ",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$JS.API.CONSUMER.INFO.web.blog_count-views",
    "$JS.APX.CONSUMER.INFO.web.blog_count-views",
    "$JS.API.CONSUMER.MSG.NEXT.web.blog_count-views",
    "$JS.APX.CONSUMER.MSG.NEXT.web.blog_count-views",
    "$JS.API.CONSUMER.DELETE.web.blog_count-views",
    "$JS.API.DIRECT.GET.KV_oncue.$KV.oncue.blog.id-secret",
    "$JS.ACK.web.blog_count-views.1.1.1.1.0",
    "oncue.survived.blog_count-views",
];

async fn nats_keeps_them_apart(house: &House) -> usize {
    let mut tried = 0;
    for role in ROLES {
        let mut raw = Raw::connect(house.nats, Some(&house.seed("shop", role))).await;
        for (number, subject) in [">", "web.>", "$JS.>", "$SYS.>", "_INBOX.>", "$SRV.>"]
            .iter()
            .enumerate()
        {
            raw.write(&format!("SUB {subject} {}\r\n", 10 + number))
                .await;
        }
        raw.done().await;
        for subject in SUBJECTS {
            let payload = r#"{"no_wait":true,"batch":1}"#;
            raw.publish(subject, "_INBOX.raw.x", payload).await;
            // Under another's name as the place of the answer.
            raw.publish(
                "web.page.viewed",
                subject,
                r#"{"page":"/by-trick","visitor":"t"}"#,
            )
            .await;
            tried += 2;
        }
        house.publish("blog", VIEWS + tried).await;
        let heard = raw.done().await;
        // It may be told of its own account, in which nobody of that name is, and of no other.
        for of_other in [
            "secret-of-blog",
            "\"acc\":\"blog",
            "\"account\":\"blog",
            "\"name\":\"blog_",
        ] {
            assert!(!heard.contains(of_other), "{role}: {of_other} in {heard}");
        }
    }
    tried
}

#[tokio::test]
async fn no_credential_of_one_app_gets_at_the_other() {
    let house = House::open().await;
    for number in 0..VIEWS {
        for app in APPS {
            house.publish(app, number).await;
        }
    }
    for app in APPS {
        house.audited(app, VIEWS).await;
    }
    // Nobody comes in without a name.
    let mut anybody = Raw::connect(house.nats, None).await;
    assert_eq!(anybody.try_done().await, None, "an anonymous client");
    let refused = redis_keeps_them_apart(&house).await;
    let tried = nats_keeps_them_apart(&house).await;
    assert!(refused > 250 && tried > 100, "{refused} {tried}");
    // All that was published there is counted, and nothing else.
    house.audited("blog", VIEWS + ROLES.len()).await;
    let mut doctor = house.part("blog", "operator", "oncue", &["doctor"]);
    doctor.exit().await;
    assert!(doctor.log().contains("NATS is locked"), "{}", doctor.log());
    for app in APPS {
        house.compares_its_rights(app).await;
    }
    // The operator's day needs no more than that.
    for args in [
        &["ps"][..],
        &["audit"],
        &["state", "ls", "pages"],
        &["dlq", "ls"],
        &["apply"],
    ] {
        let mut command = house.part("shop", "operator", "oncue", args);
        let code = command.exit().await;
        assert!(
            !command.log().contains("NOPERM") && code.is_some_and(|code| code < 2),
            "{args:?}: {code:?} {}",
            command.log()
        );
    }
    // What takes the whole of the server is its owner's.
    let copy = house.cluster.dir.join("copy").display().to_string();
    let mut backup = house.part("shop", "operator", "oncue", &["backup", &copy]);
    assert_ne!(backup.exit().await, Some(0));
    assert!(backup.log().contains("NOPERM"), "{}", backup.log());
}

/// The broken twin: an operator as on a server of the app's own.
#[tokio::test]
async fn an_operator_with_all_rights_is_noticed() {
    let house = House::open().await;
    let mut owner = house.owner().await;
    let given = owner
        .say(&["ACL", "SETUSER", "shop.operator", "~*", "+get"])
        .await;
    assert_eq!(given, "+OK\r\n");
    let said = must_fail("all rights", async {
        redis_keeps_them_apart(&house).await;
    })
    .await;
    assert!(
        said.contains("operator") && said.contains("id-secret"),
        "{said}"
    );
}

#[tokio::test]
async fn an_app_takes_no_more_than_its_quota() {
    let house = House::open().await;
    // Six for each function, and its worker has some of them.
    let seed = house.seed("shop", "fn.count-views");
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(Raw::connect(house.nats, Some(&seed)).await);
    }
    let mut open = 0;
    for raw in &mut held {
        open += usize::from(raw.try_done().await.is_some());
    }
    assert!(open < 6, "as many connections as it likes");
    // The other app's are its own.
    let mut other = Raw::connect(house.nats, Some(&house.seed("blog", "fn.count-views"))).await;
    assert!(other.try_done().await.is_some());
    // Streams that would take more than there is are not made.
    house.write("shop", &["--max-storage", "1MiB"]);
    reload(&house);
    let text =
        "[app]\nname = \"shop\"\n[functions.count-views]\n[streams.files]\nmax_bytes = \"2GiB\"\n";
    let folder = house.folder("shop").join("parts/operator");
    std::fs::write(folder.join("oncue.toml"), text).expect("written");
    until("it is refused", async || {
        let mut apply = house.part("shop", "operator", "oncue", &["apply"]);
        let code = apply.exit().await;
        (code != Some(0) && apply.log().contains("storage")).then_some(())
    })
    .await;
}

/// Has nats-server read its files again.
fn reload(house: &House) {
    let nats = house
        .processes
        .iter()
        .find(|process| process.name == "nats-server");
    let pid = nats.expect("a server").pid().to_string();
    let done = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status();
    assert!(done.expect("kill").success());
}

/// What one app writes beside another's is joined, whoever comes first, and an app that is gone goes with its files.
#[tokio::test]
async fn each_app_writes_its_own_part() {
    let house = House::open().await;
    let read = |name: &str| std::fs::read_to_string(house.servers.join(name)).expect("a file");
    for app in APPS {
        assert!(read("accounts.conf").contains(&format!("include \"{app}.accounts\"")));
        assert!(read("redis.acl").contains(&format!("user {app}.operator ")));
    }
    assert!(read("redis.acl").contains("user owner "));
    assert!(!read("accounts.conf").contains("no_auth_user"));
    for end in ["accounts", "app.acl"] {
        std::fs::remove_file(house.servers.join(format!("blog.{end}"))).expect("there");
    }
    house.write("shop", &[]);
    assert!(!read("accounts.conf").contains("blog") && !read("redis.acl").contains("blog."));
    assert!(Path::new(&house.servers.join("shop.lua")).exists());
}
