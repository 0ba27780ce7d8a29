//! HTTP clients that keep their connections, each a thread with a blocking socket: they cost little and are on time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Sent at `begin + number / rate`, whether or not earlier ones have been answered: who is slow finds no mercy.
/// Returns when each was due.
pub fn steady(port: u16, prefix: &str, events: u64, rate: u64) -> Vec<Instant> {
    // Enough to be on time while answers take up to half a second.
    let clients = (rate / 2).clamp(8, 64);
    let begin = Instant::now() + Duration::from_millis(200);
    let due = move |number: u64| begin + Duration::from_nanos(1_000_000_000 / rate * number);
    std::thread::scope(|scope| {
        for first in 0..clients {
            scope.spawn(move || {
                let mut client = Client::connect(port);
                for number in (first..events).step_by(clients as usize) {
                    std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
                    client.post(prefix, number);
                }
            });
        }
    });
    (0..events).map(due).collect()
}

/// What a gateway answers to clients that never pause.
pub struct Answers {
    pub rate: f64,
    /// Milliseconds of each answer.
    pub times: Vec<f64>,
}

/// As many as it takes, for `time`.
pub fn flat_out(port: u16, prefix: &str, headers: &str, clients: u64, time: Duration) -> Answers {
    let start = Instant::now();
    let times: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|first| {
                scope.spawn(move || {
                    let (mut client, mut times) = (Client::with(port, headers), Vec::new());
                    while start.elapsed() < time {
                        let sent = Instant::now();
                        client.post(prefix, first + clients * times.len() as u64);
                        times.push(sent.elapsed().as_secs_f64() * 1000.0);
                    }
                    times
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client"))
            .collect()
    });
    let times = times.concat();
    Answers {
        rate: times.len() as f64 / start.elapsed().as_secs_f64(),
        times,
    }
}

/// Milliseconds of each answer, from when it was due: who is slow finds no mercy.
pub fn at_rate(port: u16, prefix: &str, headers: &str, rate: u64, time: Duration) -> Vec<f64> {
    let clients = 64;
    let begin = Instant::now() + Duration::from_millis(200);
    let events = rate * time.as_secs();
    let due = move |number: u64| begin + Duration::from_nanos(1_000_000_000 / rate * number);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|first| {
                scope.spawn(move || {
                    let (mut client, mut times) = (Client::with(port, headers), Vec::new());
                    for number in (first..events).step_by(clients as usize) {
                        let due = due(number);
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        client.post(prefix, number);
                        times.push(due.elapsed().as_secs_f64() * 1000.0);
                    }
                    times
                })
            })
            .collect();
        let times = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        times.flat_map(|times| times.expect("a client")).collect()
    })
}

/// Client of a gateway over one connection.
pub struct Client {
    socket: TcpStream,
    /// Lines of its own in the head of each request.
    headers: String,
    answer: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> Self {
        Self::with(port, "")
    }

    fn with(port: u16, headers: &str) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the gateway");
        Self::over(socket, headers)
    }

    pub fn over(socket: TcpStream, headers: &str) -> Self {
        socket.set_nodelay(true).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a socket");
        Self {
            socket,
            headers: headers.to_owned(),
            answer: Vec::new(),
        }
    }

    /// One event; anything but a 202 ends the measurement.
    pub fn post(&mut self, prefix: &str, number: u64) {
        let body = format!(
            r#"{{"page":"/p{}","visitor":"v{number}","referrer":"{:x<140}"}}"#,
            number % 100,
            ""
        );
        let head = format!(
            "POST /v1/events/web.page.viewed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             ce-specversion: 1.0\r\nce-id: {prefix}-{number}\r\n{}content-length: {}\r\n\r\n",
            self.headers,
            body.len()
        );
        self.socket
            .write_all((head + &body).as_bytes())
            .expect("the gateway reads");
        let answer = read_answer(&mut self.socket, &mut self.answer);
        assert!(answer.starts_with("HTTP/1.1 202"), "refused: {answer}");
    }
}

/// Reads one answer with its body and returns it as text.
fn read_answer(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> String {
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let n = socket.read(&mut chunk).expect("the gateway answers");
        assert!(n > 0, "the gateway closed the connection");
        buffer.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return text.into_owned();
        }
    }
}

/// Uploads `size` bytes over one connection and returns the seconds it took and the answer.
pub fn upload(port: u16, name: &str, size: u64, block: &[u8]) -> (f64, String) {
    let start = Instant::now();
    let mut client = Client::connect(port);
    let head = format!(
        "PUT /v1/files/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
    );
    client
        .socket
        .write_all(head.as_bytes())
        .expect("the gateway reads");
    let mut left = size;
    while left > 0 {
        let n = left.min(block.len() as u64);
        client
            .socket
            .write_all(&block[..n as usize])
            .expect("the gateway reads");
        left -= n;
    }
    let answer = read_answer(&mut client.socket, &mut client.answer);
    (start.elapsed().as_secs_f64(), answer)
}
