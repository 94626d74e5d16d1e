//! Goal: the bank's check accepts every state that the bank was in and nothing else. Method: banks of all settings,
//! killed and finished; then single values and pages are falsified behind SQLite's back.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use litekeep_testkit::bank::{self, AutoVacuum, Bank, Options};
use litekeep_testkit::{Digest, campaign};
use rusqlite::Connection;

const LONG: Duration = Duration::from_secs(120);

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    campaign::rounds("bank", 6, |seed| {
        let dir = tempfile::tempdir()?;
        let options = Options::random(dir.path().join("app.db"), seed);
        let mut last = 0;
        for goal in [40, 90] {
            let mut bank = Bank::start(&options)?;
            bank.wait_for(last + goal, LONG)?;
            let acks = bank.kill()?;
            let report = bank::check(&options.db)?;
            anyhow::ensure!(report.ops >= acks.highest(), "{report:?}, acknowledged {}", acks.highest());
            anyhow::ensure!(report.page_size == options.page_size, "{report:?}");
            last = report.ops;
        }
        Ok(())
    });
}

#[test]
fn every_kind_of_operation_occurs_and_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("app.db"));
    options.schema = 0.05;
    options.vacuum = 0.01;
    options.truncate = 0.02;
    options.rollback = 0.1;
    options.reopen = true;
    options.readers = 1;
    options.ops = Some(3000);
    options.auto_vacuum = AutoVacuum::Incremental;
    let acks = Bank::start(&options).unwrap().finish(LONG).unwrap();
    let report = bank::check(&options.db).unwrap();
    assert!(report.ops >= 3000);
    assert_eq!(report.ops, acks.highest(), "it ended in order, so all that was committed is acknowledged");
    assert!(acks.iter().zip(acks.iter().skip(1)).all(|(a, b)| a.op < b.op));

    let db = Connection::open(&options.db).unwrap();
    let mut kinds = db.prepare("SELECT DISTINCT kind FROM ledger").unwrap();
    let kinds: BTreeSet<String> =
        kinds.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let all = ["create", "delete", "drop", "open", "store", "transfer"];
    assert_eq!(kinds, all.map(String::from).into());
}

#[test]
fn a_bank_ends_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path().join("app.db"));
    let mut bank = Bank::start(&options).unwrap();
    bank.wait_for(20, LONG).unwrap();
    let acks = bank.stop().unwrap();
    assert_eq!(bank::check(&options.db).unwrap().ops, acks.highest());
    assert!(!dir.path().join("app.db-wal").exists(), "the last close takes the WAL away");
}

#[test]
fn falsified_rows_do_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("app.db"));
    options.ops = Some(500);
    options.schema = 0.05;
    Bank::start(&options).unwrap().finish(LONG).unwrap();
    bank::check(&options.db).unwrap();
    for falsification in [
        "UPDATE accounts SET balance = balance + 1 WHERE id = 7",
        "UPDATE accounts SET balance = balance + CASE id WHEN 1 THEN 1 ELSE -1 END WHERE id IN (1, 2)",
        "UPDATE accounts SET note = note || 'x' WHERE id = 9",
        "UPDATE accounts SET sum = sum + 1 WHERE id = 9",
        "UPDATE accounts SET last_op = 1, note = '' WHERE id = (SELECT id FROM accounts WHERE last_op > 1 LIMIT 1)",
        "DELETE FROM accounts WHERE id = (SELECT max(id) FROM accounts)",
        "DELETE FROM ledger WHERE op = 250",
        "UPDATE ledger SET op = op + 1 WHERE op = (SELECT max(op) FROM ledger)",
        "UPDATE ledger SET c = c + 1 WHERE op = (SELECT max(op) FROM ledger WHERE kind = 'transfer')",
        "DELETE FROM ledger WHERE op = (SELECT max(op) FROM ledger)",
        "DELETE FROM blobs WHERE id = (SELECT max(id) FROM blobs)",
        "UPDATE blobs SET data = zeroblob(length(data)) WHERE id = (SELECT id FROM blobs WHERE length(data) > 9)",
        "CREATE TABLE foreign_to_it(x)",
    ] {
        let copy = dir.path().join("copy.db");
        fs::copy(&options.db, &copy).unwrap();
        let db = Connection::open(&copy).unwrap();
        assert!(db.execute(falsification, []).is_ok(), "{falsification}");
        db.close().unwrap();
        assert!(bank::check(&copy).is_err(), "{falsification}");
    }
}

/// The loss that integrity_check and a constant sum do not see: one page of an older state.
#[test]
fn a_page_of_an_older_state_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(dir.path().join("app.db"));
    options.accounts = 1000;
    options.blob_bytes = 0;
    options.bulk = 0.0;
    let mut run_to = |ops| {
        options.ops = Some(ops);
        Bank::start(&options).unwrap().finish(LONG).unwrap();
        fs::read(&options.db).unwrap()
    };
    let (old, new) = (run_to(400), run_to(800));
    let page_size = 4096;
    let truth = Digest::of(&options.db).unwrap();
    let copy = dir.path().join("copy.db");
    let mut caught = 0;
    for (n, (old, page)) in old.chunks(page_size).zip(new.chunks(page_size)).enumerate() {
        if old == page {
            continue;
        }
        let mut mixed = new.clone();
        mixed[n * page_size..][..page_size].copy_from_slice(old);
        fs::write(&copy, mixed).unwrap();
        match bank::check(&copy) {
            Err(_) => caught += 1,
            // Free pages, and counters of page 1, mean nothing.
            Ok(_) => assert_eq!(Digest::of(&copy).unwrap(), truth, "page {} of the older state", n + 1),
        }
    }
    assert!(caught > 10, "{caught} pages");
}

#[test]
fn a_database_without_tables_is_a_bank_before_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = wal; VACUUM").unwrap();
    assert_eq!(bank::check(&path).unwrap().ops, 0);
    assert!(bank::check(Path::new("/nonexistent/app.db")).is_err());
}
