//! Reader of `oncue.toml`, part after part, so that one mistake does not hide the next.
//!
//! Libraries that merge files and environment stop at the first error and lose its line. Here the text is parsed into
//! a table with the place of each value; each section is deserialized by itself; and a field that is wrong is taken
//! out before the section is tried again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncue_proto::Catalog;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::app::AppName;

use super::{
    AuthConfig, Bounds, ClientTls, Config, ConfigErrors, ConsoleConfig, CorsConfig, FlowsConfig,
    FunctionConfig, GatewayConfig, LimitConfig, NoticeConfig, Route, Schedule, ServerUrl, Span,
    WebhookConfig,
};

/// Configuration of `text`, which comes from `path`; fails with every mistake in it, in the order of the text.
pub(super) fn read(text: &str, path: Option<&Path>) -> Result<Config, ConfigErrors> {
    let mut reader = Reader {
        text,
        path,
        mistakes: Vec::new(),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => return Err(ConfigErrors(vec![reader.unreadable(&e)])),
    };
    let config = reader.config(table);
    let mut mistakes = reader.mistakes;
    if mistakes.is_empty() {
        return Ok(config);
    }
    mistakes.sort_by_key(|mistake| mistake.at);
    let mistakes = mistakes.into_iter().map(|mistake| mistake.message);
    Err(ConfigErrors(mistakes.collect()))
}

/// Mistake in the text. Sections are not read in its order.
struct Mistake {
    /// Byte in the text.
    at: usize,
    /// Sentence with file and line in front.
    message: String,
}

/// `[app]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppSection {
    /// See [`Config::app`].
    name: AppName,
}

/// `[nats]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NatsSection {
    /// See [`NatsServer::url`].
    url: Option<ServerUrl>,
    /// See [`NatsServer::credentials`].
    credentials: Option<PathBuf>,
    /// See [`NatsServer::api_prefix`].
    api_prefix: Option<String>,
    /// See [`NatsServer::inbox_prefix`].
    inbox_prefix: Option<String>,
    /// See [`NatsServer::tls`].
    tls: Option<ClientTls>,
    /// See [`Config::batch_publish`].
    batch_publish: Option<bool>,
}

/// `[redis]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedisSection {
    /// See [`RedisServer::url`].
    url: Option<ServerUrl>,
    /// See [`RedisServer::password_file`].
    password_file: Option<PathBuf>,
    /// See [`RedisServer::sentinel_password_file`].
    sentinel_password_file: Option<PathBuf>,
    /// See [`RedisServer::tls`].
    tls: Option<ClientTls>,
    /// See [`Config::keep_outputs`].
    keep_outputs: Option<Span>,
}

/// File that is being read, and the mistakes found in it so far.
struct Reader<'t> {
    /// Whole text of the file, for lines.
    text: &'t str,
    /// Path for messages; `oncue.toml` stands in where there is none.
    path: Option<&'t Path>,
    /// In the order in which they are found; sorted by their place at the end.
    mistakes: Vec<Mistake>,
}

impl<'t> Reader<'t> {
    /// Configuration of an empty file.
    fn defaults(&self) -> Config {
        Config {
            path: self.path.map(Path::to_owned),
            app: AppName::default(),
            nats: "nats://127.0.0.1:4222".into(),
            redis: "redis://127.0.0.1:6379".into(),
            batch_publish: false,
            keep_outputs: Span(Duration::from_mins(5)),
            proto: PathBuf::from("proto"),
            build: None,
            test: None,
            streams: BTreeMap::new(),
            functions: BTreeMap::new(),
            schedules: Vec::new(),
            routes: Vec::new(),
            auths: BTreeMap::new(),
            limits: BTreeMap::new(),
            webhooks: Vec::new(),
            notices: BTreeMap::new(),
            gateway: GatewayConfig::default(),
            console: ConsoleConfig::default(),
            flows: FlowsConfig::default(),
            bounds: Bounds::default(),
            process: FunctionConfig::default(),
        }
    }

