//! The first oracle: all rows, read by SQL from the tables themselves, not from indexes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::table::{quote, rowid_name};

/// A value, equal to another only if their bits are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A real's bits.
    Real(u64),
    /// Text as SQLite gives it: UTF-8 whatever the database's encoding, and not always valid.
    Text(Vec<u8>),
    /// A blob.
    Blob(Vec<u8>),
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(value) => Self::Integer(value),
            ValueRef::Real(value) => Self::Real(value.to_bits()),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(bits) => ValueRef::Real(f64::from_bits(*bits)),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Short, for the messages of tests: the beginning of what is long, and its length.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 24;
        let more =
            |bytes: &[u8]| if bytes.len() > SHOWN { format!("..{}", bytes.len()) } else { String::new() };
        match self {
            Self::Null => write!(f, "NULL"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Real(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Self::Text(bytes) => {
                write!(f, "'{}'{}", bytes[..bytes.len().min(SHOWN)].escape_ascii(), more(bytes))
            }
            Self::Blob(bytes) => {
                write!(f, "x'")?;
                bytes.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "'{}", more(bytes))
            }
        }
    }
}

/// The rows of all tables that have a b-tree of their own, by name: also `sqlite_sequence`, `sqlite_stat1` and those in
/// which virtual tables keep their rows, but not `sqlite_schema`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// By name, as `sqlite_schema` has it.
    pub tables: BTreeMap<String, Rows>,
}

/// The rows of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns that are stored (all but VIRTUAL ones), in the order of their definition.
    pub columns: Vec<String>,
    /// Where the columns of the declared PRIMARY KEY stand in `columns`, in the key's order; empty without one.
    pub primary_key: Vec<usize>,
    /// Rows are known by their primary key, otherwise by their rowid.
    pub without_rowid: bool,
    /// The values of `columns` by what a row is known by: the rowid alone, or the primary key's values.
    pub rows: HashMap<Vec<Value>, Vec<Value>>,
}

impl Contents {
    /// Reads them through `db`, in its transaction if it has one. The connection must know the collations (see
    /// [`register`](super::register)).
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn read(db: &Connection) -> Result<Self> {
        let mut tables = tables(db)?;
        for (name, table) in &mut tables {
            table.read(db, name).with_context(|| format!("read table {name:?}"))?;
        }
        Ok(Self { tables })
    }
}

/// All tables with their columns, and no rows.
fn tables(db: &Connection) -> Result<BTreeMap<String, Rows>> {
    let mut select = db.prepare_cached(
        "SELECT s.name, l.wr, c.name, c.pk FROM sqlite_schema AS s
         JOIN pragma_table_list AS l ON l.schema = 'main' AND l.name = s.name
         JOIN pragma_table_xinfo(s.name) AS c ON c.hidden <> 2
         WHERE s.type = 'table' AND s.rootpage > 0 ORDER BY s.name, c.cid",
    )?;
    let mut rows = select.query([])?;
    let mut tables: BTreeMap<String, Rows> = BTreeMap::new();
    let mut keys: BTreeMap<String, BTreeMap<u32, usize>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let table = tables.entry(name.clone()).or_default();
        table.without_rowid = row.get(1)?;
        let place_in_key: u32 = row.get(3)?;
        if place_in_key > 0 {
            keys.entry(name).or_default().insert(place_in_key, table.columns.len());
        }
        table.columns.push(row.get(2)?);
    }
    for (name, key) in keys {
        tables.get_mut(&name).expect("it has columns").primary_key = key.into_values().collect();
    }
    Ok(tables)
}

impl Rows {
    fn read(&mut self, db: &Connection, name: &str) -> Result<()> {
        let rowid = if self.without_rowid { None } else { Some(Self::rowid_name(db, name)?) };
        let columns =
            rowid.map(str::to_owned).into_iter().chain(self.columns.iter().map(|column| quote(column)));
        let columns: Vec<String> = columns.collect();
        let mut select =
            db.prepare_cached(&format!("SELECT {} FROM {} NOT INDEXED", columns.join(", "), quote(name)))?;
        let mut rows = select.query([])?;
        let first = usize::from(rowid.is_some());
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Vec<Value>> =
                (first..columns.len()).map(|place| row.get_ref(place).map(Value::from)).collect();
            let values = values?;
            let key = match rowid {
                Some(_) => vec![row.get_ref(0)?.into()],
                None => self.primary_key.iter().map(|place| values[*place].clone()).collect(),
            };
            ensure!(self.rows.insert(key, values).is_none(), "a key is there twice");
        }
        Ok(())
    }

    /// VIRTUAL columns are not stored, but their names hide the rowid's.
    fn rowid_name(db: &Connection, table: &str) -> Result<&'static str> {
        let mut select = db.prepare_cached("SELECT name FROM pragma_table_xinfo(?1)")?;
        let columns: Vec<String> = select.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
        rowid_name(columns.iter().map(String::as_str))
            .context("columns have all names of the rowid: rename one")
    }
}
