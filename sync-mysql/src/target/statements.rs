//! Statements that write and read rows.

use litekeep_schema::portable::mysql::{Column, Flavor, MyType, Options, Table, quoted};
use litekeep_sync::ledger::Encoded;

use crate::session::Text;

/// Rows that are read at once.
pub(super) const FETCHED: usize = 2_000;
/// Rows and bytes that a statement has, unless one row alone has more.
const INSERTED: usize = 1_000;
const STATEMENT_BYTES: usize = 1 << 20;
/// Rows that a statement finds by their keys: more of them, and a server may rather read the whole table.
pub(super) const DELETED: usize = 500;

pub(super) fn load(options: &Options, table: &Table) -> String {
    // Byte by byte, for blobs are no characters; the table's columns say what text is.
    format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {} CHARACTER SET binary \
         FIELDS TERMINATED BY x'09' ESCAPED BY x'5c' LINES TERMINATED BY x'0a' ({})",
        table.path(options),
        names(&table.columns)
    )
}

/// `packet`: the bytes that a statement can have.
pub(super) fn insert(
    options: &Options,
    table: &Table,
    rows: &[&Encoded<Text>],
    packet: usize,
) -> Vec<Vec<u8>> {
    let begin = format!("INSERT INTO {} ({}) VALUES ", table.path(options), names(&table.columns));
    let statement = |rows: &[&Encoded<Text>]| {
        let mut sql = begin.clone().into_bytes();
        for (nth, Encoded { row, .. }) in rows.iter().enumerate() {
            sql.extend_from_slice(if nth > 0 { b", (" } else { b"(" });
            for (nth, (column, text)) in table.columns.iter().zip(row).enumerate() {
                sql.extend_from_slice(if nth > 0 { b", " } else { b"" });
                write(column.kind, text, &mut sql);
            }
            sql.push(b')');
        }
        sql
    };
    let bytes = |row: &&Encoded<Text>| row.row.iter().map(size).sum();
    groups(rows, INSERTED, packet, bytes).into_iter().map(statement).collect()
}

/// Rows by their keys.
pub(super) fn delete(options: &Options, table: &Table, keys: &[Vec<&Text>], packet: usize) -> Vec<Vec<u8>> {
    let columns: Vec<&Column> = table.key.iter().map(|nth| &table.columns[*nth]).collect();
    let begin = format!("DELETE FROM {} WHERE ", table.path(options));
    let statement = |keys: &[Vec<&Text>]| {
        let mut sql = begin.clone().into_bytes();
        if let [only] = columns[..] {
            sql.extend_from_slice(format!("{} IN (", quoted(&only.name)).as_bytes());
            for (nth, text) in keys.iter().flatten().enumerate() {
                sql.extend_from_slice(if nth > 0 { b", " } else { b"" });
                write(only.kind, text, &mut sql);
            }
            sql.push(b')');
            return sql;
        }
        // Row constructors are not looked up in an index by every server.
        for (nth, key) in keys.iter().enumerate() {
            sql.extend_from_slice(if nth > 0 { b" OR (" } else { b"(" });
            for (nth, (column, text)) in columns.iter().zip(key).enumerate() {
                let and = if nth > 0 { " AND " } else { "" };
                sql.extend_from_slice(format!("{and}{} = ", quoted(&column.name)).as_bytes());
                write(column.kind, text, &mut sql);
            }
            sql.push(b')');
        }
        sql
    };
    // With the names of the columns.
    let names: usize = columns.iter().map(|column| column.name.len() + 16).sum();
    let bytes = |key: &Vec<&Text>| names + key.iter().map(|text| size(text)).sum::<usize>();
    groups(keys, DELETED, packet, bytes).into_iter().map(statement).collect()
}

/// Why a row cannot go that has so many bytes.
pub(crate) fn too_large(size: usize, packet: usize) -> Option<String> {
    (size > packet).then(|| format!("it has {size} bytes, and `max_allowed_packet` there admits {packet}"))
}

