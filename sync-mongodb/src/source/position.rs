//! Where a change stream stands.

use std::fmt;

use bson::{Bson, Document, Timestamp, doc};

/// The first byte of a token that begins with a time, as all do
/// (<https://github.com/mongodb/mongo/blob/master/src/mongo/db/pipeline/resume_token.h>).
const TIME: u8 = 0x82;

/// A moment of a server: everything before it has come, and of what came with it what a token says; without one, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The server's time.
    pub(super) at: Timestamp,
    token: Option<String>,
}

/// As it is kept: `1764529240.3`, or `1764529240.3/8269...` with a token.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.at.time, self.at.increment)?;
        match &self.token {
            Some(token) => write!(f, "/{token}"),
            None => Ok(()),
        }
    }
}

impl Position {
    /// A moment up to which nothing is wanted of the stream.
    pub(super) fn of(at: Timestamp) -> Position {
        Position { at, token: None }
    }

    pub(super) fn parse(text: &str) -> Option<Position> {
        let (at, token) = match text.split_once('/') {
            Some((at, token)) => (at, Some(token.to_owned())),
            None => (text, None),
        };
        let (time, increment) = at.split_once('.')?;
        Some(Position {
            at: Timestamp { time: time.parse().ok()?, increment: increment.parse().ok()? },
            token,
        })
    }

    /// Of a token of a stream; `None`: it is none that is known.
    pub(super) fn of_token(token: &Document) -> Option<Position> {
        let data = token.get_str("_data").ok()?;
        let byte = |nth: usize| u8::from_str_radix(data.get(2 * nth..2 * nth + 2)?, 16).ok();
        let number = |first: usize| -> Option<u32> {
            (first..first + 4).try_fold(0, |number, nth| Some(number << 8 | u32::from(byte(nth)?)))
        };
        if byte(0)? != TIME {
            return None;
        }
        let at = Timestamp { time: number(1)?, increment: number(5)? };
        Some(Position { at, token: Some(data.to_owned()) })
    }

    /// The moment that it is, where no change of it is told apart.
    pub(super) fn moment(&self) -> Option<Timestamp> {
        self.token.is_none().then_some(self.at)
    }

    /// What a stream is asked for that goes on from here. What came with a moment without a token comes again.
    pub(super) fn begin(&self) -> (&'static str, Bson) {
        match &self.token {
            Some(token) => ("startAfter", doc! { "_data": token }.into()),
            None => ("startAtOperationTime", self.at.into()),
        }
    }

    /// Whether it is not before another one.
    pub(super) fn is_at(&self, goal: &Position) -> bool {
        self.at >= goal.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        // Of an event, and of a moment between events.
        for data in [
            "82692C8E18000000042B022C0100296E5A1004A3F1E2B0C8D94B7A9E6F0D1C2B3A495846645F69640064692C8E180000000000000000000004",
            "82692C8E18000000042B0429296E1404",
        ] {
            let position = Position::of_token(&doc! { "_data": data }).unwrap();
            assert_eq!(position.at, Timestamp { time: 0x692c_8e18, increment: 4 });
            assert_eq!(position.to_string(), format!("1764527640.4/{data}"));
            assert_eq!(Position::parse(&position.to_string()).as_ref(), Some(&position));
            assert_eq!(position.begin(), ("startAfter", doc! { "_data": data }.into()));
        }
        let first = Position::parse("1764527640.4").unwrap();
        assert_eq!(first, Position::of(Timestamp { time: 1_764_527_640, increment: 4 }));
        assert_eq!(first.begin(), ("startAtOperationTime", first.at.into()));
        for (later, earlier) in [("7.2", "7.1"), ("8.0", "7.9"), ("7.1/82", "7.1")] {
            let of = |text| Position::parse(text).unwrap();
            assert!(of(later).is_at(&of(earlier)));
        }
        assert!(!Position::parse("7.1").unwrap().is_at(&Position::parse("7.2").unwrap()));
    }

    #[test]
    fn what_is_none_is_not_taken_for_one() {
        for text in ["", "7", "7.x", "-1.0", "0/16B3748"] {
            assert_eq!(Position::parse(text), None, "{text}");
        }
        for data in ["", "82", "83692C8E1800000004", "82692C8E18zz000004"] {
            assert_eq!(Position::of_token(&doc! { "_data": data }), None, "{data}");
        }
    }
}
