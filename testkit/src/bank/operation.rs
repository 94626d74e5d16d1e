//! The operations, and what each does to the rows: written once as SQL (for the workload) and once in memory (for
//! the check). Contents follow from numbers alone through `mix`, so the ledger need not hold them.

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, Row, params};

pub(super) const SCHEMA: &str = "
    CREATE TABLE ledger(op INTEGER PRIMARY KEY, kind TEXT NOT NULL, a INTEGER, b INTEGER, c INTEGER, chain INTEGER);
    CREATE TABLE accounts(
        id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, last_op INTEGER NOT NULL, note TEXT, sum INTEGER NOT NULL);
    CREATE INDEX accounts_by_balance ON accounts(balance, note);
    CREATE TABLE blobs(id INTEGER PRIMARY KEY, data BLOB NOT NULL, sum INTEGER NOT NULL);
";

/// What every account of a new bank has.
pub(super) const FIRST_BALANCE: i64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// The first: the schema and this many accounts, numbered from 1.
    Open {
        accounts: u32,
    },
    Transfer {
        from: i64,
        to: i64,
        amount: i64,
    },
    /// A blob of this many bytes, whose number is the operation's.
    Store {
        bytes: u32,
    },
    Delete {
        blob: i64,
    },
    /// A table `extra_N` of this many rows, where N is the operation's number.
    Create {
        rows: u32,
    },
    Drop {
        table: i64,
    },
}

/// A row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) op: i64,
    pub(super) operation: Operation,
    pub(super) chain: i64,
}

impl Operation {
    fn columns(self) -> (&'static str, i64, i64, i64) {
        match self {
            Self::Open { accounts } => ("open", accounts.into(), 0, 0),
            Self::Transfer { from, to, amount } => ("transfer", from, to, amount),
            Self::Store { bytes } => ("store", bytes.into(), 0, 0),
            Self::Delete { blob } => ("delete", blob, 0, 0),
            Self::Create { rows } => ("create", rows.into(), 0, 0),
            Self::Drop { table } => ("drop", table, 0, 0),
        }
    }

    /// The chain's value after this operation as number `op`, when it was `previous` before.
    pub(super) fn chain(self, op: i64, previous: i64) -> i64 {
        let (kind, a, b, c) = self.columns();
        let kind = kind.bytes().fold(0, |sum: u64, byte| sum << 8 ^ u64::from(byte));
        [op.cast_unsigned(), kind, a.cast_unsigned(), b.cast_unsigned(), c.cast_unsigned()]
            .into_iter()
            .fold(previous.cast_unsigned(), |chain, word| mix(chain ^ word))
            .cast_signed()
    }

    /// Makes the change and its row of the ledger, in the caller's transaction.
    pub(super) fn apply(self, db: &Connection, op: i64, previous: i64) -> Result<Entry> {
        match self {
            Self::Open { accounts } => {
                db.execute_batch(SCHEMA)?;
                for id in 1..=i64::from(accounts) {
                    let sum = account_sum(id, FIRST_BALANCE, op);
                    db.prepare_cached("INSERT INTO accounts VALUES (?, ?, ?, ?, ?)")?.execute(params![
                        id,
                        FIRST_BALANCE,
                        op,
                        note(id, op),
                        sum
                    ])?;
                }
            }
            Self::Transfer { from, to, amount } => {
                add(db, from, -amount, op)?;
                add(db, to, amount, op)?;
            }
            Self::Store { bytes } => {
                let data = blob(op, bytes);
                db.prepare_cached("INSERT INTO blobs VALUES (?, ?, ?)")?.execute(params![
                    op,
                    data,
                    blob_sum(&data)
                ])?;
            }
            Self::Delete { blob } => {
                let deleted = db.prepare_cached("DELETE FROM blobs WHERE id = ?")?.execute([blob])?;
                anyhow::ensure!(deleted == 1, "delete blob {blob}: it is not there");
            }
            Self::Create { rows } => {
                db.execute_batch(&format!("CREATE TABLE extra_{op}(n INTEGER PRIMARY KEY, value INTEGER)"))?;
                let mut insert = db.prepare(&format!("INSERT INTO extra_{op} VALUES (?, ?)"))?;
                for n in 0..i64::from(rows) {
                    insert.execute(params![n, extra(op, n)])?;
                }
            }
            Self::Drop { table } => db.execute_batch(&format!("DROP TABLE extra_{table}"))?,
        }
        let (kind, a, b, c) = self.columns();
        let chain = self.chain(op, previous);
        db.prepare_cached("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)")?
            .execute(params![op, kind, a, b, c, chain])?;
        Ok(Entry { op, operation: self, chain })
    }
}

