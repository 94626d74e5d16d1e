//! What comes in the log, as far as it is looked into.

use super::Bytes;
use super::position::Gtid;
use super::stream::Stamp;

const QUERY: u8 = 2;
pub(super) const ROTATE: u8 = 4;
const XID: u8 = 16;
const LOAD_BEGINS: u8 = 17;
const LOADS: u8 = 18;
const TABLE_MAP: u8 = 19;
const ROWS_1: std::ops::RangeInclusive<u8> = 23..=25;
const INCIDENT: u8 = 26;
const HEARTBEAT: u8 = 27;
const ROWS_2: std::ops::RangeInclusive<u8> = 30..=32;
pub(super) const GTID: u8 = 33;
pub(super) const ANONYMOUS_GTID: u8 = 34;
const XA_PREPARE: u8 = 38;
const PARTIAL_ROWS: u8 = 39;
pub(super) const PAYLOAD: u8 = 40;
const HEARTBEAT_2: u8 = 41;
pub(super) const TAGGED_GTID: u8 = 42;
const MARIADB_GTID: u8 = 162;
/// What MariaDB compresses: a statement, and rows of both forms.
const COMPRESSED: std::ops::RangeInclusive<u8> = 165..=171;

/// Of a transaction of MariaDB: that it is one statement, which ends it.
const STANDALONE: u8 = 1;

/// Something of the log.
#[derive(Debug)]
pub(crate) enum Event {
    /// What follows is in this file.
    File { name: String, offset: u64 },
    /// A transaction begins. Of MySQL its first statement tells whether it is more than that.
    Begin {
        gtid: Option<Gtid>,
        /// When it was committed, milliseconds since the epoch. MariaDB tells the second of each event only.
        time_ms: Option<i64>,
        is_standalone: bool,
    },
    /// A statement.
    Query { database: String, sql: String },
    /// A transaction ends.
    Commit,
    /// A transaction ends that is not yet committed, unless it is in one phase.
    Prepared { is_committed: bool, xa: String },
    /// Which table rows are of.
    Table(Vec<u8>),
    /// Rows.
    Rows { kind: RowsKind, body: Vec<u8>, has_extra: bool },
    /// Nothing happens.
    Alive,
    /// Something that cannot be followed: what, and what avoids it.
    Unknown { what: &'static str, hint: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsKind {
    Insert,
    Update,
    Delete,
}

/// An event by its number. `None`: nobody needs it.
pub(super) fn parse(kind: u8, body: &[u8], stamp: Stamp) -> Result<Option<Event>, &'static str> {
    let of_rows = |nth: u8| match nth {
        0 => RowsKind::Insert,
        1 => RowsKind::Update,
        _ => RowsKind::Delete,
    };
    Ok(Some(match kind {
        QUERY => query(body).ok_or("a statement that is cut off")?,
        XID => Event::Commit,
        TABLE_MAP => Event::Table(body.to_vec()),
        kind if ROWS_1.contains(&kind) => {
            Event::Rows { kind: of_rows(kind - ROWS_1.start()), body: body.to_vec(), has_extra: false }
        }
        kind if ROWS_2.contains(&kind) => {
            Event::Rows { kind: of_rows(kind - ROWS_2.start()), body: body.to_vec(), has_extra: true }
        }
        HEARTBEAT | HEARTBEAT_2 => Event::Alive,
        MARIADB_GTID => {
            let mut body = Bytes(body);
            let (Some(number), Some(domain), Some(flags)) = (body.number(8), body.number(4), body.byte())
            else {
                return Err("a transaction without its number");
            };
            let domain = domain as u32;
            let gtid = Some(Gtid::Mariadb { domain, server: stamp.server, number });
            Event::Begin { gtid, time_ms: None, is_standalone: flags & STANDALONE != 0 }
        }
        XA_PREPARE => {
            let xa = xa_name(body).ok_or("a prepared transaction without its name")?;
            Event::Prepared { is_committed: body.first() == Some(&1), xa }
        }
        LOAD_BEGINS | LOADS => {
            Event::Unknown { what: "a file that was loaded by a statement", hint: STATEMENTS }
        }
        PARTIAL_ROWS => Event::Unknown {
            what: "a part of a JSON document",
            hint: "as an administrator: SET PERSIST binlog_row_value_options = '';",
        },
        kind if COMPRESSED.contains(&kind) => Event::Unknown {
            what: "compressed changes",
            hint: "as an administrator: SET GLOBAL log_bin_compress = OFF;",
        },
        INCIDENT => Event::Unknown { what: "a gap that the server tells of", hint: "" },
        _ => return Ok(None),
    }))
}

/// The name of a prepared transaction: a flag, the number of its form, and how long two parts are; as a statement has it, without quotes.
fn xa_name(body: &[u8]) -> Option<String> {
    let mut body = Bytes(body);
    body.byte()?;
    let mut number = || usize::try_from(body.number(4)?).ok();
    let (form, first, second) = (number()?, number()?, number()?);
    let mut hex =
        |length: usize| Some(body.take(length)?.iter().map(|byte| format!("{byte:02X}")).collect::<String>());
    Some(format!("X{},X{},{form}", hex(first)?, hex(second)?))
}

/// What avoids changes that are logged as statements.
pub(crate) const STATEMENTS: &str = "as an administrator: SET GLOBAL binlog_format = ROW; sessions keep what they began with, so that they have to connect anew";

fn query(body: &[u8]) -> Option<Event> {
    let mut body = Bytes(body);
    // The session and how long it took.
    body.take(8)?;
    let database = usize::from(body.byte()?);
    // The error that it ended with.
    body.take(2)?;
    let variables = usize::try_from(body.number(2)?).ok()?;
    body.take(variables)?;
    let database = String::from_utf8_lossy(body.take(database)?).into_owned();
    body.take(1)?;
    Some(Event::Query { database, sql: String::from_utf8_lossy(body.0).into_owned() })
}
