//! Times and durations, as people write and read them.

use std::time::Duration;

use oncue_proto::event;

pub use oncue_admin::dead_letters::ms;

/// Moment given as RFC 3339, or as a duration ago like `15m`; in Unix milliseconds.
pub fn since(text: &str) -> Result<u64, String> {
    if let Some(ms) = event::parse_time(text) {
        return Ok(ms);
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        format!("{text:?} is neither a time like 2026-01-31T12:00:00Z nor a duration ago like 15m")
    })?;
    Ok(event::now_ms().saturating_sub(ago.as_millis() as u64))
}

/// Duration such as `60s`, for a clap argument.
pub fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no duration like 60s"))
}

/// Age in one number: `42 s`, `3 min`, `5 h`, `12 d`. The unit changes at two of the next one, so that `119 s` is not
/// rounded to `1 min`. Clocks that differ give `0 s`.
pub fn ago(ms: u64, now: u64) -> String {
    let seconds = now.saturating_sub(ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_duration_ago() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1000));
        let before = event::now_ms();
        let then = since("15m").unwrap();
        let after = event::now_ms();
        assert!(
            (before..=after).contains(&(then + 900_000)),
            "{before} {then} {after}"
        );
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn ages_are_one_number() {
        let shown = [5_000, 119_999, 120_000, 7_200_000, 172_800_000].map(|age| ago(0, age));
        assert_eq!(shown, ["5 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!(ago(10, 0), "0 s");
        assert_eq!(
            ms(Some(&oncue_admin::dead_letters::timestamp(1_234_567))),
            1_234_567
        );
    }
}
