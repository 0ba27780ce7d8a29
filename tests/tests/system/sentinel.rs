//! Redis behind sentinels: three of them, a primary and a replica, all of them real.

use std::process::Command;

use oncue_core::app::AppName;
use oncue_core::store::Store;
use oncue_tests::cluster::{Cluster, Process, QUICK_REDELIVERY, free_port, until, wait_for_port};

/// Name of the primary among the sentinels.
const NAME: &str = "main";
/// Keys the load is of.
const PAGES: usize = 20;

/// Servers besides those of the cluster.
struct Watched {
    replica_port: u16,
    sentinel_ports: Vec<u16>,
    /// They end with this.
    _processes: Vec<Process>,
}

impl Watched {
    /// A replica of the cluster's Redis, and three sentinels that know of both and of each other.
    async fn start(cluster: &Cluster) -> Self {
        let primary = cluster.redis_port.to_string();
        let replica_port = free_port();
        let folder = cluster.dir.join("replica");
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--port", &replica_port.to_string(), "--dir"])
            .arg(&folder)
            .args(["--replicaof", "127.0.0.1", &primary]);
        let replica = Process::spawn("redis-server", command, cluster.dir.join("replica.log"));
        wait_for_port(replica_port).await;
        let sentinel_ports = [free_port(), free_port(), free_port()].to_vec();
        let mut processes = vec![replica];
        for port in &sentinel_ports {
            processes.push(sentinel(cluster, *port, &primary));
        }
        let watched = Self {
            replica_port,
            sentinel_ports,
            _processes: processes,
        };
        for port in &watched.sentinel_ports {
            until("the sentinel knows all", async || {
                let told = redis_cli(*port, &["SENTINEL", "master", NAME]);
                let lines: Vec<&str> = told.lines().collect();
                let value = |name| {
                    lines
                        .iter()
                        .position(|l| *l == name)
                        .map(|at| lines[at + 1])
                };
                let all =
                    value("num-slaves") == Some("1") && value("num-other-sentinels") == Some("2");
                all.then_some(())
            })
            .await;
        }
        watched
    }

    /// URL of the sentinels, of which the first is not there.
    fn url(&self, name: &str) -> String {
        let hosts = self.sentinel_ports.iter();
        let hosts: Vec<String> = hosts.map(|port| format!("127.0.0.1:{port}")).collect();
        format!(
            "redis+sentinel://127.0.0.1:{},{}/{name}",
            free_port(),
            hosts.join(",")
        )
    }
}

fn sentinel(cluster: &Cluster, port: u16, primary: &str) -> Process {
    let folder = cluster.dir.join(format!("sentinel-{port}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n",
        folder.display()
    );
    std::fs::write(&file, text).expect("its configuration");
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel");
    Process::spawn("sentinel", command, folder.join("log"))
}

fn redis_cli(port: u16, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.args(["-p", &port.to_string()]).args(args).output();
    String::from_utf8_lossy(&output.expect("redis-cli").stdout).into_owned()
}

/// Events, as many of each page.
fn load(each: usize) -> impl Iterator<Item = (&'static str, String)> {
    (0..each * PAGES).map(|n| {
        let page = n % PAGES;
        ("web.page.viewed", format!(r#"{{"page":"/{page}"}}"#))
    })
}

#[tokio::test]
async fn work_goes_on_by_itself_when_sentinels_fail_over() {
    let mut cluster = Cluster::new(&format!("[functions.misbehave]\n{QUICK_REDELIVERY}\n")).await;
    let bus = cluster.bus().await;
    let watched = Watched::start(&cluster).await;
    cluster.set("ONCUE_REDIS_URL", &watched.url(NAME));
    let mut worker = cluster.start("misbehave").await;
    cluster.plain_publish(load(20));
    cluster.drained(&bus, "web", "misbehave").await;

    // Commits are on their way and none is answered any more; what was answered the replica has. Then the primary dies.
    cluster.redis_ok(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    cluster.plain_publish(load(100));
    until("commits are on their way", async || {
        let clients = cluster.redis_cli(&["INFO", "clients"]);
        (!clients.contains("blocked_clients:0")).then_some(())
    })
    .await;
    until("the replica has all that was answered", async || {
        (cluster.redis_cli(&["WAIT", "1", "1000"]) == "1").then_some(())
    })
    .await;
    cluster.redis.kill();
    cluster.plain_publish(load(80));
    let to = format!("connected anew to 127.0.0.1:{}", watched.replica_port);
    until("the worker is with the new primary", async || {
        worker.log().contains(&to).then_some(())
    })
    .await;
    cluster.drained(&bus, "web", "misbehave").await;

    let url = format!("redis://127.0.0.1:{}", watched.replica_port);
    let store = Store::look(url.as_str(), &AppName::default())
        .await
        .expect("the new primary");
    for page in 0..PAGES {
        let count = cluster
            .field(&store, "tallies", &format!("/{page}"), "count")
            .await;
        assert_eq!(count, "200", "/{page}");
    }
    assert_eq!(cluster.count(&bus, "dlq").await, 0);
    let doctor = cluster.output("oncue", &["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    for part in [
        format!(
            "at 127.0.0.1:{}, the primary {NAME} of",
            watched.replica_port
        ),
        "cannot be asked".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in\n{said}");
    }
    assert_eq!(worker.stop().await, Some(0), "it went on by itself");
}

/// Whoever names the wrong primary, or sentinels that are away, is told so.
#[tokio::test]
async fn what_sentinels_do_not_know_is_said() {
    let mut cluster = Cluster::new("").await;
    let watched = Watched::start(&cluster).await;
    cluster.set("ONCUE_REDIS_URL", &watched.url("other"));
    let mut worker = cluster.spawn("misbehave", &[]);
    assert_eq!(worker.exit().await, Some(1));
    for part in ["knows no primary \"other\"", "/other", "refused"] {
        assert!(worker.log().contains(part), "{part}: {}", worker.log());
    }
}
