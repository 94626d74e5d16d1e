//! The demo's application: a bank whose books can be checked to the last cent.
//!
//! - Every transfer is one transaction: it takes from one account, gives to another, and writes a line into the ledger. So
//!   the sum of all balances never changes, and each balance is the opening one and the ledger's lines.
//! - Each writer numbers its transfers without gaps, and prints a number only after SQLite has committed it.
//! - `progress` has the last number of each writer, as text of constant width in one page: what a copy of that page is
//!   worth can be told without the rest of the database.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Pgno;
use litekeep_sql::{Application, Value};

/// Accounts of the bank.
pub(super) const ACCOUNTS: i64 = 1000;
/// What each has in the beginning, in cents.
const OPENING: i64 = 100_000;
/// A teller's pause between two transfers.
const PAUSE: Duration = Duration::from_millis(1);
/// Before a number in the page of `progress`.
const MARK: &str = "transfers of writer ";
/// Digits of that number.
const DIGITS: usize = 12;

/// The last transfer of each writer, by its number.
pub(super) type Progress = BTreeMap<u32, u64>;

/// Opens the bank. Returns the page that holds `progress`.
pub(super) fn open(path: &Path, writers: u32) -> Result<Pgno> {
    let bank = Application::create(path)?;
    bank.execute_batch(
        "CREATE TABLE progress (writer INTEGER PRIMARY KEY, transfers TEXT NOT NULL);
         CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE ledger (
             writer INTEGER NOT NULL, number INTEGER NOT NULL,
             source INTEGER NOT NULL, target INTEGER NOT NULL, amount INTEGER NOT NULL,
             PRIMARY KEY (writer, number)
         ) WITHOUT ROWID;",
    )?;
    bank.transaction(|bank| {
        for writer in 0..writers {
            let insert = "INSERT INTO progress VALUES (?1, ?2)";
            bank.execute(insert, &[i64::from(writer).into(), mark(writer, 0).into()])?;
        }
        for id in 0..ACCOUNTS {
            bank.execute("INSERT INTO accounts VALUES (?1, ?2)", &[id.into(), OPENING.into()])?;
        }
        Ok(())
    })?;
    let page = integer(&bank, "SELECT rootpage FROM sqlite_schema WHERE name = 'progress'")?;
    u32::try_from(page).ok().and_then(Pgno::new).context("find the page of `progress`")
}

fn mark(writer: u32, number: u64) -> String {
    format!("{MARK}{writer:03}: {number:0DIGITS$}")
}

/// Writes transfers for ever, and after each commit its number and the time to `acks`, as a line of its own.
///
/// # Errors
/// When the database or the list is no longer there.
pub(super) fn write(path: &Path, writer: u32, mut acks: impl Write) -> Result<()> {
    let bank = Application::open(path)?;
    let me = Value::from(i64::from(writer));
    let last = "SELECT coalesce(max(number), 0) FROM ledger WHERE writer = ?1";
    let last = bank.query(last, std::slice::from_ref(&me))?.concat();
    let mut number = last.first().and_then(Value::as_integer).context("read the last transfer")?;
    loop {
        number += 1;
        let random = i64::from(litekeep_env::random_u64() as u32);
        let (source, step) = (random % ACCOUNTS, 1 + random / ACCOUNTS % (ACCOUNTS - 1));
        let amount = 1 + random / ACCOUNTS / ACCOUNTS;
        let [source, target, amount] = [source, (source + step) % ACCOUNTS, amount].map(Value::from);
        let progress = mark(writer, number.unsigned_abs());
        bank.transaction(|bank| {
            let change = "UPDATE accounts SET balance = balance + ?2 * ?3 WHERE id = ?1";
            bank.execute(change, &[source.clone(), amount.clone(), (-1).into()])?;
            bank.execute(change, &[target.clone(), amount.clone(), 1.into()])?;
            let line = [me.clone(), number.into(), source, target, amount];
            bank.execute("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5)", &line)?;
            bank.execute(
                "UPDATE progress SET transfers = ?2 WHERE writer = ?1",
                &[me.clone(), progress.into()],
            )
        })?;
        let line = format!("{number} {}\n", SystemClock.boottime().as_micros());
        acks.write_all(line.as_bytes()).and_then(|()| acks.flush()).context("note a commit")?;
        std::thread::sleep(PAUSE);
    }
}

/// The numbers in a copy of the page of `progress`.
pub(super) fn progress_in(page: &[u8]) -> Progress {
    let mut found = Progress::new();
    for at in page.windows(MARK.len()).enumerate().filter(|(_, w)| *w == MARK.as_bytes()).map(|(at, _)| at) {
        let text = page.get(at + MARK.len()..at + MARK.len() + 3 + 2 + DIGITS);
        let parts = text.and_then(|text| std::str::from_utf8(text).ok()?.split_once(": "));
        if let Some((Ok(writer), Ok(number))) = parts.map(|(w, n)| (w.parse::<u32>(), n.parse::<u64>())) {
            // Where SQLite has moved a row, its former bytes may stand in the page's free space.
            let last: &mut u64 = found.entry(writer).or_default();
            *last = number.max(*last);
        }
    }
    found
}

