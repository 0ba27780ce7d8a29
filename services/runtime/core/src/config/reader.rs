//! Reads `oncue.toml` part after part, so that one mistake does not hide the next.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use oncue_proto::Catalog;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigErrors, ConsoleConfig, FlowsConfig, FunctionConfig, GatewayConfig, Schedule,
    ServerUrl, Span,
};

pub(super) fn read(text: &str, path: Option<&Path>) -> Result<Config, ConfigErrors> {
    let mut reader = Reader {
        text,
        path,
        errors: Vec::new(),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => return Err(ConfigErrors(vec![reader.at(e.span(), e.message())])),
    };
    let config = reader.config(table);
    if reader.errors.is_empty() {
        return Ok(config);
    }
    reader.errors.sort_by_key(|(at, _)| *at);
    Err(ConfigErrors(
        reader
            .errors
            .into_iter()
            .map(|(_, message)| message)
            .collect(),
    ))
}

/// `[nats]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nats {
    url: Option<ServerUrl>,
    batch_publish: Option<bool>,
}

/// `[redis]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Redis {
    url: Option<ServerUrl>,
    keep_outputs: Option<Span>,
}

struct Reader<'t> {
    text: &'t str,
    path: Option<&'t Path>,
    /// With where they are in the text, since sections are not read in its order.
    errors: Vec<(usize, String)>,
}

impl<'t> Reader<'t> {
    fn defaults(&self) -> Config {
        Config {
            path: self.path.map(Path::to_owned),
            nats_url: "nats://127.0.0.1:4222".into(),
            redis_url: "redis://127.0.0.1:6379".into(),
            batch_publish: false,
            keep_outputs: Span(Duration::from_mins(5)),
            contracts: Vec::new(),
            streams: BTreeMap::new(),
            functions: BTreeMap::new(),
            schedules: Vec::new(),
            gateway: GatewayConfig::default(),
            console: ConsoleConfig::default(),
            flows: FlowsConfig::default(),
            process: FunctionConfig::default(),
        }
    }

    fn config(&mut self, table: DeTable<'t>) -> Config {
        let mut config = self.defaults();
        let (mut contracts, mut schedules) = (None, None);
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "nats" => {
                    let nats: Nats = self.part("nats", value).unwrap_or_default();
                    config.nats_url = nats.url.unwrap_or(config.nats_url);
                    config.batch_publish = nats.batch_publish.unwrap_or(config.batch_publish);
                }
                "redis" => {
                    let redis: Redis = self.part("redis", value).unwrap_or_default();
                    config.redis_url = redis.url.unwrap_or(config.redis_url);
                    config.keep_outputs = redis.keep_outputs.unwrap_or(config.keep_outputs);
                }
                "contracts" => {
                    contracts = Some(value.span());
                    config.contracts = self.part("contracts", value).unwrap_or_default();
                }
                "gateway" => config.gateway = self.gateway(value),
                "console" => config.console = self.part("console", value).unwrap_or_default(),
                "flows" => config.flows = self.flows(value),
                "streams" => config.streams = self.named("streams", value),
                "functions" => {
                    let places = places(&value);
                    config.functions = self.named("functions", value);
                    self.check_scales(&config.functions, &places);
                }
                "schedule" => schedules = Some(value),
                other => {
                    let known = "nats, redis, contracts, gateway, console, flows, streams, functions, schedule";
                    self.fail(
                        Some(name.span()),
                        &format!("unknown section {other:?}; known: {known}"),
                    );
                }
            }
        }
        let catalog = config.catalog().unwrap_or_else(|missing| {
            missing
                .0
                .iter()
                .for_each(|why| self.fail(contracts.clone(), why));
            Catalog::builtin()
        });
        config.schedules = schedules
            .map(|value| self.schedules(value, &catalog))
            .unwrap_or_default();
        config
    }

    fn gateway(&mut self, value: Spanned<DeValue<'t>>) -> GatewayConfig {
        let site = places(&value).remove("site");
        let mut gateway: GatewayConfig = self.part("gateway", value).unwrap_or_default();
        if let (Some(site), Some(span)) = (&mut gateway.site, site) {
            site.line = self.line(&span);
        }
        gateway
    }

    fn flows(&mut self, value: Spanned<DeValue<'t>>) -> FlowsConfig {
        let span = value.span();
        let flows: FlowsConfig = self.part("flows", value).unwrap_or_default();
        if flows.keep.0 < Duration::from_secs(1) {
            self.fail(Some(span), "[flows] keep is at least 1s");
        }
        flows
    }

    /// Reads one section; a field that is wrong is noted and left out, so that the next mistake is found too.
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
                    let DeValue::Table(fields) = value.get_mut() else {
                        return None;
                    };
                    let wrong = fields.iter().find(|(key, value)| {
                        let (key, value) = (key.span(), value.span());
                        key.contains(&span.start) || value.contains(&span.start)
                    });
                    let wrong = wrong.map(|(key, _)| key.clone())?;
                    fields.remove(&wrong);
                }
            }
        }
    }

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
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !name.get_ref().chars().all(plain) {
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

    fn check_scales(
        &mut self,
        functions: &BTreeMap<String, FunctionConfig>,
        places: &BTreeMap<String, Range<usize>>,
    ) {
        for (name, function) in functions {
            if let Err(why) = function.check_scale() {
                self.fail(
                    places.get(name).cloned(),
                    &format!("[functions.{name}] {why}"),
                );
            }
        }
    }

    fn schedules(&mut self, value: Spanned<DeValue<'t>>, catalog: &Catalog) -> Vec<Schedule> {
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            self.fail(Some(span), "schedules are written as [[schedule]]");
            return Vec::new();
        };
        let mut schedules: Vec<Schedule> = Vec::new();
        for value in array {
            let span = value.span();
            let Some(mut schedule) = self.part::<Schedule>("[schedule]", value) else {
                continue;
            };
            if let Err(why) = schedule.check(catalog) {
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

    fn fail(&mut self, span: Option<Range<usize>>, message: &str) {
        let place = span.as_ref().map_or(0, |span| span.start);
        self.errors.push((place, self.at(span, message)));
    }

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

/// Where each name of a section stands.
fn places(section: &Spanned<DeValue<'_>>) -> BTreeMap<String, Range<usize>> {
    let DeValue::Table(table) = section.get_ref() else {
        return BTreeMap::new();
    };
    table
        .iter()
        .map(|(name, _)| (name.get_ref().to_string(), name.span()))
        .collect()
}
