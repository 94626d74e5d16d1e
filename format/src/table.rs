//! What the schema says about tables: which field of a record is which column, and where their trees begin.

use crate::error::Error;
use crate::record::{Collation, Field, Value};
use crate::{DatabaseHeader, PageSource, TextEncoding};
use litekeep_ltx::Pgno;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A column whose values are stored: any but a virtual generated one.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The declared type.
    pub declared: String,
    /// Values are stored as integers where that takes less room, and are reals all the same.
    pub is_real: bool,
    /// `ANY` of a STRICT table: values are kept as they come.
    pub is_any: bool,
    /// A stored generated column: nobody writes to it.
    pub is_generated: bool,
    /// The expression of its DEFAULT.
    pub default_text: Option<String>,
    /// The value of records that were written before the column was added.
    pub default: Value,
}

/// A part of the key of a WITHOUT ROWID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// How its text is ordered.
    pub collation: Collation,
    /// From great to small.
    pub descending: bool,
}

/// How the rows of a table are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TableLayout {
    /// In the order of the table.
    pub columns: Vec<Column>,
    /// For each column, the field of the record that has it.
    pub field_of: Vec<usize>,
    /// The column that is another name of the rowid: its field is NULL.
    pub rowid_alias: Option<usize>,
    /// The columns of the declared PRIMARY KEY, in its order.
    pub primary_key: Vec<usize>,
    /// Of a WITHOUT ROWID table: the order of its first fields. Empty for all others.
    pub key: Vec<KeyPart>,
    /// The names of its virtual columns, which have no values here.
    pub virtual_names: Vec<String>,
}

impl TableLayout {
    /// Whether rows are found by their key instead of a rowid.
    pub fn is_without_rowid(&self) -> bool {
        !self.key.is_empty()
    }

    /// Whether rows have a rowid that is no column.
    pub fn has_hidden_rowid(&self) -> bool {
        !self.is_without_rowid() && self.rowid_alias.is_none()
    }

    /// A name for the rowid that no column has. `None`: all three are columns.
    pub fn rowid_name(&self) -> Option<&'static str> {
        let names = || self.columns.iter().map(|column| &column.name).chain(&self.virtual_names);
        let is_column = |name: &str| names().any(|column| column.eq_ignore_ascii_case(name));
        ["rowid", "_rowid_", "oid"].into_iter().find(|name| !is_column(name))
    }

    /// Whether only the application knows the order of the rows.
    pub(crate) fn has_unknown_order(&self) -> bool {
        self.key.iter().any(|part| matches!(part.collation, Collation::Application(_)))
    }

    /// Of `sqlite_schema` itself.
    fn of_schema() -> TableLayout {
        let column = |name: &str| Column {
            name: name.to_owned(),
            declared: String::new(),
            is_real: false,
            is_any: false,
            is_generated: false,
            default_text: None,
            default: Value::Null,
        };
        TableLayout {
            columns: ["type", "name", "tbl_name", "rootpage", "sql"].map(column).into(),
            field_of: (0..5).collect(),
            rowid_alias: None,
            primary_key: vec![],
            key: vec![],
            virtual_names: vec![],
        }
    }

    /// Puts the defaults into the database's encoding, in which records are compared with them.
    fn in_encoding(mut self, encoding: TextEncoding) -> TableLayout {
        for column in &mut self.columns {
            let default = std::mem::replace(&mut column.default, Value::Null);
            column.default = match default {
                Value::Integer(i) if column.is_real => Value::Real(i as f64),
                other => other.in_encoding(encoding),
            };
        }
        self
    }
}

/// A row of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRow {
    /// `table`, `index`, `view` or `trigger`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// Where its tree begins; `None` for what has no tree: views, triggers, virtual tables.
    pub root: Option<Pgno>,
    /// The statement that made it; empty for an index that SQLite made by itself.
    pub sql: String,
}

/// A table that has a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The statement that made it.
    pub sql: String,
    /// The first page of its tree.
    pub root: Pgno,
    /// How its rows are stored.
    pub layout: TableLayout,
    /// The database's encoding.
    pub encoding: TextEncoding,
}

impl Table {
    /// The values that columns have in rows that were written before they were added.
    pub fn default_values(&self) -> Vec<Value> {
        let columns = self.layout.columns.iter();
        columns.map(|column| column.default.as_field().to_value(self.encoding)).collect()
    }

