//! What the tests ask of a server that speaks SQL.

use std::collections::BTreeMap;

use crate::server::{ADMITS_NO_5, DELETE_ONE_X, Server, quoted};

/// Of a schema that names have to be quoted for.
pub(crate) const SCHEMA: &str = "from \"lite\"";
/// Rows of `t` that cannot be there beside one that can, and why the first one cannot.
pub(crate) const NOT_THERE: &str = "INSERT INTO t VALUES (3, 'fine', 3), (4, 'no real', 'text'), (5, x'00', 5); UPDATE t SET name = x'01' WHERE id = 1";
pub(crate) const WHY_NOT: &str = "`name`: it is a blob, and the column holds text";
/// How `'a'`, 7 and `x'00'` are there with the type `TAGGED`.
pub(crate) const VALUES: [&str; 3] =
    [r#"{"t":"s","v":"a"}"#, r#"{"t":"i","v":"7"}"#, r#"{"t":"b","v":"00"}"#];

pub(crate) fn make_database(server: &Server, name: &str) {
    server.query(&format!("CREATE DATABASE {name}")).unwrap();
}

/// Changes rows of every table there.
pub(crate) fn differ(server: &Server, database: &str) {
    let sql = format!(
        "UPDATE t SET name = 'z' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (7, 'b', 0);
         UPDATE words SET word = 'Apple' WHERE word = 'apple'; UPDATE words SET n = 2 WHERE word = '';
         {DELETE_ONE_X}; INSERT INTO bare SELECT * FROM bare WHERE a IS NULL"
    );
    server.query_in(database, &sql).unwrap();
}

/// The values of `x` in the table `T o` of the other schema.
pub(crate) fn values(server: &Server, database: &str) -> Vec<String> {
    let select = quoted(r#"SELECT id, x FROM "from ""lite"""."T o" ORDER BY id"#);
    let rows = server.query_in(database, &select).unwrap();
    rows.into_iter().map(|row| row[1].clone().unwrap()).collect()
}

pub(crate) fn count(server: &Server, database: &str, table: &str) -> u64 {
    let rows = server.query_in(database, &format!("SELECT count(*) FROM {table}")).unwrap();
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

/// Whether the table of what litekeep keeps is there.
pub(crate) fn is_kept(server: &Server, database: &str) -> bool {
    server.query_in(database, "SELECT 1 FROM _litekeep_sync").is_ok()
}

/// The names of `t` by their keys.
pub(crate) fn names(server: &Server, database: &str) -> BTreeMap<i64, String> {
    let rows = server.query_in(database, "SELECT id, name FROM t").unwrap();
    let pair =
        |row: Vec<Option<String>>| (row[0].as_ref().unwrap().parse().unwrap(), row[1].clone().unwrap());
    rows.into_iter().map(pair).collect()
}

/// What the server keeps of refused rows.
pub(crate) fn listed(server: &Server, database: &str) -> Vec<String> {
    let sql = "SELECT content FROM _litekeep_sync WHERE item LIKE 'refused/%' ORDER BY content";
    server.query_in(database, sql).unwrap().into_iter().flatten().flatten().collect()
}

/// From now on row 5 cannot have an x of 5.
pub(crate) fn admit_no_5(server: &Server, database: &str) {
    server.query_in(database, ADMITS_NO_5).unwrap();
}
