//! One proxied connection: two pumps, each of which reads, holds back as long as it must, inspects and writes.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::frames::{
    NatsFrame, is_batch_ack, is_publish_ack, is_second_of_batch, nats_frame, resp_command, resp_len,
};
use super::ledger::{Line, is_ticket};
use super::{Direction, Faults, Inner, Protocol};

/// Pieces a pump holds back before it stops reading.
const HELD: usize = 64;
/// Bytes of one piece that are sliced; more would only cost time.
const SLICED: usize = 2048;

pub async fn run(inner: &Arc<Inner>, line: Line, client: TcpStream, server: TcpStream) {
    let mut cuts = inner.cuts.subscribe();
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    // Whether each request on its way is a commit, in the order in which replies will come.
    let commits = Mutex::new(VecDeque::new());
    let up = Pump::new(inner, line, Direction::Up, &client, &server, &commits);
    let down = Pump::new(inner, line, Direction::Down, &server, &client, &commits);
    tokio::select! {
        _ = up.run() => {}
        _ = down.run() => {}
        _ = cuts.changed() => {}
    }
}

/// What becomes of a frame.
enum Passage {
    Whole,
    Instead(Vec<u8>),
    Lost,
}

impl Passage {
    fn unless(lost: bool) -> Self {
        if lost { Self::Lost } else { Self::Whole }
    }
}

struct Pump<'a> {
    inner: &'a Arc<Inner>,
    line: Line,
    direction: Direction,
    from: &'a TcpStream,
    to: &'a TcpStream,
    commits: &'a Mutex<VecDeque<bool>>,
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
}

