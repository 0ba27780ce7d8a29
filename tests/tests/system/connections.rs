//! Every way in which servers that somebody else runs may want to know who comes: user and password, token, JWT, certificates of
//! an own authority. An app works by each, and whoever does not bring it is told what is missing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use oncue_tests::cluster::{Cluster, QUICK_REDELIVERY, Servers, free_port, until, wait_for_port};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair as TlsKey,
};
use serde_json::{Value, json};

const VIEWS: u64 = 5;

fn app() -> String {
    format!("[functions.count-views]\n{QUICK_REDELIVERY}\n")
}

/// Has views counted, by a worker and by the operator's program, which come in as the environment says.
async fn works(cluster: &Cluster, page: &str) {
    let applied = cluster.output("oncue", &["apply"]);
    assert!(applied.status.success(), "{applied:?}");
    let mut worker = cluster.spawn_bare("count-views", &[]);
    worker.wait_for_line("\"message\":\"ready\"").await;
    for number in 0..VIEWS {
        let view = json!({ "page": page, "visitor": format!("v{number}") });
        let args = ["pub", "web.page.viewed", &view.to_string()];
        let sent = cluster.output("oncue", &args);
        assert!(sent.status.success(), "{sent:?}");
    }
    until("all views are counted", async || {
        let row = cluster.output("oncue", &["state", "get", "pages", page, "--json"]);
        let row: Value = serde_json::from_slice(&row.stdout).ok()?;
        (row["views"] == VIEWS).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0), "{}", worker.log());
}

/// Whoever comes otherwise does not begin, says what is wrong, and shows no password.
async fn is_refused(cluster: &Cluster, words: &str) {
    let mut refused = cluster.spawn_bare("count-views", &[]);
    assert_eq!(refused.exit().await, Some(1), "{}", refused.log());
    let log = refused.log();
    assert!(log.contains(words), "{words:?} is not in\n{log}");
    assert!(!log.contains("hunter"), "{log}");
}

#[tokio::test]
async fn user_and_password_or_a_token_open_the_servers() {
    for (authorization, user) in [
        ("user: app, password: hunter2", "app:hunter2@"),
        ("token: hunter-token", "hunter-token@"),
    ] {
        let servers = Servers {
            nats: format!("authorization {{ {authorization} }}"),
            redis_args: vec!["--requirepass".to_owned(), "hunter3".to_owned()],
            ..Servers::default()
        };
        let mut cluster = Cluster::with(&app(), servers).await;
        let nats = format!("127.0.0.1:{}", cluster.nats_port);
        let redis = format!("127.0.0.1:{}", cluster.redis_port);
        is_refused(&cluster, "cannot reach NATS").await;
        cluster.set("ONCUE_NATS_URL", &format!("nats://{user}{nats}"));
        is_refused(&cluster, "Redis").await;
        cluster.set("ONCUE_REDIS_URL", &format!("redis://:hunter3@{redis}"));
        works(&cluster, "/1").await;
        // The password apart from the URL, in a file.
        let file = cluster.dir.join("redis-password");
        std::fs::write(&file, "hunter3\n").expect("written");
        cluster.set("ONCUE_REDIS_URL", &format!("redis://default@{redis}"));
        cluster.set("ONCUE_REDIS_PASSWORD_FILE", &file.display().to_string());
        works(&cluster, "/2").await;
    }
}

