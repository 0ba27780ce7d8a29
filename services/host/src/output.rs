//! Lines of a child: what it writes on stdout and stderr, and what it logs over the socket.

use std::sync::Arc;

use oncue_proto::event::Meta;
use oncue_telemetry::SpanIds;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::protocol::log::Severity;

/// Longest line that is shown whole.
const MAX_LINE: u64 = 16 << 10;

/// Event that a line belongs to, as far as is known.
#[derive(Debug, Clone)]
pub struct Owner {
    pub meta: Arc<Meta>,
    pub ids: Option<SpanIds>,
}

/// Last line that a child wrote on stderr: as a rule it says why it has ended.
#[derive(Debug, Clone, Default)]
pub struct LastLine(Arc<Mutex<String>>);

impl LastLine {
    /// Last line with anything in it.
    pub fn get(&self) -> String {
        self.0.lock().clone()
    }

    fn set(&self, line: &str) {
        if !line.trim().is_empty() {
            line.trim().clone_into(&mut self.0.lock());
        }
    }
}

/// Reads lines to the end of a pipe. The pipe is always read, whatever the child does, so that it never waits for us.
pub async fn follow(
    pipe: impl AsyncRead + Unpin,
    severity: Severity,
    last: LastLine,
    owner: impl Fn() -> Option<Owner>,
    child: i32,
) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_LINE);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        last.set(text);
        say(severity, text, "", owner().as_ref(), child);
    }
}

/// Writes one line into the log of the host, with trace and flow of its event.
pub fn say(severity: Severity, text: &str, logger: &str, owner: Option<&Owner>, child: i32) {
    if !tracing::dispatcher::has_been_set() {
        // A question about the function: its answer is on stdout, and for people there is stderr.
        eprintln!("{text}");
        return;
    }
    let _log = owner.map(|owner| oncue_telemetry::enter(&owner.meta, owner.ids));
    let logger = Some(logger).filter(|logger| !logger.is_empty());
    match severity {
        Severity::Debug => tracing::debug!(child, logger, "{text}"),
        Severity::Info => tracing::info!(child, logger, "{text}"),
        Severity::Warn => tracing::warn!(child, logger, "{text}"),
        Severity::Error => tracing::error!(child, logger, "{text}"),
    }
}
