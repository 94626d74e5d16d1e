//! Operations on the schema, and those that move pages. Each says whether it changed anything.

use rusqlite::{OptionalExtension, Result};

use super::table::{Column, Table, list, quote};
use super::{AUDIT, Churn, MOST_TABLES, definition, rows};

pub(super) fn create(churn: &mut Churn, _: &Table) -> Result<bool> {
    if Table::names(&churn.db)?.len() >= MOST_TABLES {
        return Ok(false);
    }
    let name = churn.chance.name();
    create_named(churn, &name)?;
    Ok(true)
}

/// A table of a random kind; some refer to one that is there.
pub(super) fn create_named(churn: &mut Churn, name: &str) -> Result<()> {
    let parent = churn.pick(true)?.filter(|table| table.has_id() && table.raw_name != name);
    let parent = parent.as_ref().map(|table| (table.name.as_str(), "id"));
    let sql = definition::table(&mut churn.chance, name, parent, churn.has_constraints);
    churn.db.execute_batch(&sql)
}

pub(super) fn drop(churn: &mut Churn, table: &Table) -> Result<bool> {
    churn.db.execute_batch(&format!("DROP TABLE {}", table.name))?;
    Ok(true)
}

pub(super) fn add_column(churn: &mut Churn, table: &Table) -> Result<bool> {
    if table.columns.len() > 10 {
        return Ok(false);
    }
    let name = quote(&churn.chance.name());
    let source = &churn.chance.choose(&table.columns).name;
    let column = definition::added_column(&mut churn.chance, &name, table.strict, source);
    churn.db.execute_batch(&format!("ALTER TABLE {} ADD COLUMN {column}", table.name))?;
    Ok(true)
}

/// With what else may stand behind a column.
pub(super) fn add_constrained_column(churn: &mut Churn, table: &Table) -> Result<bool> {
    if table.columns.len() > 10 {
        return Ok(false);
    }
    let parent = churn.pick(true)?.filter(Table::has_id);
    let source = churn.chance.choose(&table.columns).clone();
    let parent = parent.as_ref().map(|table| table.name.as_str());
    let column = definition::constrained_column(&mut churn.chance, table.strict, &source.name, parent);
    churn.db.execute_batch(&format!("ALTER TABLE {} ADD COLUMN {column}", table.name))?;
    Ok(true)
}

/// Mostly the rows that stand in the way get a value first.
pub(super) fn set_not_null(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Column { name, is_generated, .. } = churn.chance.choose(&table.columns);
    if !is_generated && churn.chance.percent(80) {
        churn.run(&format!("UPDATE OR IGNORE {} SET {name} = '7' WHERE {name} IS NULL", table.name))?;
    }
    let conflict = churn.chance.choose(&["", "", " ON CONFLICT IGNORE", " ON CONFLICT REPLACE"]);
    churn
        .db
        .execute_batch(&format!("ALTER TABLE {} ALTER COLUMN {name} SET NOT NULL{conflict}", table.name))?;
    Ok(true)
}

pub(super) fn drop_not_null(churn: &mut Churn, table: &Table) -> Result<bool> {
    let not_null: Vec<&Column> = table.columns.iter().filter(|column| column.is_not_null).collect();
    if not_null.is_empty() {
        return Ok(false);
    }
    let name = &churn.chance.choose(&not_null).name;
    churn.db.execute_batch(&format!("ALTER TABLE {} ALTER {name} DROP NOT NULL", table.name))?;
    Ok(true)
}

pub(super) fn add_constraint(churn: &mut Churn, table: &Table) -> Result<bool> {
    let column = churn.chance.choose(&table.columns).clone();
    let name =
        if churn.chance.percent(80) { definition::constraint_name(&mut churn.chance) } else { String::new() };
    let check = definition::check(&mut churn.chance, &column.name);
    churn.db.execute_batch(&format!("ALTER TABLE {} ADD {name}{check}", table.name))?;
    Ok(true)
}

