//! A connection on which the server sends its log, as it does to a replica.

use std::time::Duration;

use futures::StreamExt as _;
use litekeep_schema::portable::mysql::Flavor;
use litekeep_sync::{Error, Kind, Permits};
use mysql_async::binlog::events::GtidEvent;
use mysql_async::prelude::Queryable as _;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid};
use tokio::time::Instant;

use super::event::{self, Event};
use super::position::{Gtid, Position};
use crate::session::{Session, kill};
use crate::{Address, error};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// Between two looks whether the server counts a connection still.
const LOOK: Duration = Duration::from_millis(20);
/// Where nothing happens the server says so this often, and is given up when it has not for so long.
const HEARTBEAT: Duration = Duration::from_millis(500);
const SILENCE: Duration = Duration::from_secs(60);
/// Where the events of a file begin.
const FIRST: u64 = 4;
/// Capabilities of a replica of MariaDB that knows its transaction numbers.
const CAPABILITY: u8 = 4;

/// Such a connection.
pub(crate) struct Stream {
    address: Address,
    /// Until it is let go of, with the number of the connection.
    stream: Option<BinlogStream>,
    id: u32,
    permits: Permits,
    seen: Instant,
    /// The file whose events come, where it matters.
    file: String,
    /// Where events end that come packed in one.
    packed_until: Option<u64>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if self.permits.are_counted() {
            // The server hears nothing of it, and sees it when it says something.
            self.permits.clone().keep_until(async move {
                _ = stream.close().await;
                false
            });
        }
    }
}

/// Why there is none.
pub(crate) enum Refused {
    /// The server does not have what comes after the position.
    Purged(Error),
    Other(Error),
}

impl Refused {
    pub(crate) fn error(self) -> Error {
        match self {
            Refused::Purged(error) | Refused::Other(error) => error,
        }
    }
}

impl Stream {
    /// Asks for what comes after a position, and waits until the server begins to send it.
    pub(crate) async fn open(
        address: &Address,
        flavor: Flavor,
        server_id: u32,
        position: &Position,
        permits: &Permits,
    ) -> Result<Stream, Refused> {
        let counted = permits.opening();
        let opening = tokio::time::timeout(CONNECT, Stream::connect(address, flavor, server_id, position));
        let Ok(stream) = opening.await else {
            let message =
                format!("take changes from {}: no answer within {} s", address.name(), CONNECT.as_secs());
            return Err(Refused::Other(Error::new(Kind::Unavailable, message)));
        };
        let failed = |error: &mysql_async::Error| match error::is_no_log(error) {
            true => Refused::Purged(error::of_log(address, error, server_id)),
            false => Refused::Other(error::of_log(address, error, server_id)),
        };
        let file = match position {
            Position::File { name, .. } => name.clone(),
            _ => String::new(),
        };
        let (stream, id) = stream.map_err(|e| failed(&e))?;
        Ok(Stream {
            address: address.clone(),
            stream: Some(stream),
            id,
            permits: counted.done(),
            seen: Instant::now(),
            file,
            packed_until: None,
        })
    }

    /// Ends it by another connection of the same user, and waits until the server has closed it where it counts.
    pub(crate) async fn close(mut self, session: &mut Session) {
        if !self.permits.are_counted() {
            return;
        }
        let Some(mut stream) = self.stream.take() else { return };
        let opening = self.permits.opening();
        let ended = async {
            session.run("end a connection", kill(self.id)).await?;
            // What it had sent comes first, and why it ends.
            while matches!(stream.next().await, Some(Ok(_) | Err(mysql_async::Error::Server(_)))) {}
            // The server closes it before it counts it no more.
            let listed = format!("SELECT 1 FROM information_schema.processlist WHERE id = {}", self.id);
            while !session.texts("end a connection", &listed).await?.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<(), Error>(())
        };
        if let Ok(Ok(())) = tokio::time::timeout(CONNECT, ended).await {
            drop(opening.done());
        }
    }

