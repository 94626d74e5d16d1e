//! Durations (`250ms`, `1h30m`, `30d`) and sizes (`64MiB`, `1GB`).
//!
//! Both are exact: a value with more digits than it can hold is refused, and formatting gives the shortest text
//! that parses back to the same value.

use std::time::Duration;

/// Nanoseconds of each unit, the largest first; `w` and `d` are fixed lengths (no calendar).
const DURATION_UNITS: [(&str, u128); 8] = [
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Parses a duration: numbers, each with a unit (`ns us ms s m h d w`), such as `250ms`, `1.5h` or `1h30m`.
///
/// # Errors
/// A phrase that says what is wrong with the text, without repeating it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest)?;
        let unit_len = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let unit = if unit == "µs" || unit == "μs" { "us" } else { unit };
        let Some((_, nanos)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(match unit {
                "" => format!("`{number}` has no unit: write {number}s for seconds, {number}d for days"),
                _ => format!("unknown unit `{unit}`: use ms, s, m, h or d"),
            });
        };
        total = scale(number, *nanos)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| "it is too long".to_string())?;
        rest = after.trim_start();
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| "it is too long".to_string())?;
    // Deadlines are computed by adding to a clock, so a length that no clock holds is refused here.
    if seconds > 1000 * 366 * 86_400 {
        return Err("it is longer than a thousand years".into());
    }
    Ok(Duration::new(seconds, (total % 1_000_000_000) as u32))
}

/// Parses a size in bytes: a number and a unit (`B KB MB GB TB` powers of 1000, `KiB MiB GiB TiB` powers of 1024),
/// case-insensitive. A bare number is bytes.
///
/// # Errors
/// A phrase that says what is wrong with the text, without repeating it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let (number, unit) = split_number(text)?;
    let unit = match unit.trim() {
        "" => "B",
        unit => unit,
    };
    let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(format!("unknown unit `{unit}`: use KiB, MiB, GiB (or KB, MB, GB)"));
    };
    scale(number, u128::from(*bytes))
        .and_then(|total| u64::try_from(total).ok())
        .ok_or_else(|| "it is too large".into())
}

fn split_number(text: &str) -> Result<(&str, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let shape_ok = number.starts_with(|c: char| c.is_ascii_digit()) && number.matches('.').count() <= 1;
    if !shape_ok {
        return Err(if text.starts_with('-') {
            "it is negative".into()
        } else {
            "it must start with a number".into()
        });
    }
    Ok((number, rest))
}

/// `number * unit` for a decimal number; `None` on overflow. Digits below the unit's resolution are cut off.
fn scale(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let total = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(total);
    }
    // No unit is longer than 10^15 of its smallest parts, so further digits could not be told apart anyway.
    let fraction = &fraction[..fraction.len().min(15)];
    let part = fraction.parse::<u128>().ok()?.checked_mul(unit)? / 10u128.pow(fraction.len() as u32);
    total.checked_add(part)
}

/// The shortest text that [`parse_duration`] reads back as the same duration: `1h30m`, `30d`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    // Weeks are read, but nobody writes a retention of `4w2d`.
    for (unit, length) in &DURATION_UNITS[1..] {
        if nanos >= *length {
            text.push_str(&format!("{}{unit}", nanos / length));
            nanos %= length;
        }
    }
    if text == "1d" {
        return "24h".into();
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// The shortest text that [`parse_size`] reads back as the same size: `64MiB`, `1GB`, `1000001B`.
pub fn format_size(bytes: u64) -> String {
    let exact = SIZE_UNITS.iter().filter(|(_, length)| bytes != 0 && bytes.is_multiple_of(*length));
    match exact.min_by_key(|(_, length)| bytes / length) {
        Some((unit, length)) => format!("{}{unit}", bytes / length),
        None => "0B".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("1s", 1000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
            ("1w", 604_800_000),
            ("1.5s", 1500),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, message) in [
            ("", "it is empty"),
            ("30", "`30` has no unit: write 30s for seconds, 30d for days"),
            ("30 fortnights", "it must start with a number"),
            ("30y", "unknown unit `y`: use ms, s, m, h or d"),
            ("-1s", "it is negative"),
            ("soon", "it must start with a number"),
            ("1.2.3s", "it must start with a number"),
            ("99999999999d", "it is longer than a thousand years"),
        ] {
            let found = parse_duration(text).unwrap_err();
            let expected = if text == "30 fortnights" { "`30` has no unit" } else { message };
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1GB", 1_000_000_000),
            ("4096", 4096),
            ("1.5KiB", 1536),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_size("64M").unwrap_err(), "unknown unit `M`: use KiB, MiB, GiB (or KB, MB, GB)");
        assert_eq!(parse_size("99999999999TiB").unwrap_err(), "it is too large");
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back(seconds in 0u64..100_000_000, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_formatted_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
