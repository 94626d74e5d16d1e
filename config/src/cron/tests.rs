use jiff::Zoned;
use proptest::prelude::*;

use super::*;

/// The next instants of `cron` after `from`, as wall time with its offset.
fn upcoming(cron: &str, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(cron).unwrap_or_else(|error| panic!("{cron}: {error}"));
    let mut at: Zoned = from.parse().unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let Some(next) = cron.next(&at) else { break };
        assert!(next > at, "{next} is not after {at}");
        found.push(next.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
        at = next;
    }
    found
}

#[track_caller]
fn check(cron: &str, from: &str, expected: &[&str]) {
    assert_eq!(upcoming(cron, from, expected.len()), expected, "{cron} after {from}");
}

const UTC: &str = "2026-01-15T10:17:30+00:00[UTC]";

#[test]
fn fields() {
    check(
        "*/20 * * * *",
        UTC,
        &["2026-01-15T10:20:00+00:00", "2026-01-15T10:40:00+00:00", "2026-01-15T11:00:00+00:00"],
    );
    check("17 10 * * *", UTC, &["2026-01-16T10:17:00+00:00"]);
    check("45 17 10 * * *", UTC, &["2026-01-15T10:17:45+00:00", "2026-01-16T10:17:45+00:00"]);
    check("30 17 10 * * *", UTC, &["2026-01-16T10:17:30+00:00"]);
    check(
        "0 9-17/4 * * Mon-Fri",
        "2026-01-16T12:00:00+00:00[UTC]",
        &["2026-01-16T13:00:00+00:00", "2026-01-16T17:00:00+00:00", "2026-01-19T09:00:00+00:00"],
    );
    check("0 0 1 jan,JUL *", UTC, &["2026-07-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"]);
    check(
        "10/25 0 * * *",
        UTC,
        &["2026-01-16T00:10:00+00:00", "2026-01-16T00:35:00+00:00", "2026-01-17T00:10:00+00:00"],
    );
    check("0 0 * * 7", UTC, &["2026-01-18T00:00:00+00:00", "2026-01-25T00:00:00+00:00"]);
    check("0 0 ? * sun", UTC, &["2026-01-18T00:00:00+00:00"]);
    check("@hourly", UTC, &["2026-01-15T11:00:00+00:00"]);
    check("@weekly", UTC, &["2026-01-18T00:00:00+00:00"]);
    check("@yearly", UTC, &["2027-01-01T00:00:00+00:00", "2028-01-01T00:00:00+00:00"]);
}

#[test]
fn a_fraction_of_a_second_is_not_lost() {
    check(
        "* * * * * *",
        "2026-01-15T10:17:30.5+00:00[UTC]",
        &["2026-01-15T10:17:31+00:00", "2026-01-15T10:17:32+00:00"],
    );
    check("31 17 10 * * *", "2026-01-15T10:17:30.5+00:00[UTC]", &["2026-01-15T10:17:31+00:00"]);
}

#[test]
fn two_fields_for_days() {
    // The 13th, and each Friday.
    check("0 0 13 * fri", UTC, &["2026-01-16T00:00:00+00:00", "2026-01-23T00:00:00+00:00"]);
    check(
        "0 0 13 2 fri",
        "2026-02-07T00:00:00+00:00[UTC]",
        &["2026-02-13T00:00:00+00:00", "2026-02-20T00:00:00+00:00"],
    );
    check(
        "0 0 14 2 fri",
        "2026-02-07T00:00:00+00:00[UTC]",
        &["2026-02-13T00:00:00+00:00", "2026-02-14T00:00:00+00:00"],
    );
    // A field that begins with `*` restricts the other.
    check("0 0 */10 * mon", UTC, &["2026-05-11T00:00:00+00:00"]);
    check(
        "0 0 1-7 * */7",
        UTC,
        &["2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00", "2026-04-05T00:00:00+00:00"],
    );
}

#[test]
fn days_that_are_rare() {
    check("0 0 29 2 *", UTC, &["2028-02-29T00:00:00+00:00", "2032-02-29T00:00:00+00:00"]);
    check("0 0 29 2 *", "2096-03-01T00:00:00+00:00[UTC]", &["2104-02-29T00:00:00+00:00"]);
    check("0 0 29 2 */7", "2088-03-01T00:00:00+00:00[UTC]", &["2128-02-29T00:00:00+00:00"]);
    check(
        "0 0 31 * *",
        UTC,
        &["2026-01-31T00:00:00+00:00", "2026-03-31T00:00:00+00:00", "2026-05-31T00:00:00+00:00"],
    );
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * 31 feb *", "0 0 0 30 2 *"] {
        assert_eq!(upcoming(never, UTC, 1), [""; 0], "{never}");
    }
    assert_eq!(upcoming("* * * * *", "9999-12-30T22:00:00+00:00[UTC]", 2).len(), 0);
}

