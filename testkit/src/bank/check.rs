//! The check: replays the ledger in memory and compares every row of every table with what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags};

use super::operation::{Entry, FIRST_BALANCE, Operation, account_sum, blob, blob_sum, extra, note};

/// What a database that passed the check holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The highest operation; 0: the bank is not open yet, the database has no table.
    pub ops: u64,
    /// Accounts.
    pub accounts: u64,
    /// Blobs.
    pub blobs: u64,
    /// Tables that were made and not dropped.
    pub extra_tables: u64,
    /// Bytes a page.
    pub page_size: u32,
    /// Pages.
    pub pages: u64,
}

/// Checks that the database at `path` is exactly the state of a bank after its newest operation; in one read
/// transaction, so a bank may be at work.
///
/// # Errors
/// When SQLite finds it damaged, or any row differs from what follows from the ledger; the first difference is named.
pub fn check(path: &Path) -> Result<Report> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).with_context(|| format!("open {path:?}"))?;
    db.busy_timeout(std::time::Duration::from_secs(60))?;
    let snapshot = db.transaction()?;
    check_snapshot(&snapshot).with_context(|| format!("check the bank {path:?}"))
}

fn check_snapshot(db: &Connection) -> Result<Report> {
    let damage: String = db.query_row("PRAGMA integrity_check(5)", [], |row| row.get(0))?;
    ensure!(damage == "ok", "integrity_check: {damage}");
    let expected = Expected::replay(db)?;
    expected.compare_tables(db)?;
    if expected.ops > 0 {
        expected.compare_accounts(db)?;
        expected.compare_blobs(db)?;
        for (&table, &rows) in &expected.extra {
            compare_extra(db, table, rows).with_context(|| format!("read table extra_{table}"))?;
        }
    }
    Ok(Report {
        ops: expected.ops.cast_unsigned(),
        accounts: expected.accounts.len() as u64,
        blobs: expected.blobs.len() as u64,
        extra_tables: expected.extra.len() as u64,
        page_size: db.query_row("PRAGMA page_size", [], |row| row.get(0))?,
        pages: db.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?.cast_unsigned(),
    })
}

/// The state that follows from the ledger.
#[derive(Default)]
struct Expected {
    ops: i64,
    /// Balance and last operation by number of the account.
    accounts: BTreeMap<i64, (i64, i64)>,
    /// Length by number of the blob.
    blobs: BTreeMap<i64, u32>,
    /// Rows by number of the table.
    extra: BTreeMap<i64, u32>,
}

impl Expected {
    fn replay(db: &Connection) -> Result<Self> {
        let mut expected = Self::default();
        if Entry::newest(db)?.is_none() {
            return Ok(expected);
        }
        let mut chain = 0;
        let mut select = db.prepare("SELECT op, kind, a, b, c, chain FROM ledger ORDER BY op")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let entry = Entry::read(row)?;
            ensure!(entry.op == expected.ops + 1, "ledger: operation {} follows {}", entry.op, expected.ops);
            chain = entry.operation.chain(entry.op, chain);
            ensure!(entry.chain == chain, "ledger: the chain breaks at operation {}", entry.op);
            expected.apply(entry).with_context(|| format!("replay operation {}", entry.op))?;
        }
        Ok(expected)
    }

    fn apply(&mut self, Entry { op, operation, .. }: Entry) -> Result<()> {
        self.ops = op;
        match operation {
            Operation::Open { accounts } => {
                ensure!(op == 1, "the bank opens again");
                self.accounts = (1..=i64::from(accounts)).map(|id| (id, (FIRST_BALANCE, op))).collect();
            }
            Operation::Transfer { from, to, amount } => {
                for (id, amount) in [(from, -amount), (to, amount)] {
                    let (balance, last) =
                        self.accounts.get_mut(&id).context("an account that is not there")?;
                    (*balance, *last) = (*balance + amount, op);
                }
            }
            Operation::Store { bytes } => _ = self.blobs.insert(op, bytes),
            Operation::Delete { blob } => {
                self.blobs.remove(&blob).context("a blob that is not there")?;
            }
            Operation::Create { rows } => _ = self.extra.insert(op, rows),
            Operation::Drop { table } => {
                self.extra.remove(&table).context("a table that is not there")?;
            }
        }
        Ok(())
    }

    fn compare_tables(&self, db: &Connection) -> Result<()> {
        let mut expected: BTreeSet<String> =
            self.extra.keys().map(|table| format!("extra_{table}")).collect();
        if self.ops > 0 {
            expected.extend(["ledger", "accounts", "blobs"].map(String::from));
        }
        // Litestream keeps two tables of its own in the databases that it replicates.
        let mut select = db.prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('_litestream_seq', '_litestream_lock')",
        )?;
        let found =
            select.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<BTreeSet<String>>>()?;
        ensure!(found == expected, "tables: {found:?}, by the ledger {expected:?}");
        Ok(())
    }

    fn compare_accounts(&self, db: &Connection) -> Result<()> {
        let total: i64 = db.query_row("SELECT sum(balance) FROM accounts", [], |row| row.get(0))?;
        let constant = FIRST_BALANCE * self.accounts.len() as i64;
        ensure!(total == constant, "accounts: the sum is {total}, not {constant}");
        let mut expected = self.accounts.iter();
        let mut select = db.prepare("SELECT id, balance, last_op, note, sum FROM accounts ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let found: (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some((&id, &(balance, last_op))) = expected.next() else {
                bail!("accounts: {found:?} is not in the ledger");
            };
            ensure!(
                found == (id, balance, last_op),
                "accounts: {found:?}, by the ledger {:?}",
                (id, balance, last_op)
            );
            ensure!(row.get::<_, String>(3)? == note(id, last_op), "accounts: the note of {id} is another");
            ensure!(
                row.get::<_, i64>(4)? == account_sum(id, balance, last_op),
                "accounts: the checksum of {id}"
            );
        }
        ensure!(expected.next().is_none(), "accounts: some are missing");
        Ok(())
    }

    fn compare_blobs(&self, db: &Connection) -> Result<()> {
        let mut expected = self.blobs.iter();
        let mut select = db.prepare("SELECT id, data, sum FROM blobs ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let data = row.get_ref(1)?.as_blob().with_context(|| format!("read blob {id}"))?;
            let Some((&expected_id, &bytes)) = expected.next() else {
                bail!("blobs: {id} is not in the ledger")
            };
            ensure!(id == expected_id, "blobs: {id}, by the ledger {expected_id}");
            ensure!(data == blob(id, bytes), "blobs: the content of {id} is another");
            ensure!(row.get::<_, i64>(2)? == blob_sum(data), "blobs: the checksum of {id}");
        }
        ensure!(expected.next().is_none(), "blobs: some are missing");
        Ok(())
    }
}

fn compare_extra(db: &Connection, table: i64, rows: u32) -> Result<()> {
    let mut select = db.prepare(&format!("SELECT n, value FROM extra_{table} ORDER BY n"))?;
    let found =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let expected: Vec<(i64, i64)> = (0..i64::from(rows)).map(|n| (n, extra(table, n))).collect();
    ensure!(found == expected, "{} rows differ from the {rows} by the ledger", found.len());
    Ok(())
}
