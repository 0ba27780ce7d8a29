//! Cron lines, as nats-server reads them [NATS ADR-51]: six fields from seconds to days of the week, or a name like
//! `@daily`. Whatever is taken here the server takes; a few forms that only it takes are refused, since nobody means them
//! (`*-5`, `1,,2`, `+5`).
//!
//! A line fires at every moment whose time of day and date, by the clock of its zone, it names. So what falls into an hour
//! that the clock skips does not fire that day, and what falls into an hour that comes twice fires twice.

use std::str::FromStr;

/// Names for lines that are often meant, and the lines.
const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
    ("@monthly", "0 0 0 1 * *"),
    ("@weekly", "0 0 0 * * 0"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@hourly", "0 0 * * * *"),
];
const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Days of the longest month of each name, from January.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Cron line that is well formed, and that names at least one day there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    /// The line with single blanks.
    text: String,
    seconds: Field,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// Values that a field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Field {
    /// A bit for each.
    bits: u64,
    /// Whether it has a `*` without a step, which leaves the choice of days to the other field of days.
    is_any: bool,
}

impl Field {
    fn has(self, value: u32) -> bool {
        self.bits & (1 << value) != 0
    }
}

/// Time by the clock of a zone.
#[derive(Debug, Clone, Copy)]
pub struct ClockTime {
    pub second: u32,
    pub minute: u32,
    pub hour: u32,
    /// From 1.
    pub day: u32,
    /// From 1.
    pub month: u32,
    /// From 0, a Sunday.
    pub weekday: u32,
}

impl Cron {
    /// Line as the server gets it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it fires in that hour, at some minute and second of it.
    pub fn is_in_hour(&self, time: ClockTime) -> bool {
        self.months.has(time.month) && self.is_on(time) && self.hours.has(time.hour)
    }

    /// Whether it fires in that second.
    pub fn is_at(&self, time: ClockTime) -> bool {
        self.is_in_hour(time) && self.minutes.has(time.minute) && self.seconds.has(time.second)
    }

    /// Whether it fires on that day of the month: one of two fields is enough, unless one says that it does not matter.
    fn is_on(&self, time: ClockTime) -> bool {
        let day = self.days.has(time.day);
        let weekday = self.weekdays.has(time.weekday);
        if self.days.is_any || self.weekdays.is_any {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// Whether a day of the year can be meant: none is by `0 0 0 30 2 *`.
    fn names_a_day(&self) -> bool {
        let by_weekday = !self.weekdays.is_any && !self.days.is_any && self.weekdays.bits != 0;
        let mut months = (1..=12).filter(|month| self.months.has(*month));
        by_weekday
            || months.any(|month| (1..=LONGEST[month as usize - 1]).any(|day| self.days.has(day)))
    }
}

/// Fails with a sentence that names the field and what may stand there.
impl FromStr for Cron {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let named = NAMED.iter().find(|(name, _)| *name == line.trim());
        let fields: Vec<&str> = named
            .map_or(line, |(_, line)| line)
            .split_ascii_whitespace()
            .collect();
        if fields.len() != 6 {
            return Err(format!(
                "a cron line has six fields (second, minute, hour, day, month, weekday), and {line:?} has {}{}",
                fields.len(),
                if fields.len() == 5 {
                    format!("; put a second in front: \"0 {}\"", fields.join(" "))
                } else {
                    String::new()
                }
            ));
        }
        let cron = Self {
            text: fields.join(" "),
            seconds: field(fields[0], "second", 0, 59, &[])?,
            minutes: field(fields[1], "minute", 0, 59, &[])?,
            hours: field(fields[2], "hour", 0, 23, &[])?,
            days: field(fields[3], "day", 1, 31, &[])?,
            months: field(fields[4], "month", 1, 12, &MONTHS)?,
            weekdays: field(fields[5], "weekday", 0, 6, &WEEKDAYS)?,
        };
        if cron.names_a_day() {
            Ok(cron)
        } else {
            Err(format!("{line:?} names a day that no year has"))
        }
    }
}

/// Reads one field: numbers or names, ranges and steps of them, separated by commas.
fn field(text: &str, what: &str, min: u32, max: u32, names: &[&str]) -> Result<Field, String> {
    let mut field = Field::default();
    for part in text.split(',') {
        let read = part_of(part, min, max, names).ok_or_else(|| {
            let last = names.last().map_or(String::new(), |last| {
                format!(", or a name from {} to {last}", names[0])
            });
            format!(
                "{part:?} is no {what}: it is a number from {min} to {max}{last}, `*`, a range like {min}-{max}, or with a \
                 step like */5"
            )
        })?;
        field.bits |= read.bits;
        field.is_any |= read.is_any;
    }
    Ok(field)
}

/// Reads `*`, `N`, `N-M`, each with or without `/STEP`.
fn part_of(part: &str, min: u32, max: u32, names: &[&str]) -> Option<Field> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(number(step)?)),
        None => (part, None),
    };
    let is_star = range == "*" || range == "?";
    let first = if is_star {
        min
    } else {
        value(range.split('-').next()?, min, max, names)?
    };
    let last = match range.split_once('-') {
        _ if is_star => max,
        Some((_, last)) => value(last, min, max, names)?,
        // A number with a step goes on to the end.
        None if step.is_some() => max,
        None => first,
    };
    let step = step.unwrap_or(1);
    if step == 0 || first > last {
        return None;
    }
    let values = (first..=last).step_by(step as usize);
    Some(Field {
        bits: values.fold(0, |bits, value| bits | 1 << value),
        is_any: is_star && step == 1,
    })
}

