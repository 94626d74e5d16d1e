//! A connection, and what travels over it.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use litekeep_schema::portable::mysql::{Calendar, Flavor, Given, Raw};
use litekeep_sync::{Error, Kind, Permits};
use mysql_async::prelude::{AsQuery, Queryable as _};
use mysql_async::{Conn, InfileData, Row, Value as Cell};
use tokio::sync::mpsc;

use crate::{Address, error};

/// An encoded value; `None`: NULL.
pub(crate) type Text = Option<Vec<u8>>;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a connection may take to end.
const ENDING: Duration = Duration::from_secs(25);
const UNLISTED: Duration = Duration::from_millis(100);
/// Bytes of LOAD DATA that go at once.
const BLOCK: usize = 256 << 10;
/// What a statement has beside its rows, at most.
const AROUND: usize = 64 << 10;

/// What every connection is: strict, in UTC, with all characters; a backslash is one, zero is a number, and rows that go and come again in one
/// statement's stead set off nobody's cascade. A lock that somebody has is waited for a minute.
const SETTINGS: &str = "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION', \
     time_zone = '+00:00', autocommit = 1, foreign_key_checks = 0, unique_checks = 1, sql_quote_show_create = 1, lock_wait_timeout = 60, wait_timeout = 2147483";

/// A connection. Ends when it is dropped.
pub(crate) struct Session {
    address: Address,
    /// Until it is dropped.
    conn: Option<Conn>,
    permits: Permits,
    flavor: Flavor,
    /// Bytes that a statement can have.
    packet: usize,
    /// Rows can go as a file.
    has_local_files: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        // Else it ends by itself, and nobody needs to know when.
        if self.permits.are_counted() {
            self.permits.clone().keep_until(closed(conn));
        }
    }
}

/// Ends a connection, and tells whether the server has closed it: of one that ends by the client's word nobody hears when.
async fn closed(mut conn: Conn) -> bool {
    let kill = kill(conn.id());
    let ended = async {
        // One that was ended by others may count for a while longer. Answers that nobody has waited for come first.
        let mut answered = conn.query_drop(kill).await;
        let is_ours = is_answer(&answered);
        while is_answer(&answered) {
            answered = conn.ping().await;
        }
        // It is off the list of connections a moment after it is closed.
        tokio::time::sleep(UNLISTED).await;
        is_ours
    };
    match tokio::time::timeout(ENDING, ended).await {
        Ok(is_ours) => is_ours,
        Err(_) => {
            _ = conn.disconnect().await;
            false
        }
    }
}

fn is_answer(answered: &Result<(), mysql_async::Error>) -> bool {
    matches!(answered, Ok(()) | Err(mysql_async::Error::Server(_)))
}

/// Ends a connection of the same user.
pub(crate) fn kill(id: u32) -> String {
    format!("KILL CONNECTION {id}")
}

