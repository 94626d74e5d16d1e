//! A new database: page size, encoding and everything else that is fixed before the first table.
#![allow(unsafe_code, reason = "rusqlite has no safe form of sqlite3_file_control")]

use std::ffi::c_int;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, config::DbConfig, ffi};

use super::chance::Chance;
use super::register;

/// What the rest needs to know of the database.
pub(super) struct Setup {
    pub(super) db: Connection,
    pub(super) utf8: bool,
}

/// Makes the database at `path`, which must not be there, in WAL mode and without a table of the application.
pub(super) fn create(path: &Path, chance: &mut Chance) -> Result<Setup> {
    ensure!(!path.exists(), "{path:?} is there already: choose another path");
    let db = Connection::open(path).with_context(|| format!("create {path:?}"))?;
    db.set_prepared_statement_cache_capacity(256);
    register(&db)?;
    chance.register(&db)?;
    let page_size =
        *chance.choose(&[512, 512, 512, 1024, 1024, 1024, 2048, 4096, 4096, 8192, 16384, 32768, 65536]);
    chance.set_page_size(page_size);
    if chance.percent(20) {
        reserve(&db, *chance.choose(&[4, 8, 32]))?;
    }
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_LEGACY_FILE_FORMAT, chance.percent(15))?;
    let encoding = *chance.choose(&["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"]);
    let auto_vacuum = chance.below(3);
    let secure_delete = chance.choose(&["OFF", "ON", "FAST"]);
    let cache_size = chance.choose(&[5, 50, 2000]);
    let foreign_keys = chance.percent(40);
    // Foreign keys need parents, so they are checked in some databases only. REPLACE fires delete triggers: the
    // FTS index of other tables' content depends on it.
    db.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA encoding = '{encoding}'; PRAGMA auto_vacuum = {auto_vacuum};
         PRAGMA secure_delete = {secure_delete}; PRAGMA cache_size = {cache_size}; PRAGMA journal_mode = WAL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = {foreign_keys}; PRAGMA recursive_triggers = ON;"
    ))?;
    Ok(Setup { db, utf8: encoding == "UTF-8" })
}

/// Leaves `bytes` at the end of each page unused, as encrypting VFSs do.
fn reserve(db: &Connection, mut bytes: c_int) -> Result<()> {
    // SAFETY: the handle is open, the name is NUL-terminated, and this opcode reads and writes one int.
    let code = unsafe {
        let argument = (&raw mut bytes).cast();
        ffi::sqlite3_file_control(db.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_RESERVE_BYTES, argument)
    };
    ensure!(code == ffi::SQLITE_OK, "reserve bytes at the end of pages: SQLite error {code}");
    Ok(())
}
