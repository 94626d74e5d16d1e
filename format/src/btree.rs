//! B-tree pages: tables and indexes.
//!
//! ```text
//! page header, behind the database header on page 1        cell
//! 0 kind: 2, 10 index interior, leaf                  1    left child                  4  interior pages
//!         5, 13 table interior, leaf                       bytes of payload       varint  all but table interior
//! 1 first freeblock                                   2    rowid                  varint  tables
//! 3 cells                                             2    payload, its local part        all but table interior
//! 5 begin of cell content                             2    first overflow page         4  when there is more payload
//! 7 fragmented bytes                                  1
//! 8 right-most child                                  4    interior pages only
//! 8 or 12: where each cell begins, in key order       2 each
//! ```
//!
//! An overflow page is the number of the next one (0 at the end) and payload to the end of the usable bytes.

use crate::be32;
use crate::error::Error;
use crate::record::varint;
use litekeep_ltx::Pgno;
use std::ops::Range;
use std::sync::Arc;

/// The bytes of a page, shared by everybody who reads it.
pub type PageBytes = Arc<[u8]>;

/// One state of a database, page by page.
pub trait PageSource {
    /// Why a page cannot be had.
    type Error: From<Error>;

    /// Pages of the database in this state.
    fn page_count(&self) -> u32;

    /// The bytes of a page, which is one of the database's.
    ///
    /// # Errors
    /// When it cannot be read.
    fn page(&self, pgno: Pgno) -> Result<PageBytes, Self::Error>;

    /// These pages will be asked for next; a source for which each one costs a request can get them together.
    ///
    /// # Errors
    /// When they cannot be read.
    fn prefetch(&self, _pages: &[Pgno]) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A database state and how much of each of its pages is SQLite's.
#[derive(Debug)]
pub(crate) struct Tree<'a, S> {
    pub(crate) source: &'a S,
    pub(crate) usable: usize,
}

// Not derived: that would ask the same of `S`.
impl<S> Clone for Tree<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Tree<'_, S> {}

impl<S: PageSource> Tree<'_, S> {
    /// A b-tree page.
    pub(crate) fn page(&self, pgno: Pgno) -> Result<BtreePage, S::Error> {
        Ok(BtreePage::parse(self.bytes(pgno)?, pgno, self.usable)?)
    }

    fn bytes(&self, pgno: Pgno) -> Result<PageBytes, S::Error> {
        if pgno.get() > self.source.page_count() {
            return Err(Error::Page { pgno, what: "it lies beyond the end of the database" }.into());
        }
        self.source.page(pgno)
    }

    /// The page after this one in an overflow chain.
    pub(crate) fn next_overflow(&self, pgno: Pgno) -> Result<(PageBytes, Option<Pgno>), S::Error> {
        let bytes = self.bytes(pgno)?;
        if bytes.len() < self.usable {
            return Err(Error::Page { pgno, what: "it is cut short" }.into());
        }
        let next = Pgno::new(be32(&bytes, 0));
        Ok((bytes, next))
    }

    /// Refuses a payload that all pages together do not hold.
    pub(crate) fn check(&self, cell: &Cell) -> Result<(), Error> {
        let most = u64::from(self.source.page_count()) * self.usable as u64;
        if cell.payload_len as u64 > most {
            return Err(Error::Page { pgno: cell.pgno, what: "a row is larger than the database" });
        }
        Ok(())
    }

    /// The whole payload of a cell.
    pub(crate) fn payload(&self, cell: &Cell, out: &mut Vec<u8>) -> Result<(), S::Error> {
        self.check(cell)?;
        out.clear();
        out.extend_from_slice(cell.local());
        let mut next = cell.overflow;
        while out.len() < cell.payload_len {
            let Some(pgno) = next else {
                return Err(Error::Page { pgno: cell.pgno, what: "an overflow chain ends too early" }.into());
            };
            let (bytes, after) = self.next_overflow(pgno)?;
            let n = (cell.payload_len - out.len()).min(self.usable - 4);
            out.extend_from_slice(&bytes[4..4 + n]);
            next = after;
        }
        Ok(())
    }
}

/// Pages that are prefetched together: what they take stays in a source's cache until they were read.
const RUN: usize = 256;

/// The pages one by one, each prefetched with those that follow it.
pub(crate) fn in_runs<S: PageSource>(
    tree: &Tree<'_, S>,
    pages: Vec<Pgno>,
) -> impl Iterator<Item = Result<Pgno, S::Error>> {
    let source = tree.source;
    (0..pages.len()).map(move |nth| {
        if nth.is_multiple_of(RUN) {
            source.prefetch(&pages[nth..pages.len().min(nth + RUN)])?;
        }
        Ok(pages[nth])
    })
}

/// A page of a b-tree.
#[derive(Clone, Debug)]
pub(crate) struct BtreePage {
    bytes: PageBytes,
    pgno: Pgno,
    usable: usize,
    header_at: usize,
    kind: u8,
    cells: usize,
}

