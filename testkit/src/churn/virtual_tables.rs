//! FTS5 (with its own content, and over another table's, kept by triggers) and an R-tree: they keep their rows in
//! ordinary tables, which they write themselves.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result};

use super::Churn;
use super::table::{Table, quote};

const FULL_TEXT: &str = "
    CREATE VIRTUAL TABLE words USING fts5(a, b);
    CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT);
    CREATE VIRTUAL TABLE notes_index USING fts5(body, content = 'notes', content_rowid = 'id');
    CREATE TRIGGER notes_insert AFTER INSERT ON notes BEGIN
        INSERT INTO notes_index(rowid, body) VALUES (NEW.id, NEW.body);
    END;
    CREATE TRIGGER notes_delete AFTER DELETE ON notes BEGIN
        INSERT INTO notes_index(notes_index, rowid, body) VALUES ('delete', OLD.id, OLD.body);
    END;
    CREATE TRIGGER notes_update AFTER UPDATE ON notes BEGIN
        INSERT INTO notes_index(notes_index, rowid, body) VALUES ('delete', OLD.id, OLD.body);
        INSERT INTO notes_index(rowid, body) VALUES (NEW.id, NEW.body);
    END;
";
/// Only the operations here write it: the index needs to hear of each change.
pub(super) const NOTES: &str = "notes";

pub(super) fn create_full_text(db: &Connection) -> Result<()> {
    db.execute_batch(FULL_TEXT)
}

pub(super) fn create_rtree(db: &Connection) -> Result<()> {
    db.execute_batch("CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1, +label)")
}

/// What the full-text table with content of its own is called now.
pub(super) fn words(db: &Connection) -> Result<Option<String>> {
    name(db, "CREATE VIRTUAL TABLE % USING fts5(a, b)")
}

/// What the R-tree is called now.
pub(super) fn boxes_name(db: &Connection) -> Result<Option<String>> {
    name(db, "CREATE VIRTUAL TABLE % USING rtree(%")
}

fn name(db: &Connection, like: &str) -> Result<Option<String>> {
    let mut select =
        db.prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE ?1")?;
    select.query_row([like], |row| row.get(0)).optional()
}

/// The tables in which it keeps its rows get other names with it.
pub(super) fn rename(churn: &mut Churn, _: &Table) -> Result<bool> {
    let (old, beginning) = match churn.chance.percent(50) {
        true => (words(&churn.db)?, "words "),
        false => (boxes_name(&churn.db)?, "boxes "),
    };
    let Some(old) = old else { return Ok(false) };
    let new = churn.chance.unique(beginning);
    churn.db.execute_batch(&format!("ALTER TABLE {} RENAME TO {}", quote(&old), quote(&new)))?;
    Ok(true)
}

pub(super) fn full_text(churn: &mut Churn, _: &Table) -> Result<bool> {
    let Some(words) = words(&churn.db)? else { return Ok(false) };
    let words = quote(&words);
    let id = Value::Integer(churn.chance.between(1, 200));
    let length = churn.chance.below(60);
    let text = Value::Text(churn.chance.text(length));
    match churn.chance.below(8) {
        0 => churn
            .run_with(&format!("INSERT INTO {words}(a, b) VALUES (?, 'some words and others')"), vec![text]),
        1 => churn.run_with(&format!("UPDATE {words} SET a = ? WHERE rowid % 7 = 0"), vec![text]),
        2 => churn.run(&format!("DELETE FROM {words} WHERE rowid % 5 = 0")),
        3 => churn.run(&format!("INSERT INTO {words}({words}) VALUES ('optimize')")),
        4 | 5 => churn.run_with("REPLACE INTO notes(id, body) VALUES (?, ?)", vec![id, text]),
        6 => churn.run_with("UPDATE notes SET body = ? WHERE id % 3 = 0", vec![text]),
        _ => churn.run_with("DELETE FROM notes WHERE id <= ? AND id % 4 = 0", vec![id]),
    }
}

pub(super) fn boxes(churn: &mut Churn, _: &Table) -> Result<bool> {
    let Some(boxes) = boxes_name(&churn.db)? else { return Ok(false) };
    let boxes = quote(&boxes);
    let id = Value::Integer(churn.chance.between(1, 500));
    let (x, y) = (churn.chance.between(-1000, 1000), churn.chance.between(-1000, 1000));
    let places = [x, x + 10, y, y + 20].map(Value::Integer);
    match churn.chance.below(4) {
        0 | 1 => {
            let values = [id].into_iter().chain(places).collect();
            churn.run_with(&format!("REPLACE INTO {boxes} VALUES (?, ?, ?, ?, ?, 'label')"), values)
        }
        2 => churn.run(&format!("UPDATE {boxes} SET x1 = x1 + 1 WHERE id % 5 = 0")),
        _ => churn.run_with(&format!("DELETE FROM {boxes} WHERE id % 10 = ? % 10"), vec![id]),
    }
}