impl Session {
    pub(crate) async fn open(address: &Address, permits: &Permits) -> Result<Session, Error> {
        let counted = permits.opening();
        let failed = |e: &mysql_async::Error| error::server(address, "connect", e);
        let opening = tokio::time::timeout(CONNECT, Conn::new(address.opts()?));
        let Ok(conn) = opening.await else {
            let message = format!("connect in {}: no answer within {} s", address.name(), CONNECT.as_secs());
            return Err(Error::new(Kind::Unavailable, message));
        };
        let mut conn = conn.map_err(|e| failed(&e))?;
        let prepare = async {
            conn.query_drop("SET NAMES utf8mb4").await?;
            conn.query_drop(SETTINGS).await?;
            conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            let sql = "SELECT version(), @@max_allowed_packet, @@local_infile";
            conn.query_first::<(String, u64, u8), _>(sql).await
        };
        let said = prepare.await.map_err(|e| failed(&e))?;
        let (version, packet, local) = said.unwrap_or_default();
        let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
        let flavor = if is_mariadb { Flavor::Mariadb } else { Flavor::Mysql };
        let oldest = if is_mariadb { [10, 2, 1] } else { [8, 0, 17] };
        if numbers(&version) < oldest {
            let message = format!("connect in {}: it is {version}", address.name());
            let hint = "a sync needs MariaDB 10.2.1 or MySQL 8.0.17, which compare text byte by byte";
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        let packet = usize::try_from(packet).unwrap_or(usize::MAX).saturating_sub(AROUND).max(AROUND);
        let (address, permits) = (address.clone(), counted.done());
        Ok(Session { address, conn: Some(conn), permits, flavor, packet, has_local_files: local == 1 })
    }

    fn conn(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("it is there until it is dropped")
    }

    pub(crate) fn flavor(&self) -> Flavor {
        self.flavor
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Bytes that the values of a statement can have.
    pub(crate) fn packet(&self) -> usize {
        self.packet
    }

    pub(crate) fn has_local_files(&self) -> bool {
        self.has_local_files
    }

    /// An error of the server's, with what was being done.
    pub(crate) fn failed(&self, doing: &str, error: &mysql_async::Error) -> Error {
        error::server(&self.address, doing, error)
    }

    /// Runs a statement that gives nothing back; how many rows it found.
    pub(crate) async fn run(&mut self, doing: &str, sql: impl AsQuery) -> Result<u64, Error> {
        self.try_run(sql).await.map_err(|e| self.failed(doing, &e))
    }

    /// The same, for one that may fail by its data.
    pub(crate) async fn try_run(&mut self, sql: impl AsQuery) -> Result<u64, mysql_async::Error> {
        let query = sql.as_query().into_owned();
        self.conn().query_drop(query).await?;
        Ok(self.conn().affected_rows())
    }

    /// Runs statements one after the other until one fails; how many rows they found together.
    pub(crate) async fn try_run_all(&mut self, sql: impl AsQuery) -> Result<u64, mysql_async::Error> {
        let mut result = self.conn().query_iter(sql.as_query().into_owned()).await?;
        let mut found = result.affected_rows();
        while !result.is_empty() {
            result.collect::<Row>().await?;
            found += result.affected_rows();
        }
        Ok(found)
    }

    /// Rows of a statement, each value as text; `None`: NULL.
    pub(crate) async fn texts(&mut self, doing: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let rows: Vec<Row> = self.conn().query(sql).await.map_err(|e| self.failed(doing, &e))?;
        let text = |cell: Cell| match cell {
            Cell::NULL => None,
            Cell::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            other => Some(other.as_sql(true)),
        };
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
    }

    /// Rows of a statement by the binary protocol, in which numbers are as they are stored.
    pub(crate) async fn rows(
        &mut self,
        doing: &str,
        sql: impl AsQuery,
    ) -> Result<Vec<Vec<Option<Given>>>, Error> {
        let rows = self.cells(sql).await.map_err(|e| self.failed(doing, &e))?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(given).collect()).collect())
    }

    /// The same with values of all types.
    pub(crate) async fn raw_rows(
        &mut self,
        sql: impl AsQuery,
    ) -> Result<Vec<Vec<Option<Raw>>>, mysql_async::Error> {
        let rows = self.cells(sql).await?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(raw).collect()).collect())
    }

    /// The same, given some at a time as they come: so many at most, and about so many bytes.
    pub(crate) async fn stream_raw_rows(
        &mut self,
        sql: String,
        (most, most_bytes): (usize, usize),
        given: &mpsc::Sender<Result<Vec<Vec<Option<Raw>>>, Error>>,
    ) -> Result<(), mysql_async::Error> {
        let statement = self.conn().prep(sql).await?;
        let mut coming = self.conn().exec_iter(&statement, ()).await?;
        let (mut rows, mut bytes) = (vec![], 0);
        loop {
            let row: Option<Row> = coming.next().await?;
            let is_last = row.is_none();
            if let Some(row) = row {
                let row = row.unwrap();
                bytes += row.iter().map(|cell| cell.bin_len() as usize).sum::<usize>();
                rows.push(row.into_iter().map(raw).collect());
            }
            let is_full = rows.len() >= most || bytes >= most_bytes;
            if (is_full || is_last) && !rows.is_empty() {
                bytes = 0;
                // Nobody wants them any more.
                if given.send(Ok(std::mem::take(&mut rows))).await.is_err() {
                    break;
                }
            }
            if is_last {
                break;
            }
        }
        drop(coming);
        self.conn().close(statement).await
    }

    async fn cells(&mut self, sql: impl AsQuery) -> Result<Vec<Vec<Cell>>, mysql_async::Error> {
        let query = sql.as_query().into_owned();
        let statement = self.conn().prep(query).await?;
        let rows: Vec<Row> = self.conn().exec(&statement, ()).await?;
        self.conn().close(statement).await?;
        Ok(rows.into_iter().map(Row::unwrap).collect())
    }

    /// Sends rows by LOAD DATA, which takes what it cannot take for something else and says so in warnings; how many rows came, without any.
    /// `None`: there were warnings.
    pub(crate) async fn load(
        &mut self,
        sql: &str,
        rows: impl Iterator<Item = &[Text]>,
    ) -> Result<Option<u64>, mysql_async::Error> {
        let (mut blocks, mut block): (Vec<std::io::Result<Bytes>>, _) = (vec![], Vec::with_capacity(BLOCK));
        for row in rows {
            write_row(&mut block, row);
            if block.len() >= BLOCK {
                blocks.push(Ok(Bytes::from(std::mem::replace(&mut block, Vec::with_capacity(BLOCK)))));
            }
        }
        blocks.push(Ok(Bytes::from(block)));
        // The handler is for one statement, and gives only this, whatever file the server asks for.
        self.conn().set_infile_handler(async move {
            let stream: InfileData = futures::stream::iter(blocks).boxed();
            Ok(stream)
        });
        self.conn().query_drop(sql).await?;
        Ok((self.conn().get_warnings() == 0).then(|| self.conn().affected_rows()))
    }
}

