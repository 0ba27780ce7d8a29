//! Search for traces, as the search form of Jaeger's UI asks for it.
//!
//! All conditions must hold for the same span; the trace is found by any such span.

use std::collections::HashMap;

use crate::{
    jaeger::{duration, fields, process_tags, span_tags},
    store::{Process, StoredSpan, Trace},
};

/// Traces returned where the form does not say how many, as in Jaeger.
const DEFAULT_LIMIT: usize = 20;

/// Conditions of a search; times are in nanoseconds since the epoch, durations in nanoseconds.
#[derive(Debug, PartialEq)]
pub struct Search {
    service: Option<String>,
    operation: Option<String>,
    tags: Vec<(String, String)>,
    min_duration: u64,
    max_duration: u64,
    from: u64,
    until: u64,
    pub limit: usize,
}

impl Search {
    /// Reads the parameters of a query; an empty one counts as absent. `now` only serves `lookback`. The error names
    /// the parameter that is wrong.
    pub fn parse(params: &[(String, String)], now: u64) -> Result<Self, String> {
        Ok(Self {
            service: find(params, "service").map(str::to_owned),
            operation: find(params, "operation").map(str::to_owned),
            tags: find(params, "tags").map_or(Ok(Vec::new()), tags)?,
            min_duration: duration_param(params, "minDuration")?.unwrap_or(0),
            max_duration: duration_param(params, "maxDuration")?.unwrap_or(u64::MAX),
            from: from(params, now)?,
            until: time_param(params, "end")?.unwrap_or(u64::MAX),
            limit: find(params, "limit").map_or(Ok(DEFAULT_LIMIT), |limit| {
                limit
                    .parse()
                    .map_err(|_| format!("limit {limit:?} is no number"))
            })?,
        })
    }

    /// Looks at every span until one matches: a search reads the whole store, which is bounded.
    pub fn finds(&self, trace: &Trace) -> bool {
        trace
            .spans
            .values()
            .any(|stored| self.matches(trace.process(stored), stored))
    }

    // Tags last: to collect them costs more than all the rest.
    fn matches(&self, process: &Process, stored: &StoredSpan) -> bool {
        let span = &stored.span;
        self.service
            .as_ref()
            .is_none_or(|service| *service == process.service)
            && self
                .operation
                .as_ref()
                .is_none_or(|operation| *operation == span.name)
            && (self.from..=self.until).contains(&span.start_time_unix_nano)
            && (self.min_duration..=self.max_duration).contains(&duration(span))
            && self.tags_match(process, stored)
    }

    /// Whether every wanted tag is there: as the span's, its process's or a log field's, as in Jaeger.
    fn tags_match(&self, process: &Process, stored: &StoredSpan) -> bool {
        if self.tags.is_empty() {
            return true;
        }
        let mut present = span_tags(stored);
        present.extend(process_tags(process));
        present.extend(stored.span.events.iter().flat_map(fields));
        self.tags.iter().all(|(key, value)| {
            present
                .iter()
                .any(|tag| tag.key == key && tag.value.text() == *value)
        })
    }
}

/// Value of a query parameter; `None` for one that is absent or empty.
pub fn find<'a>(params: &'a [(String, String)], name: &str) -> Option<&'a str> {
    params
        .iter()
        .find(|(key, value)| key == name && !value.is_empty())
        .map(|(_, value)| &**value)
}

/// Start of the search. The UI sends `start` as well, and lets it decide with "custom" as a lookback.
fn from(params: &[(String, String)], now: u64) -> Result<u64, String> {
    if let Some(start) = time_param(params, "start")? {
        return Ok(start);
    }
    if find(params, "lookback") == Some("custom") {
        return Ok(0);
    }
    let lookback = duration_param(params, "lookback")?;
    Ok(lookback.map_or(0, |lookback| now.saturating_sub(lookback)))
}

/// Wanted tags, from a JSON object; numbers and the like are compared as text.
fn tags(json: &str) -> Result<Vec<(String, String)>, String> {
    let tags: HashMap<String, serde_json::Value> = serde_json::from_str(json)
        .map_err(|error| format!("tags are not a JSON object: {error}"))?;
    let tags = tags.into_iter().map(|(key, value)| match value {
        serde_json::Value::String(text) => (key, text),
        other => (key, other.to_string()),
    });
    Ok(tags.collect())
}

/// Time in nanoseconds since the epoch, from a parameter in microseconds.
fn time_param(params: &[(String, String)], name: &str) -> Result<Option<u64>, String> {
    let Some(text) = find(params, name) else {
        return Ok(None);
    };
    let micros: u64 = text
        .parse()
        .map_err(|_| format!("{name} {text:?} is no time in microseconds"))?;
    Ok(Some(micros.saturating_mul(1000)))
}

/// Nanoseconds, from a parameter such as `1.5s`.
fn duration_param(params: &[(String, String)], name: &str) -> Result<Option<u64>, String> {
    let Some(text) = find(params, name) else {
        return Ok(None);
    };
    match go_duration(text) {
        Some(nanoseconds) => Ok(Some(nanoseconds)),
        None => Err(format!(
            "{name} {text:?} is no duration such as 1.5s, 10ms or 250us"
        )),
    }
}

/// Nanoseconds of a duration in Go's notation ("1h2m", "1.5s", "10ms", "250us") plus days and weeks, which the UI
/// uses for its lookback.
pub fn go_duration(mut text: &str) -> Option<u64> {
    let mut total = 0.0;
    while !text.is_empty() {
        let (number, rest) = split_where(text, |c| !c.is_ascii_digit() && c != '.');
        let (unit, rest) = split_where(rest, |c| c.is_ascii_digit() || c == '.');
        total += number.parse::<f64>().ok()? * nanoseconds(unit)?;
        text = rest;
    }
    (total > 0.0).then_some(total as u64)
}

fn split_where(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

fn nanoseconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        "w" => 604_800e9,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        let known = [
            ("10ms", 10_000_000),
            ("1.5s", 1_500_000_000),
            ("250us", 250_000),
            ("7µs", 7_000),
            ("9ns", 9),
        ];
        for (text, nanoseconds) in known {
            assert_eq!(go_duration(text), Some(nanoseconds), "{text}");
        }
        assert_eq!(go_duration("1h2m3s"), Some(3_723_000_000_000));
        assert_eq!(go_duration("2d"), Some(172_800_000_000_000));
        for wrong in ["", "10", "ms", "10 ms", "-1s", "1.2.3s", "1y", "s1"] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }

    fn parse(params: &[(&str, &str)]) -> Result<Search, String> {
        let params: Vec<_> = params
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Search::parse(&params, 10_000_000_000)
    }

    #[test]
    fn lookback_counts_back_from_now_unless_start_is_given() {
        assert_eq!(
            parse(&[("lookback", "3s")]).map(|search| search.from),
            Ok(7_000_000_000)
        );
        assert_eq!(
            parse(&[("lookback", "3s"), ("start", "5000")]).map(|search| search.from),
            Ok(5_000_000)
        );
        assert_eq!(
            parse(&[("lookback", "custom")]).map(|search| search.from),
            Ok(0)
        );
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let wrong = [
            ("minDuration", "10"),
            ("start", "now"),
            ("limit", "many"),
            ("tags", "[]"),
            ("lookback", "long"),
        ];
        for (name, value) in wrong {
            let message = parse(&[(name, value)]).expect_err(name);
            assert!(message.starts_with(name), "{message}");
        }
    }
}