/// UNIQUE stays: SQLite refuses it.
pub(super) fn drop_constraint(churn: &mut Churn, table: &Table) -> Result<bool> {
    let sql = definition_of(churn, table)?;
    let names = definition::constraint_names(&sql);
    if names.is_empty() {
        return Ok(false);
    }
    let name = churn.chance.choose(&names);
    churn.db.execute_batch(&format!("ALTER TABLE {} DROP CONSTRAINT {name}", table.name))?;
    Ok(true)
}

pub(super) fn drop_column(churn: &mut Churn, table: &Table) -> Result<bool> {
    let column = churn.chance.choose(&table.columns);
    churn.db.execute_batch(&format!("ALTER TABLE {} DROP COLUMN {}", table.name, column.name))?;
    Ok(true)
}

/// A column goes and comes back under its name with another default and perhaps another type: the same records then
/// mean something else.
pub(super) fn redefault(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Some(Column { name, declared, .. }) = table.plain().pop() else { return Ok(false) };
    let declared = if churn.chance.percent(50) { declared.as_str() } else { "REAL" };
    let default = churn.chance.below(1000);
    churn.db.execute_batch(&format!(
        "ALTER TABLE {table} DROP COLUMN {name}; ALTER TABLE {table} ADD COLUMN {name} {declared} DEFAULT {default}",
        table = table.name
    ))?;
    Ok(true)
}

pub(super) fn rename_column(churn: &mut Churn, table: &Table) -> Result<bool> {
    let others: Vec<&Column> =
        table.columns.iter().filter(|column| column.raw_name != "id" && !column.is_reference()).collect();
    if others.is_empty() {
        return Ok(false);
    }
    let (old, new) = (&churn.chance.choose(&others).name, quote(&churn.chance.name()));
    churn.db.execute_batch(&format!("ALTER TABLE {} RENAME COLUMN {old} TO {new}", table.name))?;
    Ok(true)
}

pub(super) fn rename_table(churn: &mut Churn, table: &Table) -> Result<bool> {
    let new = quote(&churn.chance.name());
    churn.db.execute_batch(&format!("ALTER TABLE {} RENAME TO {new}", table.name))?;
    Ok(true)
}

pub(super) fn create_index(churn: &mut Churn, table: &Table) -> Result<bool> {
    let name = quote(&churn.chance.unique("index "));
    let unique = if churn.chance.percent(10) { "UNIQUE " } else { "" };
    let column = churn.chance.choose(&table.columns).clone();
    let indexed = definition::indexed(&mut churn.chance, &column);
    churn.db.execute_batch(&format!("CREATE {unique}INDEX {name} ON {}{indexed}", table.name))?;
    Ok(true)
}

pub(super) fn drop_index(churn: &mut Churn, _: &Table) -> Result<bool> {
    drop_some(churn, "INDEX")
}

pub(super) fn drop_trigger(churn: &mut Churn, _: &Table) -> Result<bool> {
    drop_some(churn, "TRIGGER")
}

/// Drops one that an operation here has made: those have a number at the end of their names.
fn drop_some(churn: &mut Churn, kind: &str) -> Result<bool> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = lower(?1) AND name LIKE lower(?1) || ' %' ORDER BY chance() LIMIT 1";
    let name: Option<String> = churn.db.query_row(sql, [kind], |row| row.get(0)).optional()?;
    let Some(name) = name else { return Ok(false) };
    churn.db.execute_batch(&format!("DROP {kind} {}", quote(&name)))?;
    Ok(true)
}

/// A trigger that writes what happens into the audit, or changes other rows of the same table.
pub(super) fn create_trigger(churn: &mut Churn, table: &Table) -> Result<bool> {
    let name = quote(&churn.chance.unique("trigger "));
    let (event, row) = *churn.chance.choose(&[("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")]);
    let column = churn.chance.choose(&table.columns);
    let (column, time) = (&column.name, churn.chance.choose(&["BEFORE", "AFTER"]));
    let audit = quote(AUDIT);
    let body = match (churn.chance.below(3), table.plain().first(), table.rowid) {
        (0, Some(plain), Some(rowid)) => {
            format!("UPDATE {} SET {plain} = NULL WHERE {rowid} % 50 = 7", table.name, plain = plain.name)
        }
        (1, ..) => format!("DELETE FROM {audit} WHERE id % 20 = length({row}.{column}) % 20"),
        _ => format!("INSERT INTO {audit}(event, value) VALUES ('{event}', substr({row}.{column}, 1, 50))"),
    };
    churn.db.execute_batch(&format!(
        "CREATE TRIGGER {name} {time} {event} ON {} BEGIN {body}; END",
        table.name
    ))?;
    Ok(true)
}