    pub(crate) fn schema(encoding: TextEncoding) -> Table {
        let layout = TableLayout::of_schema();
        Table { name: "sqlite_schema".into(), sql: String::new(), root: Pgno::FIRST, layout, encoding }
    }
}

/// Reads what a table's statement says. Where the flag is off, DESC in a key has no effect: databases of a schema format
/// below 4 store ascending all the same. Defaults are in UTF-8, reals perhaps as integers.
pub trait ReadLayout<E> {
    /// The layout of a table.
    ///
    /// # Errors
    /// When SQLite does not understand the statement.
    fn read_layout(&self, name: &str, sql: &str, descending: bool) -> Result<TableLayout, E>;
}

/// The tables of a database state. A clone shares them.
#[derive(Clone, Debug)]
pub struct Catalog(Arc<Contents>);

#[derive(Debug)]
struct Contents {
    encoding: TextEncoding,
    schema_format: u32,
    rows: BTreeMap<i64, SchemaRow>,
    tables: Vec<Arc<Table>>,
    by_root: FxHashMap<Pgno, usize>,
}

impl Catalog {
    /// Of a database without tables.
    pub fn empty() -> Catalog {
        Catalog(Arc::new(Contents {
            encoding: TextEncoding::Utf8,
            schema_format: 0,
            rows: BTreeMap::new(),
            tables: vec![],
            by_root: FxHashMap::default(),
        }))
    }

    /// Whether the one is a clone of the other: a diff gives back the catalog that it got when the schema is as it was.
    pub fn is_clone_of(&self, other: &Catalog) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The tables, in the order in which the schema lists them.
    pub fn tables(&self) -> &[Arc<Table>] {
        &self.0.tables
    }

    /// Tables, indexes, views and triggers.
    pub fn rows(&self) -> impl Iterator<Item = &SchemaRow> {
        self.0.rows.values()
    }

    /// A table by its name, in any case.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.0.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }

    /// Where the trees of the tables begin, that of the schema included.
    pub fn roots(&self) -> impl Iterator<Item = Pgno> {
        std::iter::once(Pgno::FIRST).chain(self.0.tables.iter().map(|table| table.root))
    }

    /// Where the schema has a table, by its exact name: a new name leaves it there.
    pub(crate) fn schema_rowid(&self, name: &str) -> Option<i64> {
        let mut rows = self.0.rows.iter();
        rows.find(|(_, row)| row.kind == "table" && row.name == name).map(|(rowid, _)| *rowid)
    }

    pub(crate) fn at_root(&self, root: Pgno) -> Option<usize> {
        self.0.by_root.get(&root).copied()
    }

    /// The catalog after changes of the schema's rows; `None`: the row is gone.
    pub(crate) fn changed<E: From<Error>>(
        &self,
        header: &DatabaseHeader,
        changes: Vec<(i64, Option<SchemaRow>)>,
        layouts: &dyn ReadLayout<E>,
    ) -> Result<Catalog, E> {
        let mut rows = self.0.rows.clone();
        for (rowid, row) in changes {
            match row {
                Some(row) => drop(rows.insert(rowid, row)),
                None => drop(rows.remove(&rowid)),
            }
        }
        let (encoding, schema_format) = (header.text_encoding, header.schema_format);
        let is_same = (encoding, schema_format >= 4) == (self.encoding(), self.schema_format() >= 4);
        let mut tables = vec![];
        for row in rows.values().filter(|row| row.kind == "table") {
            let Some(root) = row.root else { continue };
            let known = self.table(&row.name).filter(|t| is_same && t.sql == row.sql && t.name == row.name);
            tables.push(match known {
                Some(table) if table.root == root => table.clone(),
                Some(table) => Arc::new(Table { root, ..Table::clone(table) }),
                None => {
                    let layout = layouts.read_layout(&row.name, &row.sql, schema_format >= 4)?;
                    let layout = layout.in_encoding(encoding);
                    let (name, sql) = (row.name.clone(), row.sql.clone());
                    Arc::new(Table { name, sql, root, layout, encoding })
                }
            });
        }
        let by_root: FxHashMap<Pgno, usize> =
            tables.iter().enumerate().map(|(nth, table)| (table.root, nth)).collect();
        if by_root.len() < tables.len() || by_root.contains_key(&Pgno::FIRST) {
            let pgno = Pgno::FIRST;
            return Err(
                Error::Page { pgno, what: "the schema names one page as the root of two tables" }.into()
            );
        }
        Ok(Catalog(Arc::new(Contents { encoding, schema_format, rows, tables, by_root })))
    }

