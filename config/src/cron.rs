//! When a job is due by the wall clock.
//!
//! Five fields (minute, hour, day of the month, month, day of the week), or six with seconds first, as cron reads them: where
//! neither of the two fields for days begins with `*`, a day needs to be in one of them only.
//!
//! Where the clocks change: hours that are named (`30 2 * * *`) are wall time. One that does not exist on a day comes at the first
//! instant after the gap, one that exists twice comes at the first of the two. Hours from `*` go by what has elapsed, so that
//! `*/5 * * * *` neither pauses for the hour that comes twice nor hurries after the one that is left out.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{ToSpan as _, Zoned};

use crate::names;

/// Each constellation of month, day and weekday that exists comes again within this time, also over a century that is no leap year.
const LONGEST_WAIT_YEARS: i16 = 41;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const SHORT_FORMS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// What a field may have.
struct Kind {
    name: &'static str,
    range: (u8, u8),
    /// Names of the values, the first one for the least.
    names: &'static [&'static str],
}

const KINDS: [Kind; 6] = [
    Kind { name: "second", range: (0, 59), names: &[] },
    Kind { name: "minute", range: (0, 59), names: &[] },
    Kind { name: "hour", range: (0, 23), names: &[] },
    Kind { name: "day of the month", range: (1, 31), names: &[] },
    Kind { name: "month", range: (1, 12), names: &MONTHS },
    // Sunday is 0 and 7.
    Kind { name: "day of the week", range: (0, 7), names: &WEEKDAYS },
];

/// A cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    seconds: Field,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The values of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    /// One bit for each.
    values: u64,
    /// Whether it begins with `*`.
    is_star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        self.first(value) == Some(value)
    }

    /// The least value from `least` on.
    fn first(self, least: i8) -> Option<i8> {
        let rest = self.values.checked_shr(u32::try_from(least).ok()?)?;
        (rest != 0).then(|| least + rest.trailing_zeros() as i8)
    }

    /// The least of all; each field has one.
    fn least(self) -> i8 {
        self.values.trailing_zeros() as i8
    }
}

impl Cron {
    /// Reads an expression: `30 2 * * mon-fri`, `*/10 * * * * *`, `@daily`.
    ///
    /// # Errors
    /// A phrase that names the field and what it may have.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('@') {
            let known = || SHORT_FORMS.iter().map(|(name, _)| *name);
            return match SHORT_FORMS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
                Some((_, expression)) => Self::parse(expression),
                None if text == "@reboot" => {
                    Err("`@reboot` is a process: write [process.NAME] with restart = \"never\"".into())
                }
                None => Err(format!("there are {}", names::list(known()))),
            };
        }
        let mut fields: Vec<&str> = text.split_whitespace().collect();
        match fields.len() {
            5 => fields.insert(0, "0"),
            6 => {}
            n => {
                return Err(format!(
                    "it has {n} fields, not 5 (minute, hour, day, month, weekday) or 6 (seconds first)"
                ));
            }
        }
        let mut read = fields.iter().zip(&KINDS).map(|(text, kind)| {
            field(text, kind).map_err(|cause| format!("its {} `{text}`: {cause}", kind.name))
        });
        let mut next = || read.next().expect("six fields");
        let (seconds, minutes, hours, days, months, mut weekdays) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        if weekdays.has(7) {
            weekdays.values |= 1;
        }
        Ok(Self { seconds, minutes, hours, days, months, weekdays })
    }

    /// The first instant after `after` at which it is due, in the same time zone; `None` for a day that never comes, such as
    /// the 30th of February.
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        if self.hours.is_star { self.next_elapsed(after) } else { self.next_on_the_wall(after) }
    }

    /// Whether no year has such a day.
    pub(crate) fn is_never(&self) -> bool {
        self.at_or_after(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)).is_none()
    }

    /// Between two changes of the clock wall time is as good as elapsed time, so each stretch is looked at by itself.
    fn next_elapsed(&self, after: &Zoned) -> Option<Zoned> {
        let zone = after.time_zone();
        let mut start = after.checked_add(1.second()).ok()?;
        let limit = start.year().saturating_add(LONGEST_WAIT_YEARS);
        while start.year() <= limit {
            let wall = self.at_or_after(start.datetime())?;
            let due = start.offset().to_timestamp(wall).ok()?;
            match zone.following(start.timestamp()).next() {
                Some(change) if change.timestamp() <= due => {
                    start = change.timestamp().to_zoned(zone.clone());
                }
                _ => return Some(due.to_zoned(zone.clone())),
            }
        }
        None
    }

    fn next_on_the_wall(&self, after: &Zoned) -> Option<Zoned> {
        let mut wall = after.datetime();
        // More than one round only where clocks change: a time is over already, or several fall on the end of one gap.
        for _ in 0..=86_400 {
            wall = self.at_or_after(wall.checked_add(1.second()).ok()?)?;
            let due = instant(wall, after.time_zone())?;
            if due > *after {
                return Some(due);
            }
        }
        None
    }

    fn at_or_after(&self, start: DateTime) -> Option<DateTime> {
        let (mut date, mut time) = (start.date(), start.time());
        if time.subsec_nanosecond() != 0 {
            time = time.with().subsec_nanosecond(0).build().ok()?;
        }
        let last_year = date.year().saturating_add(LONGEST_WAIT_YEARS);
        while date.year() <= last_year {
            if !self.months.has(date.month()) {
                date = date.last_of_month();
            } else if self.has_day(date)
                && let Some(time) = self.time_at_or_after(time)
            {
                return Some(date.to_datetime(time));
            }
            date = date.tomorrow().ok()?;
            time = Time::midnight();
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.days.is_star || self.weekdays.is_star { day && weekday } else { day || weekday }
    }

    fn time_at_or_after(&self, from: Time) -> Option<Time> {
        let (least_minute, least_second) = (self.minutes.least(), self.seconds.least());
        let hour = self.hours.first(from.hour())?;
        if hour > from.hour() {
            return Time::new(hour, least_minute, least_second, 0).ok();
        }
        let minute = self.minutes.first(from.minute());
        let second = minute.and_then(|minute| {
            if minute > from.minute() { Some(least_second) } else { self.seconds.first(from.second()) }
        });
        if let (Some(minute), Some(second)) = (minute, second) {
            return Time::new(hour, minute, second, 0).ok();
        }
        if let Some(minute) = self.minutes.first(from.minute() + 1) {
            return Time::new(hour, minute, least_second, 0).ok();
        }
        Time::new(self.hours.first(hour + 1)?, least_minute, least_second, 0).ok()
    }
}

