//! Operations on the rows of a table. Each says whether it changed anything.

use rusqlite::Result;
use rusqlite::types::Value;

use super::Churn;
use super::table::{Column, Table, list};

pub(super) fn insert(churn: &mut Churn, table: &Table) -> Result<bool> {
    let rows = churn.chance.between(1, 20);
    insert_rows(churn, table, rows, "INSERT")
}

pub(super) fn insert_or(churn: &mut Churn, table: &Table) -> Result<bool> {
    let rows = churn.chance.between(1, 20);
    let verb = churn.chance.choose(&[
        "REPLACE",
        "REPLACE",
        "INSERT OR IGNORE",
        "INSERT OR FAIL",
        "INSERT OR ROLLBACK",
    ]);
    insert_rows(churn, table, rows, verb)
}

/// One statement a row, so that a row that violates a constraint does not keep the others out.
pub(super) fn insert_rows(churn: &mut Churn, table: &Table, rows: i64, verb: &str) -> Result<bool> {
    let columns = columns_to_insert(churn, table);
    if columns.is_empty() {
        return churn.attempt(&format!("{verb} INTO {} DEFAULT VALUES", table.name), Vec::new());
    }
    let places = vec!["?"; columns.len()].join(", ");
    let sql = format!("{verb} INTO {}({}) VALUES ({places})", table.name, list(columns.iter().copied()));
    let mut changed = false;
    for _ in 0..rows {
        let values = columns.iter().map(|column| value_for(churn, column)).collect();
        changed |= churn.attempt(&sql, values)?;
    }
    Ok(changed)
}

/// Mostly all columns; without some SQLite chooses the rowid, or takes a default.
fn columns_to_insert<'a>(churn: &mut Churn, table: &'a Table) -> Vec<&'a Column> {
    let is_whole = churn.chance.percent(60);
    let mut keep = |column: &&Column| {
        let may_lack = table.rowid.is_some() || !column.is_key;
        is_whole || column.defaults_to_now || !may_lack || churn.chance.percent(60)
    };
    table.writable().filter(|column| keep(column)).collect()
}

fn value_for(churn: &mut Churn, column: &Column) -> Value {
    if column.is_reference() {
        churn.chance.reference()
    } else if column.is_key {
        churn.chance.key(&column.declared)
    } else {
        churn.chance.value(&column.declared)
    }
}

/// Hundreds of small rows by one statement.
pub(super) fn insert_bulk(churn: &mut Churn, table: &Table) -> Result<bool> {
    let id = |column: &&Column| column.raw_name != "id";
    let columns: Vec<&Column> = table.writable().filter(id).collect();
    if columns.is_empty() {
        return Ok(false);
    }
    let values: Vec<String> = columns.iter().map(|column| bulk_expression(churn, column)).collect();
    let rows = churn.chance.between(20, 300);
    let sql = format!(
        "WITH RECURSIVE series(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < {rows})
         INSERT OR IGNORE INTO {}({}) SELECT {} FROM series",
        table.name,
        list(columns),
        values.join(", ")
    );
    churn.run(&sql)
}

fn bulk_expression(churn: &mut Churn, column: &Column) -> String {
    if column.is_reference() {
        return "NULL".to_owned();
    }
    if column.is_key {
        return "chance() % 100000".to_owned();
    }
    match churn.chance.below(5) {
        0 => "i".to_owned(),
        1 => "i * 1.0".to_owned(),
        2 => "printf('row %d', i)".to_owned(),
        3 => format!("chance_blob(chance() % {})", churn.chance.between(2, 200)),
        _ => "NULL".to_owned(),
    }
}

pub(super) fn update(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Some(column) = churn.pick_plain(table) else { return Ok(false) };
    let value = value_for(churn, &column);
    let sql = format!("UPDATE {} SET {} = ? WHERE {}", table.name, column.name, some_rows(churn, table));
    churn.run_with(&sql, vec![value])
}

/// A change of one byte in large blobs: SQLite then writes overflow pages and leaves the leaf as it is.
pub(super) fn update_in_place(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Some(Column { name, .. }) = churn.pick_for_blobs(table) else { return Ok(false) };
    let place =
        churn.chance.choose(&["length({})", "length({}) / 2", "length({}) - 3", "1"]).replace("{}", &name);
    let longer_than = churn.chance.choose(&[8, 200, 3000]);
    let byte = churn.chance.below(256);
    let rows = if churn.chance.percent(50) { "TRUE".to_owned() } else { some_rows(churn, table) };
    churn.run(&format!(
        "UPDATE {} SET {name} = CAST(substr({name}, 1, {place} - 1) || x'{byte:02x}' || substr({name}, {place} + 1) AS BLOB)
         WHERE typeof({name}) = 'blob' AND length({name}) > {longer_than} AND {rows}",
        table.name
    ))
}

