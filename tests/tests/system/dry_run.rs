//! Dry runs cannot reach out, whatever the handler does.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

use oncue_core::bus::{Bus, layout};
use oncue_proto::oncue::v1::{Envelope, Header};
use oncue_tests::cluster::{Cluster, until};
use serde_json::json;

/// Everything that a handler may knock at.
struct Outside {
    tcp: TcpListener,
    udp: UdpSocket,
    unix: UnixListener,
    datagrams: UnixDatagram,
}

impl Outside {
    fn new(cluster: &Cluster) -> Self {
        let outside = Self {
            tcp: TcpListener::bind("127.0.0.1:0").expect("a port"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("a port"),
            unix: UnixListener::bind(cluster.dir.join("stream.sock")).expect("a path"),
            datagrams: UnixDatagram::bind(cluster.dir.join("datagram.sock")).expect("a path"),
        };
        outside.tcp.set_nonblocking(true).expect("set");
        outside.udp.set_nonblocking(true).expect("set");
        outside.unix.set_nonblocking(true).expect("set");
        outside.datagrams.set_nonblocking(true).expect("set");
        outside
    }

    /// What an event tells its handler to do, one for each way out.
    fn ways(&self, cluster: &Cluster) -> Vec<String> {
        let tcp = self.tcp.local_addr().expect("an address");
        let udp = self.udp.local_addr().expect("an address");
        let dir = cluster.dir.display();
        vec![
            format!("tcp {tcp}"),
            format!("async {tcp}"),
            format!("process {tcp}"),
            format!("thread {tcp}"),
            format!("udp {udp}"),
            format!("unix {dir}/stream.sock"),
            format!("pair {dir}/datagram.sock"),
        ]
    }

    /// How often somebody has knocked since the last look. All knocks are there when the knocker has ended.
    fn knocks(&self) -> usize {
        let mut buffer = [0; 16];
        std::iter::from_fn(|| self.tcp.accept().ok()).count()
            + std::iter::from_fn(|| self.unix.accept().ok()).count()
            + std::iter::from_fn(|| self.udp.recv(&mut buffer).ok()).count()
            + std::iter::from_fn(|| self.datagrams.recv(&mut [0; 16]).ok()).count()
    }
}

/// Exit code and what was printed.
fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A letter for each way, of which none was tried yet.
async fn letters(cluster: &mut Cluster, bus: &Bus, ways: &[String]) {
    // Only this worker knows the variable: a dry run's process gets a list of its own.
    cluster.set("REACH_REJECTS", "1");
    let mut worker = cluster.start("reach").await;
    for way in ways {
        let event = Envelope {
            subject: "web.page.viewed".into(),
            headers: vec![Header {
                name: "ce-id".into(),
                value: way.replace(' ', "-"),
            }],
            payload: json!({ "page": "/a", "referrer": way }).to_string().into(),
        };
        bus.publish(&event).await.expect("taken");
    }
    until("all are set aside", async || {
        (cluster.count(bus, "dlq").await == ways.len() as u64).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_dry_run_reaches_nothing_outside_whatever_the_handler_does() {
    let mut cluster = Cluster::new("[functions.reach]\n").await;
    let bus = cluster.bus().await;
    let outside = Outside::new(&cluster);
    let ways = outside.ways(&cluster);
    letters(&mut cluster, &bus, &ways).await;
    for way in &ways {
        let id = way.replace(' ', "-");
        let (code, text) = oncue(&cluster, &["dlq", "redrive", &id, "--dry-run"]);
        assert_eq!(code, 1, "{way}: {text}");
        for part in [
            "would fail",
            "Network is unreachable",
            "kept off the network",
        ] {
            assert!(text.contains(part), "{way}: {part} is not in\n{text}");
        }
        assert_eq!(outside.knocks(), 0, "{way}: {text}");
    }
    // With leave of whoever asks each gets through, so that the test can fail.
    for way in &ways {
        let id = way.replace(' ', "-");
        let args = ["dlq", "redrive", &id, "--dry-run", "--allow-network"];
        let (code, text) = oncue(&cluster, &args);
        assert!(code == 0 && text.contains("would be applied"), "{text}");
        assert_eq!(outside.knocks(), 1, "{way}: {text}");
    }
    assert_eq!(cluster.count(&bus, "dlq").await, ways.len() as u64);
}

/// Files are no way out: they are read for it, whole, and what it writes is not written.
#[tokio::test]
async fn a_dry_run_reads_files_and_writes_none() {
    let mut cluster = Cluster::new("[functions.reach]\n").await;
    let bus = cluster.bus().await;
    let config = cluster.config();
    let bucket = layout::bucket(&config.app, &config.bucket());
    bus.provide(&bucket).await.expect("a bucket");
    let mut bytes = vec![1u8; 3 << 20];
    bytes.push(7);
    let whole = futures_util::stream::iter([Ok(bytes.into())]);
    bus.put_object("f", &[], whole, 4 << 20)
        .await
        .expect("stored");
    letters(&mut cluster, &bus, &["file f".into(), "file none".into()]).await;
    let (code, text) = oncue(&cluster, &["dlq", "redrive", "--all", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    for part in ["3145729 bytes, the last Some(7)", "nothing", "2 of 2"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(bus.object("f").await.expect("asked").is_some());
    assert!(bus.object("made").await.expect("asked").is_none());
}

/// A handler that holds its thread does not hold the operator.
#[tokio::test]
async fn a_dry_run_ends_whatever_the_handler_holds() {
    let mut cluster = Cluster::new("[functions.reach]\ntimeout = \"100ms\"\n").await;
    let bus = cluster.bus().await;
    letters(&mut cluster, &bus, &["mute x".into()]).await;
    let (code, text) = oncue(&cluster, &["dlq", "redrive", "--all", "--dry-run"]);
    assert!(code == 1 && text.contains("holding its thread"), "{text}");
}

/// On a system that cannot hold a process back nothing is run, unless somebody says so.
#[tokio::test]
async fn where_nothing_can_be_held_back_nothing_is_tried() {
    let mut cluster = Cluster::new("[functions.reach]\n").await;
    let bus = cluster.bus().await;
    letters(&mut cluster, &bus, &["none x".into()]).await;
    let cluster = &cluster;
    let (code, text) = std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            no_more_filters();
            oncue(cluster, &["dlq", "redrive", "--all", "--dry-run"])
        });
        refused.join().expect("a thread")
    });
    assert_eq!(code, 1, "{text}");
    for part in ["cannot keep a program off the network", "--allow-network"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let args = ["dlq", "redrive", "--all", "--dry-run", "--allow-network"];
    let (code, text) = oncue(cluster, &args);
    assert!(code == 0 && text.contains("would be applied"), "{text}");
}

/// Makes this thread, and what it starts, as a system without filters.
fn no_more_filters() {
    let arch = std::env::consts::ARCH.try_into().expect("a known machine");
    let filter = seccompiler::SeccompFilter::new(
        [(libc::SYS_seccomp, Vec::new())].into(),
        seccompiler::SeccompAction::Allow,
        seccompiler::SeccompAction::Errno(libc::ENOSYS as u32),
        arch,
    )
    .expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter(&program).expect("applied");
}
