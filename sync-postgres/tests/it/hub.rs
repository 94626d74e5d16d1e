//! What of a sync in both directions is PostgreSQL's own.

use std::path::Path;
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::Result;
use litekeep_schema::portable::postgres::Options;
use litekeep_sync::two_way::Policy;
use litekeep_sync_postgres::source::Wanted;
use litekeep_sync_postgres::{Address, PostgresSource};
pub(crate) use litekeep_testkit::postgres::query_at;
use litekeep_testkit::process::eventually;

use crate::server::{Server, server};
use crate::two_way_scene::{Database, Edit, Node, PATIENCE, TABLE};

pub(crate) use crate::two_way_in_sql::{all, edit, edit_at, fill, lose, stages};

pub(crate) type Hub = PostgresSource;

/// Of a server that has just begun.
pub(crate) const DATABASE: &str = "postgres";
/// A table with values that the server writes in its own way, and a long one.
pub(crate) const PARTS: &str = "CREATE TABLE parts(a int, b text, n numeric(12, 2), at timestamptz, body text, PRIMARY KEY(a, b));
     ALTER TABLE parts ALTER COLUMN body SET STORAGE EXTERNAL;
     INSERT INTO parts VALUES (1, 'x', 1.50, '2026-01-02 03:04:05+02', repeat('l', 9000)), (2, 'y', NULL, NULL, NULL)";
/// A table whose `v` is unique, never `bad`, and in capitals where it begins with `up`.
pub(crate) const RULES: &str = "CREATE TABLE t(id bigint PRIMARY KEY, v text UNIQUE CHECK (v <> 'bad'));
     CREATE FUNCTION upper_v() RETURNS trigger AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END' LANGUAGE plpgsql;
     CREATE TRIGGER up BEFORE INSERT OR UPDATE ON t FOR EACH ROW WHEN (NEW.v LIKE 'up%') EXECUTE FUNCTION upper_v()";
/// What is said of a value that is `bad`.
pub(crate) const WHY_NOT: &str = "check constraint";
/// After so long the server tells that something was later.
pub(crate) const SECOND: Duration = Duration::from_millis(30);

pub(crate) fn hub(url: &str) -> Hub {
    PostgresSource::two_way(Address::parse(url).unwrap(), Wanted::default(), Options::default())
}

/// Foreign keys from `a` to `b` and on to `c`, and from `part` to `c`.
pub(crate) fn keys() -> String {
    "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
     ALTER TABLE b ADD FOREIGN KEY (c) REFERENCES c ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
     ALTER TABLE part ADD FOREIGN KEY (whole) REFERENCES c ON DELETE CASCADE"
        .to_owned()
}

/// The server has no more than fifty slots.
pub(crate) fn end(server: &Server, database: &str) {
    let sql = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{database}' AND active; \
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{database}' AND NOT active"
    );
    let _ = server.query(&sql);
}

/// The server lets go of the changes that it keeps; whether it has.
pub(crate) fn let_go(server: &Server, _: &Path) -> Result<bool> {
    end(server, DATABASE);
    Ok(server.query("SELECT 1 FROM pg_replication_slots")?.is_empty())
}

/// What is left of a sync beside its table.
pub(crate) fn left(server: &Server, database: &str) -> Vec<String> {
    let slots = format!("pg_replication_slots WHERE database = '{database}'");
    let is_left =
        |what: &&str| !server.query_in(database, &format!("SELECT 1 FROM {what}")).unwrap().is_empty();
    [slots.as_str(), "pg_publication"]
        .iter()
        .filter(|what| is_left(what))
        .map(|what| (*what).to_owned())
        .collect()
}

/// How somebody else logs in.
pub(crate) fn login(database: &str) -> String {
    server().url(database)
}

/// A transaction of others' that is open for a while after each of its statements, once it has done the first one.
pub(crate) fn holding(database: &'static str, edits: &[Edit], seconds: f64) -> JoinHandle<Result<()>> {
    let held: Vec<String> =
        edits.iter().map(|edit| format!("{}; SELECT pg_sleep({seconds})", edit.sql())).collect();
    let sql = format!("BEGIN; {}; COMMIT", held.join("; "));
    let login = login(database);
    let open = spawn(move || query_at(&login, &sql).map(drop));
    eventually("it holds a row", PATIENCE, || {
        let sql =
            format!("SELECT 1 FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
        Ok(!server().query(&sql)?.is_empty())
    })
    .unwrap();
    open
}

#[test]
fn values_that_are_only_read_do_not_go_both_ways() {
    let there = Database::with("two_arrays", "CREATE TABLE t(id bigint PRIMARY KEY, v int[])");
    let mut node = Node::new(&there.url(), Policy::Server, TABLE);
    let refused = node.refused();
    assert!(refused.contains("whose values are read and not written"), "{refused}");
}
