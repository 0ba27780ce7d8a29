//! Around every request: who may, from where, and what the answer's headers say.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use oncue_http::Peer;
use oncue_http::address::{host_name, is_nobodys, requester};
use oncue_http::problem::catch_panic;

use crate::App;
use crate::access::Visitor;
use crate::access::right::Right;
use crate::api::audit;
use crate::problem::{FORBIDDEN, INTERNAL, LOGIN, NO_RIGHT, Problem, READ_ONLY};

/// Own files only, nothing inline, no frame around it, no form that goes anywhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Middleware of all routes: refuses what other sites send, writes problem documents and the headers every answer
/// has.
pub async fn every(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = if let Some(why) = refused(&app, &request) {
        Problem::new(FORBIDDEN, why).into_response()
    } else {
        catch_panic(next.run(request), INTERNAL).await
    };
    if let Some(problem) = Problem::take(&mut response) {
        if problem.status().is_server_error() {
            tracing::warn!(code = problem.code(), "{}", problem.detail());
        }
        problem.write(&mut response, None);
    }
    // Last, so that refusals and panics carry them too.
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        // Answers show events, which may hold anything: no cache on the way is to keep them.
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets pass who is logged in, or everybody where there is no token.
pub async fn reader(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(Visitor { who, .. }) = visitor(&app, &request) else {
        return Problem::new(LOGIN, "send the token to /api/login first").into_response();
    };
    // The name goes along with the request: whatever is done is on record under it.
    request.extensions_mut().insert(who);
    next.run(request).await
}

/// Lets pass who is logged in, and who sends the token itself, as a scraper does: `Authorization: Bearer TOKEN`.
pub async fn scraper(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION);
    let sent = sent.and_then(|value| value.to_str().ok());
    let token = sent.and_then(|value| value.strip_prefix("Bearer "));
    let may = match token {
        Some(token) => {
            let peer = request.extensions().get::<Peer>();
            let proxies = &app.config.console.proxies;
            let client = peer.and_then(|peer| requester(peer.0.ip(), request.headers(), proxies));
            app.access.may_scrape(token, client)
        }
        None => Ok(visitor(&app, &request).is_some()),
    };
    match may {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let how = "send the token of the console as `Authorization: Bearer TOKEN`";
            Problem::new(LOGIN, how).into_response()
        }
        Err(braked) => braked.into_response(),
    }
}

/// Lets pass who may act, where writing is on: without a token nobody is known, so nobody may.
pub async fn operator(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    pass(&app, Right::Operate, request, next).await
}

/// Lets pass who may change what stays.
pub async fn admin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    pass(&app, Right::Admin, request, next).await
}

async fn pass(app: &App, wanted: Right, mut request: Request, next: Next) -> Response {
    let Some(Visitor { who, right }) = visitor(app, &request) else {
        return Problem::new(LOGIN, "send the token to /api/login first").into_response();
    };
    if !app.access.may_write() {
        let how =
            "start the console with `[console] write = true` and a token in ONCUE_CONSOLE_TOKEN";
        return Problem::new(READ_ONLY, how).into_response();
    }
    if right < wanted {
        let may = right.word();
        let wanted = wanted.word();
        let why = format!("you may {may}, and this takes {wanted}: see [console.login]");
        audit::line(&who, "refused", request.uri().path(), &why);
        return Problem::new(NO_RIGHT, why).into_response();
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn visitor(app: &App, request: &Request) -> Option<Visitor> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    app.access.visitor(request.headers(), peer)
}

/// Why a request is not even looked at: a page of another site sent it, under our name or its own.
fn refused(app: &App, request: &Request) -> Option<&'static str> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Without a token the only guard is that nobody else can reach us; a name of theirs that leads here is somebody
    // else.
    if !app.access.has_token() && !text("host").is_some_and(is_loopback) {
        return Some(
            "without a token this console answers under localhost, 127.0.0.1 and [::1] only",
        );
    }
    let name = text("host").map(host_name);
    let hosts = &app.config.console.hosts;
    if !name.is_some_and(|name| is_nobodys(name) || hosts.contains(name)) {
        return Some(
            "this console does not answer under that name; name it in [console] hosts of oncue.toml",
        );
    }
    // No route changes anything by these, and a browser lets another site send but not read them.
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    // Browsers set this one and no script can; older ones send `origin` alone, so both are looked at.
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Some("a page of another site may not write here");
    }
    if text("origin")
        .is_some_and(|origin| origin.split_once("://").map(|(_, host)| host) != text("host"))
    {
        return Some("a page of another origin may not write here");
    }
    // No form can send this without asking first.
    (!is_json(headers)).then_some("send application/json")
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    matches!(name, "localhost" | "[::1]")
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_our_own_names_are_loopback() {
        for host in [
            "localhost",
            "localhost:8090",
            "127.0.0.1:8090",
            "127.1.2.3",
            "[::1]:8090",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]:1",
            "localhost.evil.example",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