/// Of `10.11.6-MariaDB-0+deb12u1`, the first three.
fn numbers(version: &str) -> [u32; 3] {
    let mut found = version.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    std::array::from_fn(|_| found.next().unwrap_or(0))
}

fn given(cell: Cell) -> Option<Given> {
    Some(match cell {
        Cell::NULL => return None,
        Cell::Int(i) => Given::Integer(i),
        Cell::Double(f) => Given::Real(f),
        Cell::Bytes(bytes) => Given::Bytes(bytes),
        Cell::Date(year, month, day, hour, minute, second, micros) => {
            let time = Given::time((year, month, day), (hour, minute, second), micros);
            time.unwrap_or_else(|| Given::Bytes(cell.as_sql(true).into_bytes()))
        }
        // Of a column that is not as it was made.
        other => Given::Bytes(other.as_sql(true).into_bytes()),
    })
}

fn raw(cell: Cell) -> Option<Raw> {
    Some(match cell {
        Cell::NULL => return None,
        Cell::Int(i) => Raw::Integer(i),
        Cell::UInt(u) => Raw::Unsigned(u),
        Cell::Float(f) => Raw::Single(f),
        Cell::Double(f) => Raw::Double(f),
        Cell::Bytes(bytes) => Raw::Bytes(bytes),
        Cell::Date(year, month, day, hour, minute, second, micros) => {
            Raw::Calendar(Calendar { year, month, day, hour, minute, second, micros })
        }
        Cell::Time(is_negative, days, hours, minutes, seconds, micros) => {
            let hours = u64::from(days) * 24 + u64::from(hours);
            let seconds = hours * 3600 + u64::from(minutes) * 60 + u64::from(seconds);
            Raw::Span { is_negative, seconds, micros }
        }
    })
}

/// A line of LOAD DATA with tabs between fields and backslashes before what is none
/// (<https://dev.mysql.com/doc/refman/8.4/en/load-data.html>).
fn write_row(block: &mut Vec<u8>, row: &[Text]) {
    for (nth, value) in row.iter().enumerate() {
        if nth > 0 {
            block.push(b'\t');
        }
        let Some(bytes) = value else {
            block.extend_from_slice(br"\N");
            continue;
        };
        let mut rest = bytes.as_slice();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r' | 0)) {
            block.extend_from_slice(&rest[..at]);
            block.extend_from_slice(match rest[at] {
                b'\\' => br"\\",
                b'\t' => br"\t",
                b'\n' => br"\n",
                b'\r' => br"\r",
                _ => br"\0",
            });
            rest = &rest[at + 1..];
        }
        block.extend_from_slice(rest);
    }
    block.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(numbers("10.11.6-MariaDB-0+deb12u1"), [10, 11, 6]);
        assert!(numbers("8.0.17") >= [8, 0, 17] && numbers("8.4") > [8, 0, 17] && numbers("x") < [8, 0, 17]);
    }

    #[test]
    fn lines_escape_what_ends_a_field() {
        let mut block = vec![];
        write_row(
            &mut block,
            &[Some(b"a\\b\tc\nd\re\0".to_vec()), None, Some(vec![]), Some(br"\N".to_vec())],
        );
        assert_eq!(block, b"a\\\\b\\tc\\nd\\re\\0\t\\N\t\t\\\\N\n");
    }
}
