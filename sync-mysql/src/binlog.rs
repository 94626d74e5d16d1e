//! The log of row changes, as the server sends it
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication.html>, <https://mariadb.com/kb/en/replication-protocol/>).
//!
//! - [`position`]: where in it something is.
//! - [`stream`]: the connection over which it comes.
//! - [`event`]: what comes, as far as it is looked into.
//! - [`table_map`]: which columns the rows that follow have.
//! - [`row`]: the values of rows; [`json`]: documents among them.
//! - [`charset`]: text that is not in UTF-8.
//! - [`statement`]: what a statement does to tables.
//!
//! mysql_async carries the log. It has no decoder for all types of columns, and its one for documents rewrites them, so that rows are read here.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod any_bytes;
pub(crate) mod charset;
pub(crate) mod event;
pub(crate) mod json;
pub(crate) mod position;
pub(crate) mod row;
pub(crate) mod statement;
pub(crate) mod stream;
pub(crate) mod table_map;

/// Bytes that are read from the front. `None`: there are too few.
#[derive(Clone, Copy)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes, the least first.
    pub(crate) fn number(&mut self, count: usize) -> Option<u64> {
        let bytes = self.take(count)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The same with the greatest first.
    pub(crate) fn big_endian(&mut self, count: usize) -> Option<u64> {
        let bytes = self.take(count)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A count of so many bytes as it needs.
    pub(crate) fn count(&mut self) -> Option<usize> {
        let count = match self.byte()? {
            small @ 0..=250 => u64::from(small),
            252 => self.number(2)?,
            253 => self.number(3)?,
            254 => self.number(8)?,
            _ => return None,
        };
        usize::try_from(count).ok()
    }

    /// Bytes after their count.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }
}
