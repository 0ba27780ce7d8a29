//! The gateway's door: what tokens and limits cost beside an open one, and a good client beside a crowd that only stands there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::bench::arena::{Arena, Profile};
use crate::bench::load::{Client, at_rate, flat_out, upload};
use crate::bench::paint::progress;
use crate::bench::plan::{Case, Figure, Goal, Plan, Row};
use crate::bench::stats::percentile;
use crate::cluster::{Process, free_port, wait_for_port};
use crate::issuer::TokenIssuer;

const CLIENTS: u64 = 32;
/// Requests in a second at which answers are timed.
const RATE: u64 = 5000;
/// Connections that say nothing, and clients that ask for a file and take none of it.
const IDLE: usize = 10_000;
const SLOW: usize = 300;
/// As many of either come from one address.
const FROM_ONE: usize = 500;
/// Bytes of that file.
const FILE: u64 = 64 << 20;

pub async fn door(plan: Plan) -> Case {
    let mut case = Case::default();
    let issuer = TokenIssuer::start().await;
    let streams = "[streams.web]\nmax_bytes = \"4GiB\"\n[streams.objects]\nmax_bytes = \"3GiB\"\n";
    let mut arena = Arena::with(Profile::Fast, streams).await;
    let open = arena.cluster.dir.join("oncue.toml");
    let text = std::fs::read_to_string(&open).expect("the file of the app");
    let token = format!("authorization: Bearer {}\r\n", issuer.token("bench"));
    let auth = format!(
        "[auth.clients]\nissuer = \"{}\"\naudience = [\"bench\"]\nscopes = [\"events\"]\n\
         [limit.clients]\nrate = 1000000\nper = \"1s\"\nby = \"identity\"\n[gateway]\nauth = \"clients\"\n",
        issuer.url
    );
    let limit = format!("{auth}limit = \"clients\"\n");
    let mut doors = vec![Door {
        name: "open",
        config: open.display().to_string(),
        headers: String::new(),
    }];
    for (name, more) in [("JWT", &auth), ("JWT and limit", &limit)] {
        let file = arena.cluster.dir.join(format!("{name}.toml"));
        std::fs::write(&file, format!("{text}\n{more}")).expect("written");
        doors.push(Door {
            name,
            config: file.display().to_string(),
            headers: token.clone(),
        });
    }
    case.rows
        .push(guarded_and_open(&mut arena, plan, &doors).await);
    case.rows
        .push(in_a_crowd(&mut arena, plan, &doors[0].config).await);
    case
}

/// Configuration of a gateway, and what clients send to it.
struct Door {
    name: &'static str,
    config: String,
    headers: String,
}

async fn start(arena: &mut Arena, config: &str) -> (Process, u16) {
    let (port, cluster) = (free_port(), &mut arena.cluster);
    cluster.set("OTEL_SDK_DISABLED", "true");
    cluster.set("ONCUE_GATEWAY_LISTEN", &format!("127.0.0.1:{port}"));
    cluster.set("ONCUE_CONFIG", config);
    let process = cluster.spawn("oncue-gateway", &[]);
    wait_for_port(port).await;
    (process, port)
}

