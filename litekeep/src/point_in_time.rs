//! Instants as people write them: `5 min ago`, `14:03:07`, `yesterday 14:00`, RFC 3339, Unix seconds.
//!
//! Invariants: an instant in the future is refused, since a wrong clock or zone would else restore something nobody asked
//! for; so is a local time that the zone has twice or not at all. Now and the zone are given, never asked for.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};

const FORMS: &str = "write it as `5 min ago`, `14:03:07`, `yesterday 14:00`, `2026-08-21 14:03:07`, \
     `2026-08-21T14:03:07Z` or Unix seconds";

/// Fewer digits are a date or a slip; ten have been the usual length since 2001.
const LEAST_UNIX_DIGITS: usize = 9;

/// Reads an instant. Local times are those of `zone`.
///
/// # Errors
/// What is wrong with the text, as a phrase that does not repeat it.
pub(crate) fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let text = text.trim();
    let instant = read(text, now, zone)?;
    if instant > now {
        let advice = match (unix_seconds(text), clock_time(text).is_some()) {
            (Some(Ok(_)), _) => " (Unix time is written in seconds)",
            (_, true) => " (for the day before write `yesterday` in front of it)",
            _ => "",
        };
        return Err(format!("{instant} is in the future; it is {:.0} now{advice}", now));
    }
    Ok(instant)
}

/// Reads what Litestream's `-timestamp` accepts, which is RFC 3339.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_rfc3339(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let instant: Timestamp = text.trim().parse().map_err(|_| {
        "it is no RFC 3339 time such as `2026-08-21T14:03:07Z`; --at takes other forms too".to_owned()
    })?;
    if instant > now {
        return Err(format!("{instant} is in the future; it is {now:.0} now"));
    }
    Ok(instant)
}

fn read(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(span) = text.strip_suffix("ago") {
        return ago(span.trim_end(), now, zone);
    }
    if let Some(instant) = unix_seconds(text) {
        return instant;
    }
    let today = now.to_zoned(zone.clone()).date();
    let (day, time) = match text.split_once(char::is_whitespace) {
        Some(("today", time)) => (Ok(today), time.trim()),
        Some(("yesterday", time)) => (today.yesterday(), time.trim()),
        _ if matches!(text, "today" | "yesterday") => {
            return Err(format!("it lacks the time of day: write `{text} 14:00`"));
        }
        _ => (Ok(today), text),
    };
    if let Some(time) = clock_time(time) {
        let day = day.map_err(|_| "there is no such day".to_owned())?;
        return local(day.to_datetime(time), zone);
    }
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    // jiff also reads compact dates, which here would be a number that somebody meant otherwise.
    if text.contains('-')
        && let Ok(datetime) = text.parse::<DateTime>()
    {
        return local(datetime, zone);
    }
    if text.contains('-')
        && let Ok(date) = text.parse::<Date>()
    {
        return local(date.to_datetime(Time::midnight()), zone);
    }
    Err(format!("it is no time: {FORMS}"))
}

fn ago(span: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    let span: Span =
        span.parse().map_err(|_| "write a number and a unit: `5 min ago`, `1h30m ago`".to_owned())?;
    if span.is_negative() {
        return Err("it says both minus and ago".to_owned());
    }
    // Days and months are those of the calendar, in which a day may have 23 hours.
    let then = now.to_zoned(zone.clone()).checked_sub(span);
    then.map(|then| then.timestamp()).map_err(|_| "it is before the calendar begins".to_owned())
}

/// `14:03` or `14:03:07.5`; jiff alone would also take the time out of a date with time.
fn clock_time(text: &str) -> Option<Time> {
    let is_clock = text.contains(':') && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    if is_clock { text.parse().ok() } else { None }
}

/// Whole or decimal seconds since 1970; `None` when the text is no such number.
fn unix_seconds(text: &str) -> Option<Result<Timestamp, String>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return None;
    }
    if whole.len() < LEAST_UNIX_DIGITS {
        return Some(Err(format!("as Unix seconds it is too short; {FORMS}")));
    }
    let nanoseconds: i32 = format!("{fraction:0<9}")[..9].parse().expect("nine digits fit");
    let seconds: Result<i64, _> = whole.parse();
    let instant = seconds.ok().and_then(|seconds| Timestamp::new(seconds, nanoseconds).ok());
    Some(instant.ok_or_else(|| "as Unix seconds it lies beyond the year 9999".to_owned()))
}