    /// Configuration of a whole file, without the parts that are wrong. Schedules come last: they are checked against
    /// the functions, which may stand behind them in the file.
    fn config(&mut self, table: DeTable<'t>) -> Config {
        let mut config = self.defaults();
        let mut app = None;
        let mut schedules = None;
        let mut guards = BTreeMap::new();
        let mut webhooks = Vec::new();
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "app" => app = self.part::<AppSection>("app", value),
                "nats" => {
                    let places = places(&value);
                    let nats: NatsSection = self.part("nats", value).unwrap_or_default();
                    if let Some(why) = nats.url.as_ref().and_then(ServerUrl::not_of_nats) {
                        self.fail(places.get("url").cloned(), &format!("[nats] url {why}"));
                    }
                    let server = &mut config.nats;
                    server.url = nats.url.unwrap_or_else(|| server.url.clone());
                    server.credentials = nats.credentials.map(|file| self.beside(file));
                    server.api_prefix =
                        nats.api_prefix.unwrap_or_else(|| server.api_prefix.clone());
                    server.inbox_prefix = nats
                        .inbox_prefix
                        .unwrap_or_else(|| server.inbox_prefix.clone());
                    server.tls = self.client_tls("nats", nats.tls, places.get("tls").cloned());
                    config.batch_publish = nats.batch_publish.unwrap_or(config.batch_publish);
                }
                "redis" => {
                    let places = places(&value);
                    let redis: RedisSection = self.part("redis", value).unwrap_or_default();
                    let server = &mut config.redis;
                    server.url = redis.url.unwrap_or_else(|| server.url.clone());
                    server.password_file = redis.password_file.map(|file| self.beside(file));
                    let sentinels = redis.sentinel_password_file;
                    server.sentinel_password_file = sentinels.map(|file| self.beside(file));
                    server.tls = self.client_tls("redis", redis.tls, places.get("tls").cloned());
                    config.keep_outputs = redis.keep_outputs.unwrap_or(config.keep_outputs);
                }
                "proto" => {
                    config.proto = self.part("proto", value).unwrap_or_else(|| "proto".into());
                }
                "contracts" => self.fail(
                    Some(name.span()),
                    "contracts is no setting any more, and nothing takes its place: each function brings its event types, and \
                     `oncue apply` stores them for all programs; take the line out",
                ),
                "build" => config.build = self.part("build", value),
                "test" => config.test = self.part("test", value),
                "auth" => config.auths = self.checked("auth", value, AuthConfig::check),
                "limit" => config.limits = self.checked("limit", value, LimitConfig::check),
                "notice" => config.notices = self.checked("notice", value, NoticeConfig::check),
                "webhook" => webhooks = self.webhooks(value),
                "gateway" => {
                    guards = places(&value);
                    config.gateway = self.gateway(value);
                }
                "console" => config.console = self.console(value),
                "flows" => config.flows = self.flows(value),
                "bounds" => config.bounds = self.bounds(value),
                "streams" => config.streams = self.named("streams", value),
                "functions" => {
                    let places = places(&value);
                    config.functions = self.named("functions", value);
                    self.check_scales(&config.functions, &places);
                }
                "schedule" => schedules = Some(value),
                "route" => config.routes = self.routes(value),
                other => {
                    let known = "app, nats, redis, proto, build, test, auth, limit, webhook, notice, gateway, console, flows, bounds, streams, functions, schedule, route";
                    self.fail(
                        Some(name.span()),
                        &format!("unknown section {other:?}; known: {known}"),
                    );
                }
            }
        }
        match app {
            Some(app) => config.app = app.name,
            None if self.path.is_some() && self.mistakes.is_empty() => self.fail(
                None,
                "[app] name is missing: it tells what is this app's on the servers from what is others', \
                 such as\n  [app]\n  name = \"shop\"",
            ),
            None => {}
        }
        self.check_guards(&config, &guards);
        config.webhooks = self.known_limits(webhooks, &config.limits);
        config.schedules = schedules
            .map(|value| self.schedules(value, &Catalog::builtin(), &config.functions))
            .unwrap_or_default();
        config
    }

    /// A path of the file, relative to its folder, as seen from here.
    fn beside(&self, path: PathBuf) -> PathBuf {
        let folder = self.path.and_then(Path::parent);
        folder.map_or(path.clone(), |folder| folder.join(path))
    }

    /// Files of `[SERVER.tls]`, as seen from here.
    fn client_tls(
        &mut self,
        server: &str,
        tls: Option<ClientTls>,
        place: Option<Range<usize>>,
    ) -> ClientTls {
        let tls = tls.unwrap_or_default();
        if let Err(why) = tls.identity() {
            self.fail(place, &format!("[{server}.tls] {why}"));
        }
        ClientTls {
            ca: tls.ca.map(|file| self.beside(file)),
            certificate: tls.certificate.map(|file| self.beside(file)),
            key: tls.key.map(|file| self.beside(file)),
        }
    }

    /// Reads `[console]`, and checks the login in it.
    fn console(&mut self, value: Spanned<DeValue<'t>>) -> ConsoleConfig {
        let login = places(&value).remove("login");
        let console: ConsoleConfig = self.part("console", value).unwrap_or_default();
        let checked = console.login.as_ref();
        let checked = checked.map(|login| login.check(console.url.as_deref()));
        if let Some(Err(why)) = checked {
            self.fail(login, &format!("[console.login] {why}"));
        }
        console
    }

    /// Reads `[gateway]`, and remembers the line of `site`, of which mistakes are found out later.
    fn gateway(&mut self, value: Spanned<DeValue<'t>>) -> GatewayConfig {
        let site = places(&value).remove("site");
        let mut gateway: GatewayConfig = self.part("gateway", value).unwrap_or_default();
        if let (Some(site), Some(span)) = (&mut gateway.site, site) {
            site.line = self.line(&span);
        }
        gateway
    }

    /// Reads the tables of a section that has one for each name, and checks each.
    fn checked<T: for<'de> Deserialize<'de>>(
        &mut self,
        section: &str,
        value: Spanned<DeValue<'t>>,
        check: fn(&T) -> Result<(), String>,
    ) -> BTreeMap<String, T> {
        let places = places(&value);
        let mistakes = self.mistakes.len();
        let parts: BTreeMap<String, T> = self.named(section, value);
        // What was left out for a mistake is not missing as well.
        if self.mistakes.len() == mistakes {
            for (name, part) in &parts {
                if let Err(why) = check(part) {
                    let why = format!("[{section}.{name}] {why}");
                    self.fail(places.get(name).cloned(), &why);
                }
            }
        }
        parts
    }

    /// Checks that the policies which `[gateway]` names are there; `places` is where it names them.
    fn check_guards(&mut self, config: &Config, places: &BTreeMap<String, Range<usize>>) {
        let GatewayConfig {
            auth, limit, cors, ..
        } = &config.gateway;
        if let Some(name) = auth
            .as_ref()
            .filter(|name| !config.auths.contains_key(*name))
        {
            let why = format!("[gateway] auth: there is no [auth.{name}]");
            self.fail(places.get("auth").cloned(), &why);
        }
        if let Some(name) = limit
            .as_ref()
            .filter(|name| !config.limits.contains_key(*name))
        {
            let why = format!("[gateway] limit: there is no [limit.{name}]");
            self.fail(places.get("limit").cloned(), &why);
        }
        for route in &config.routes {
            self.check_guards_of(route, config);
        }
        if let Some(Err(why)) = cors.as_ref().map(CorsConfig::check) {
            self.fail(places.get("cors").cloned(), &format!("[gateway] {why}"));
        }
    }

    /// Checks that the policies which a route names are there, and that somebody says the claims it takes.
    fn check_guards_of(&mut self, route: &Route, config: &Config) {
        let mut found = Vec::new();
        let auth = route.auth.as_ref();
        if let Some(name) = auth.filter(|name| !config.auths.contains_key(*name)) {
            found.push(format!("auth: there is no [auth.{name}]"));
        }
        let limit = route.limit.as_ref();
        if let Some(name) = limit.filter(|name| !config.limits.contains_key(*name)) {
            found.push(format!("limit: there is no [limit.{name}]"));
        }
        let is_open = auth.or(config.gateway.auth.as_ref()).is_none();
        if let Some(part) = route.claim().filter(|_| is_open) {
            found.push(format!(
                "{part}: nobody says claims without a credential; name an `auth` here or in [gateway]"
            ));
        }
        self.mistakes.extend(found.iter().map(|why| Mistake {
            at: 0,
            message: format!("{}[[route]] {}: {why}", route.place, route.title()),
        }));
    }

    /// Reads and checks all of `[[webhook]]`, each with its place.
    fn webhooks(&mut self, value: Spanned<DeValue<'t>>) -> Vec<(WebhookConfig, Range<usize>)> {
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.fail(Some(span), "webhooks are written as [[webhook]]");
            return Vec::new();
        };
        let mut webhooks: Vec<(WebhookConfig, Range<usize>)> = Vec::new();
        for value in array {
            let span = value.span();
            let mistakes = self.mistakes.len();
            let Some(webhook) = self.part::<WebhookConfig>("[webhook]", value) else {
                continue;
            };
            // A field that is wrong is not missing as well.
            if self.mistakes.len() > mistakes {
                continue;
            }
            if let Err(why) = webhook.check() {
                self.fail(Some(span.clone()), &format!("[[webhook]] {why}"));
            }
            if webhooks.iter().any(|(other, _)| other.name == webhook.name) {
                let why = format!("[[webhook]] there are two named {:?}", webhook.name);
                self.fail(Some(span.clone()), &why);
            }
            webhooks.push((webhook, span));
        }
        webhooks
    }

    /// Webhooks whose limits are there.
    fn known_limits(
        &mut self,
        webhooks: Vec<(WebhookConfig, Range<usize>)>,
        limits: &BTreeMap<String, LimitConfig>,
    ) -> Vec<WebhookConfig> {
        let mut known = Vec::new();
        for (webhook, span) in webhooks {
            if let Some(name) = webhook
                .limit
                .as_ref()
                .filter(|name| !limits.contains_key(*name))
            {
                let why = format!("[[webhook]] limit: there is no [limit.{name}]");
                self.fail(Some(span), &why);
            }
            known.push(webhook);
        }
        known
    }

    /// Reads `[flows]`, and checks the time that ledgers stay: Redis counts it in seconds.
    fn flows(&mut self, value: Spanned<DeValue<'t>>) -> FlowsConfig {
        let span = value.span();
        let flows: FlowsConfig = self.part("flows", value).unwrap_or_default();
        // Shorter, and a ledger would be gone before anybody had read it.
        if flows.keep.0 < Duration::from_secs(1) {
            self.fail(Some(span), "[flows] keep is at least 1s");
        }
        flows
    }

    /// Reads `[bounds]`, and checks that what they let through can be sent.
    fn bounds(&mut self, value: Spanned<DeValue<'t>>) -> Bounds {
        let places = places(&value);
        let bounds: Bounds = self.part("bounds", value).unwrap_or_default();
        for (name, size, most) in [
            ("key", bounds.key, Bounds::MAX_KEY),
            ("headers", bounds.headers, Bounds::MAX_HEADERS),
        ] {
            if size.0 > most {
                let why = format!(
                    "[bounds] {name} is at most {most} bytes: NATS takes 64 KiB of headers"
                );
                self.fail(places.get(name).cloned(), &why);
            }
        }
        bounds
    }

    /// Reads one section, `name` in its messages; a field that is wrong is recorded and left out, so that the next
    /// mistake is found too. `None` where the section as a whole is wrong, or a field that must be there is not.
    fn part<T: for<'de> Deserialize<'de>>(
        &mut self,
        name: &str,
        mut value: Spanned<DeValue<'t>>,
    ) -> Option<T> {
        loop {
            match T::deserialize(toml::de::ValueDeserializer::from(value.clone())) {
                Ok(part) => return Some(part),
                Err(e) => {
                    let span = e.span().unwrap_or(value.span());
                    self.fail(Some(span.clone()), &format!("[{name}] {}", e.message()));
                    // Without a field to take out there is nothing to try again.
                    let DeValue::Table(fields) = value.get_mut() else {
                        return None;
                    };
                    let wrong = fields.iter().find(|(key, value)| {
                        key.span().contains(&span.start) || value.span().contains(&span.start)
                    });
                    let wrong = wrong.map(|(key, _)| key.clone())?;
                    // One field less each time, so this ends.
                    fields.remove(&wrong);
                }
            }
        }
    }

    /// Reads the tables of a section that has one for each name. Names become parts of subjects and of Redis keys, so
    /// they are held to a few characters.
    fn named<T: for<'de> Deserialize<'de>>(
        &mut self,
        section: &str,
        value: Spanned<DeValue<'t>>,
    ) -> BTreeMap<String, T> {
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            self.fail(
                Some(span),
                &format!("[{section}] holds one table for each name"),
            );
            return BTreeMap::new();
        };
        let mut parts = BTreeMap::new();
        for (name, value) in table {
            if !name.get_ref().chars().all(is_name_char) {
                self.fail(
                    Some(name.span()),
                    &format!(
                        "[{section}] name {:?} may hold a-z, 0-9 and '-'",
                        name.get_ref()
                    ),
                );
            }
            if let Some(part) = self.part(&format!("{section}.{}", name.get_ref()), value) {
                parts.insert(name.get_ref().to_string(), part);
            }
        }
        parts
    }

    /// Checks the numbers of processes of each function, and how its handler is run; `places` is where it stands in the text.
    fn check_scales(
        &mut self,
        functions: &BTreeMap<String, FunctionConfig>,
        places: &BTreeMap<String, Range<usize>>,
    ) {
        for (name, function) in functions {
            let checked = function
                .check_scale()
                .and_then(|_| function.check_handler());
            if let Err(why) = checked {
                self.fail(
                    places.get(name).cloned(),
                    &format!("[functions.{name}] {why}"),
                );
            }
        }
    }

    /// Reads and checks all of `[[schedule]]`. Two of one name would replace each other on the server, and one for a function
    /// that is not there would fire for nobody. Programs of functions may bring event types that are not known here.
    fn schedules(
        &mut self,
        value: Spanned<DeValue<'t>>,
        catalog: &Catalog,
        functions: &BTreeMap<String, FunctionConfig>,
    ) -> Vec<Schedule> {
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.fail(Some(span), "schedules are written as [[schedule]]");
            return Vec::new();
        };
        let mut schedules: Vec<Schedule> = Vec::new();
        for value in array {
            let span = value.span();
            let mistakes = self.mistakes.len();
            let Some(mut schedule) = self.part::<Schedule>("[schedule]", value) else {
                continue;
            };
            // A field that is wrong is not missing as well.
            if self.mistakes.len() > mistakes {
                continue;
            }
            schedule.place = self.at(Some(span.clone()), "");
            if let Err(why) = schedule.check(catalog, functions) {
                self.fail(Some(span.clone()), &format!("[[schedule]] {why}"));
            }
            if schedules
                .iter()
                .any(|other| other.name() == schedule.name())
            {
                self.fail(
                    Some(span),
                    &format!(
                        "[[schedule]] there are two named {:?}; give one a `name`",
                        schedule.name()
                    ),
                );
            }
            schedules.push(schedule);
        }
        schedules
    }

    /// Reads all of `[[route]]`, and checks what needs no contract.
    fn routes(&mut self, value: Spanned<DeValue<'t>>) -> Vec<Route> {
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.fail(Some(span), "routes are written as [[route]]");
            return Vec::new();
        };
        let mut routes = Vec::new();
        for value in array {
            let span = value.span();
            let mistakes = self.mistakes.len();
            let Some(mut route) = self.part::<Route>("[route]", value) else {
                continue;
            };
            // A field that is wrong is not missing as well.
            if self.mistakes.len() > mistakes {
                continue;
            }
            route.place = self.at(Some(span.clone()), "");
            for why in route.mistakes() {
                let title = route.title();
                self.fail(Some(span.clone()), &format!("[[route]] {title}: {why}"));
            }
            routes.push(route);
        }
        routes
    }

    /// Message of a text that is no TOML. A key that stands there twice is named, which the parser leaves out.
    fn unreadable(&self, e: &toml::de::Error) -> String {
        let key = e.span().and_then(|span| self.text.get(span));
        match key {
            Some(key) if e.message() == "duplicate key" => {
                self.at(e.span(), &format!("{key} stands here a second time"))
            }
            _ => self.at(e.span(), e.message()),
        }
    }

    /// Records a mistake; without a span it is said of the first line.
    fn fail(&mut self, span: Option<Range<usize>>, message: &str) {
        let at = span.as_ref().map_or(0, |span| span.start);
        let message = self.at(span, message);
        self.mistakes.push(Mistake { at, message });
    }

    /// Message with file and line in front, `oncue.toml:12: ...`, as editors and terminals link it.
    fn at(&self, span: Option<Range<usize>>, message: &str) -> String {
        let line = span.map_or(1, |span| self.line(&span));
        let path = self
            .path
            .map_or_else(|| "oncue.toml".to_owned(), |p| p.display().to_string());
        format!("{path}:{line}: {}", message.trim())
    }

    /// Line of the text, from 1, where the span begins.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text[..span.start.min(self.text.len())];
        before.matches('\n').count() + 1
    }
}

/// Whether a name of a section may hold the character.
fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// Bytes of the text at which each name of a section stands.
fn places(section: &Spanned<DeValue<'_>>) -> BTreeMap<String, Range<usize>> {
    let DeValue::Table(table) = section.get_ref() else {
        return BTreeMap::new();
    };
    table
        .iter()
        .map(|(name, _)| (name.get_ref().to_string(), name.span()))
        .collect()
}