/// An entry of a b-tree page that has payload, or the key of a table's interior page.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    bytes: PageBytes,
    local: Range<usize>,
    /// The page that it stands on.
    pub(crate) pgno: Pgno,
    pub(crate) rowid: i64,
    /// Bytes of payload, those on overflow pages included.
    pub(crate) payload_len: usize,
    /// The first overflow page.
    pub(crate) overflow: Option<Pgno>,
}

impl Cell {
    /// The payload that stands on the page itself.
    pub(crate) fn local(&self) -> &[u8] {
        &self.bytes[self.local.clone()]
    }
}

const TABLE_INTERIOR: u8 = 5;
const TABLE_LEAF: u8 = 13;
const INDEX_INTERIOR: u8 = 2;
const INDEX_LEAF: u8 = 10;

impl BtreePage {
    fn parse(bytes: PageBytes, pgno: Pgno, usable: usize) -> Result<BtreePage, Error> {
        let header_at = if pgno == Pgno::FIRST { crate::DatabaseHeader::LEN } else { 0 };
        let bad = |what| Err(Error::Page { pgno, what });
        if bytes.len() < usable || usable < 480 {
            return bad("it is cut short");
        }
        let kind = bytes[header_at];
        if !matches!(kind, TABLE_INTERIOR | TABLE_LEAF | INDEX_INTERIOR | INDEX_LEAF) {
            return bad("it is not a page of a b-tree");
        }
        let cells = be16(&bytes, header_at + 3);
        let page = BtreePage { bytes, pgno, usable, header_at, kind, cells };
        if page.pointers_at() + 2 * cells > usable {
            return bad("it has more cells than room");
        }
        Ok(page)
    }

    pub(crate) fn pgno(&self) -> Pgno {
        self.pgno
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.kind & 8 != 0
    }

    /// Whether its cells are rows: those of interior table pages only lead to them.
    pub(crate) fn has_payload(&self) -> bool {
        self.kind != TABLE_INTERIOR
    }

    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// How many children it has.
    pub(crate) fn children(&self) -> usize {
        if self.is_leaf() { 0 } else { self.cells + 1 }
    }

    fn pointers_at(&self) -> usize {
        self.header_at + if self.is_leaf() { 8 } else { 12 }
    }

    /// Where a cell begins. `None`: where none can.
    fn cell_at(&self, nth: usize) -> Option<usize> {
        let at = be16(&self.bytes, self.pointers_at() + 2 * nth);
        Some(at).filter(|at| *at >= self.pointers_at() + 2 * self.cells)
    }

    /// How many bytes all cells together can have at most.
    pub(crate) fn room(&self) -> usize {
        self.usable - self.pointers_at() - 2 * self.cells
    }

    /// A child in key order; the last one is the right-most.
    #[inline]
    pub(crate) fn child(&self, nth: usize) -> Result<Pgno, Error> {
        let at = if nth == self.cells { Some(self.header_at + 8) } else { self.cell_at(nth) };
        let number = at.and_then(|at| self.bytes[..self.usable].get(at..at + 4)).map(|word| be32(word, 0));
        number.and_then(Pgno::new).ok_or_else(|| self.bad("it has no child where one must be"))
    }

    pub(crate) fn cell(&self, nth: usize) -> Result<Cell, Error> {
        self.try_cell(nth).ok_or_else(|| self.bad("a cell does not end within the page"))
    }

    fn try_cell(&self, nth: usize) -> Option<Cell> {
        let bytes = &self.bytes[..self.usable];
        let mut at = self.cell_at(nth)? + if self.is_leaf() { 0 } else { 4 };
        let mut number = || {
            let (value, len) = varint(bytes.get(at..)?)?;
            at += len;
            Some(value)
        };
        let payload_len = if self.has_payload() { usize::try_from(number()?).ok()? } else { 0 };
        let rowid = match self.kind {
            TABLE_LEAF | TABLE_INTERIOR => number()?.cast_signed(),
            _ => 0,
        };
        let local_len = self.local_len(payload_len);
        let local = at..at.checked_add(local_len)?;
        bytes.get(local.clone())?;
        let overflow = match local_len < payload_len {
            true => Some(Pgno::new(be32(bytes.get(local.end..local.end + 4)?, 0))?),
            false => None,
        };
        Some(Cell { bytes: self.bytes.clone(), local, pgno: self.pgno, rowid, payload_len, overflow })
    }

    /// How much of a payload stands on the page itself.
    fn local_len(&self, payload_len: usize) -> usize {
        let max = match self.kind {
            TABLE_LEAF => self.usable - 35,
            _ => (self.usable - 12) * 64 / 255 - 23,
        };
        if payload_len <= max {
            return payload_len;
        }
        let min = (self.usable - 12) * 32 / 255 - 23;
        let fitting = min + (payload_len - min) % (self.usable - 4);
        if fitting <= max { fitting } else { min }
    }

    fn bad(&self, what: &'static str) -> Error {
        Error::Page { pgno: self.pgno, what }
    }
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
