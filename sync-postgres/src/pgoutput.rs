//! What the server sends of committed transactions: the messages of `pgoutput`, version 1
//! (<https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>).

use bytes::Bytes;

/// Microseconds from the epoch to that of PostgreSQL, the beginning of the year 2000.
pub(crate) const EPOCH_US: i64 = 946_684_800_000_000;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// A transaction begins; its messages follow, for transactions come one after the other.
    Begin,
    /// It ends.
    Commit {
        /// Where the log goes on after it.
        end: u64,
        /// When it was committed, milliseconds since the epoch.
        time_ms: i64,
    },
    /// How a table is, before its first row, and again when that has changed.
    Relation(Relation),
    Insert {
        relation: u32,
        row: Vec<Cell>,
    },
    Update {
        relation: u32,
        /// The key as it was, where it has changed; the other columns are NULL, or as they were.
        old: Option<Vec<Cell>>,
        row: Vec<Cell>,
    },
    Delete {
        relation: u32,
        /// The key; the other columns are NULL, or as they were.
        old: Vec<Cell>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// A message that somebody has put into a transaction, or beside one.
    Said {
        prefix: String,
        content: Bytes,
    },
    /// Nothing of rows: an origin, a type.
    Other,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// How much of an old row comes: `f` for all of it.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    pub(crate) name: String,
    /// The number of its type, and what limits it.
    pub(crate) type_id: u32,
    pub(crate) type_modifier: i32,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// A long value that the server did not read again, since it is as it was.
    Unchanged,
    Text(Bytes),
}

/// Reads one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(bytes: &Bytes) -> Result<Message, String> {
    let mut reader = Reader { bytes: bytes.clone() };
    let message = reader.message()?;
    match reader.bytes.len() {
        0 => Ok(message),
        more => Err(format!("{more} bytes after its end")),
    }
}

struct Reader {
    bytes: Bytes,
}

