//! What must hold for two states of a database that are any bytes at all: trees, records and the diff of rows end, without a
//! panic, after reading each page a few times a table.

use std::cell::Cell;
use std::sync::Arc;

use litekeep_format::diff::{Change, Options, Pair, ParentMap, Sink, Written, catalog, diff, roots};
use litekeep_format::{
    Catalog, Collation, Column, DatabaseHeader, Error, KeyPart, PageBytes, PageSource, ReadLayout,
    TableLayout, Value,
};
use litekeep_ltx::Pgno;

/// How often a page may be read for each table and each time that a state is gone over.
const READS: usize = 16;

/// A state, which counts what is read of it.
#[derive(Clone)]
struct Image {
    pages: Vec<PageBytes>,
    reads: Cell<usize>,
}

impl Image {
    fn of(data: &[u8]) -> Option<Image> {
        let page_size = DatabaseHeader::parse(data).ok()?.page_size.bytes();
        let pages = data.chunks_exact(page_size).map(Arc::from).collect();
        Some(Image { pages, reads: Cell::new(0) })
    }

    fn pgnos(&self) -> impl Iterator<Item = Pgno> {
        (1..=self.page_count()).filter_map(Pgno::new)
    }

    /// Some pages in each other's places, and some bytes that are others: which ones the last bytes say.
    fn later(&self, data: &[u8]) -> Image {
        let mut later = self.clone();
        let count = later.pages.len();
        for what in data.rchunks_exact(4).take(6).filter(|_| count > 0) {
            let (a, b) = (usize::from(what[0]) % count, usize::from(what[1]) % count);
            if what[3] % 3 == 0 {
                later.pages.swap(a, b);
            } else {
                let mut page = later.pages[a].to_vec();
                let at = usize::from(what[1]) << (what[3] % 8);
                let at = at % page.len();
                page[at] = what[2];
                later.pages[a] = page.into();
            }
        }
        later
    }
}

impl PageSource for Image {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        self.reads.set(self.reads.get() + 1);
        Ok(self.pages[pgno.get() as usize - 1].clone())
    }
}

/// Takes a layout from a statement without understanding it.
struct Guess;

impl ReadLayout<Error> for Guess {
    fn read_layout(&self, _: &str, sql: &str, descending: bool) -> Result<TableLayout, Error> {
        let columns = sql.matches(',').count().min(20) + 1;
        let column = |nth: usize| Column {
            name: format!("c{nth}"),
            declared: String::new(),
            is_real: nth % 3 == 2,
            is_any: false,
            is_generated: false,
            default_text: None,
            default: Value::Integer(7),
        };
        let collation = ["NOCASE", "RTRIM", "backwards"].into_iter().find(|name| sql.contains(name));
        let collation = collation.map_or(Collation::Binary, Collation::named);
        let is_without_rowid = sql.contains("WITHOUT ROWID");
        Ok(TableLayout {
            columns: (0..columns).map(column).collect(),
            field_of: (0..columns).collect(),
            rowid_alias: sql.contains("INTEGER PRIMARY KEY").then_some(0).filter(|_| !is_without_rowid),
            primary_key: vec![0],
            key: if is_without_rowid { vec![KeyPart { collation, descending }] } else { vec![] },
            virtual_names: vec![],
        })
    }
}

/// Looks at all values.
struct Values;

impl Sink<Error> for Values {
    fn begin(&mut self, _: &Catalog, _: &Catalog, _: &[(String, String)]) -> Result<(), Error> {
        Ok(())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        assert!(pair.new.is_none_or(|new| from.len() == new.layout.columns.len()));
        Ok(())
    }

    fn change(&mut self, _: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        let (old, new) = change.sides();
        for row in [old, new].into_iter().flatten() {
            assert_eq!(row.values()?.len(), row.table.layout.columns.len());
        }
        Ok(())
    }
}

/// Reads `data` as a database, and as one that has become another.
pub(crate) fn run(data: &[u8]) {
    if let Some(image) = Image::of(data) {
        images(&image, &image.later(data), data);
    }
}

/// Reads two databases as one that has become the other.
#[allow(dead_code, reason = "the fuzzer has but one")]
pub(crate) fn both(old: &[u8], new: &[u8]) {
    if let (Some(old), Some(new)) = (Image::of(old), Image::of(new)) {
        images(&old, &new, b"");
    }
}

fn images(old: &Image, new: &Image, data: &[u8]) {
    let Ok(before) = catalog(old, &Guess) else { return };
    let map = roots(old).and_then(|roots| ParentMap::of(old, roots.into_iter()));
    // Of a damaged state any map is as good.
    let map = map.unwrap_or_else(|_| ParentMap::from_words(data.iter().map(|n| u32::from(*n)).collect()));
    let count = old.page_count().max(new.page_count());
    let differ = |pgno: &Pgno| {
        let of = |image: &Image| image.pages.get(pgno.get() as usize - 1).cloned();
        of(old) != of(new)
    };
    let longer = if old.page_count() == count { old } else { new };
    let different: Vec<Pgno> = longer.pgnos().filter(differ).collect();
    let tables = before.tables().len() + catalog(new, &Guess).map_or(0, |after| after.tables().len()) + 1;
    for (only_different, everything) in [(true, false), (false, false), (true, true)] {
        let written = Written { pages: &different, only_different };
        old.reads.set(0);
        new.reads.set(0);
        let options = Options { everything };
        let after = diff((old, &map, &before), new, written, options, &Guess, &mut Values);
        if let Ok(after) = after {
            let mut map = map.clone();
            let advanced = map.advance((old, before.roots()), (new, after.roots()), written);
            assert!(advanced.is_err() || map.to_words().len() == new.pages.len());
        }
        for image in [old, new] {
            let most = READS * tables * (image.pages.len() + 1);
            assert!(image.reads.get() <= most, "{} reads, not {most}", image.reads.get());
        }
    }
}