/// An authority with the certificates it has signed, as files of a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, TlsKey>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let folder = format!(
            "{}/{name}-{}",
            env!("CARGO_TARGET_TMPDIR"),
            std::process::id()
        );
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // Of another name than what it signs: that would pass for having signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = TlsKey::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        std::fs::write(folder.join("ca.pem"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    /// Signs a certificate for this machine, `NAME.pem` with `NAME.key`.
    pub fn sign(&self, name: &str) {
        let key = TlsKey::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(self.folder.join(format!("{name}.pem")), signed.pem()).expect("written");
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem())
            .expect("written");
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn certificates_of_an_own_authority_open_the_servers_both_ways() {
    let ours = Authority::new("authority");
    ours.sign("server");
    ours.sign("client");
    let strangers = Authority::new("strangers");
    strangers.sign("client");
    let ca = ours.file("ca.pem");
    let certificate = ours.file("server.pem");
    let key = ours.file("server.key");
    let tls_port = free_port();
    let redis_args = [
        ("--tls-port", tls_port.to_string()),
        ("--tls-cert-file", certificate.clone()),
        ("--tls-key-file", key.clone()),
        ("--tls-ca-cert-file", ca.clone()),
        ("--tls-auth-clients", "yes".to_owned()),
    ];
    let servers = Servers {
        nats: format!(
            "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{ca}\", verify: true }}"
        ),
        redis_args: redis_args
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect(),
        ..Servers::default()
    };
    let mut cluster = Cluster::with(&app(), servers).await;
    let nats = format!("tls://127.0.0.1:{}", cluster.nats_port);
    cluster.set("ONCUE_NATS_URL", &nats);
    cluster.set("ONCUE_REDIS_URL", &format!("rediss://127.0.0.1:{tls_port}"));
    // Nobody on this machine knows the authority.
    is_refused(&cluster, "UnknownIssuer").await;
    for (store, shown) in [
        ("NATS", "cannot reach NATS"),
        ("REDIS", "cannot reach Redis"),
    ] {
        cluster.set(&format!("ONCUE_{store}_CA"), &ca);
        // The server wants to know who comes.
        is_refused(&cluster, shown).await;
        for (authority, is_right) in [(&strangers, false), (&ours, true)] {
            let certificate = authority.file("client.pem");
            cluster.set(&format!("ONCUE_{store}_CERTIFICATE"), &certificate);
            cluster.set(&format!("ONCUE_{store}_KEY"), &authority.file("client.key"));
            if !is_right {
                is_refused(&cluster, shown).await;
            }
        }
    }
    works(&cluster, "/3").await;
    backup_goes_over_tls(&cluster);
    works_behind_sentinels(&mut cluster, &ours, tls_port).await;
    // The same as settings of the file, whose paths are those beside it.
    let settings = format!(
        "{}[nats]\nurl = \"{nats}\"\n[nats.tls]\nca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n\
         [redis]\nurl = \"rediss://127.0.0.1:{tls_port}\"\n[redis.tls]\nca = \"ca.pem\"\ncertificate = \"client.pem\"\nkey = \"client.key\"\n",
        std::fs::read_to_string(cluster.dir.join("oncue.toml")).expect("read")
    );
    std::fs::write(cluster.dir.join("oncue.toml"), settings).expect("written");
    for name in ["ca.pem", "client.pem", "client.key"] {
        std::fs::copy(ours.folder.join(name), cluster.dir.join(name)).expect("copied");
    }
    for store in ["NATS", "REDIS"] {
        for part in ["URL", "CA", "CERTIFICATE", "KEY"] {
            cluster.unset(&format!("ONCUE_{store}_{part}"));
        }
    }
    works(&cluster, "/4").await;
}

/// A backup reads Redis by a connection of its own, which is encrypted as all others are.
fn backup_goes_over_tls(cluster: &Cluster) {
    let dir = cluster.dir.join("backup").display().to_string();
    let taken = cluster.output("oncue", &["backup", &dir]);
    assert!(taken.status.success(), "{taken:?}");
    let before = cluster.output("oncue", &["state", "get", "pages", "/3", "--json"]);
    let back = cluster.output("oncue", &["restore", &dir, "--replace", "--yes"]);
    assert!(back.status.success(), "{back:?}");
    let after = cluster.output("oncue", &["state", "get", "pages", "/3", "--json"]);
    assert!(before.status.success(), "{before:?}");
    assert_eq!(after.stdout, before.stdout);
}