/// When the clocks of a zone show this time, for the first time; where they leave it out, the instant at which they do.
fn instant(wall: DateTime, zone: &TimeZone) -> Option<Zoned> {
    let ambiguous = zone.to_ambiguous_zoned(wall);
    let is_gap = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    if !is_gap {
        return ambiguous.earlier().ok();
    }
    let behind = ambiguous.later().ok()?;
    let change = zone.preceding(behind.timestamp()).next()?;
    Some(change.timestamp().to_zoned(zone.clone()))
}

fn field(text: &str, kind: &Kind) -> Result<Field, String> {
    let mut values = 0;
    for part in text.split(',') {
        values |= part_values(part, kind)?;
    }
    Ok(Field { values, is_star: text.starts_with(['*', '?']) })
}

/// `5`, `5-10`, `*`, each with `/STEP` or without.
fn part_values(part: &str, kind: &Kind) -> Result<u64, String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let (least, greatest) = kind.range;
    let (first, last) = match range.split_once('-') {
        _ if range == "*" || range == "?" => {
            (least, greatest.min(if least == 0 && greatest == 7 { 6 } else { greatest }))
        }
        Some((first, last)) => (value(first, kind)?, value(last, kind)?),
        // Without an end a step goes on to the greatest value.
        None if step.is_some() => (value(range, kind)?, greatest),
        None => {
            let value = value(range, kind)?;
            (value, value)
        }
    };
    if first > last {
        return Err(format!("the range `{range}` runs backwards: write it as two, with a comma"));
    }
    let step = match step.map(str::parse::<u8>) {
        None => 1,
        Some(Ok(step @ 1..)) => step,
        Some(_) => return Err("a step is a number from 1 on".into()),
    };
    Ok((first..=last).step_by(step.into()).fold(0, |values, value| values | 1 << value))
}

fn value(text: &str, kind: &Kind) -> Result<u8, String> {
    let (least, greatest) = kind.range;
    let named = kind.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    if let Some(place) = named {
        return Ok(least + place as u8);
    }
    match text.parse::<u8>() {
        Ok(value) if (least..=greatest).contains(&value) => Ok(value),
        _ => {
            let or_names = match kind.names {
                [first, .., last] => format!(", or {first} to {last}"),
                _ => String::new(),
            };
            Err(format!("`{text}` is not {least} to {greatest}{or_names}"))
        }
    }
}

#[cfg(test)]
mod tests;
