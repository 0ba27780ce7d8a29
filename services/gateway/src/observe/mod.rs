//! Around every request: its span, its count, its time, and the writing of its problem if it has one. [`trace`] makes
//! the spans, [`browser`] says what browsers may, [`health`] answers probes and scrapers with [`metrics`].

pub mod browser;
pub mod health;
pub mod metrics;
pub mod trace;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use oncue_http::Peer;
use oncue_http::address::{host_name, requester};
use oncue_http::problem::{Instance, catch_panic};
use opentelemetry::trace::FutureExt as _;

use self::trace::{Trace, few_attributes, http_attributes};
use crate::App;
use crate::problem::{FORBIDDEN, INTERNAL, MISDIRECTED, Problem};
use crate::request::Client;
use crate::routes::live::Found;

/// Middleware of all routes.
pub async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method(request.method());
    let own = request.extensions().get::<MatchedPath>();
    let own = own.map(|path| path.as_str().to_owned());
    let found = own
        .is_none()
        .then(|| Found::of(&app.routes, &request))
        .flatten();
    let route = own.or_else(|| Some(found.as_ref()?.path().to_owned()));
    let is_row = found.as_ref().is_some_and(Found::is_row);
    let traced = is_traced(&request, route.as_deref(), is_row);
    let trace = Trace::begin(&request, traced);
    let attributes = trace
        .sampled()
        .map(|_| http_attributes(&request, method, route.as_deref()));
    let _active = Active::new(&app);
    let path = request.uri().path().to_owned();
    let host = header_text(&request, header::HOST).map(|host| host_name(host).to_owned());
    let client = client(&app, &request);
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(trace.clone());
    if let Some(found) = found {
        request.extensions_mut().insert(found);
    }
    let mut response = run(&app, request, next).with_context(trace.context()).await;
    let problem = Problem::take(&mut response);
    let status = response.status();
    if let Some(problem) = &problem {
        let instance = Instance {
            path: &path,
            trace_id: &trace.id(),
        };
        problem.write(&mut response, Some(instance));
        if status.is_server_error() {
            let _context = trace.context().attach();
            tracing::warn!(
                status = status.as_u16(),
                route,
                detail = problem.detail(),
                "{method} failed"
            );
        }
    }
    browser::harden(&mut response, app.tls.is_some(), host.as_deref());
    if traced {
        let name = route
            .as_ref()
            .map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
        let attributes =
            attributes.unwrap_or_else(|| few_attributes(method, &path, route.as_deref()));
        trace.finish(
            &name,
            attributes,
            status,
            problem.map(|problem| problem.code()),
        );
    }
    app.metrics.request(
        method,
        route.as_deref().unwrap_or_default(),
        status.as_u16(),
        started.elapsed(),
    );
    response
}

fn client(app: &App, request: &Request) -> Client {
    let peer = request.extensions().get::<Peer>();
    let proxies = &app.config.proxies;
    Client(peer.and_then(|Peer(peer)| requester(peer.ip(), request.headers(), proxies)))
}

/// Counts a request until it is answered, or its client has gone.
struct Active(Arc<App>);

impl Active {
    fn new(app: &Arc<App>) -> Self {
        app.metrics.active.fetch_add(1, Ordering::Relaxed);
        Self(app.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.metrics.active.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(app: &App, request: Request, next: Next) -> Response {
    let host = header_text(&request, header::HOST).map(host_name);
    if let Some(host) = host.filter(|host| !app.answers_to(host)) {
        let why = format!(
            "this gateway does not answer under the name {host:?}; name it in [gateway] hosts of oncue.toml"
        );
        return Problem::new(MISDIRECTED, why).into_response();
    }
    if is_foreign(&request) && !is_invited(app, &request) {
        return Problem::new(FORBIDDEN, "a page of another site may not write here")
            .into_response();
    }
    catch_panic(next.run(request), INTERNAL).await
}

/// Any page a browser is on can post to this machine's own ports without asking, if only with plain bodies; a browser
/// says so, and other clients do not send these headers. A page of another port of this host is another site too.
fn is_foreign(request: &Request) -> bool {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return false;
    }
    match header_text(request, HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site != "same-origin" && site != "none",
        // Older browsers, and those that came without TLS, say only where the page is from.
        None => header_text(request, header::ORIGIN).is_some_and(|origin| {
            let site = origin.split_once("://").map(|(_, site)| site);
            site != header_text(request, header::HOST)
        }),
    }
}

/// Whether the page is of a site that `[gateway] cors` names.
fn is_invited(app: &App, request: &Request) -> bool {
    let origin = header_text(request, header::ORIGIN);
    let cors = app.config.cors.as_ref();
    cors.is_some_and(|cors| origin.is_some_and(|origin| cors.origins.contains(origin)))
}

fn header_text(request: &Request, name: HeaderName) -> Option<&str> {
    let value = request.headers().get(name);
    value.and_then(|value| value.to_str().ok())
}

/// Every request, but not those that come by the clock: probes, and pages that look at state once a second, would
/// bury the flows. With a context of their own they are part of somebody's trace.
fn is_traced(request: &Request, route: Option<&str>, is_row: bool) -> bool {
    match route {
        Some("/healthz" | "/readyz" | "/metrics") => false,
        Some(route) if is_row || is_of_state(route) => {
            request.headers().contains_key("traceparent")
        }
        _ => true,
    }
}

/// Paths of the API that pages look at again and again.
fn is_of_state(route: &str) -> bool {
    route.starts_with("/v1/state/") || route.starts_with("/v1/flows/")
}

/// A bounded set, whatever a client makes up.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}
