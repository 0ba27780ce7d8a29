//! Routes as they are now: those the gateway began with, and each change of `oncue.toml` or of the contract that leaves all
//! of them right. What is wrong with a change is said in the log and by `/readyz`, and the routes stay as they were.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, header};
use oncue_core::config::{Config, ConfigErrors, Endpoint, Match, Route, Routes, Target};
use oncue_core::contract::LiveCatalog;
use oncue_http::address::host_name;
use oncue_proto::Catalog;
use parking_lot::RwLock;

/// Pause between two looks at the file, which is small. What two in a row have read the same is taken: a file that is written in
/// parts may lack just the line that guards a route.
const LOOK: Duration = Duration::from_secs(1);

/// Routes that can be replaced while requests are under way. Clones share them.
#[derive(Clone, Default)]
pub struct LiveRoutes(Arc<State>);

#[derive(Default)]
struct State {
    now: RwLock<Arc<Routes>>,
    /// Mistakes for which the last change was not taken.
    trouble: RwLock<Option<String>>,
}

/// Route that a request is for. It stays the same for the request, whatever becomes of the routes.
#[derive(Clone)]
pub struct Found {
    routes: Arc<Routes>,
    found: Match,
}

impl Found {
    /// Route of a request; none where the path is the API's own or nobody's.
    pub fn of<B>(routes: &LiveRoutes, request: &axum::http::Request<B>) -> Option<Self> {
        let routes = routes.now();
        let path = request.uri().path();
        let found = routes.find(host(request), request.method().as_str(), path)?;
        let found = Self { routes, found };
        // HEAD asks about something that is there, and an event would only come to be.
        (found.is_row() || *request.method() != Method::HEAD).then_some(found)
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.routes.endpoints()[self.found.place]
    }

    /// Path as it is written in `oncue.toml`: of these there are few.
    pub fn path(&self) -> &str {
        &self.endpoint().route.path
    }

    /// Parameters of the path, percent-encoded as they came.
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.found.parameters
    }

    pub fn is_row(&self) -> bool {
        matches!(self.endpoint().target, Target::Row { .. })
    }
}

/// Host that a request names, without port.
fn host<B>(request: &axum::http::Request<B>) -> &str {
    // One in the target was put there.
    let host = request.headers().get(header::HOST);
    host.and_then(|host| host.to_str().ok())
        .map_or("", host_name)
}

/// Methods of the routes of a path, as `Allow` has them; empty where there is no route.
pub fn allowed(routes: &LiveRoutes, request: &Request) -> String {
    let routes = routes.now();
    let host = host(request);
    let path = request.uri().path();
    let mut names = Vec::new();
    for method in routes.methods(host, path) {
        names.push(method.name());
        let found = routes.find(host, method.name(), path);
        let target = found.map(|found| &routes.endpoints()[found.place].target);
        if matches!(target, Some(Target::Row { .. })) {
            names.push("HEAD");
        }
    }
    names.join(",")
}

impl LiveRoutes {
    pub fn new(routes: Routes) -> Self {
        Self(Arc::new(State {
            now: RwLock::new(Arc::new(routes)),
            trouble: RwLock::default(),
        }))
    }

    pub fn now(&self) -> Arc<Routes> {
        self.0.now.read().clone()
    }

    /// Mistakes of a change that was not taken, a line each.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.read().clone()
    }

    /// Follows the file and the contract for as long as somebody has the routes.
    pub fn follow(&self, config: &Config, contract: LiveCatalog) {
        let watched = Watched {
            path: config.path.clone(),
            seen: None,
            text: None,
            written: Ok(config.routes.clone()),
            taken: config.routes.clone(),
            catalog: contract.now(),
            contract,
        };
        tokio::spawn(watched.watch(Arc::downgrade(&self.0)));
    }
}

impl State {
    /// Takes routes over, or says why not, once for each reason.
    fn take(&self, routes: Result<Routes, ConfigErrors>) {
        let why = match routes {
            Ok(routes) => {
                *self.now.write() = Arc::new(routes);
                None
            }
            Err(errors) => Some(errors.to_string()),
        };
        let mut trouble = self.trouble.write();
        if *trouble != why {
            if let Some(why) = &why {
                tracing::error!("routes stay as they were:\n{why}");
            } else {
                tracing::info!("routes are right again");
            }
        }
        *trouble = why;
    }
}

/// File and contract as they were last seen.
struct Watched {
    path: Option<PathBuf>,
    /// Text of the last look.
    seen: Option<String>,
    /// Text that was last taken.
    text: Option<String>,
    /// Routes of the file, or its mistakes.
    written: Result<Vec<Route>, ConfigErrors>,
    /// Routes that were last taken.
    taken: Vec<Route>,
    catalog: Arc<Catalog>,
    contract: LiveCatalog,
}

impl Watched {
    async fn watch(mut self, live: Weak<State>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(live) = live.upgrade() else {
                return;
            };
            self.look(&live).await;
        }
    }

    async fn look(&mut self, live: &State) {
        let catalog = self.contract.now();
        let is_other_contract = !Arc::ptr_eq(&catalog, &self.catalog);
        self.catalog = catalog;
        match self.changed_text().await {
            Some(text) => self.written = self.read(&text),
            None if is_other_contract => {}
            None => return,
        }
        let routes = match &self.written {
            Ok(routes) => routes,
            Err(ConfigErrors(mistakes)) => {
                return live.take(Err(ConfigErrors(mistakes.clone())));
            }
        };
        let made = Routes::new(routes, &self.catalog);
        if made.is_ok() && *routes != self.taken {
            let count = routes.len();
            tracing::info!(routes = count, "changed routes are taken");
            self.taken.clone_from(routes);
        }
        live.take(made);
    }

    /// Text of the file if it is another one than before. One that cannot be read, or is not as it was at the look before, is
    /// being written.
    async fn changed_text(&mut self) -> Option<String> {
        let text = tokio::fs::read_to_string(self.path.as_ref()?).await.ok()?;
        let is_settled = self.seen.replace(text.clone()).as_ref() == Some(&text);
        if !is_settled || self.text.as_ref() == Some(&text) {
            return None;
        }
        self.text = Some(text.clone());
        Some(text)
    }

    fn read(&self, text: &str) -> Result<Vec<Route>, ConfigErrors> {
        let config = Config::parse(text, self.path.as_deref(), |name| {
            std::env::var(name).ok().filter(|value| !value.is_empty())
        })?;
        Ok(config.routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_text_that_is_being_written_is_not_taken() {
        let name = format!("oncue-live-{:016x}.toml", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        let contract = LiveCatalog::new(Catalog::builtin());
        let mut watched = Watched {
            path: Some(path.clone()),
            seen: None,
            text: None,
            written: Ok(Vec::new()),
            taken: Vec::new(),
            catalog: contract.now(),
            contract,
        };
        for (text, taken) in [
            ("row = 1", false),
            ("row = 1\nauth = 2", false),
            ("row = 1\nauth = 2", true),
            ("row = 1\nauth = 2", false),
            ("row = 1", false),
            ("row = 1\nauth = 3", false),
            ("row = 1\nauth = 3", true),
        ] {
            std::fs::write(&path, text).unwrap();
            let expected = taken.then(|| text.to_owned());
            assert_eq!(watched.changed_text().await, expected, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
