//! A table as the database describes it now: read before each operation, so that nothing has to follow ALTER, ROLLBACK
//! or a half finished migration.

use rusqlite::Connection;

/// A name as SQL takes it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of a rowid that none of `columns` has.
pub(super) fn rowid_name<'a>(columns: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    let is_free = |name: &&str| !columns.clone().any(|column| column.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(is_free)
}

/// An ordinary table; names are quoted.
pub(super) struct Table {
    pub(super) name: String,
    /// As it stands in `sqlite_schema`.
    pub(super) raw_name: String,
    /// What names the rowid; none in a WITHOUT ROWID table.
    pub(super) rowid: Option<&'static str>,
    pub(super) strict: bool,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) raw_name: String,
    pub(super) declared: String,
    pub(super) is_key: bool,
    pub(super) is_generated: bool,
    pub(super) is_not_null: bool,
    /// Its default is the time, which no seed determines: it must be given a value.
    pub(super) defaults_to_now: bool,
}

impl Column {
    /// Columns that refer to another table are known by their name.
    pub(super) const REFERENCE: &str = "parent of ";

    pub(super) fn is_reference(&self) -> bool {
        self.raw_name.starts_with(Self::REFERENCE)
    }
}

impl Table {
    /// The names of all tables that are neither virtual nor a part of a virtual one.
    pub(super) fn names(db: &Connection) -> rusqlite::Result<Vec<String>> {
        let mut select = db.prepare_cached(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )?;
        select.query_map([], |row| row.get(0))?.collect()
    }

    pub(super) fn read(db: &Connection, name: &str) -> rusqlite::Result<Self> {
        let mut select = db.prepare_cached(
            "SELECT name, type, pk > 0, hidden > 1, coalesce(dflt_value LIKE 'CURRENT%', 0), \"notnull\"
             FROM pragma_table_xinfo(?1) ORDER BY cid",
        )?;
        let columns = select.query_map([name], |row| {
            let raw_name: String = row.get(0)?;
            Ok(Column {
                name: quote(&raw_name),
                raw_name,
                declared: row.get(1)?,
                is_key: row.get(2)?,
                is_generated: row.get(3)?,
                defaults_to_now: row.get(4)?,
                is_not_null: row.get(5)?,
            })
        })?;
        let columns: Vec<Column> = columns.collect::<Result<_, _>>()?;
        let mut select =
            db.prepare_cached("SELECT wr, strict FROM pragma_table_list(?1) WHERE schema = 'main'")?;
        let (without_rowid, strict): (bool, bool) =
            select.query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rowid = rowid_name(columns.iter().map(|column| column.raw_name.as_str()));
        let rowid = if without_rowid { None } else { rowid };
        Ok(Self { name: quote(name), raw_name: name.to_owned(), rowid, strict, columns })
    }

    /// Whether others may refer to its rows.
    pub(super) fn has_id(&self) -> bool {
        self.columns.iter().any(|column| column.raw_name == "id" && column.is_key)
    }

    /// Columns that take a value.
    pub(super) fn writable(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.is_generated)
    }

    /// Columns that take a value and are not part of the key.
    pub(super) fn plain(&self) -> Vec<Column> {
        self.writable().filter(|column| !column.is_key).cloned().collect()
    }

    pub(super) fn keys(&self) -> Vec<Column> {
        self.columns.iter().filter(|column| column.is_key).cloned().collect()
    }
}

/// `"a", "b"`, for a list of columns.
pub(super) fn list<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    columns.into_iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}