impl<'a> Pump<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        line: Line,
        direction: Direction,
        from: &'a TcpStream,
        to: &'a TcpStream,
        commits: &'a Mutex<VecDeque<bool>>,
    ) -> Self {
        Self {
            inner,
            line,
            direction,
            from,
            to,
            commits,
            partial: Vec::new(),
        }
    }

    /// Ends when the sender has ended, and then only once all it had sent was passed on.
    async fn run(mut self) -> io::Result<()> {
        let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let mut ended = None;
        loop {
            let Some((due, _)) = held.front() else {
                if let Some(why) = ended {
                    return Err(why);
                }
                match read(self.from).await {
                    Ok(piece) => held.push_back((Instant::now() + self.delay(), piece)),
                    Err(why) => ended = Some(why),
                }
                continue;
            };
            tokio::select! {
                piece = read(self.from), if held.len() < HELD && ended.is_none() => match piece {
                    Ok(piece) => {
                        let after = held.back().map_or_else(Instant::now, |(due, _)| *due);
                        held.push_back(((Instant::now() + self.delay()).max(after), piece));
                    }
                    Err(why) => ended = Some(why),
                },
                () = tokio::time::sleep_until(*due) => {
                    let (_, piece) = held.pop_front().unwrap_or_else(|| (Instant::now(), Vec::new()));
                    self.pass(piece).await?;
                }
            }
        }
    }

    fn faults(&self) -> Faults {
        self.inner.faults.borrow().clone()
    }

    fn delay(&self) -> Duration {
        let Faults {
            latency, jitter, ..
        } = self.faults();
        let delay = latency + jitter.mul_f64(self.inner.seed.lock().f64());
        self.inner.count("delay", u64::from(!delay.is_zero()));
        delay
    }

    async fn pass(&mut self, piece: Vec<u8>) -> io::Result<()> {
        let mut changes = self.inner.faults.subscribe();
        if changes.borrow().freeze {
            self.inner.count("freeze", 1);
            let _ = changes.wait_for(|faults| !faults.freeze).await;
        }
        let faults = self.faults();
        if faults.swallow.contains(&self.direction) || self.line.number < faults.dead_below {
            self.inner.count("swallow", 1);
            return Ok(());
        }
        let (whole, lost) = self.inspect(piece);
        self.write(&whole, &faults).await?;
        if lost {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(())
        }
    }

    async fn write(&self, bytes: &[u8], faults: &Faults) -> io::Result<()> {
        if bytes.len() > 1 && faults.reset == Some(self.direction) && self.take_reset() {
            write(self.to, &bytes[..bytes.len() - 1]).await?;
            // Give the receiver the time to read its piece: a reset throws away what was not read.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let (_, _) = (self.to.set_zero_linger(), self.from.set_zero_linger());
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if faults.slices && bytes.len() > 1 {
            self.inner.count("slice", 1);
            let (sliced, rest) = bytes.split_at(bytes.len().min(SLICED));
            for byte in sliced.chunks(1) {
                write(self.to, byte).await?;
                tokio::task::yield_now().await;
            }
            return write(self.to, rest).await;
        }
        let mut rest = bytes;
        while self.throttle() > 0 && !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min((self.throttle() / 20).max(1)));
            write(self.to, part).await?;
            self.inner.count("throttle", 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
            rest = later;
        }
        write(self.to, rest).await
    }

    fn throttle(&self) -> usize {
        self.inner.faults.borrow().bytes_per_second
    }

    fn take_reset(&self) -> bool {
        let taken = self
            .inner
            .faults
            .send_if_modified(|faults| faults.reset.take().is_some());
        self.inner.count("reset", u64::from(taken));
        taken
    }

    /// Follows the frames of a piece. Returns what may go on, and whether the connection ends after it.
    fn inspect(&mut self, piece: Vec<u8>) -> (Vec<u8>, bool) {
        if self.inner.protocol == Protocol::Other {
            return (piece, false);
        }
        self.partial.extend(piece);
        let (mut whole, mut at, mut lost) = (Vec::new(), 0, false);
        while at < self.partial.len() && !lost {
            let rest = &self.partial[at..];
            let (len, passage) = match self.inner.protocol {
                Protocol::Redis => match resp_len(rest) {
                    Some(len) => (len, self.pass_resp(&rest[..len])),
                    None => break,
                },
                _ => match nats_frame(rest) {
                    Some(frame) => (frame.len, self.pass_nats(&frame, &rest[..frame.len])),
                    None => break,
                },
            };
            match passage {
                Passage::Whole => whole.extend_from_slice(&rest[..len]),
                Passage::Instead(bytes) => whole.extend(bytes),
                Passage::Lost => lost = self.inner.protocol == Protocol::Redis,
            }
            at += len;
        }
        self.partial.drain(..at);
        (whole, lost)
    }

    fn pass_resp(&self, value: &[u8]) -> Passage {
        let mut commits = self.commits.lock();
        if self.direction == Direction::Up {
            let command = resp_command(value);
            let refused = self.refusal(|of| command.eq_ignore_ascii_case(of.as_bytes()));
            if let Some(error) = refused {
                // The server itself gives the answer, so that it comes in its turn.
                commits.push_back(false);
                let script = format!("return redis.error_reply({error:?})");
                let length = script.len();
                let instead = format!("*3\r\n$4\r\nEVAL\r\n${length}\r\n{script}\r\n$1\r\n0\r\n");
                return Passage::Instead(instead.into_bytes());
            }
            commits.push_back(command.eq_ignore_ascii_case(b"FCALL"));
            return Passage::Whole;
        }
        // A push is nobody's answer; an error says that nothing was done.
        let answers = value[0] != b'>' && commits.pop_front().unwrap_or(false) && value[0] != b'-';
        Passage::unless(answers && self.take_answer())
    }

    fn pass_nats(&self, frame: &NatsFrame, message: &[u8]) -> Passage {
        let payload = &message[frame.payload.clone()];
        if self.direction == Direction::Down {
            if is_ticket(&frame.reply) {
                self.inner.ledger.lock().delivered(&frame.reply, self.line);
            }
            let lost = (is_publish_ack(frame, payload) && self.take_answer())
                || (is_batch_ack(frame, payload)
                    && self.take("lost batch ack", |faults| &mut faults.lose_batch_acks));
            return Passage::unless(lost);
        }
        if is_ticket(&frame.subject) {
            self.inner.ledger.lock().settled(&frame.subject, payload);
        }
        if let Some(error) = self.refusal(|of| frame.subject.starts_with(of)) {
            let length = error.len();
            // To the one who waits for the answer. What is none's is gone, as the beginning of a refused batch is.
            return match &*frame.reply {
                "" => Passage::Lost,
                reply => {
                    Passage::Instead(format!("PUB {reply} {length}\r\n{error}\r\n").into_bytes())
                }
            };
        }
        Passage::unless(
            is_second_of_batch(frame, message)
                && self.take("torn batch", |faults| &mut faults.tear_batches),
        )
    }

    /// Error in place of a request, if there is one for it.
    fn refusal(&self, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let mut error = None;
        self.inner.faults.send_if_modified(|faults| {
            let refusal = faults.answer_errors.as_mut();
            let refusal = refusal.filter(|refusal| refusal.left > 0 && is_meant(refusal.of));
            if let Some(refusal) = refusal {
                refusal.left -= 1;
                error = Some(refusal.answer.clone());
            }
            error.is_some()
        });
        self.inner.count("refusal", u64::from(error.is_some()));
        error
    }

    fn take_answer(&self) -> bool {
        self.take("lost answer", |faults| &mut faults.lose_answers)
    }

    /// Uses up one of so many.
    fn take(&self, name: &'static str, left: fn(&mut Faults) -> &mut u32) -> bool {
        let taken = self.inner.faults.send_if_modified(|faults| {
            let left = left(faults);
            let any = *left > 0;
            *left = left.saturating_sub(1);
            any
        });
        self.inner.count(name, u64::from(taken));
        taken
    }
}

async fn read(from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut piece = vec![0; 64 << 10];
    loop {
        from.readable().await?;
        match from.try_read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                piece.truncate(n);
                return Ok(piece);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
