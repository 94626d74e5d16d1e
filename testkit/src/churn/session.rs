//! The second oracle: SQLite's session extension, which hears of each row from inside SQLite.
//!
//! It knows rows by their declared PRIMARY KEY and looks them up by it when it is asked. So it says nothing of rows with
//! NULL in the key, and where `=` takes different keys for the same (a collation, 1 and 1.0 in a column that keeps
//! both) what it says cannot be relied on: such tables are not recorded. Nor are those without a PRIMARY KEY: with
//! `SQLITE_SESSION_OBJCONFIG_ROWID` SQLite 3.54.1 forgets, at the 128th changed row, that it knew the ones before, and tells
//! of rows as deleted that never were there.
#![allow(unsafe_code, reason = "rusqlite offers sessions only where libclang is at hand")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, ffi};

use super::Value;
use super::recording::{Action, Change, Recorded};
use super::table::{Column, Table};

/// An open session. It must end before its connection.
pub(super) struct Session {
    raw: *mut ffi::sqlite3_session,
}

impl Session {
    /// Listens to what `db` does to `tables`.
    pub(super) fn start<'a>(db: &Connection, tables: impl Iterator<Item = &'a String>) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle is open, the name NUL-terminated, `raw` is written on success.
        check("start a session", unsafe {
            ffi::sqlite3session_create(db.handle(), c"main".as_ptr(), &raw mut raw)
        })?;
        let session = Self { raw };
        for table in tables {
            let name = CString::new(table.as_str())?;
            // SAFETY: the session is open and copies the name, which is NUL-terminated.
            check("record a table", unsafe { ffi::sqlite3session_attach(raw, name.as_ptr()) })?;
        }
        Ok(session)
    }

    /// What has happened since the start.
    pub(super) fn changes(&self) -> Result<Vec<Change>> {
        let (mut size, mut bytes) = (0, ptr::null_mut());
        // SAFETY: the session is open; `size` and `bytes` are written on success.
        check("end a session", unsafe {
            ffi::sqlite3session_changeset(self.raw, &raw mut size, &raw mut bytes)
        })?;
        let changeset = Changeset { bytes, size };
        changeset.read()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the session is open, and so is its connection.
        unsafe { ffi::sqlite3session_delete(self.raw) }
    }
}

/// Changes as SQLite encodes them.
struct Changeset {
    bytes: *mut c_void,
    size: c_int,
}

impl Drop for Changeset {
    fn drop(&mut self) {
        // SAFETY: SQLite allocated it (or it is null) and nothing else frees it.
        unsafe { ffi::sqlite3_free(self.bytes) }
    }
}

impl Changeset {
    fn read(&self) -> Result<Vec<Change>> {
        let mut raw = ptr::null_mut();
        // SAFETY: `bytes` has `size` bytes and lives longer than the cursor, which is written on success.
        check("read a changeset", unsafe {
            ffi::sqlite3changeset_start(&raw mut raw, self.size, self.bytes)
        })?;
        let cursor = Cursor { raw };
        let mut changes = Vec::new();
        loop {
            // SAFETY: the cursor is open.
            match unsafe { ffi::sqlite3changeset_next(cursor.raw) } {
                ffi::SQLITE_ROW => changes.push(cursor.change()?),
                ffi::SQLITE_DONE => return Ok(changes),
                code => bail!("read the next change: SQLite error {code}"),
            }
        }
    }
}

struct Cursor {
    raw: *mut ffi::sqlite3_changeset_iter,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // SAFETY: the cursor is open.
        unsafe { ffi::sqlite3changeset_finalize(self.raw) };
    }
}

type Getter =
    unsafe extern "C" fn(*mut ffi::sqlite3_changeset_iter, c_int, *mut *mut ffi::sqlite3_value) -> c_int;

impl Cursor {
    /// The change that the cursor stands at.
    fn change(&self) -> Result<Change> {
        let mut table: *const c_char = ptr::null();
        let (mut columns, mut operation, mut indirect) = (0, 0, 0);
        // SAFETY: the cursor stands at a change; the name lives until the next one and is copied before.
        let table = unsafe {
            let code = ffi::sqlite3changeset_op(
                self.raw,
                &raw mut table,
                &raw mut columns,
                &raw mut operation,
                &raw mut indirect,
            );
            check("read a change", code)?;
            CStr::from_ptr(table).to_str()?.to_owned()
        };
        let (action, has_old, has_new) = match operation {
            ffi::SQLITE_INSERT => (Action::Insert, false, true),
            ffi::SQLITE_UPDATE => (Action::Update, true, true),
            ffi::SQLITE_DELETE => (Action::Delete, true, false),
            other => bail!("SQLite told of operation {other}, which sessions do not have"),
        };
        let old = if has_old { self.values(ffi::sqlite3changeset_old, columns)? } else { Vec::new() };
        let new = if has_new { self.values(ffi::sqlite3changeset_new, columns)? } else { Vec::new() };
        Ok(Change { table, action, old, new })
    }

