//! What is going on, for those who wait: one line that changes on a terminal, a line now and then elsewhere.

use parking_lot::Mutex;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::report::Live;

/// Between two lines where nobody looks on.
const SELDOM: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(250);

pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    live: Arc<Live>,
    start: Instant,
    time: Duration,
    /// The row that runs now.
    now: Mutex<String>,
}

impl Progress {
    pub fn start(live: Arc<Live>, start: Instant, time: Duration) -> Self {
        let inner = Arc::new(Inner {
            live,
            start,
            time,
            now: Mutex::default(),
        });
        let weak = Arc::downgrade(&inner);
        let pause = if terminal() { OFTEN } else { SELDOM };
        std::thread::spawn(move || {
            while let Some(inner) = weak.upgrade() {
                inner.show();
                drop(inner);
                std::thread::sleep(pause);
            }
        });
        Self { inner }
    }

    pub fn row(&self, now: String) {
        *self.inner.now.lock() = now;
        self.inner.show();
    }

    /// Room for a line that stays.
    pub fn clear(&self) {
        if terminal() {
            eprint!("\r\x1b[2K");
        }
    }
}

impl Inner {
    fn show(&self) {
        let now = self.now.lock().clone();
        if now.is_empty() {
            return;
        }
        let line = line(
            &now,
            self.live.events.load(Ordering::Relaxed),
            self.live.faults.load(Ordering::Relaxed),
            self.start.elapsed(),
            self.time,
        );
        if terminal() {
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}

fn terminal() -> bool {
    std::io::stderr().is_terminal()
}

fn line(now: &str, events: u64, faults: u64, gone: Duration, time: Duration) -> String {
    let left = match time
        .checked_sub(gone)
        .map(|left| left.as_secs())
        .filter(|left| *left > 0)
    {
        Some(left) => format!("{}:{:02} left", left / 60, left % 60),
        None => "finishing".into(),
    };
    format!(
        "{} events, {faults} faults, {left} · {now}",
        grouped(events)
    )
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_left() {
        let (long, short) = (Duration::from_secs(100), Duration::from_secs(9));
        assert_eq!(
            line("K-2 kill", 1_234_567, 12, short, long),
            "1,234,567 events, 12 faults, 1:31 left · K-2 kill"
        );
        assert_eq!(
            line("K-2 kill", 999, 0, long, short),
            "999 events, 0 faults, finishing · K-2 kill"
        );
    }
}
