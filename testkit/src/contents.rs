//! Are two databases the same? By rows ([`Digest`]), which survives VACUUM and any order of pages, and by pages
//! ([`differing_pages`]), which is what a replica must reproduce.
//!
//! Both read through SQLite in one read transaction, so a WAL counts and a writer does not disturb.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// The schema and, for each table, the number and a hash of its rows: equal digests mean equal contents, and
/// `assert_eq!` on two of them names the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The `CREATE` statements by type and name.
    pub schema: BTreeMap<(String, String), String>,
    /// Rows and their hash by table; SipHash of all values with their types, in the order of the primary key.
    pub tables: BTreeMap<String, (u64, u64)>,
}

impl Digest {
    /// Reads the whole database at `path`. Tables of an extension's own kind (FTS, R-tree) count through the ordinary
    /// ones that they keep their rows in.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut db = open(path)?;
        let snapshot = db.transaction()?;
        Self::read(&snapshot).with_context(|| format!("read the rows of {path:?}"))
    }

    fn read(db: &Connection) -> Result<Self> {
        let mut schema = BTreeMap::new();
        let mut tables = BTreeMap::new();
        let mut select = db.prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let is_virtual = sql.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("CREATE VIRTUAL"));
            if kind == "table" && !is_virtual {
                tables.insert(
                    name.clone(),
                    hash_rows(db, &name).with_context(|| format!("read table {name}"))?,
                );
            }
            schema.insert((kind, name), sql);
        }
        Ok(Self { schema, tables })
    }
}

fn hash_rows(db: &Connection, table: &str) -> Result<(u64, u64)> {
    // Without an index the order is that of the primary key, whatever statistics the two databases have.
    let quoted = table.replace('"', "\"\"");
    let mut select = db.prepare(&format!("SELECT * FROM \"{quoted}\" NOT INDEXED"))?;
    let columns = select.column_count();
    let mut rows = select.query([])?;
    let (mut count, mut hasher) = (0, DefaultHasher::new());
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            match row.get_ref(column)? {
                ValueRef::Null => 0u8.hash(&mut hasher),
                ValueRef::Integer(value) => (1u8, value).hash(&mut hasher),
                ValueRef::Real(value) => (2u8, value.to_bits()).hash(&mut hasher),
                ValueRef::Text(value) => (3u8, value).hash(&mut hasher),
                ValueRef::Blob(value) => (4u8, value).hash(&mut hasher),
            }
        }
    }
    Ok((count, hasher.finish()))
}

/// The numbers of the pages that differ or that only one of the two has, in order; empty when the databases are equal.
/// The lock page (at 1 GiB), which holds nothing, is left out.
///
/// # Errors
/// When one cannot be read, or their page sizes differ.
pub fn differing_pages(a: &Path, b: &Path) -> Result<Vec<u32>> {
    let (mut a, mut b) = (open(a)?, open(b)?);
    let (a, b) = (a.transaction()?, b.transaction()?);
    let page_size = |db: &Connection| db.query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0));
    ensure!(page_size(&a)? == page_size(&b)?, "page sizes differ: {} and {}", page_size(&a)?, page_size(&b)?);
    let lock_page = 0x4000_0000 / page_size(&a)? + 1;
    let mut differing = Vec::new();
    let (mut select_a, mut select_b) = (pages(&a)?, pages(&b)?);
    let (mut rows_a, mut rows_b) = (select_a.query([])?, select_b.query([])?);
    for number in 1.. {
        let (row_a, row_b) = (rows_a.next()?, rows_b.next()?);
        let same = match (row_a, row_b) {
            (None, None) => break,
            (Some(a), Some(b)) => a.get_ref(1)? == b.get_ref(1)?,
            _ => false,
        };
        if !same && number != lock_page {
            differing.push(number);
        }
    }
    Ok(differing)
}

fn pages(db: &Connection) -> Result<rusqlite::Statement<'_>> {
    db.prepare("SELECT pgno, data FROM sqlite_dbpage ORDER BY pgno")
        .context("read pages through sqlite_dbpage")
}

/// Never makes a database: a path that is wrong must not compare equal to an empty one.
fn open(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).with_context(|| format!("open {path:?}"))?;
    db.busy_timeout(Duration::from_secs(60))?;
    Ok(db)
}