    fn values(&self, getter: Getter, columns: c_int) -> Result<Vec<Option<Value>>> {
        let value = |column| {
            let mut value = ptr::null_mut();
            // SAFETY: the cursor stands at a change that has this side and column; the value lives until the next
            // one and is copied before. Null: it did not change.
            unsafe {
                check("read a value of a change", getter(self.raw, column, &raw mut value))?;
                if value.is_null() { Ok(None) } else { Ok(Some(copy(value))) }
            }
        };
        (0..columns).map(value).collect()
    }
}

/// # Safety
/// `value` is one of SQLite's.
unsafe fn copy(value: *mut ffi::sqlite3_value) -> Value {
    // SAFETY: the caller's; a pointer to text or to a blob has as many bytes as is said after it was asked for.
    unsafe {
        let bytes = |start: *const u8| {
            let length = usize::try_from(ffi::sqlite3_value_bytes(value)).expect("lengths are not negative");
            if length == 0 { Vec::new() } else { std::slice::from_raw_parts(start, length).to_vec() }
        };
        match ffi::sqlite3_value_type(value) {
            ffi::SQLITE_INTEGER => Value::Integer(ffi::sqlite3_value_int64(value)),
            ffi::SQLITE_FLOAT => Value::Real(ffi::sqlite3_value_double(value).to_bits()),
            ffi::SQLITE_TEXT => Value::Text(bytes(ffi::sqlite3_value_text(value))),
            ffi::SQLITE_BLOB => Value::Blob(bytes(ffi::sqlite3_value_blob(value).cast())),
            _ => Value::Null,
        }
    }
}

/// The tables that a session tells of reliably, with the columns that it sees.
pub(super) fn tables(db: &Connection) -> Result<BTreeMap<String, Recorded>> {
    let mut tables = BTreeMap::new();
    for name in Table::names(db)? {
        let table = Table::read(db, &name)?;
        if let Some(recorded) = recorded(db, &table).with_context(|| format!("look at table {name:?}"))? {
            tables.insert(name, recorded);
        }
    }
    Ok(tables)
}

fn recorded(db: &Connection, table: &Table) -> Result<Option<Recorded>> {
    let keys = table.keys();
    if keys.is_empty() {
        return Ok(None);
    }
    for column in &keys {
        if !has_one_form(table, column) || !is_binary(db, table, column)? {
            return Ok(None);
        }
    }
    let columns: Vec<&Column> = table.writable().collect();
    let places =
        |fits: fn(&Column) -> bool| (0..columns.len()).filter(|place| fits(columns[*place])).collect();
    Ok(Some(Recorded {
        key: places(|column| column.is_key),
        reals: places(is_real),
        columns: columns.iter().map(|column| column.raw_name.clone()).collect(),
    }))
}

/// Whether values of this column that are equal are the same: its affinity leaves no 1 beside 1.0.
fn has_one_form(table: &Table, column: &Column) -> bool {
    let declared = column.declared.to_ascii_uppercase();
    !(declared.is_empty() || declared.contains("BLOB") || (table.strict && declared == "ANY"))
}

/// Whether the column has REAL affinity.
fn is_real(column: &Column) -> bool {
    let declared = column.declared.to_ascii_uppercase();
    let contains = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    contains(&["REAL", "FLOA", "DOUB"]) && !contains(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"])
}

fn is_binary(db: &Connection, table: &Table, column: &Column) -> Result<bool> {
    let (table, column) = (CString::new(table.raw_name.as_str())?, CString::new(column.raw_name.as_str())?);
    let mut collation: *const c_char = ptr::null();
    // SAFETY: the handle is open and names are NUL-terminated; the collation's lives as long as the schema, and is
    // compared at once. Null pointers mean that nobody asks.
    unsafe {
        let code = ffi::sqlite3_table_column_metadata(
            db.handle(),
            c"main".as_ptr(),
            table.as_ptr(),
            column.as_ptr(),
            ptr::null_mut(),
            &raw mut collation,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        );
        check("look up a column's collation", code)?;
        Ok(CStr::from_ptr(collation) == c"BINARY")
    }
}

fn check(doing: &str, code: c_int) -> Result<()> {
    ensure!(code == ffi::SQLITE_OK, "{doing}: SQLite error {code}");
    Ok(())
}