async fn guarded_and_open(arena: &mut Arena, plan: Plan, doors: &[Door]) -> Row {
    let mut rates = vec![Vec::new(); doors.len()];
    let mut p99 = vec![Vec::new(); doors.len()];
    for round in 1..=plan.rounds {
        for (at, door) in doors.iter().enumerate() {
            progress(&format!(
                "door: round {round} of {}, {}",
                plan.rounds, door.name
            ));
            arena.clean().await;
            let (_gateway, port) = start(arena, &door.config).await;
            let time = Duration::from_secs(plan.size(3, 1));
            let own = door.headers.clone();
            let load =
                tokio::task::spawn_blocking(move || flat_out(port, "post", &own, CLIENTS, time));
            rates[at].push(load.await.expect("the load").rate);
            let own = door.headers.clone();
            let load = move || at_rate(port, "steady", &own, RATE, time);
            let mut times = tokio::task::spawn_blocking(load).await.expect("the load");
            p99[at].push(percentile(&mut times, 0.99));
        }
    }
    let last = doors.len() - 1;
    let mut figures = Vec::new();
    for (at, door) in doors.iter().enumerate() {
        figures.push(Figure::new(door.name, "/s", rates[at].clone()));
    }
    for (at, door) in doors.iter().enumerate().skip(1) {
        let ratios = rates[at].iter().zip(&rates[0]);
        let ratios = ratios.map(|(guarded, open)| guarded / open);
        let ratio = Figure::new(&format!("{}/open", door.name), "", ratios);
        figures.push(if at == last {
            ratio.goal(Goal::AtLeast(0.85))
        } else {
            ratio
        });
    }
    for (at, door) in doors.iter().enumerate() {
        let name = format!("{} p99 at {RATE}/s", door.name);
        let times = Figure::new(&name, "ms", p99[at].clone());
        figures.push(if at == last {
            times.goal(Goal::AtMost(10.0))
        } else {
            times
        });
    }
    Row {
        name: format!("small posts, {CLIENTS} clients"),
        figures,
        details: Vec::new(),
    }
}

/// A connection from an address of this machine's own.
async fn connect(from: u8, port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, from)), 0);
    socket.bind(own).ok()?;
    let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let connected = tokio::time::timeout(Duration::from_secs(1), socket.connect(to)).await;
    let stream = connected.ok()?.ok()?.into_std().ok()?;
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

async fn in_a_crowd(arena: &mut Arena, plan: Plan, config: &str) -> Row {
    let (mut alone, mut crowded) = (Vec::new(), Vec::new());
    let (mut idle_open, mut slow_open) = (Vec::new(), Vec::new());
    for round in 1..=plan.size(3, 1) {
        progress(&format!("door: a crowd, round {round}"));
        arena.clean().await;
        let (_gateway, port) = start(arena, config).await;
        let block = vec![7; 1 << 20];
        let sent = tokio::task::spawn_blocking(move || upload(port, "large.bin", FILE, &block));
        let (_, answer) = sent.await.expect("the upload");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        alone.push(good_client(port).await);
        let mut crowd = Vec::new();
        for n in 0..IDLE {
            crowd.extend(connect((n / FROM_ONE) as u8 + 1, port).await);
        }
        idle_open.push(crowd.len() as f64);
        let mut slow = 0.0;
        for n in 0..SLOW {
            if let Some(mut reader) = connect((n / 30) as u8 + 101, port).await {
                let ask = "GET /v1/files/large.bin HTTP/1.1\r\nhost: localhost\r\n\r\n";
                if std::io::Write::write_all(&mut reader, ask.as_bytes()).is_ok() {
                    slow += 1.0;
                }
                crowd.push(reader);
            }
        }
        slow_open.push(slow);
        crowded.push(good_client(port).await);
        drop(crowd);
    }
    let beside = Figure::new("p99 in the crowd", "ms", crowded).goal(Goal::AtMost(50.0));
    Row {
        name: format!("a good client beside {IDLE} idle connections and {SLOW} slow readers"),
        figures: vec![Figure::new("p99 alone", "ms", alone), beside],
        details: vec![
            Figure::new("idle connections that were let in", "", idle_open),
            Figure::new("slow readers that had asked", "", slow_open),
        ],
    }
}

/// Milliseconds in which 99 of 100 requests are answered that one client makes a hundred times a second, its connecting
/// among them.
async fn good_client(port: u16) -> f64 {
    let begin = Instant::now();
    let mut connected = None;
    while connected.is_none() && begin.elapsed() < Duration::from_secs(30) {
        connected = connect(200, port).await;
    }
    let socket = connected.expect("a good client is let in");
    let waited = begin.elapsed().as_secs_f64() * 1000.0;
    let load = move || {
        let mut client = Client::over(socket, "");
        let mut times = vec![waited];
        for number in 0..500 {
            let sent = Instant::now();
            client.post("good", number);
            times.push(sent.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(Duration::from_millis(10));
        }
        percentile(&mut times, 0.99)
    };
    tokio::task::spawn_blocking(load).await.expect("the client")
}