fn local(datetime: DateTime, zone: &TimeZone) -> Result<Timestamp, String> {
    let found = zone.to_ambiguous_zoned(datetime);
    match found.offset() {
        AmbiguousOffset::Unambiguous { .. } => found
            .unambiguous()
            .map(|zoned| zoned.timestamp())
            .map_err(|_| "it is beyond the calendar".to_owned()),
        AmbiguousOffset::Gap { .. } => {
            Err(format!("the clocks went forward over {datetime} here; give the time in UTC, with a `Z`"))
        }
        AmbiguousOffset::Fold { .. } => {
            let earlier = found.clone().earlier().map(|zoned| zoned.timestamp());
            let later = found.later().map(|zoned| zoned.timestamp());
            match (earlier, later) {
                (Ok(earlier), Ok(later)) => Err(format!(
                    "the clocks went back, so {datetime} came twice here: write {earlier} or {later}"
                )),
                _ => Err("it is beyond the calendar".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 14:30 of a Friday in Berlin, two hours ahead of UTC.
    const NOW: &str = "2026-08-21T12:30:00Z";

    fn at(text: &str) -> Result<String, String> {
        at_now(text, NOW)
    }

    fn at_now(text: &str, now: &str) -> Result<String, String> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        parse(text, now.parse().unwrap(), &zone).map(|instant| instant.to_string())
    }

    #[test]
    fn all_forms() {
        for (text, expected) in [
            ("5 min ago", "2026-08-21T12:25:00Z"),
            ("1h30m ago", "2026-08-21T11:00:00Z"),
            ("90 seconds ago", "2026-08-21T12:28:30Z"),
            ("2 days ago", "2026-08-19T12:30:00Z"),
            ("14:03:07", "2026-08-21T12:03:07Z"),
            ("14:03", "2026-08-21T12:03:00Z"),
            ("today 00:00", "2026-08-20T22:00:00Z"),
            ("yesterday 14:00", "2026-08-20T12:00:00Z"),
            ("2026-08-21T10:00:00Z", "2026-08-21T10:00:00Z"),
            ("2026-08-21T10:00:00.5+01:00", "2026-08-21T09:00:00.5Z"),
            ("2026-08-21 10:00", "2026-08-21T08:00:00Z"),
            ("2026-08-20", "2026-08-19T22:00:00Z"),
            ("1755770400", "2025-08-21T10:00:00Z"),
            ("1755770400.25", "2025-08-21T10:00:00.25Z"),
            ("now", NOW),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_past_instant_is_refused_with_advice() {
        for (text, expected) in [
            ("15:00", "for the day before write `yesterday`"),
            ("2027-01-01", "is in the future"),
            ("9999999999", "Unix time is written in seconds"),
            ("1755770400000", "beyond the year 9999"),
            ("20260821", "too short"),
            ("yesterday", "write `yesterday 14:00`"),
            ("soon", "write it as"),
            ("five minutes ago", "a number and a unit"),
            ("-5 min ago", "both minus and ago"),
            ("", "it is no time"),
        ] {
            let message = at(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn hours_that_the_zone_repeats_or_skips_are_refused() {
        let twice = at_now("2026-10-25 02:30", "2026-12-01T00:00:00Z").unwrap_err();
        assert!(twice.contains("2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"), "{twice}");
        let never = at("2026-03-29 02:30").unwrap_err();
        assert!(never.contains("went forward"), "{never}");
    }

    #[test]
    fn a_day_ago_is_the_same_time_of_day() {
        assert_eq!(
            at_now("1 day ago", "2026-10-25T12:00:00Z").as_deref(),
            Ok("2026-10-24T11:00:00Z"),
            "the clocks went back between"
        );
    }

    #[test]
    fn litestreams_flag_takes_only_rfc_3339() {
        let now = NOW.parse().unwrap();
        assert!(parse_rfc3339("2026-08-21T10:00:00Z", now).is_ok());
        assert!(parse_rfc3339("14:00", now).unwrap_err().contains("--at"));
        assert!(parse_rfc3339("2027-08-21T10:00:00Z", now).unwrap_err().contains("future"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_in_the_future(text in "\\PC{0,24}") {
            let now: Timestamp = NOW.parse().unwrap();
            if let Ok(instant) = parse(&text, now, &TimeZone::UTC) {
                prop_assert!(instant <= now);
            }
        }

        #[test]
        fn what_is_printed_is_read_back(ms in 0..1_787_315_400_000_i64) {
            let now: Timestamp = NOW.parse().unwrap();
            let instant = Timestamp::from_millisecond(ms).unwrap();
            prop_assert_eq!(parse(&instant.to_string(), now, &TimeZone::UTC), Ok(instant));
        }

        #[test]
        fn ago_counts_back(amount in 0_i64..100_000, unit in 0_usize..4) {
            let now: Timestamp = NOW.parse().unwrap();
            let (unit, seconds) = [("s", 1), ("min", 60), ("hours", 3600), ("days", 86_400)][unit];
            let then = parse(&format!("{amount} {unit} ago"), now, &TimeZone::UTC).unwrap();
            prop_assert_eq!(now.as_second() - then.as_second(), amount * seconds);
        }
    }
}