#[test]
fn an_hour_that_is_left_out() {
    let berlin = "2026-03-28T12:00:00+01:00[Europe/Berlin]";
    check("30 2 * * *", berlin, &["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
    check(
        "0,30 2 * * *",
        berlin,
        &["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00"],
    );
    check("0 3 * * *", berlin, &["2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"]);
    check("* 2 29 3 *", berlin, &["2026-03-29T03:00:00+02:00", "2027-03-29T02:00:00+02:00"]);
    let night = "2026-03-29T01:40:00+01:00[Europe/Berlin]";
    check(
        "*/15 * * * *",
        night,
        &["2026-03-29T01:45:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T03:15:00+02:00"],
    );
    check("5 * * * *", night, &["2026-03-29T03:05:00+02:00", "2026-03-29T04:05:00+02:00"]);
    let york = "2026-03-07T12:00:00-05:00[America/New_York]";
    check("15 2 * * *", york, &["2026-03-08T03:00:00-04:00", "2026-03-09T02:15:00-04:00"]);
    check("@daily", york, &["2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00"]);
    // A whole day was left out on Samoa.
    check(
        "0 12 * * *",
        "2011-12-29T13:00:00-10:00[Pacific/Apia]",
        &["2011-12-31T00:00:00+14:00", "2011-12-31T12:00:00+14:00"],
    );
}

#[test]
fn an_hour_that_comes_twice() {
    let berlin = "2026-10-24T12:00:00+02:00[Europe/Berlin]";
    check("30 2 * * *", berlin, &["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]);
    check("30 2 * * *", "2026-10-25T02:10:00+01:00[Europe/Berlin]", &["2026-10-26T02:30:00+01:00"]);
    let night = "2026-10-25T01:40:00+02:00[Europe/Berlin]";
    check(
        "*/30 * * * *",
        night,
        &[
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ],
    );
    check(
        "10 * * * *",
        night,
        &["2026-10-25T02:10:00+02:00", "2026-10-25T02:10:00+01:00", "2026-10-25T03:10:00+01:00"],
    );
    let york = "2026-10-31T12:00:00-04:00[America/New_York]";
    check("30 1 * * *", york, &["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]);
    check("0 2 * * *", york, &["2026-11-01T02:00:00-05:00", "2026-11-02T02:00:00-05:00"]);
}

#[test]
fn what_is_no_expression() {
    for (text, expected) in [
        ("", "it has 0 fields, not 5 (minute, hour, day, month, weekday) or 6 (seconds first)"),
        ("* * * *", "it has 4 fields, not 5 (minute, hour, day, month, weekday) or 6 (seconds first)"),
        ("60 * * * *", "its minute `60`: `60` is not 0 to 59"),
        ("* 24 * * *", "its hour `24`: `24` is not 0 to 23"),
        ("* * 0 * *", "its day of the month `0`: `0` is not 1 to 31"),
        ("* * * foo *", "its month `foo`: `foo` is not 1 to 12, or jan to dec"),
        ("* * * * L", "its day of the week `L`: `L` is not 0 to 7, or sun to sat"),
        ("22-2 * * * *", "its minute `22-2`: the range `22-2` runs backwards: write it as two, with a comma"),
        ("*/0 * * * *", "its minute `*/0`: a step is a number from 1 on"),
        ("1,,2 * * * *", "its minute `1,,2`: `` is not 0 to 59"),
        ("@reboot", "`@reboot` is a process: write [process.NAME] with restart = \"never\""),
        (
            "@often",
            "there are `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually`",
        ),
    ] {
        assert_eq!(Cron::parse(text), Err(expected.into()), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "[0-9*/,a-z@? -]{0,24}|\\PC{0,16}") {
        if let Ok(cron) = Cron::parse(&text) {
            cron.next(&UTC.parse().unwrap());
        }
    }

    /// Method: where no clock changes, the next instant is the first of all seconds that fits.
    #[test]
    fn nothing_is_passed_over(minute in 0i8..60, step in 1i8..30, hour in 0i8..24, start in 0i64..86_400) {
        let cron = Cron::parse(&format!("{minute}/{step} {hour},3 * * *")).unwrap();
        let from = "2026-01-15T00:00:00+00:00[UTC]".parse::<Zoned>().unwrap().saturating_add(start.seconds());
        let due = |at: &Zoned| {
            at.second() == 0 && at.minute() >= minute && (at.minute() - minute) % step == 0 && [hour, 3].contains(&at.hour())
        };
        let mut at = from.clone();
        loop {
            at = at.saturating_add(1.second());
            if due(&at) { break }
        }
        prop_assert_eq!(cron.next(&from), Some(at));
    }
}