/// Writes into a few of the largest blobs through `sqlite3_blob_write`.
pub(super) fn write_blob(churn: &mut Churn, table: &Table) -> Result<bool> {
    let (Some(rowid), Some(column)) = (table.rowid, churn.pick_for_blobs(table)) else { return Ok(false) };
    let name = &column.name;
    let sql = format!(
        "SELECT {rowid}, length({name}) FROM {} WHERE typeof({name}) = 'blob' AND length({name}) > 20
         ORDER BY length({name}) DESC LIMIT 3",
        table.name
    );
    let blobs: Vec<(i64, u32)> = {
        let mut select = churn.db.prepare(&sql)?;
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_>>()?
    };
    for (id, length) in &blobs {
        let length = *length as usize;
        let written = churn.chance.below(length.min(700) - 1) + 1;
        for _ in 0..churn.chance.between(1, 7) {
            let bytes = churn.chance.bytes(written);
            let at = churn.chance.below(length - written + 1);
            let mut blob =
                churn.db.blob_open("main", table.raw_name.as_str(), column.raw_name.as_str(), *id, false)?;
            blob.write_at(&bytes, at)?;
        }
    }
    Ok(!blobs.is_empty())
}

/// Text that is not UTF-8, as SQLite lets applications store it.
pub(super) fn invalid_text(churn: &mut Churn, table: &Table) -> Result<bool> {
    if !churn.utf8 {
        return Ok(false);
    }
    let Some(column) = churn.pick_plain(table) else { return Ok(false) };
    let bytes = churn.chance.choose(&["ff41", "c3", "41eda080", "f0908d", "c080", "80ff00fe"]);
    let sql = format!(
        "UPDATE {} SET {} = CAST(x'{bytes}' AS TEXT) WHERE {}",
        table.name,
        column.name,
        some_rows(churn, table)
    );
    churn.run(&sql)
}

/// Texts stay texts: of a blob, `upper` would make text that is not valid, which UTF-16 does not give back as it is.
pub(super) fn update_key(churn: &mut Churn, table: &Table) -> Result<bool> {
    let keys = table.keys();
    if keys.is_empty() {
        return Ok(false);
    }
    let Column { name, declared, .. } = churn.chance.choose(&keys);
    let (value, only) = match declared.as_str() {
        "TEXT" => {
            let value = churn.chance.choose(&["upper({})", "lower({})", "{} || ' '", "rtrim({})"]);
            (value.replace("{}", name), format!("typeof({name}) = 'text' AND "))
        }
        _ => (format!("{name} + {}", churn.chance.between(1, 50)), String::new()),
    };
    let rows = some_rows(churn, table);
    churn.run(&format!("UPDATE OR IGNORE {} SET {name} = {value} WHERE {only}{rows}", table.name))
}

pub(super) fn update_rowid(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Some(rowid) = table.rowid else { return Ok(false) };
    let by = churn.chance.between(1, 1000);
    let sql = format!(
        "UPDATE OR IGNORE {} SET {rowid} = {rowid} + {by} WHERE {}",
        table.name,
        some_rows(churn, table)
    );
    churn.run(&sql)
}

pub(super) fn delete(churn: &mut Churn, table: &Table) -> Result<bool> {
    let sql = format!("DELETE FROM {} WHERE {}", table.name, some_rows(churn, table));
    churn.run(&sql)
}

pub(super) fn delete_half(churn: &mut Churn, table: &Table) -> Result<bool> {
    churn.run(&format!("DELETE FROM {} WHERE chance() % 2 = 0", table.name))
}

/// All rows: without triggers and foreign keys SQLite frees the pages and writes the root only.
pub(super) fn truncate(churn: &mut Churn, table: &Table) -> Result<bool> {
    churn.run(&format!("DELETE FROM {}", table.name))
}

/// Deletes all rows and inserts the same again: freed pages may come back with the bytes that they had.
pub(super) fn revive(churn: &mut Churn, table: &Table) -> Result<bool> {
    let mut columns: Vec<&str> = table.writable().map(|column| column.name.as_str()).collect();
    columns.extend(table.rowid.filter(|_| table.keys().is_empty()));
    let columns = columns.join(", ");
    let name = &table.name;
    churn.db.execute_batch("DROP TABLE IF EXISTS temp.revived")?;
    churn.db.execute_batch(&format!("CREATE TEMP TABLE revived AS SELECT {columns} FROM {name}"))?;
    churn.run(&format!("DELETE FROM {name}"))?;
    churn.run(&format!("INSERT INTO {name}({columns}) SELECT * FROM revived"))
}

/// A condition that holds for few rows or for many.
fn some_rows(churn: &mut Churn, table: &Table) -> String {
    let chance = &mut churn.chance;
    let name = &table.name;
    let Some(rowid) = table.rowid else {
        let keys = list(&table.keys());
        let rows = chance.between(1, 40);
        return format!("({keys}) IN (SELECT {keys} FROM {name} ORDER BY chance() LIMIT {rows})");
    };
    match chance.below(4) {
        0 => format!("{rowid} % {} = 0", chance.between(2, 40)),
        1 => {
            let from = chance.between(0, 400);
            format!("{rowid} BETWEEN {from} AND {}", from + chance.between(0, 200))
        }
        2 => format!("{rowid} = (SELECT {rowid} FROM {name} ORDER BY chance() LIMIT 1)"),
        _ => {
            let rows = chance.between(1, 8);
            format!("{rowid} IN (SELECT {rowid} FROM {name} ORDER BY chance() LIMIT {rows})")
        }
    }
}