    pub(crate) fn encoding(&self) -> TextEncoding {
        self.0.encoding
    }

    pub(crate) fn schema_format(&self) -> u32 {
        self.0.schema_format
    }
}

/// The header of a state; `None` for a database that has no page yet.
pub(crate) fn header_of<S: PageSource>(source: &S) -> Result<Option<DatabaseHeader>, S::Error> {
    match source.page_count() {
        0 => Ok(None),
        _ => Ok(Some(DatabaseHeader::parse(&source.page(Pgno::FIRST)?)?)),
    }
}

/// A row of a table as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct RowRef<'a> {
    /// The table in the state that the row is from.
    pub table: &'a Table,
    /// 0 in a WITHOUT ROWID table.
    pub rowid: i64,
    pub(crate) record: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// The fields in the order of the table's columns. `scratch` saves an allocation.
    pub(crate) fn fields(&self, scratch: &mut Vec<Field<'a>>, out: &mut Vec<Field<'a>>) -> Result<(), Error> {
        let layout = &self.table.layout;
        crate::record::Fields::of(self.record)?.up_to(layout.columns.len(), scratch)?;
        out.clear();
        let stored = |nth: usize| scratch.get(layout.field_of[nth]).copied();
        out.extend((0..layout.columns.len()).map(|nth| self.field(nth, stored(nth))));
        Ok(())
    }

    /// What a column has whose field is this one.
    fn field(&self, nth: usize, stored: Option<Field<'a>>) -> Field<'a> {
        let layout = &self.table.layout;
        let column = &layout.columns[nth];
        match stored {
            _ if layout.rowid_alias == Some(nth) => Field::Integer(self.rowid),
            None => column.default.as_field(),
            Some(Field::Integer(i)) if column.is_real => Field::Real(i as f64),
            Some(field) => field,
        }
    }

    /// The fields one by one, where the record has them in the order of the columns: mostly.
    pub(crate) fn in_order(&self) -> Result<Option<InOrder<'a>>, Error> {
        let is_so = self.table.layout.field_of.iter().enumerate().all(|(nth, field)| nth == *field);
        let fields = || Ok(InOrder { row: *self, fields: crate::record::Fields::of(self.record)?, nth: 0 });
        is_so.then(fields).transpose()
    }

    /// The values in the order of the table's columns.
    ///
    /// # Errors
    /// [`Error::Record`] for bytes that are no record.
    pub fn values(&self) -> Result<Vec<Value>, Error> {
        if let Some(mut fields) = self.in_order()? {
            let mut values = Vec::with_capacity(self.table.layout.columns.len());
            while let Some(field) = fields.next()? {
                values.push(field.to_value(self.table.encoding));
            }
            return Ok(values);
        }
        let (mut scratch, mut fields) = (vec![], vec![]);
        self.fields(&mut scratch, &mut fields)?;
        Ok(fields.into_iter().map(|field| field.to_value(self.table.encoding)).collect())
    }

    /// Bytes of the record.
    pub fn size(&self) -> usize {
        self.record.len()
    }
}

/// The fields of a row, in the order of its table's columns.
pub(crate) struct InOrder<'a> {
    row: RowRef<'a>,
    fields: crate::record::Fields<'a>,
    nth: usize,
}

impl<'a> InOrder<'a> {
    /// The next field; `None` after the last column's.
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Error> {
        let nth = self.nth;
        if nth == self.row.table.layout.columns.len() {
            return Ok(None);
        }
        self.nth += 1;
        Ok(Some(self.row.field(nth, self.fields.next()?)))
    }
}

/// What a row of `sqlite_schema` says.
pub(crate) fn schema_row(row: &RowRef<'_>) -> Result<SchemaRow, Error> {
    let mut values = row.values()?.into_iter();
    let mut text = || match values.next() {
        Some(Value::Text(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Some(Value::Null) => Ok(String::new()),
        Some(Value::Integer(root)) => Ok(root.to_string()),
        _ => Err(Error::Record),
    };
    let (kind, name, table, root, sql) = (text()?, text()?, text()?, text()?, text()?);
    Ok(SchemaRow { kind, name, table, root: root.parse().ok().and_then(Pgno::new), sql })
}
