//! `[[schedule]]`: time as a trigger.

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_proto::{Catalog, Event as _, Format, oncue::v1::TimerFired};
use serde::Deserialize;

use super::{Cron, FunctionConfig, Span};

/// `[[schedule]]`: an event that recurs, by a fixed interval or by a cron line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Function to cue, for one whose signature takes no event; or `type` and `data`.
    function: Option<String>,
    /// Type of the event.
    #[serde(rename = "type")]
    ty: Option<String>,
    /// Fields of the event. Default none.
    #[serde(default)]
    data: Option<toml::Table>,
    /// Tells several schedules of one type apart. Default: the function's name or the type.
    name: Option<String>,
    /// Interval, at least 1 s.
    every: Option<Span>,
    /// Six fields from seconds to days of the week, or a name like `@daily`.
    cron: Option<String>,
    /// IANA time zone of `cron`, like `Europe/Berlin`. Default UTC.
    zone: Option<String>,
    /// Key of the event; empty until its contract is known.
    #[serde(skip)]
    key: String,
    /// `oncue.toml:LINE: `, for mistakes that show only once every contract is known.
    #[serde(skip)]
    pub(super) place: String,
}

impl Schedule {
    /// Type of the event; that of timers for a schedule of a function.
    pub fn ty(&self) -> String {
        self.ty
            .clone()
            .unwrap_or_else(|| TimerFired::TYPE.to_owned())
    }

    /// Name, unique among the schedules: letters, digits, `-` and `_`.
    pub fn name(&self) -> String {
        let name = self.name.clone().or_else(|| self.function.clone());
        name.unwrap_or_else(|| self.ty().replace('.', "-"))
    }

    /// Rule in the words of the server [NATS ADR-51]: `@every 10s` or a cron line.
    pub fn rule(&self) -> String {
        match (&self.every, &self.cron) {
            (Some(every), _) => format!("@every {}s", every.0.as_secs().max(1)),
            (None, Some(_)) => self
                .cron()
                .map_or_else(String::new, |cron| cron.text().to_owned()),
            (None, None) => String::new(),
        }
    }

    /// Interval, for a schedule that has one.
    pub fn every(&self) -> Option<Duration> {
        Some(self.every?.0)
    }

    /// Cron line, for a schedule that has one.
    pub fn cron(&self) -> Option<Cron> {
        self.cron.as_deref()?.parse().ok()
    }

    /// Time zone of the cron line, where it is not UTC.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// `oncue.toml:LINE: `, for mistakes that show only where more is known.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Payload of the event, as JSON.
    pub fn payload(&self) -> serde_json::Value {
        match (&self.function, &self.data) {
            (Some(function), _) => serde_json::json!({ "function": function }),
            (None, Some(data)) => serde_json::to_value(data).unwrap_or_default(),
            (None, None) => serde_json::json!({}),
        }
    }

    /// Key of the event, for the subject of the platform's own types; empty where the type is a program's.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Checks all that can be checked without the programs. Where the file has `functions`, an unknown type is no mistake
    /// yet: one of their programs may know it.
    pub(super) fn check(
        &mut self,
        catalog: &Catalog,
        functions: &BTreeMap<String, FunctionConfig>,
    ) -> Result<(), String> {
        match (&self.function, &self.ty) {
            (Some(_), Some(_)) | (None, None) => {
                return Err("a schedule names either `function` or `type`".into());
            }
            _ => {}
        }
        if self.every.is_some() == self.cron.is_some() {
            return Err("a schedule has either `every` (\"10s\") or `cron` (six fields)".into());
        }
        if self
            .every
            .is_some_and(|every| every.0 < Duration::from_secs(1))
        {
            return Err("`every` is at least 1s".into());
        }
        if self.every.is_some_and(|every| every.0.subsec_nanos() > 0) {
            return Err("`every` is whole seconds: NATS counts no less".into());
        }
        if let Some(cron) = &self.cron {
            cron.parse::<Cron>().map(|_| ())?;
        }
        if let Some(zone) = &self.zone {
            check_zone(zone, self.cron.is_some())?;
        }
        if let Some(function) = &self.function
            && !functions.is_empty()
            && !functions.contains_key(function)
        {
            return Err(format!(
                "there is no [functions.{function}] here, so nobody would hear it"
            ));
        }
        let name = self.name();
        if !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Err(format!(
                "name {name:?} may hold letters, digits, '-' and '_'"
            ));
        }
        if functions.is_empty() || catalog.get(&self.ty()).is_ok() {
            self.key = self.key_by(catalog)?;
        }
        Ok(())
    }

    /// Key of the event, read from the data by the contract of its type.
    pub(super) fn key_by(&self, catalog: &Catalog) -> Result<String, String> {
        let entry = catalog.get(&self.ty()).map_err(|e| e.to_string())?;
        let payload = self.payload().to_string();
        entry
            .check(Format::Json, payload.as_bytes())
            .map_err(|e| e.to_string())
    }
}

/// Refuses what can be no time zone. Which there are only programs know that have a list of them.
fn check_zone(zone: &str, has_cron: bool) -> Result<(), String> {
    if !has_cron {
        return Err("`zone` belongs to `cron`: an interval is as long everywhere".into());
    }
    let is_name = zone
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c));
    // To the server it would be the zone of the machine it runs on.
    if zone.is_empty() || !is_name || zone == "Local" {
        return Err(format!(
            "zone {zone:?} is no name of a time zone like \"Europe/Berlin\""
        ));
    }
    Ok(())
}