impl Reader {
    fn message(&mut self) -> Result<Message, String> {
        Ok(match self.u8()? {
            b'B' => {
                self.take(8 + 8 + 4)?;
                Message::Begin
            }
            b'C' => {
                self.take(1 + 8)?;
                let end = self.u64()?;
                let since_2000_us = self.u64()?.cast_signed();
                let time_ms = since_2000_us.saturating_add(EPOCH_US).div_euclid(1000);
                Message::Commit { end, time_ms }
            }
            b'R' => Message::Relation(self.relation()?),
            b'I' => {
                let relation = self.u32()?;
                self.expect(b'N')?;
                Message::Insert { relation, row: self.row()? }
            }
            b'U' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'K' | b'O' => {
                        let old = self.row()?;
                        self.expect(b'N')?;
                        Some(old)
                    }
                    b'N' => None,
                    other => return Err(unknown("part of an update", other)),
                };
                Message::Update { relation, old, row: self.row()? }
            }
            b'D' => {
                let relation = self.u32()?;
                match self.u8()? {
                    b'K' | b'O' => Message::Delete { relation, old: self.row()? },
                    other => return Err(unknown("part of a deletion", other)),
                }
            }
            b'T' => {
                let count = self.u32()?;
                self.take(1)?;
                let relations = (0..count).map(|_| self.u32()).collect::<Result<_, _>>()?;
                Message::Truncate { relations }
            }
            b'M' => {
                // Whether it is of a transaction, and where it is.
                self.take(1 + 8)?;
                let prefix = self.text()?;
                let length = self.u32()?;
                Message::Said { prefix, content: self.take(length as usize)? }
            }
            b'O' | b'Y' => {
                self.take(self.bytes.len())?;
                Message::Other
            }
            other => return Err(unknown("message", other)),
        })
    }

    fn relation(&mut self) -> Result<Relation, String> {
        let id = self.u32()?;
        let (schema, name) = (self.text()?, self.text()?);
        let identity = self.u8()?;
        let count = self.u16()?;
        let column = |_| {
            // Whether it is part of the key.
            self.take(1)?;
            let name = self.text()?;
            let (type_id, type_modifier) = (self.u32()?, self.u32()?.cast_signed());
            Ok::<_, String>(RelationColumn { name, type_id, type_modifier })
        };
        let columns = (0..count).map(column).collect::<Result<_, _>>()?;
        // In `pg_catalog` it is empty.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        Ok(Relation { id, schema, name, identity, columns })
    }

    fn row(&mut self) -> Result<Vec<Cell>, String> {
        let count = self.u16()?;
        let cell = |_| match self.u8()? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32()?;
                self.take(length as usize).map(Cell::Text)
            }
            other => Err(unknown("kind of a value", other)),
        };
        (0..count).map(cell).collect()
    }

    fn take(&mut self, count: usize) -> Result<Bytes, String> {
        match count <= self.bytes.len() {
            true => Ok(self.bytes.split_to(count)),
            false => Err("it ends too early".to_owned()),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.as_ref().try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn u8(&mut self) -> Result<u8, String> {
        self.number::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.number().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let end = self.bytes.iter().position(|byte| *byte == 0).ok_or("a name without an end")?;
        let text = self.take(end)?;
        self.take(1)?;
        String::from_utf8(text.to_vec()).map_err(|_| "a name that is no UTF-8".to_owned())
    }

    fn expect(&mut self, wanted: u8) -> Result<(), String> {
        match self.u8()? {
            found if found == wanted => Ok(()),
            found => Err(unknown("part of a row", found)),
        }
    }
}

fn unknown(what: &str, byte: u8) -> String {
    format!("an unknown {what}, {:?}", char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(parts: &[&[u8]]) -> Bytes {
        Bytes::from(parts.concat())
    }

    #[test]
    fn messages_are_read() {
        let relation = message(&[
            b"R\0\0\0\x07public\0t\0d\0\x02\x01id\0\0\0\0\x14\xff\xff\xff\xff\0a\0\0\0\0\x19\xff\xff\xff\xff",
        ]);
        let column = |name: &str, type_id| RelationColumn { name: name.into(), type_id, type_modifier: -1 };
        let columns = vec![column("id", 20), column("a", 25)];
        let expected = Relation { id: 7, schema: "public".into(), name: "t".into(), identity: b'd', columns };
        assert_eq!(parse(&relation), Ok(Message::Relation(expected)));
        let update = message(&[b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02t\0\0\0\x012u"]);
        let text = |text: &'static str| Cell::Text(Bytes::from(text));
        let (old, row) = (Some(vec![text("1"), Cell::Null]), vec![text("2"), Cell::Unchanged]);
        assert_eq!(parse(&update), Ok(Message::Update { relation: 7, old, row }));
        // A millisecond after the beginning of 2000.
        let commit = message(&[b"C\0", &[0; 8], &9u64.to_be_bytes(), &1000u64.to_be_bytes()]);
        assert_eq!(parse(&commit), Ok(Message::Commit { end: 9, time_ms: 946_684_800_001 }));
        let said = message(&[b"M\x01", &[0; 8], b"litekeep\0\0\0\0\x02{}"]);
        let expected = Message::Said { prefix: "litekeep".into(), content: Bytes::from("{}") };
        assert_eq!(parse(&said), Ok(expected));
        let truncate = message(&[b"T\0\0\0\x02\0\0\0\0\x01\0\0\0\x02"]);
        assert_eq!(parse(&truncate), Ok(Message::Truncate { relations: vec![1, 2] }));
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = message(&[b"U\0\0\0\x07K\0\x01t\0\0\0\x011N\0\x01t\0\0\0\x012"]);
        for end in 0..whole.len() {
            assert!(parse(&whole.slice(..end)).is_err(), "{end}");
        }
        assert!(parse(&message(&[&whole, b"x"])).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn no_bytes_are_too_much(kind in prop::sample::select(b"BCRIUDTOYM".to_vec()), rest in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>(), prop::sample::select(b"NKOtnu".to_vec())], 0..60)) {
            let bytes = Bytes::from([&[kind][..], &rest].concat());
            // Whatever it is, it is an answer.
            let _ = parse(&bytes);
        }
    }
}
