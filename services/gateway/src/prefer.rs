//! What a client would like besides an answer: `Prefer: wait=SECONDS` [RFC 7240], and a ledger of its flow.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const TRACK: HeaderName = HeaderName::from_static("oncue-track");

/// How long the client would wait, at most `limit`. What is not understood is no preference [RFC 7240 section 2].
pub fn wait(headers: &HeaderMap, limit: Duration) -> Option<Duration> {
    let lines = headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let asked = lines
        .flat_map(|line| line.split(','))
        .find_map(|preference| {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| value.trim().trim_matches('"').parse::<u64>().ok())
        })??;
    Some(Duration::from_secs(asked).min(limit))
}

/// `Oncue-Track: 1`, or a wish to wait, which nobody could grant otherwise.
pub fn is_tracking_asked(headers: &HeaderMap) -> bool {
    let yes = |value: &HeaderValue| matches!(value.as_bytes(), b"1" | b"true");
    headers.get(TRACK).is_some_and(yes) || wait(headers, Duration::MAX).is_some()
}

/// Says that the wish was granted, and how far.
pub fn applied(wait: Duration) -> [(HeaderName, HeaderValue); 2] {
    let value = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
    [
        (
            APPLIED,
            value.unwrap_or_else(|_| HeaderValue::from_static("wait")),
        ),
        (header::VARY, HeaderValue::from_static("Prefer")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        lines
            .iter()
            .map(|line| (PREFER, HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    #[test]
    fn wishes_are_read_as_rfc_7240_writes_them() {
        let of = |lines: &[&str]| {
            wait(&headers(lines), Duration::from_secs(30)).map(|wait| wait.as_secs())
        };
        for asked in [
            "wait=5",
            "Wait = 5",
            "respond-async, wait=5",
            "wait=\"5\"; foo=bar",
            "a;b=c, WAIT=5, wait=9",
        ] {
            assert_eq!(of(&[asked]), Some(5), "{asked}");
        }
        assert_eq!(of(&["respond-async", "wait=7"]), Some(7));
        assert_eq!(
            (of(&["wait=0"]), of(&["wait=18446744073709551615"])),
            (Some(0), Some(30))
        );
        for nothing in [
            "",
            "wait",
            "wait=",
            "wait=-1",
            "wait=soon",
            "wait=1.5",
            "waiting=5",
            "wait=99999999999999999999999",
        ] {
            assert_eq!(of(&[nothing]), None, "{nothing}");
        }
    }

    #[test]
    fn waiting_implies_tracking() {
        assert!(
            is_tracking_asked(&headers(&["wait=1"]))
                && !is_tracking_asked(&headers(&["respond-async"]))
        );
        let track = |value: &'static str| {
            is_tracking_asked(
                &[(TRACK, HeaderValue::from_static(value))]
                    .into_iter()
                    .collect(),
            )
        };
        assert!(track("1") && track("true") && !track("0") && !track(""));
    }
}
