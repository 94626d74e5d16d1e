//! The rows of one state, chunk by chunk, each of which ends with the key to go on after.

use std::path::Path;

use litekeep_sql::{Declaration, Examiner, Order, Profile, RowReader};
use tokio::sync::mpsc;

use crate::cut::{self, Cut};
use crate::target::{TargetTable, key_text, key_value};
use crate::{Error, Kind, Value};

/// A chunk is at most so many rows, and about so many bytes unless one row alone has more.
const CHUNK_ROWS: usize = 20_000;
const CHUNK_BYTES: usize = 4 << 20;

/// Rows of a table.
#[derive(Debug)]
pub struct Chunk {
    /// The table, by its place in the plan.
    pub table: usize,
    /// The values of the table's columns.
    pub rows: Vec<Vec<Value>>,
    /// The key of the last row; `None`: the table has no more.
    pub after: Option<Vec<String>>,
}

/// What is in a database: the tables, with the columns that go, and what each of these holds.
///
/// # Errors
/// Those of SQLite, and `Invalid` for a cut that cannot be.
pub fn survey(
    examiner: &Examiner,
    wanted: impl Fn(&str) -> bool,
    cut: &Cut,
) -> Result<Vec<(Declaration, Vec<Profile>)>, Error> {
    let declared: Vec<_> = examiner.declarations()?.into_iter().filter(|table| wanted(&table.name)).collect();
    cut.check(declared.iter().map(|table| table.name.as_str()))?;
    declared
        .into_iter()
        .map(|table| {
            cut.rows_of(&table)?;
            let table = cut.declared(table)?;
            let profiles = examiner.profiles(&table)?;
            Ok((table, profiles))
        })
        .collect()
}

/// Holds the present state of a database. Blocks.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn hold(path: &Path) -> Result<RowReader, Error> {
    Ok(RowReader::hold(Examiner::open(path)?)?)
}

/// Reads tables from one on, after a key of it, and sends their chunks. Blocks.
///
/// # Errors
/// Those of SQLite, and `Corrupt` for a key that is none.
pub fn read<T: TargetTable>(
    reader: &RowReader,
    (tables, cut): (&[T], &Cut),
    (first, after): (usize, Option<&[String]>),
    chunks: &mpsc::Sender<Chunk>,
) -> Result<(), Error> {
    let declared = reader.examiner().declarations()?;
    let mut after = after.map(|key| key.iter().map(|text| key_value(text)).collect::<Option<Vec<Value>>>());
    for (nth, table) in tables.iter().enumerate().skip(first) {
        let of_first = after.take().map(|key| key.ok_or_else(damaged)).transpose()?;
        let (declaration, columns) = found(&declared, table)?;
        let order = Order::stored(declaration);
        let rows = cut.rows_of(declaration)?;
        let from = From { declaration, columns: &columns, rows, order: &order };
        if !read_table(reader, &from, nth, of_first.as_deref(), chunks)? {
            break;
        }
    }
    Ok(())
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "read how far the copy is: its key is damaged")
}

/// Tables in the order of their keys, on their way to be compared; those without a key as they are stored.
///
/// # Errors
/// Those of SQLite.
pub(crate) fn read_by_key<T: TargetTable>(
    reader: &RowReader,
    (tables, cut): (&[T], &Cut),
    chunks: &mpsc::Sender<Chunk>,
) -> Result<(), Error> {
    let declared = reader.examiner().declarations()?;
    for (nth, table) in tables.iter().enumerate() {
        let (declaration, columns) = found(&declared, table)?;
        let order = match table.key() {
            [] => Order::stored(declaration),
            key => Order::by(declaration, &key.iter().map(|nth| columns[*nth]).collect::<Vec<_>>()),
        };
        let rows = cut.rows_of(declaration)?;
        let from = From { declaration, columns: &columns, rows, order: &order };
        if !read_table(reader, &from, nth, None, chunks)? {
            break;
        }
    }
    Ok(())
}

/// What a table declares, and which of its columns are kept in step.
fn found<'a, T: TargetTable>(
    declared: &'a [Declaration],
    table: &T,
) -> Result<(&'a Declaration, Vec<usize>), Error> {
    let gone = |what: String| Error::new(Kind::Invalid, what);
    let declaration = declared.iter().find(|declared| declared.name == table.source());
    let declaration =
        declaration.ok_or_else(|| gone(format!("there is no table `{}` any more", table.source())))?;
    let place = |name: &&str| declaration.columns.iter().position(|column| column.name == **name);
    let columns: Option<Vec<usize>> = table.columns().iter().map(place).collect();
    let lacks = || gone(format!("the table `{}` has not all of its columns any more", table.source()));
    Ok((declaration, columns.ok_or_else(lacks)?))
}

/// What is read of a table.
struct From<'a> {
    declaration: &'a Declaration,
    columns: &'a [usize],
    rows: Option<cut::Rows>,
    order: &'a Order,
}

/// `false`: nobody takes the chunks any more.
fn read_table(
    reader: &RowReader,
    from: &From<'_>,
    table: usize,
    after: Option<&[Value]>,
    chunks: &mpsc::Sender<Chunk>,
) -> Result<bool, Error> {
    let (mut rows, mut bytes, mut is_wanted) = (vec![], 0, true);
    // What a condition sees comes behind what goes.
    let seen = from.rows.as_ref().map_or(&[][..], |rows| &rows.columns);
    let all = [from.columns, seen].concat();
    reader.read(from.declaration, &all, from.order, after, |found| {
        let (values, key) = found.split_at(all.len());
        let (values, seen) = values.split_at(from.columns.len());
        if let Some(rows) = &from.rows
            && !rows.has(seen)?
        {
            return Ok(is_wanted);
        }
        bytes += values.iter().map(size).sum::<usize>();
        rows.push(values.to_vec());
        if rows.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
            let after = Some(key.iter().map(key_text).collect());
            bytes = 0;
            is_wanted = chunks.blocking_send(Chunk { table, rows: std::mem::take(&mut rows), after }).is_ok();
        }
        Ok::<bool, Error>(is_wanted)
    })?;
    Ok(is_wanted && chunks.blocking_send(Chunk { table, rows, after: None }).is_ok())
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => 16 + bytes.len(),
        _ => 16,
    }
}
