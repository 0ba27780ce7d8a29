//! What the search form asks for. All conditions must hold for the same span; the trace is found by any such span.

use std::collections::HashMap;

use crate::{
    jaeger::{duration, fields, process_tags, span_tags},
    store::{Process, StoredSpan, Trace},
};

/// Times are in nanoseconds.
#[derive(Debug, PartialEq)]
pub struct Search {
    service: Option<String>,
    operation: Option<String>,
    tags: Vec<(String, String)>,
    shortest: u64,
    longest: u64,
    from: u64,
    until: u64,
    pub limit: usize,
}

impl Search {
    /// `now` is in nanoseconds since the epoch and only serves `lookback`.
    pub fn parse(params: &[(String, String)], now: u64) -> Result<Self, String> {
        let get = |name: &str| {
            params
                .iter()
                .find(|(key, value)| key == name && !value.is_empty())
                .map(|(_, value)| &**value)
        };
        // The UI sends start as well and lets it decide, with "custom" as a lookback.
        let from = match (get("start"), get("lookback")) {
            (None, Some(lookback)) if lookback != "custom" => {
                now.saturating_sub(duration_of("lookback", lookback)?)
            }
            (start, _) => start.map_or(Ok(0), |start| micros("start", start))?,
        };
        Ok(Self {
            service: get("service").map(str::to_owned),
            operation: get("operation").map(str::to_owned),
            tags: get("tags").map_or(Ok(Vec::new()), tags)?,
            shortest: get("minDuration").map_or(Ok(0), |text| duration_of("minDuration", text))?,
            longest: get("maxDuration")
                .map_or(Ok(u64::MAX), |text| duration_of("maxDuration", text))?,
            from,
            until: get("end").map_or(Ok(u64::MAX), |end| micros("end", end))?,
            limit: get("limit").map_or(Ok(20), |limit| {
                limit
                    .parse()
                    .map_err(|_| format!("limit {limit:?} is no number"))
            })?,
        })
    }

    pub fn finds(&self, trace: &Trace) -> bool {
        trace
            .spans
            .values()
            .any(|stored| self.matches(trace.process(stored), stored))
    }

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
            && (self.shortest..=self.longest).contains(&duration(span))
            && self.tags_match(process, stored)
    }

    /// A tag may be the span's, its process's or a log field's, as in Jaeger.
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

fn tags(json: &str) -> Result<Vec<(String, String)>, String> {
    let tags: HashMap<String, serde_json::Value> = serde_json::from_str(json)
        .map_err(|error| format!("tags are not a JSON object: {error}"))?;
    Ok(tags
        .into_iter()
        .map(|(key, value)| {
            (
                key,
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect())
}

/// Microseconds since the epoch, given as nanoseconds.
fn micros(name: &str, text: &str) -> Result<u64, String> {
    let micros: u64 = text
        .parse()
        .map_err(|_| format!("{name} {text:?} is no time in microseconds"))?;
    Ok(micros.saturating_mul(1000))
}

fn duration_of(name: &str, text: &str) -> Result<u64, String> {
    go_duration(text)
        .ok_or_else(|| format!("{name} {text:?} is no duration such as 1.5s, 10ms or 250us"))
}

/// Go's notation ("1h2m", "1.5s", "10ms", "250us") plus days and weeks, which the UI uses for its lookback. In nanoseconds.
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