/// What a check has found. Whatever is wrong is an error instead.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// Rows that were checked, of all tables.
    pub(super) rows: u64,
    /// The last transfer of each writer.
    pub(super) progress: Progress,
}

/// Checks every account, the sum and the ledger.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(path: &Path) -> Result<Books> {
    let bank = Application::open(path)?;
    let mut due: BTreeMap<i64, i64> = (0..ACCOUNTS).map(|id| (id, OPENING)).collect();
    let mut progress = Progress::new();
    let ledger =
        bank.query("SELECT writer, number, source, target, amount FROM ledger ORDER BY writer, number", &[])?;
    for line in &ledger {
        let numbers: Vec<i64> = line.iter().filter_map(Value::as_integer).collect();
        let [writer, number, source, target, amount] = numbers[..] else {
            anyhow::bail!("a line of the ledger is damaged: {line:?}")
        };
        let last = progress.entry(u32::try_from(writer)?).or_insert(0);
        *last += 1;
        ensure!(*last == number.unsigned_abs(), "transfer {last} of writer {writer} is not in the ledger");
        for (id, change) in [(source, -amount), (target, amount)] {
            *due.get_mut(&id).with_context(|| format!("account {id} in the ledger"))? += change;
        }
    }
    let accounts = bank.query("SELECT id, balance FROM accounts ORDER BY id", &[])?;
    let found: BTreeMap<i64, i64> =
        accounts.iter().filter_map(|row| Some((row[0].as_integer()?, row[1].as_integer()?))).collect();
    ensure!(found.len() == due.len(), "{} of {} accounts are there", found.len(), due.len());
    ensure!(found.values().sum::<i64>() == ACCOUNTS * OPENING, "the sum of all accounts is wrong");
    for (id, balance) in &due {
        ensure!(found.get(id) == Some(balance), "account {id} differs from the ledger");
    }
    let marks = bank.query("SELECT writer, transfers FROM progress", &[])?;
    for row in &marks {
        let (Some(writer), Value::Text(text)) = (row[0].as_integer(), &row[1]) else {
            anyhow::bail!("a row of `progress` is damaged: {row:?}")
        };
        let writer = u32::try_from(writer)?;
        let last = *progress.entry(writer).or_insert(0);
        ensure!(*text == mark(writer, last), "the progress of writer {writer} differs from the ledger");
    }
    Ok(Books { rows: (ledger.len() + accounts.len() + marks.len()) as u64, progress })
}

/// The bad DELETE, whose author meant something narrower. Returns how many accounts it took.
pub(super) fn delete_the_poor(path: &Path) -> Result<u64> {
    let bank = Application::open(path)?;
    Ok(bank.execute("DELETE FROM accounts WHERE balance < ?1", &[OPENING.into()])? as u64)
}

fn integer(bank: &Application, sql: &str) -> Result<i64> {
    let rows = bank.query(sql, &[])?.concat();
    rows.first().and_then(Value::as_integer).with_context(|| format!("`{sql}` gave no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_its_page_and_from_nothing_else() {
        let mut page = vec![0; 4096];
        for (at, text) in [(100, mark(0, 41)), (300, mark(0, 42)), (900, mark(7, 1)), (2000, MARK.to_owned())]
        {
            page[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        page[4090..].copy_from_slice(&MARK.as_bytes()[..6]);
        assert_eq!(progress_in(&page), Progress::from([(0, 42), (7, 1)]));
    }

    #[test]
    fn a_check_finds_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bank.db");
        open(&path, 2).unwrap();
        let whole = check(&path).unwrap();
        assert_eq!((whole.rows, whole.progress), (ACCOUNTS.unsigned_abs() + 2, [(0, 0), (1, 0)].into()));
        for wrong in [
            "UPDATE accounts SET balance = balance + 1 WHERE id = 5",
            "UPDATE accounts SET balance = balance + CASE id WHEN 1 THEN 7 ELSE -7 END WHERE id IN (1, 2)",
            "DELETE FROM accounts WHERE id = 999",
            "INSERT INTO ledger VALUES (0, 2, 1, 2, 3)",
            "INSERT INTO ledger VALUES (0, 1, 1, 2, 3)",
            "UPDATE progress SET transfers = 'x' WHERE writer = 1",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bank.db");
            open(&path, 2).unwrap();
            Application::open(&path).unwrap().execute_batch(wrong).unwrap();
            assert!(check(&path).is_err(), "{wrong}");
        }
    }
}
