//! A receiver of traces that really takes them: reads every export, counts its spans, and answers as a collector does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;

pub struct Sink {
    pub url: String,
    spans: Arc<AtomicU64>,
}

impl Sink {
    /// Serves from a thread of its own.
    pub fn start() -> Self {
        let spans = Arc::new(AtomicU64::new(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new()
            .route("/v1/traces", post(take))
            .layer(DefaultBodyLimit::disable());
        let app = app.with_state(spans.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                listener.set_nonblocking(true).expect("a socket");
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                axum::serve(listener, app).await.expect("it serves");
            });
        });
        Self { url, spans }
    }

    /// Spans received since the last time.
    pub fn take(&self) -> u64 {
        self.spans.swap(0, Ordering::Relaxed)
    }
}

async fn take(State(spans): State<Arc<AtomicU64>>, body: Bytes) -> Bytes {
    spans.fetch_add(count(&body), Ordering::Relaxed);
    Bytes::new()
}

/// Spans of an `ExportTraceServiceRequest`: `resource_spans` (1), in each `scope_spans` (2), in each `spans` (2). Walking
/// the lengths is enough to count, and takes nothing from what is being measured.
fn count(request: &[u8]) -> u64 {
    let resources = fields(request, 1);
    let scopes = resources
        .into_iter()
        .flat_map(|resource| fields(resource, 2));
    scopes.map(|scope| fields(scope, 2).len() as u64).sum()
}

/// The length-delimited fields of this number.
fn fields(mut message: &[u8], wanted: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(tag) = varint(&mut message) {
        let length = match tag & 7 {
            0 => varint(&mut message).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut message),
            5 => Some(4),
            _ => None,
        };
        let Some((field, rest)) =
            length.and_then(|length| message.split_at_checked(length as usize))
        else {
            break;
        };
        if tag == wanted << 3 | 2 {
            found.push(field);
        }
        message = rest;
    }
    found
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, byte) in message.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *message = &message[at + 1..];
            return Some(value);
        }
    }
    None
}

#[test]
fn spans_are_counted_by_their_lengths() {
    // Two resources: one of a scope with two spans and a number beside them, one of two scopes with a span each.
    let span = |n: u8| vec![0x12, 1, n];
    let wrap = |tag: u8, inner: &[u8]| [&[tag, inner.len() as u8], inner].concat();
    let first = wrap(
        0x0a,
        &wrap(0x12, &[span(1), vec![0x08, 0x96, 0x01], span(2)].concat()),
    );
    let second = wrap(0x0a, &[wrap(0x12, &span(3)), wrap(0x12, &span(4))].concat());
    assert_eq!(count(&[first, second].concat()), 4);
}
