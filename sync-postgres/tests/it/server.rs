//! PostgreSQL, for the tests that every server must pass.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use litekeep_schema::portable::dialect::Dialect;
pub(crate) use litekeep_schema::portable::postgres::Options;
use litekeep_schema::portable::postgres::{self, PgType};
use litekeep_sync::Value;
use litekeep_sync_postgres::Address;
pub(crate) use litekeep_sync_postgres::Postgres as Side;
pub(crate) use litekeep_sync_postgres::target::PgTable as Table;
pub(crate) use litekeep_testkit::postgres::Postgres as Server;

pub(crate) use crate::in_sql::{
    NOT_THERE, SCHEMA, VALUES, WHY_NOT, admit_no_5, count, differ, is_kept, listed, make_database, names,
    values,
};

pub(crate) const TAGGED: PgType = PgType::Tagged;
pub(crate) const DIALECT: Dialect = Dialect::Postgres;
/// Of the rows of `bare` whose `a` is `x`.
pub(crate) const DELETE_ONE_X: &str =
    "DELETE FROM bare WHERE ctid = (SELECT ctid FROM bare WHERE a = 'x' LIMIT 1)";
/// A rule of the table that row 5 breaks with an x of 5.
pub(crate) const ADMITS_NO_5: &str = "ALTER TABLE t ADD CHECK (name <> 'n5' OR x <> 5)";

/// One server for all tests that do not kill it.
static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(start()));

/// One for a test alone.
pub(crate) fn start() -> Server {
    Server::start().unwrap()
}

pub(crate) fn server() -> MutexGuard<'static, Server> {
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn side(url: &str, name: &str, options: Options) -> Side {
    Side::new(Address::parse(url).unwrap(), name, options)
}

/// A statement with names as this server quotes them.
pub(crate) fn quoted(sql: &str) -> String {
    sql.to_owned()
}

/// Ends all connections of litekeep's.
pub(crate) fn cut_off(server: &Server) {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'litekeep'";
    server.query(sql).unwrap();
}

/// All rows of a table, each value as it was in SQLite.
pub(crate) fn rows(server: &Server, database: &str, table: &postgres::Table) -> Vec<Vec<Value>> {
    let names = table.columns.iter().map(|column| format!("{}::text", postgres::quoted(&column.name)));
    let select = format!(
        "SET TimeZone = 'UTC'; SELECT {} FROM {}",
        names.collect::<Vec<_>>().join(", "),
        table.path(&Options::default())
    );
    let value = |column: &postgres::Column, text: Option<String>| match text {
        None => Value::Null,
        Some(text) => column.kind.decode(&text).unwrap_or_else(|| panic!("{column:?}: {text}")),
    };
    let row = |row: Vec<Option<String>>| {
        table.columns.iter().zip(row).map(|(column, text)| value(column, text)).collect()
    };
    server.query_in(database, &select).unwrap().into_iter().map(row).collect()
}