impl Entry {
    /// Reads `op, kind, a, b, c, chain`.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        let op: i64 = row.get(0)?;
        let kind: String = row.get(1)?;
        let (a, b, c): (i64, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let small = |value: i64| u32::try_from(value).with_context(|| format!("read operation {op}"));
        let operation = match kind.as_str() {
            "open" => Operation::Open { accounts: small(a)? },
            "transfer" => Operation::Transfer { from: a, to: b, amount: c },
            "store" => Operation::Store { bytes: small(a)? },
            "delete" => Operation::Delete { blob: a },
            "create" => Operation::Create { rows: small(a)? },
            "drop" => Operation::Drop { table: a },
            _ => bail!("operation {op} has the unknown kind {kind:?}"),
        };
        Ok(Self { op, operation, chain: row.get(5)? })
    }

    /// The newest row; `None` in an empty database.
    pub(super) fn newest(db: &Connection) -> Result<Option<Self>> {
        let there: bool = db
            .prepare_cached("SELECT count(*) FROM sqlite_schema WHERE name = 'ledger'")?
            .query_row([], |row| row.get(0))?;
        if !there {
            return Ok(None);
        }
        let mut select =
            db.prepare_cached("SELECT op, kind, a, b, c, chain FROM ledger ORDER BY op DESC LIMIT 1")?;
        let mut rows = select.query([])?;
        rows.next()?.map(Self::read).transpose()
    }
}

fn add(db: &Connection, id: i64, amount: i64, op: i64) -> Result<()> {
    let balance: i64 =
        db.prepare_cached("SELECT balance FROM accounts WHERE id = ?")?.query_row([id], |row| row.get(0))?;
    let balance = balance + amount;
    db.prepare_cached("UPDATE accounts SET balance = ?, last_op = ?, note = ?, sum = ? WHERE id = ?")?
        .execute(params![balance, op, note(id, op), account_sum(id, balance, op), id])?;
    Ok(())
}

/// The checksum of an account's row.
pub(super) fn account_sum(id: i64, balance: i64, last_op: i64) -> i64 {
    mix(mix(id.cast_unsigned()) ^ mix(balance.cast_unsigned().rotate_left(17)) ^ last_op.cast_unsigned())
        .cast_signed()
}

/// A text of 0..250 bytes, so that rows change their size and pages split and merge.
pub(super) fn note(id: i64, last_op: i64) -> String {
    let mut word = mix(id.cast_unsigned() << 32 ^ last_op.cast_unsigned());
    let length = usize::try_from(word % 250).unwrap_or(0);
    let mut note = String::with_capacity(length + 16);
    while note.len() < length {
        note.push_str(&format!("{word:016x}"));
        word = mix(word);
    }
    note.truncate(length);
    note
}

/// Bytes that do not compress.
pub(super) fn blob(op: i64, bytes: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(op.cast_unsigned());
    std::iter::repeat_with(|| random.u8(..)).take(bytes as usize).collect()
}

pub(super) fn blob_sum(data: &[u8]) -> i64 {
    data.chunks(8)
        .fold(data.len() as u64, |sum, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(sum ^ u64::from_le_bytes(word))
        })
        .cast_signed()
}

pub(super) fn extra(op: i64, n: i64) -> i64 {
    mix(op.cast_unsigned() << 20 ^ n.cast_unsigned()).cast_signed()
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit of the result depends on each bit of `word`.
fn mix(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