/// A sentinel that speaks TLS alone, as its servers do, and knows the program by a password in a file, which is replaced.
async fn works_behind_sentinels(cluster: &mut Cluster, ours: &Authority, redis: u16) {
    let port = free_port();
    let folder = cluster.dir.join("sentinel");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("sentinel.conf");
    let text = format!(
        "port 0\nbind 127.0.0.1\ntls-port {port}\ntls-replication yes\ndir {}\ntls-cert-file {}\ntls-key-file {}\n\
         tls-ca-cert-file {}\nsentinel monitor main 127.0.0.1 {redis} 1\nuser default off\n\
         user us on >hunter4 -@all +sentinel|get-master-addr-by-name +acl|setuser\n",
        folder.display(),
        ours.file("server.pem"),
        ours.file("server.key"),
        ours.file("ca.pem"),
    );
    std::fs::write(&file, text).expect("its configuration");
    let args = [&file.display().to_string(), "--sentinel"];
    let _sentinel = cluster.spawn_program("sentinel", "redis-server".as_ref(), &args);
    wait_for_port(port).await;
    let url = format!("127.0.0.1:{port}/main?sentinel_user=us");
    cluster.set("ONCUE_REDIS_URL", &format!("redis+sentinel://{url}"));
    is_refused(cluster, "cannot reach Redis").await;
    cluster.set("ONCUE_REDIS_URL", &format!("rediss+sentinel://{url}"));
    is_refused(cluster, "NOAUTH").await;
    let password = folder.join("password");
    cluster.set(
        "ONCUE_REDIS_SENTINEL_PASSWORD_FILE",
        &password.display().to_string(),
    );
    is_refused(cluster, &password.display().to_string()).await;
    std::fs::write(&password, "hunter4\n").expect("written");
    works(cluster, "/5").await;

    let of_us = ["--no-auth-warning", "--user", "us", "--pass", "hunter4"];
    let replace = ["ACL", "SETUSER", "us", "resetpass", ">hunter5"];
    let replaced = redis_cli(ours, port, &[&of_us[..], &replace].concat());
    assert_eq!(replaced, "OK");
    std::fs::write(&password, "hunter5\n").expect("written");
    works(cluster, "/6").await;
    for name in ["ONCUE_REDIS_SENTINEL_PASSWORD_FILE", "ONCUE_REDIS_URL"] {
        cluster.unset(name);
    }
}

/// Answer of a server with TLS to a command.
fn redis_cli(ours: &Authority, port: u16, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string(), "--tls"]);
    for (option, file) in [
        ("cacert", "ca.pem"),
        ("cert", "client.pem"),
        ("key", "client.key"),
    ] {
        command.arg(format!("--{option}")).arg(ours.file(file));
    }
    let said = command.args(args).output().expect("redis-cli");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// A JWT as nats-server takes it [NATS ADR-14].
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": name,
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    let _ = write!(token, ".{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = issuer.sign(token.as_bytes()).expect("signed");
    format!("{token}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Claims of an account; one with JetStream has room for all.
fn account(has_jetstream: bool) -> Value {
    let room = if has_jetstream { -1 } else { 0 };
    json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
            "mem_storage": room, "disk_storage": room, "streams": room, "consumer": room,
        },
    })
}

fn credentials(folder: &Path, jwt: &str, user: &KeyPair) -> String {
    let file = folder.join("app.creds");
    let seed = user.seed().expect("a seed");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

#[tokio::test]
async fn a_jwt_of_an_account_opens_nats() {
    let operator = KeyPair::new_operator();
    let system = KeyPair::new_account();
    let team = KeyPair::new_account();
    let user = KeyPair::new_user();
    let of_operator =
        json!({ "type": "operator", "version": 2, "system_account": system.public_key() });
    let servers = Servers {
        nats: format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n {}: {}\n {}: {}\n}}",
            jwt(&operator, &operator, "operator", &of_operator),
            system.public_key(),
            system.public_key(),
            jwt(&operator, &system, "system", &account(false)),
            team.public_key(),
            jwt(&operator, &team, "team", &account(true)),
        ),
        ..Servers::default()
    };
    let mut cluster = Cluster::with(&app(), servers).await;
    is_refused(&cluster, "cannot reach NATS").await;
    let claims = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    // Of another user than the seed is of.
    let other = credentials(
        &cluster.dir,
        &jwt(&team, &user, "app", &claims),
        &KeyPair::new_user(),
    );
    cluster.set("ONCUE_NATS_CREDENTIALS", &other);
    is_refused(&cluster, "cannot reach NATS").await;
    credentials(&cluster.dir, &jwt(&team, &user, "app", &claims), &user);
    works(&cluster, "/5").await;
}
