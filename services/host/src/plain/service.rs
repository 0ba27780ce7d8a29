//! A service that is given each event as a request: a CloudEvent in binary mode [CloudEvents HTTP binding 1.0.2 section 3.1],
//! or, where the function has a table, an envelope of event data and row. Status and body of its answer say what became of
//! the event.
//!
//! The service may be asked twice for one event, under the same `Idempotency-Key`; only its last answer counts.

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use oncue::foreign::{Foreign, ForeignAnswer, ForeignRun, Lost};
use oncue_core::config::Config;
use oncue_proto::{Catalog, Format, event};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::reply::{self, Reply};
use super::sender::Sender;
use super::{MAX_ANSWER, PlainRun, data, describe, failure};
use crate::convert::{self, Description};
use crate::protocol as wire;
use crate::protocol::event_result::Outcome;
use crate::spec::Spec;

/// Requests side by side, where `processes` does not say otherwise.
const REQUESTS: usize = 16;
/// Attempts, where nothing else is said: some ten minutes, in which a service may be started anew.
const ATTEMPTS: u32 = 20;
/// Time for which a connection is kept without a request. Shorter than services keep theirs (Node: five seconds), since a
/// request on one that is being closed is lost.
const IDLE: Duration = Duration::from_secs(4);
/// Most bytes read of an answer that says that something went wrong.
const MAX_COMPLAINT: usize = 16 << 10;
/// Class of a failure behind which the service may have done what it was asked, or not.
const UNANSWERED: &str = "unanswered";
/// Step of the idempotency key: a service is called once for each event.
const STEP: &str = "http";

/// The service behind a function.
pub struct Service {
    description: Description,
    catalog: Catalog,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: Uri,
    /// Address as letters have it, without a query.
    place: String,
    name: String,
    sender: Sender,
    has_table: bool,
    timeout: Duration,
    requests: Semaphore,
}

impl Service {
    /// The service that a function's section names. Nothing is asked of it yet.
    ///
    /// # Errors
    /// The address is none, the contract lacks an event type, or there are no root certificates to know it by.
    pub fn new(spec: &Spec, config: &Config, address: &str) -> Result<Self, String> {
        let address: Uri = address.parse().map_err(|e| format!("{address}: {e}"))?;
        let description = describe(spec, ATTEMPTS)?;
        let requests = spec
            .config
            .processes
            .map_or(REQUESTS, |n| n.max(1) as usize);
        Ok(Self {
            catalog: description.catalog(),
            client: client(&address)?,
            place: address
                .to_string()
                .split('?')
                .next()
                .unwrap_or_default()
                .to_owned(),
            address,
            sender: Sender::new(&spec.config.headers, config)?,
            name: spec.name.clone(),
            has_table: spec.config.table.is_some(),
            timeout: spec.limits(&description.limits).timeout.0,
            requests: Semaphore::new(requests),
            description,
        })
    }

    /// Refuses a service whose headers are not to be had.
    ///
    /// # Errors
    /// A sentence about the header, without its value.
    pub fn check_headers(&self) -> Result<(), String> {
        self.sender.headers().map(drop)
    }

    /// The function whose handler is this service.
    pub fn function(self) -> Foreign {
        let service = Arc::new(self);
        let asked = service.clone();
        let foreign = service.description.foreign(Box::new(move |run| {
            let service = asked.clone();
            Box::pin(async move { service.run(run).await })
        }));
        Foreign {
            side_by_side: service.requests.available_permits(),
            ..foreign
        }
    }

    /// Asks for one event of a run after the other; each begins with the row that the one before has left.
    async fn run(&self, asked: ForeignRun) -> Result<ForeignAnswer, Lost> {
        let run = convert::run(0, &asked);
        let mut plain = PlainRun::new(&run);
        for event in &run.events {
            let turn = self.requests.acquire().await;
            let began = Instant::now();
            let outcome = match data(&self.catalog, event) {
                Err(undecodable) => undecodable,
                Ok(_) if run.check => Outcome::Done(wire::Done::default()),
                Ok(data) => self.ask(&mut plain, event, data).await,
            };
            drop(turn);
            plain.settle(outcome, began);
        }
        let count = run.events.len();
        let answered = self.description.answer(plain.result(), count, self.timeout);
        answered.unwrap_or_else(|text| {
            Err(Lost::Ended {
                class: "protocol",
                text,
            })
        })
    }