/// Reads a number or a name that the field may hold.
fn value(text: &str, min: u32, max: u32, names: &[&str]) -> Option<u32> {
    let named = names
        .iter()
        .position(|name| text.eq_ignore_ascii_case(name));
    let value = named.map_or_else(|| number(text), |at| Some(at as u32 + min))?;
    (min..=max).contains(&value).then_some(value)
}

/// Number of at most four digits.
fn number(text: &str) -> Option<u32> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_server_reads_them() {
        let bits = |text| field(text, "hour", 0, 23, &[]).expect(text).bits;
        assert_eq!(bits("5"), 1 << 5);
        assert_eq!(bits("20/2"), 1 << 20 | 1 << 22);
        assert_eq!(bits("1-3,7"), 0b1000_1110);
        assert_eq!(bits("*/12"), 1 | 1 << 12);
        assert_eq!(bits("*"), (1 << 24) - 1);
        let days = |text| field(text, "weekday", 0, 6, &WEEKDAYS).expect(text);
        assert_eq!(days("Mon-fri"), days("1-5"));
        assert!(days("*").is_any && days("?").is_any && !days("*/2").is_any && !days("0-6").is_any);
    }

    #[test]
    fn what_nobody_means_is_refused_with_its_field() {
        for (line, why) in [
            ("", "has 0"),
            ("* * * * *", "put a second in front: \"0 * * * * *\""),
            ("60 * * * * *", "\"60\" is no second"),
            ("* * 24 * * *", "no hour"),
            ("* * * 0 * *", "no day"),
            ("* * * * 13 *", "no month"),
            ("* * * * * 7", "no weekday"),
            ("* * * * * mon-", "no weekday"),
            ("*-5 * * * * *", "no second"),
            ("5-1 * * * * *", "no second"),
            ("*/0 * * * * *", "no second"),
            ("1,,2 * * * * *", "\"\" is no second"),
            ("+5 * * * * *", "no second"),
            ("0 0 0 30 2 *", "no year has"),
            ("0 0 0 31 feb,apr,jun ?", "no year has"),
            ("@every 5s", "has 2"),
        ] {
            let said = line.parse::<Cron>().expect_err(line);
            assert!(said.contains(why), "{line}: {said}");
        }
        for line in ["0 0 0 29 2 *", "0 0 0 31 2 mon", "@daily", " 1  2 3 4 5 6 "] {
            line.parse::<Cron>().expect(line);
        }
        let blanks: Cron = " 1  2 3\t4 5 6 ".parse().expect("a line");
        assert_eq!(blanks.text(), "1 2 3 4 5 6");
    }
}
