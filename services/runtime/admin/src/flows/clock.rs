//! Time zones, with the list of them that this program carries, and when a cron line fires by the clock of one.

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use oncue_core::config::{ClockTime, Config, ConfigErrors, Cron, Schedule};

/// Clocks of the world differ by whole quarters of an hour, and change by them.
const QUARTER: i64 = 15 * 60;
/// How far ahead it is looked for the next firing: a leap day may be eight years off, at the turn of a century.
const YEARS: i64 = 9;

/// Refuses schedules in zones that there are not, with their lines.
///
/// # Errors
/// Every such schedule, with its line.
pub fn check(config: &Config) -> Result<(), ConfigErrors> {
    let wrong = config.schedules.iter().filter(|s| of(s).is_none());
    let wrong: Vec<String> = wrong
        .map(|schedule| {
            let zone = schedule.zone().unwrap_or_default();
            format!(
                "{}[[schedule]] there is no time zone {zone:?}; names are like \"Europe/Berlin\" or \"UTC\"",
                schedule.place()
            )
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors(wrong))
    }
}

/// Zone of a schedule; `None` where there is none of that name, written like that: the server tells capitals apart.
fn of(schedule: &Schedule) -> Option<TimeZone> {
    named(schedule.zone())
}

/// Zone of a name, UTC without one; `None` where there is none of that name.
pub fn named(name: Option<&str>) -> Option<TimeZone> {
    let Some(name) = name else {
        return Some(TimeZone::UTC);
    };
    let zone = TimeZone::get(name).ok()?;
    (name == "UTC" || zone.iana_name() == Some(name)).then_some(zone)
}

/// Next moments at which a cron line fires, after `from`.
pub fn firings(cron: Cron, zone: TimeZone, from: Timestamp) -> impl Iterator<Item = ZonedDateTime> {
    let from = from.as_second() + 1;
    let end = from + YEARS * 366 * 24 * 3600;
    let quarters = from.div_euclid(QUARTER)..end.div_euclid(QUARTER);
    let hour_zone = zone.clone();
    let hour_cron = cron.clone();
    quarters
        .map(|quarter| quarter * QUARTER)
        .filter(move |begin| {
            at(*begin, &hour_zone).is_some_and(|t| hour_cron.is_in_hour(clock(&t)))
        })
        .flat_map(|begin| begin..begin + QUARTER)
        .filter(move |second| *second >= from)
        .filter_map(move |second| at(second, &zone))
        .filter(move |time| cron.is_at(clock(time)))
}

/// Next moments at which an interval fires that counts from `set` (Unix ms), after `from`.
pub fn beats(
    every: std::time::Duration,
    set: u64,
    from: Timestamp,
) -> impl Iterator<Item = ZonedDateTime> {
    let every = every.as_secs().max(1) as i64;
    // The server rounds to whole seconds.
    let set = (set as i64 + 500) / 1000;
    let passed = (from.as_second() - set).div_euclid(every).max(0);
    (passed + 1..).map_while(move |n| at(set + n * every, &TimeZone::UTC))
}

fn at(second: i64, zone: &TimeZone) -> Option<ZonedDateTime> {
    let time = Timestamp::from_second(second).ok()?;
    Some(time.to_zoned_datetime(zone.clone()))
}

fn clock(time: &ZonedDateTime) -> ClockTime {
    ClockTime {
        second: time.second().unsigned_abs().into(),
        minute: time.minute().unsigned_abs().into(),
        hour: time.hour().unsigned_abs().into(),
        day: time.day().unsigned_abs().into(),
        month: time.month().unsigned_abs().into(),
        weekday: time.weekday().since(Weekday::Sunday).unsigned_abs().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(line: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let zone = TimeZone::get(zone).expect("a zone");
        let from: Timestamp = from.parse().expect("a time");
        let all = firings(line.parse().expect("a line"), zone, from).take(count);
        all.map(|time| time.strftime("%F %T %:z").to_string())
            .collect()
    }

    #[test]
    fn what_falls_into_a_skipped_hour_does_not_fire_that_day() {
        // 2026-03-29: from 02:00 to 03:00.
        let found = next("0 30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        let expected = [
            "2026-03-28 02:30:00 +01:00",
            "2026-03-30 02:30:00 +02:00",
            "2026-03-31 02:30:00 +02:00",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_falls_into_an_hour_that_comes_twice_fires_twice() {
        // 2026-10-25: from 03:00 back to 02:00.
        let found = next("0 30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3);
        let expected = [
            "2026-10-25 02:30:00 +02:00",
            "2026-10-25 02:30:00 +01:00",
            "2026-10-26 02:30:00 +01:00",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_moment_that_has_passed_is_not_the_next() {
        let found = next("0 0 9 * * mon-fri", "UTC", "2026-01-02T09:00:00Z", 2);
        assert_eq!(
            found,
            ["2026-01-05 09:00:00 +00:00", "2026-01-06 09:00:00 +00:00"]
        );
        let found = next(
            "*/20 59 23 31 12 *",
            "Asia/Kathmandu",
            "2026-12-31T18:14:25Z",
            2,
        );
        assert_eq!(
            found,
            ["2026-12-31 23:59:40 +05:45", "2027-12-31 23:59:00 +05:45"]
        );
        assert_eq!(
            next("0 0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1).len(),
            1
        );
    }

    #[test]
    fn intervals_count_from_when_they_were_set() {
        let from: Timestamp = "2026-01-01T00:00:25Z".parse().expect("a time");
        let set = "2026-01-01T00:00:00Z".parse::<Timestamp>().expect("a time");
        let every = std::time::Duration::from_secs(10);
        let all = beats(every, set.as_millisecond() as u64 + 300, from).take(2);
        let all: Vec<i64> = all.map(|time| time.second().into()).collect();
        assert_eq!(all, [30, 40]);
    }
}
