//! What a transaction does there, until it is committed: in memory while that is little, then in a file that nobody else sees.

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use bson::raw::RawDocumentBuf;
use litekeep_sync::Refused;
use litekeep_sync::target::{key_text, key_value};
use tempfile::SpooledTempFile;

/// Bytes in memory at most.
const IN_MEMORY: usize = 8 << 20;

/// What is done together to a table.
#[derive(Default)]
pub(super) struct Segment {
    /// The table, by its place in the plan.
    pub(super) table: usize,
    /// What finds rows that go: their keys, or all of their values.
    pub(super) gone: Vec<RawDocumentBuf>,
    /// Rows that come.
    pub(super) come: Vec<RawDocumentBuf>,
    /// None of them can be there.
    pub(super) is_new: bool,
    /// Rows that cannot be written.
    pub(super) refused: Vec<Refused>,
    /// Items that the list of refused rows must not have, unless one of these rows is refused.
    pub(super) fine: Vec<String>,
}

/// Segments, in the order of their being done.
pub(super) struct Journal {
    file: SpooledTempFile,
    /// Where each begins.
    starts: Vec<u64>,
    end: u64,
}

impl Journal {
    pub(super) fn new() -> Journal {
        Journal { file: SpooledTempFile::new(IN_MEMORY), starts: vec![], end: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn push(&mut self, segment: &Segment) -> io::Result<()> {
        let mut bytes = vec![];
        number(&mut bytes, segment.table);
        number(&mut bytes, usize::from(segment.is_new));
        for documents in [&segment.gone, &segment.come] {
            number(&mut bytes, documents.len());
            // Each begins with its length.
            documents.iter().for_each(|document| bytes.extend_from_slice(document.as_bytes()));
        }
        number(&mut bytes, segment.refused.len());
        for row in &segment.refused {
            text(&mut bytes, &row.reason);
            number(&mut bytes, row.key.len());
            row.key.iter().for_each(|value| text(&mut bytes, &key_text(value)));
        }
        number(&mut bytes, segment.fine.len());
        segment.fine.iter().for_each(|item| text(&mut bytes, item));
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&bytes)?;
        self.starts.push(self.end);
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn read(&mut self, nth: usize) -> io::Result<Segment> {
        let start = self.starts[nth];
        let end = self.starts.get(nth + 1).copied().unwrap_or(self.end);
        let damaged = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut bytes = vec![0; usize::try_from(end - start).map_err(|_| damaged())?];
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut bytes)?;
        Reader { rest: &bytes }.segment().ok_or_else(damaged)
    }
}

fn number(bytes: &mut Vec<u8>, n: usize) {
    bytes.extend_from_slice(&(n as u64).to_le_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    number(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn segment(&mut self) -> Option<Segment> {
        let (table, is_new) = (self.number()?, self.number()? == 1);
        let mut segment = Segment { table, is_new, ..Segment::default() };
        for documents in [&mut segment.gone, &mut segment.come] {
            let count = self.number()?;
            documents.reserve(count);
            for _ in 0..count {
                documents.push(self.document()?);
            }
        }
        for _ in 0..self.number()? {
            let reason = self.text()?.to_owned();
            let count = self.number()?;
            let key = (0..count).map(|_| key_value(self.text()?)).collect::<Option<Vec<_>>>()?;
            segment.refused.push(Refused { table, key, reason });
        }
        let count = self.number()?;
        segment.fine = (0..count).map(|_| self.text().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
        Some(segment)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let count = self.number()?;
        std::str::from_utf8(self.take(count)?).ok()
    }

    fn document(&mut self) -> Option<RawDocumentBuf> {
        let size = self.rest.get(..4)?.try_into().ok()?;
        let size = usize::try_from(i32::from_le_bytes(size)).ok()?;
        RawDocumentBuf::from_bytes(self.take(size)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use litekeep_sync::Value;

    #[test]
    fn segments_come_back_in_any_order() {
        let segment = |n: i64| Segment {
            table: 3,
            gone: vec![rawdoc! { "_id": n }],
            come: (0..n).map(|i| rawdoc! { "_id": i, "text": "x".repeat(100_000) }).collect(),
            is_new: n == 7,
            refused: vec![Refused {
                table: 3,
                key: vec![Value::Text(vec![255]), Value::Null],
                reason: "é".into(),
            }],
            fine: vec!["a".into(), String::new()],
        };
        let mut journal = Journal::new();
        for n in [100, 0, 7] {
            journal.push(&segment(n)).unwrap();
        }
        // Beyond what is in memory, and once more after that was read.
        for (nth, n) in [(1, 0), (0, 100), (2, 7), (0, 100)] {
            let (read, expected) = (journal.read(nth).unwrap(), segment(n));
            assert_eq!((read.gone, read.come), (expected.gone, expected.come));
            assert_eq!((read.table, read.is_new), (3, n == 7));
            assert_eq!((read.refused, read.fine), (expected.refused, expected.fine));
        }
        journal.push(&segment(1)).unwrap();
        assert_eq!((journal.len(), journal.read(3).unwrap().come.len()), (4, 1));
    }
}