/// The statement that makes the table which keeps how far syncs are.
pub(crate) fn make_state(path: &str, flavor: Flavor) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {path} (name varchar(191) NOT NULL, item varchar(512) NOT NULL, content longtext NOT NULL, \
         changed_at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), \
         PRIMARY KEY (name, item)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE={}",
        flavor.collation()
    )
}

/// Rows of one statement each.
pub(crate) fn groups<R>(rows: &[R], most: usize, packet: usize, bytes_of: impl Fn(&R) -> usize) -> Vec<&[R]> {
    let (mut groups, mut first, mut bytes) = (vec![], 0, 0);
    for (nth, row) in rows.iter().enumerate() {
        let size = bytes_of(row);
        if nth > first && (nth - first == most || bytes + size > packet.min(STATEMENT_BYTES)) {
            groups.push(&rows[first..nth]);
            (first, bytes) = (nth, 0);
        }
        bytes += size;
    }
    if first < rows.len() {
        groups.push(&rows[first..]);
    }
    groups
}

/// Of rows that are alike, one.
pub(super) fn delete_whole(options: &Options, table: &Table, row: &[Text]) -> Vec<u8> {
    let mut sql = format!("DELETE FROM {} WHERE ", table.path(options)).into_bytes();
    for (nth, (column, text)) in table.columns.iter().zip(row).enumerate() {
        let (and, name) = (if nth > 0 { " AND " } else { "" }, quoted(&column.name));
        sql.extend_from_slice(format!("{and}{name} <=> ").as_bytes());
        write(column.kind, text, &mut sql);
    }
    sql.extend_from_slice(b" LIMIT 1");
    sql
}

/// The next rows of a table, in the order of its key.
pub(super) fn read(options: &Options, table: &Table, after: Option<&[Vec<u8>]>) -> Vec<u8> {
    let names = names(&table.columns);
    let mut sql = format!("SELECT {names} FROM {}", table.path(options)).into_bytes();
    let key: Vec<String> = table.key.iter().map(|nth| quoted(&table.columns[*nth].name)).collect();
    if key.is_empty() {
        return sql;
    }
    if let Some(after) = after {
        sql.extend_from_slice(b" WHERE ");
        is_after(&key, after, &mut sql);
    }
    sql.extend_from_slice(format!(" ORDER BY {} LIMIT {FETCHED}", key.join(", ")).as_bytes());
    sql
}

/// The condition that a key is greater than another one, both as SQL has them: in one part, and equal in those before it. The first
/// condition is what an index needs.
pub(crate) fn is_after(key: &[String], after: &[Vec<u8>], sql: &mut Vec<u8>) {
    sql.extend_from_slice(format!("{} >= ", key[0]).as_bytes());
    sql.extend_from_slice(&after[0]);
    for part in 0..key.len() {
        sql.extend_from_slice(if part == 0 { b" AND ((" } else { b" OR (" });
        for before in 0..=part {
            let (and, than) = (if before > 0 { " AND " } else { "" }, if before == part { ">" } else { "=" });
            sql.extend_from_slice(format!("{and}{} {than} ", key[before]).as_bytes());
            sql.extend_from_slice(&after[before]);
        }
        sql.push(b')');
    }
    sql.push(b')');
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

pub(super) fn write(kind: MyType, text: &Text, sql: &mut Vec<u8>) {
    match text {
        None => sql.extend_from_slice(b"NULL"),
        Some(bytes) => kind.write(bytes, sql),
    }
}

/// Bytes of a value in a statement.
pub(super) fn size(text: &Text) -> usize {
    const AROUND: usize = 16;
    AROUND
        + text.as_ref().map_or(0, |bytes| bytes.len() + bytes.iter().filter(|byte| **byte == b'\'').count())
}

/// Text in a statement.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn statements_are_neither_too_long_nor_empty() {
        let sizes = [9, 1, 1, 1, 8, 20, 1];
        let groups: Vec<&[usize]> = groups(&sizes, 3, 10, |size| *size);
        assert_eq!(groups, [&[9, 1][..], &[1, 1, 8], &[20], &[1]]);
        assert!(super::groups(&[], 3, 10, |size: &usize| *size).is_empty());
    }
}