/// The way to change what ALTER cannot: a new table, its rows copied, the old one dropped, the new one renamed.
pub(super) fn migrate(churn: &mut Churn, table: &Table) -> Result<bool> {
    let sql = definition_of(churn, table)?;
    let Some(start) = sql.find('(') else { return Ok(false) };
    let new = quote(&churn.chance.unique("migrated "));
    churn.db.execute_batch(&format!("CREATE TABLE {new}{}", &sql[start..]))?;
    let columns = list(table.writable());
    let name = &table.name;
    churn.run(&format!("INSERT INTO {new}({columns}) SELECT {columns} FROM {name}"))?;
    churn.db.execute_batch(&format!("DROP TABLE {name}; ALTER TABLE {new} RENAME TO {name}"))?;
    Ok(true)
}

/// Two tables take each other's names.
pub(super) fn swap_names(churn: &mut Churn, table: &Table) -> Result<bool> {
    let Some(other) = churn.pick(true)?.filter(|other| other.raw_name != table.raw_name) else {
        return Ok(false);
    };
    let between = quote(&churn.chance.unique("swapped "));
    churn.db.execute_batch(&format!(
        "ALTER TABLE {a} RENAME TO {between}; ALTER TABLE {b} RENAME TO {a}; ALTER TABLE {between} RENAME TO {b}",
        a = table.name,
        b = other.name
    ))?;
    Ok(true)
}

/// A table goes and another of its name comes, in the same shape or in a random one.
pub(super) fn recreate(churn: &mut Churn, table: &Table) -> Result<bool> {
    let sql = definition_of(churn, table)?;
    churn.db.execute_batch(&format!("DROP TABLE {}", table.name))?;
    if churn.chance.percent(50) {
        churn.db.execute_batch(&sql)?;
    } else {
        create_named(churn, &table.raw_name)?;
    }
    let table = Table::read(&churn.db, &table.raw_name)?;
    let count = churn.chance.between(1, 30);
    rows::insert_rows(churn, &table, count, "INSERT")?;
    Ok(true)
}

fn definition_of(churn: &Churn, table: &Table) -> Result<String> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    churn.db.query_row(sql, [&table.raw_name], |row| row.get(0))
}

pub(super) fn analyze(churn: &mut Churn, _: &Table) -> Result<bool> {
    churn.db.execute_batch("ANALYZE")?;
    Ok(true)
}

/// Indexes are written anew; no row changes.
pub(super) fn reindex(churn: &mut Churn, table: &Table) -> Result<bool> {
    churn.db.execute_batch(&format!("REINDEX {}", table.name))?;
    Ok(true)
}

/// Page 1 changes, and no table.
pub(super) fn set_user_version(churn: &mut Churn, _: &Table) -> Result<bool> {
    let version = churn.chance.below(1000);
    churn.db.execute_batch(&format!("PRAGMA user_version = {version}"))?;
    Ok(true)
}

/// Moves pages from the end of the file into free ones, where `auto_vacuum` is INCREMENTAL.
pub(super) fn incremental_vacuum(churn: &mut Churn, _: &Table) -> Result<bool> {
    let pages = churn.chance.between(1, 30);
    let mut pragma = churn.db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    // It frees one page a step.
    let mut steps = pragma.query([])?;
    let mut moved = false;
    while steps.next()?.is_some() {
        moved = true;
    }
    Ok(moved)
}

pub(super) fn vacuum(churn: &mut Churn, _: &Table) -> Result<bool> {
    churn.db.execute_batch("VACUUM")?;
    Ok(true)
}

/// The only way to change `auto_vacuum` of a database that has tables.
pub(super) fn vacuum_with_auto_vacuum(churn: &mut Churn, _: &Table) -> Result<bool> {
    let mode = churn.chance.below(3);
    churn.db.execute_batch(&format!("PRAGMA auto_vacuum = {mode}; VACUUM"))?;
    Ok(true)
}