    /// Asks for one event.
    async fn ask(&self, plain: &mut PlainRun<'_>, event: &wire::Event, data: Value) -> Outcome {
        if plain.run.dry_run {
            let why = "its handler is a service, which does not know of dry runs: it was not asked";
            return Outcome::Retry(failure("dry_run", why.to_owned()));
        }
        let answered = match self.request(plain, event, data) {
            Ok(request) => tokio::time::timeout(self.timeout, self.exchange(request)).await,
            Err(why) => Ok(Err(failure("connect", why))),
        };
        let outcome = match answered {
            Ok(Ok(reply)) => reply::outcome(&reply, plain, self.has_table, self.is_silent()),
            Ok(Err(failure)) => Outcome::Retry(failure),
            Err(_) => Outcome::Retry(failure("timeout", String::new())),
        };
        self.at_place(outcome)
    }

    /// Whether nothing may follow from an event.
    fn is_silent(&self) -> bool {
        self.description.manifest.emits.is_empty()
    }

    /// A failure with the address, by which dead letters are grouped.
    fn at_place(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::Retry(failure) | Outcome::Reject(failure) = &mut outcome {
            failure.place.clone_from(&self.place);
        }
        outcome
    }

    fn request(
        &self,
        plain: &PlainRun<'_>,
        event: &wire::Event,
        data: Value,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = if self.has_table {
            json!({ "data": data, "row": plain.row })
        } else {
            data
        };
        let request = Request::post(&self.address).body(Full::from(body.to_string()));
        let mut request = request.map_err(|e| format!("no request can be made: {e}"))?;
        *request.headers_mut() = self.headers(&plain.run.key, event);
        request.headers_mut().extend(self.sender.headers()?);
        Ok(request)
    }

    fn headers(&self, key: &str, event: &wire::Event) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(Format::Json.media_type()),
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("oncue-host/", env!("CARGO_PKG_VERSION"))),
        );
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", &event.id),
            ("ce-source", &event.source),
            ("ce-type", &event.r#type),
            ("ce-subject", key),
            ("ce-time", &event::format_time(event.time_ms)),
            ("ce-flowid", &event.flow),
            ("ce-causationid", &event.cause),
            ("ce-hopcount", &event.hops.to_string()),
            ("ce-attempt", &event.attempt.to_string()),
        ];
        for (name, value) in attributes {
            put(&mut headers, name, &event::percent_encode(value));
        }
        let idempotency = event::idempotency_key(&event.id, &self.name, STEP);
        put(&mut headers, "idempotency-key", &idempotency);
        put(&mut headers, "traceparent", &event.traceparent);
        put(&mut headers, "tracestate", &event.tracestate);
        put(&mut headers, "baggage", &event.baggage);
        headers
    }

    /// Sends a request and reads the answer, as far as is of use.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, wire::Failure> {
        let answer = self.client.request(request).await.map_err(|e| {
            let mut text = e.to_string();
            let mut cause = e.source();
            while let Some(e) = cause {
                let _ = write!(text, ": {e}");
                cause = e.source();
            }
            let class = if e.is_connect() {
                "connect"
            } else {
                UNANSWERED
            };
            failure(class, text)
        })?;
        let (head, body) = answer.into_parts();
        let is_well = head.status.is_success();
        let limit = if is_well { MAX_ANSWER } else { MAX_COMPLAINT };
        let body = match read(body, limit).await {
            Ok((body, is_whole)) if is_whole || !is_well => body,
            Ok(_) => {
                let why = format!("its answer is longer than {MAX_ANSWER} bytes");
                return Err(failure("protocol", why));
            }
            // The status of a failure is known, and decides alone.
            Err(_) if !is_well => Vec::new(),
            Err(e) => return Err(failure(UNANSWERED, format!("its answer broke off: {e}"))),
        };
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// Adds a header, unless it is empty or nothing that a header can hold.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value)
        && !value.is_empty()
    {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// As much of a body as is allowed, and whether that is all.
async fn read(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            read.extend_from_slice(data);
        }
        if read.len() > limit {
            read.truncate(limit);
            return Ok((read, false));
        }
    }
    Ok((read, true))
}

/// A client that keeps connections, follows no redirect and asks no proxy.
fn client(address: &Uri) -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    // Reading root certificates takes some milliseconds.
    let config = if address.scheme_str() == Some("https") {
        let config = config.with_native_roots();
        config.map_err(|e| format!("no root certificates of this system: {e}"))?
    } else {
        config.with_root_certificates(rustls::RootCertStore::empty())
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector);
    Ok(client)
}
