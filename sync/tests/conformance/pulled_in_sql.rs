//! What the tests of pulls ask of a server that speaks SQL. Which server, `crate::pulled` says.

use crate::pulled::{self, ORDERS, PARTS};
use crate::server::Server;

/// The key of `orders`, as it is called here.
pub(crate) const ID: &str = "id";

/// A new database with tables.
pub(crate) fn make(server: &Server, name: &str, sql: &str) {
    server.query(&format!("CREATE DATABASE {name}")).unwrap();
    make_tables(server, name, sql);
}

pub(crate) fn make_tables(server: &Server, name: &str, sql: &str) {
    server.query_in(name, sql).unwrap();
}

/// Some transactions of all kinds.
pub(crate) fn churn(server: &Server, name: &str, random: &mut fastrand::Rng) {
    for _ in 0..random.u32(1..6) {
        let statements: String = (0..random.u32(1..20)).map(|_| pulled::statement(random)).collect();
        server.query_in(name, &pulled::transaction(&statements)).unwrap();
    }
}

/// Orders of these numbers.
pub(crate) fn add_orders(server: &Server, name: &str, (first, last): (u32, u32)) {
    server.query_in(name, &pulled::orders(first, last)).unwrap();
}

/// Parts of these numbers, with something long, in one transaction.
pub(crate) fn add_parts(server: &Server, name: &str, (first, last): (u32, u32), length: usize) {
    server.query_in(name, &pulled::parts(first, last, &format!("repeat('z', {length})"))).unwrap();
}

/// Orders with these names.
pub(crate) fn name_orders(server: &Server, name: &str, orders: &[(i64, &str)]) {
    for (id, called) in orders {
        server.query_in(name, &format!("INSERT INTO orders(id, name) VALUES({id}, '{called}')")).unwrap();
    }
}

pub(crate) fn rename_order(server: &Server, name: &str, id: i64, called: &str) {
    server.query_in(name, &format!("UPDATE orders SET name = '{called}' WHERE id = {id}")).unwrap();
}

pub(crate) fn delete_order(server: &Server, name: &str, id: i64) {
    server.query_in(name, &format!("DELETE FROM orders WHERE id = {id}")).unwrap();
}

/// Orders have a state from now on: those that are there `new`, but the second one `old`, and a third one comes.
pub(crate) fn add_states(server: &Server, name: &str) {
    let sql = "ALTER TABLE orders ADD COLUMN state varchar(9) NOT NULL DEFAULT 'new'; INSERT INTO orders(id, name) VALUES(3, 'c'); UPDATE orders SET state = 'old' WHERE id = 2";
    server.query_in(name, sql).unwrap();
}

/// A table of `notes`, with a row.
pub(crate) fn make_notes(server: &Server, name: &str) {
    let sql =
        "CREATE TABLE notes(id int PRIMARY KEY, text varchar(9)); INSERT INTO notes VALUES(2, 'theirs')";
    server.query_in(name, sql).unwrap();
}

/// The rows of `orders` and of `parts` as text.
pub(crate) fn there(server: &Server, name: &str) -> [Vec<Vec<Option<String>>>; 2] {
    [("orders", ORDERS), ("parts", PARTS)]
        .map(|(table, columns)| server.query_in(name, &format!("SELECT {columns} FROM {table}")).unwrap())
}
