//! Dates and times as applications write them into SQLite, which has no type for them.
//!
//! A column of dates becomes one there only when all of its values have one form: then each comes back exactly.

use jiff::civil::{Date, DateTime};
use serde::{Deserialize, Serialize};

/// How the dates of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// `T` or a space before the time; `None`: there is no time.
    pub separator: Option<char>,
    /// Digits after the second; 0: none.
    pub fraction: u8,
    /// How it says that the time is UTC.
    pub zone: Zone,
}

/// What follows the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Zone {
    /// Nothing: whose time it is, only the application knows.
    None,
    /// `Z`.
    Z,
    /// `+00:00`.
    Offset,
}

/// PostgreSQL's and MySQL's types hold microseconds.
const MOST_DIGITS: u8 = 6;
const DATE: &str = "0000-00-00";

impl Form {
    /// The form of the only shape that a column has (`0000-00-00 00:00:00`), as [`litekeep_sql::Profile`] tells it; `None` when
    /// it is no date.
    pub fn of_shape(shape: &str) -> Option<Form> {
        if shape == DATE {
            return Some(Form { separator: None, fraction: 0, zone: Zone::None });
        }
        let rest = shape.strip_prefix(DATE)?;
        let (separator, rest) = match rest.as_bytes().first()? {
            b' ' => (' ', &rest[1..]),
            b'a' => ('T', &rest[1..]),
            _ => return None,
        };
        let rest = rest.strip_prefix("00:00:00")?;
        let (rest, zone) = match rest {
            _ if rest.ends_with("+00:00") => (&rest[..rest.len() - 6], Zone::Offset),
            _ if rest.ends_with('a') => (&rest[..rest.len() - 1], Zone::Z),
            _ => (rest, Zone::None),
        };
        let fraction = match rest.strip_prefix('.') {
            None if rest.is_empty() => 0,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|digit| digit == b'0') => {
                u8::try_from(digits.len()).ok().filter(|digits| *digits <= MOST_DIGITS)?
            }
            _ => return None,
        };
        Some(Form { separator: Some(separator), fraction, zone })
    }

    /// Whether it is a date without a time.
    pub fn is_date(self) -> bool {
        self.separator.is_none()
    }

    /// Whether a text is a date of exactly this form.
    pub fn fits(self, text: &str) -> bool {
        self.parse(text).is_some_and(|time| self.write(time) == text)
    }

    /// The time of a text of this form, or of one like it.
    pub(super) fn parse(self, text: &str) -> Option<DateTime> {
        if self.is_date() {
            return text.parse::<Date>().ok().map(DateTime::from);
        }
        let text = match self.zone {
            Zone::None => text,
            Zone::Z => text.strip_suffix('Z')?,
            Zone::Offset => text.strip_suffix("+00:00")?,
        };
        text.parse().ok()
    }

    /// A time in this form.
    pub fn write(self, time: DateTime) -> String {
        let Some(separator) = self.separator else { return time.date().to_string() };
        let (date, clock) = (time.date(), time.time());
        let mut text =
            format!("{date}{separator}{:02}:{:02}:{:02}", clock.hour(), clock.minute(), clock.second());
        if self.fraction > 0 {
            let digits = format!("{:09}", clock.subsec_nanosecond());
            text.push('.');
            text.push_str(&digits[..usize::from(self.fraction)]);
        }
        text.push_str(match self.zone {
            Zone::None => "",
            Zone::Z => "Z",
            Zone::Offset => "+00:00",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_from_shapes() {
        let form = |separator, fraction, zone| Some(Form { separator, fraction, zone });
        for (shape, expected) in [
            ("0000-00-00", form(None, 0, Zone::None)),
            ("0000-00-00 00:00:00", form(Some(' '), 0, Zone::None)),
            ("0000-00-00a00:00:00.000a", form(Some('T'), 3, Zone::Z)),
            ("0000-00-00 00:00:00.000000+00:00", form(Some(' '), 6, Zone::Offset)),
            ("0000-00-00 00:00:00.0000000", None),
            ("0000-00-00 00:00", None),
            ("0000-00-00x", None),
            ("00:00:00", None),
            ("", None),
        ] {
            assert_eq!(Form::of_shape(shape), expected, "{shape}");
        }
    }

    #[test]
    fn only_what_would_come_back_fits() {
        let form = Form::of_shape("0000-00-00a00:00:00.000a").unwrap();
        assert!(form.fits("2026-02-28T23:59:59.120Z"));
        for other in [
            "2026-02-30T23:59:59.120Z",
            "2026-02-28T23:59:60.000Z",
            "2026-02-28t23:59:59.120Z",
            "2026-02-28T23:59:59.12Z",
            "2026-02-28T23:59:59.120z",
            "2026-02-28",
        ] {
            assert!(!form.fits(other), "{other}");
        }
        let date = Form::of_shape("0000-00-00").unwrap();
        assert!(date.fits("2024-02-29") && !date.fits("2023-02-29") && !date.fits("2024-02-29 00:00:00"));
    }
}
