//! Goal: a diff reads pages in the number of those that were written, whatever names changed. Method: a source that counts them.

use std::cell::Cell;

use litekeep_format::diff::{self, Options, ParentMap, Written};
use litekeep_format::{PageBytes, PageSource};
use litekeep_ltx::Pgno;
use litekeep_rows::Error;
use litekeep_sql::TableReader;
use rusqlite::Connection;

use crate::image::{Image, Tail};
use crate::reported::Reported;

struct Counted<'a> {
    image: &'a Image,
    read: &'a Cell<u32>,
}

impl PageSource for Counted<'_> {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.image.page_count()
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        self.read.set(self.read.get() + 1);
        self.image.page(pgno)
    }
}

/// What a diff reports of a change of a database of `pages` pages, and how many of them it reads.
struct Diffed {
    reported: Reported,
    read: u32,
    pages: u32,
}

fn diff_of(setup: &str, change: &str) -> Diffed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0; {setup}"
    ))
    .unwrap();
    let mut tail = Tail::default();
    tail.written(&path).unwrap();
    let old = Image::read(&db, &Image::default()).unwrap();
    db.execute_batch(change).unwrap();
    let (written, _) = tail.written(&path).unwrap();
    let new = Image::read(&db, &old).unwrap();
    let layouts = TableReader::new().unwrap();
    let catalog = diff::catalog(&old, &layouts).unwrap();
    let parents = ParentMap::of(&old, catalog.roots()).unwrap();
    let read = Cell::new(0);
    let [before, after] = [&old, &new].map(|image| Counted { image, read: &read });
    let written = Written { pages: &written, only_different: false };
    let mut reported = Reported::default();
    let states = (&before, &parents, &catalog);
    diff::diff(states, &after, written, Options::default(), &layouts, &mut reported).unwrap();
    Diffed { reported, read: read.get(), pages: new.page_count() }
}

const LARGE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT);
    WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, 'a value of ' || i FROM n;
    ALTER TABLE t ADD COLUMN x TEXT;";

/// Rows that are older than a column have nothing that tells it.
#[test]
fn a_new_column_gets_another_name_without_a_look_at_all_rows() {
    let rename = "ALTER TABLE t RENAME COLUMN x TO y";
    for change in [rename, &format!("{rename}; UPDATE t SET y = 'new', a = 'other' WHERE id = 10000")] {
        let Diffed { reported, read, pages } = diff_of(LARGE, change);
        assert!(pages > 500 && read < 100, "{change}: {read} of {pages} pages");
        let pairs: Vec<_> = reported.pairs().collect();
        assert_eq!(pairs, [("t", "t", &[Some(0), Some(1), Some(2)][..])], "{change}");
    }
}

#[test]
fn a_row_that_nobody_wrote_tells_a_column_where_those_that_were_written_do_not() {
    for (setup, is_known) in [
        ("UPDATE t SET x = 'was' WHERE id IN (1, 500)", true),
        ("UPDATE t SET x = 'was' WHERE id = 1", false),
    ] {
        let change = "ALTER TABLE t RENAME COLUMN x TO y; UPDATE t SET y = 'is' WHERE id = 1";
        let Diffed { reported, .. } = diff_of(&format!("{LARGE} {setup}"), change);
        let is_found = reported.pairs().any(|(_, _, from)| from == [Some(0), Some(1), Some(2)]);
        assert_eq!(is_found, is_known, "{setup}");
    }
}
