//! MariaDB or MySQL, for the tests that every server must pass: `crate::FLAVOR` says which.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use litekeep_schema::portable::dialect::Dialect;
pub(crate) use litekeep_schema::portable::mysql::Options;
use litekeep_schema::portable::mysql::{self, Given, MyType};
use litekeep_sync::Value;
use litekeep_sync_mysql::Address;
pub(crate) use litekeep_sync_mysql::Mysql as Side;
pub(crate) use litekeep_sync_mysql::target::MyTable as Table;
use litekeep_testkit::mysql::Flavor;
pub(crate) use litekeep_testkit::mysql::Mysql as Server;
use mysql_async::Value as Cell;

pub(crate) use crate::in_sql::{
    NOT_THERE, SCHEMA, VALUES, WHY_NOT, admit_no_5, count, differ, is_kept, listed, make_database, names,
    values,
};

pub(crate) const TAGGED: MyType = MyType::Tagged;
pub(crate) const DIALECT: Dialect = match crate::FLAVOR {
    Flavor::Mariadb => Dialect::Mariadb,
    Flavor::Mysql => Dialect::Mysql,
};
/// Of the rows of `bare` whose `a` is `x`.
pub(crate) const DELETE_ONE_X: &str = "DELETE FROM bare WHERE a = 'x' LIMIT 1";
/// A rule of the table that row 5 breaks with an x of 5.
pub(crate) const ADMITS_NO_5: &str = "ALTER TABLE t ADD CHECK (name <> 'n5' OR x <> 5)";

/// One server for all tests that do not kill it.
static SERVER: LazyLock<Mutex<Server>> = LazyLock::new(|| Mutex::new(start()));

/// One for a test alone. Where there is none all tests are skipped: none of them does without.
pub(crate) fn start() -> Server {
    if !crate::FLAVOR.is_available() {
        std::process::exit(0);
    }
    Server::start(crate::FLAVOR).unwrap()
}

pub(crate) fn server() -> MutexGuard<'static, Server> {
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn side(url: &str, name: &str, options: Options) -> Side {
    Side::new(Address::parse(url).unwrap(), name, options)
}

/// A statement with names as this server quotes them.
pub(crate) fn quoted(sql: &str) -> String {
    sql.replace("\"\"", "\u{1}").replace('"', "`").replace('\u{1}', "\"")
}

/// Ends all connections but the one that asks.
pub(crate) fn cut_off(server: &Server) {
    let others =
        "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'admin'";
    for row in server.query(others).unwrap() {
        // It may have ended by itself.
        let _ = server.query(&format!("KILL {}", row[0].as_ref().unwrap()));
    }
}

/// All rows of a table, each value as it was in SQLite.
pub(crate) fn rows(server: &Server, database: &str, table: &mysql::Table) -> Vec<Vec<Value>> {
    let names: Vec<String> = table.columns.iter().map(|column| mysql::quoted(&column.name)).collect();
    let select = format!("SELECT {} FROM {}", names.join(", "), table.path(&Options::default()));
    let value = |column: &mysql::Column, cell: Cell| {
        let given = match cell {
            Cell::NULL => return Value::Null,
            Cell::Int(i) => Given::Integer(i),
            Cell::Double(f) => Given::Real(f),
            Cell::Date(y, m, d, h, min, s, micros) => Given::time((y, m, d), (h, min, s), micros).unwrap(),
            Cell::Bytes(bytes) => Given::Bytes(bytes),
            other => panic!("{column:?}: {other:?}"),
        };
        column.kind.decode(given.clone()).unwrap_or_else(|| panic!("{column:?}: {given:?}"))
    };
    let row =
        |row: Vec<Cell>| table.columns.iter().zip(row).map(|(column, cell)| value(column, cell)).collect();
    server.values_in(database, &select).unwrap().into_iter().map(row).collect()
}