    async fn connect(
        address: &Address,
        flavor: Flavor,
        server_id: u32,
        position: &Position,
    ) -> Result<(BinlogStream, u32), mysql_async::Error> {
        let opts = address.opts().map_err(|e| mysql_async::Error::Other(e.to_string().into()))?;
        let mut conn = Conn::new(opts).await?;
        let id = conn.id();
        let period = HEARTBEAT.as_nanos();
        // Names of MySQL before and after 8.0.26.
        conn.query_drop(format!(
            "SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}, @source_binlog_checksum = 'CRC32'"
        ))
        .await?;
        let request = BinlogStreamRequest::new(server_id);
        let text = position.to_string();
        let stream = match position {
            Position::Domains(domains) => {
                let state = if domains.is_empty() { "" } else { &text };
                conn.query_drop(format!(
                    "SET @mariadb_slave_capability = {CAPABILITY}, @slave_connect_state = '{state}', \
                     @slave_gtid_strict_mode = 0, @slave_gtid_ignore_duplicates = 0"
                ))
                .await?;
                conn.get_binlog_stream(request.with_pos(FIRST)).await?
            }
            Position::Executed(sets) => {
                let of = |set: &str| set.parse::<Sid<'static>>().map_err(mysql_async::Error::from);
                let sids: Vec<Sid<'static>> = match sets.is_empty() {
                    true => vec![],
                    false => text.split(',').map(of).collect::<Result<_, _>>()?,
                };
                conn.get_binlog_stream(request.with_gtid().with_gtid_set(sids).with_pos(FIRST)).await?
            }
            Position::File { name, offset } => {
                if flavor == Flavor::Mariadb {
                    conn.query_drop(format!("SET @mariadb_slave_capability = {CAPABILITY}")).await?;
                }
                conn.get_binlog_stream(request.with_filename(name.as_bytes()).with_pos(*offset)).await?
            }
        };
        Ok((stream, id))
    }

    async fn received(&mut self) -> Option<Result<mysql_async::binlog::events::Event, mysql_async::Error>> {
        self.stream.as_mut()?.next().await
    }

    /// Whether the server has what was asked for: the first thing that it says tells.
    pub(crate) async fn begins(&mut self, server_id: u32) -> Result<(), Refused> {
        let said = tokio::time::timeout(CONNECT, self.received()).await;
        match said {
            Ok(Some(Ok(_))) => Ok(()),
            Ok(Some(Err(error))) if error::is_no_log(&error) => {
                Err(Refused::Purged(error::of_log(&self.address, &error, server_id)))
            }
            Ok(Some(Err(error))) => Err(Refused::Other(error::of_log(&self.address, &error, server_id))),
            Ok(None) | Err(_) => Err(Refused::Other(self.lost("the server sends nothing"))),
        }
    }

    fn lost(&self, cause: &str) -> Error {
        Error::new(Kind::Unavailable, format!("read changes in {}: {cause}", self.address.name()))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::new(Kind::Corrupt, format!("read changes in {}: {what}", self.address.name()))
    }

    /// What comes next. Nothing is lost when it is not awaited to its end.
    pub(crate) async fn next(&mut self, server_id: u32) -> Result<(Event, Stamp), Error> {
        loop {
            let received = match tokio::time::timeout_at(self.seen + SILENCE, self.received()).await {
                Ok(Some(received)) => received,
                Ok(None) => return Err(self.lost("the server ended the stream")),
                Err(_) => return Err(self.lost("the server gives no sign of life")),
            };
            self.seen = Instant::now();
            let raw = received.map_err(|e| error::of_log(&self.address, &e, server_id))?;
            let header = raw.header();
            let kind = header.event_type_raw();
            // What is packed says nothing of its place.
            let end = match self.packed_until {
                Some(end) => end,
                None => u64::from(header.log_pos()),
            };
            let stamp = Stamp { end, time_s: header.timestamp(), server: header.server_id() };
            match kind {
                event::ROTATE => {
                    let mut body = super::Bytes(raw.data());
                    let offset = body.number(8).ok_or_else(|| self.damaged("a file without its place"))?;
                    let name = String::from_utf8_lossy(body.0).into_owned();
                    // The first one comes before the server has told how it ends its events: there is more behind the name.
                    if !self.file.is_empty() && name.starts_with(&self.file) {
                        continue;
                    }
                    self.packed_until = None;
                    self.file.clone_from(&name);
                    return Ok((Event::File { name, offset }, stamp));
                }
                event::PAYLOAD => {
                    self.packed_until = Some(u64::from(header.log_pos()));
                    continue;
                }
                event::GTID => {
                    let mut body = super::Bytes(raw.data());
                    let parts = (body.byte(), body.take(16), body.number(8));
                    let (Some(_), Some(uuid), Some(number)) = parts else {
                        return Err(self.damaged("a transaction without its number"));
                    };
                    self.packed_until = None;
                    let gtid = Gtid::Mysql { source: uuid_text(uuid), number };
                    return Ok((begin(Some(gtid), committed_us(body)), stamp));
                }
                event::TAGGED_GTID => {
                    let read = raw.read_event::<GtidEvent>();
                    let read = read.map_err(|e| self.damaged(&format!("a transaction's number: {e}")))?;
                    let uuid = uuid_text(&read.sid());
                    let tag = read.tag().map(|tag| format!(":{}", tag.as_str()));
                    let source = format!("{uuid}{}", tag.unwrap_or_default());
                    self.packed_until = None;
                    let gtid = Gtid::Mysql { source, number: read.gno() };
                    return Ok((begin(Some(gtid), Some(read.immediate_commit_timestamp())), stamp));
                }
                event::ANONYMOUS_GTID => {
                    self.packed_until = None;
                    let mut body = super::Bytes(raw.data());
                    let committed_us = body.take(25).and_then(|_| committed_us(body));
                    return Ok((begin(None, committed_us), stamp));
                }
                _ => {}
            }
            let parsed = event::parse(kind, raw.data(), stamp);
            if let Some(event) = parsed.map_err(|what| self.damaged(what))? {
                return Ok((event, stamp));
            }
        }
    }
}

/// Where and when something was logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// Where it ends in its file.
    pub(crate) end: u64,
    /// When, in seconds since the epoch.
    pub(crate) time_s: u32,
    /// By which server.
    pub(crate) server: u32,
}

fn begin(gtid: Option<Gtid>, committed_us: Option<u64>) -> Event {
    let time_ms = committed_us.and_then(|us| i64::try_from(us / 1000).ok()).filter(|time_ms| *time_ms > 0);
    Event::Begin { gtid, time_ms, is_standalone: false }
}

/// When a transaction of MySQL's was committed, microseconds since the epoch: of what follows its number, after which transactions it may come. The
/// highest bit says that more follows.
fn committed_us(mut body: super::Bytes<'_>) -> Option<u64> {
    const LOGICAL_TIMES: u8 = 2;
    body.byte().filter(|kind| *kind == LOGICAL_TIMES)?;
    body.take(16)?;
    Some(body.number(7)? & !(1 << 55))
}

fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (nth, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&nth) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
