//! What a server is asked beside its log: who it is, where it is, and which tables it has.

use std::time::Duration;

use litekeep_schema::portable::Note;
use litekeep_schema::portable::mysql::{Flavor, quoted};
use litekeep_sync::source::SourceTable;
use litekeep_sync::{Error, Kind, Permits};

use super::{Refused, Wanted};
use crate::binlog::charset::Charsets;
use crate::binlog::position::Position;
use crate::binlog::stream::Stream;
use crate::session::Session;
use crate::target::statements::literal;
use crate::{Address, error};

/// How long a transaction that is in the log may take until others see its rows, where the server does not tell.
const VISIBLE: Duration = Duration::from_secs(1);

/// A server, and what is known of it.
pub(super) struct Catalog {
    pub(super) address: Address,
    pub(super) wanted: Wanted,
    pub(super) session: Session,
    permits: Permits,
    pub(super) charsets: Charsets,
    /// MySQL's transactions have numbers.
    pub(super) has_gtids: bool,
    /// The number of the server itself, which no replica may have.
    pub(super) server_id: u32,
    /// It was connected to only to read: nothing is followed.
    pub(super) is_once: bool,
    /// Everything is read as it is at one moment, to be copied.
    pub(super) is_copied: bool,
    /// Rows go there, too.
    pub(super) is_written_to: bool,
}

impl Catalog {
    async fn of(address: &Address, wanted: &Wanted, permits: &Permits) -> Result<Catalog, Error> {
        Ok(Catalog {
            address: address.clone(),
            wanted: wanted.clone(),
            session: Session::open(address, permits).await?,
            permits: permits.clone(),
            charsets: Charsets::default(),
            has_gtids: false,
            server_id: 0,
            is_once: false,
            is_copied: false,
            is_written_to: false,
        })
    }

    /// Connects; with who the server is.
    pub(super) async fn open(
        address: &Address,
        wanted: &Wanted,
        permits: &Permits,
        is_written_to: bool,
    ) -> Result<(Catalog, String), Error> {
        let mut catalog = Catalog { is_written_to, ..Catalog::of(address, wanted, permits).await? };
        let server = catalog.check_server().await?;
        Ok((catalog, server))
    }

    /// Connects only to read, each row as it is then.
    pub(super) async fn open_to_look(
        address: &Address,
        wanted: &Wanted,
        permits: &Permits,
    ) -> Result<Catalog, Error> {
        let mut catalog = Catalog { is_once: true, ..Catalog::of(address, wanted, permits).await? };
        catalog.read_charsets().await?;
        Ok(catalog)
    }

    /// The same, everything as it is at one moment.
    pub(super) async fn open_to_copy(
        address: &Address,
        wanted: &Wanted,
        permits: &Permits,
    ) -> Result<Catalog, Error> {
        let mut catalog = Catalog::open_to_look(address, wanted, permits).await?;
        let sql = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        catalog.session.run("hold the state of the database", sql).await?;
        let sql = "START TRANSACTION WITH CONSISTENT SNAPSHOT";
        catalog.session.run("hold the state of the database", sql).await?;
        catalog.is_copied = true;
        Ok(catalog)
    }

    pub(super) fn flavor(&self) -> Flavor {
        self.session.flavor()
    }

    pub(super) fn has_gtids(&self) -> bool {
        self.has_gtids
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Which replica it is under a name: a number that hardly another one has, and not the server.
    pub(super) fn replica(&self, slot: &str) -> u32 {
        const RESERVED: u32 = 0x1_0000;
        let hash = slot
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let number = RESERVED + hash % (u32::MAX - 2 * RESERVED);
        if number == self.server_id { number + 1 } else { number }
    }

    /// Where the log is now.
    pub(super) async fn now(&mut self) -> Result<Position, Error> {
        now(&mut self.session, self.has_gtids).await
    }

    /// The file that the log is in, its end, and which databases alone are in it, or are not.
    pub(super) async fn log_status(&mut self) -> Result<Vec<Vec<Option<String>>>, Error> {
        log_status(&mut self.session).await
    }

    /// A position such that whoever reads rows after this sees everything that is before it.
    pub(super) async fn visible(&mut self) -> Result<Position, Error> {
        const ASK: &str = "ask where the server is";
        match self.session.flavor() {
            // The log has a transaction before others see its rows.
            Flavor::Mariadb => {
                let position = self.snapshot().await?;
                self.session.run(ASK, "COMMIT").await?;
                Ok(position)
            }
            // It numbers a transaction as done when others see it.
            Flavor::Mysql if self.has_gtids => self.now().await,
            Flavor::Mysql => {
                let position = self.now().await?;
                tokio::time::sleep(VISIBLE).await;
                Ok(position)
            }
        }
    }

    /// Begins to see rows as they are at this moment, and nothing after it. MariaDB tells where in the log that is; of MySQL it is where the log
    /// is now, as long as nobody writes.
    pub(super) async fn snapshot(&mut self) -> Result<Position, Error> {
        const ASK: &str = "ask where the server is";
        self.session.run("see all rows at one moment", "START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        if self.session.flavor() == Flavor::Mysql {
            return self.now().await;
        }
        let rows = self.session.texts(ASK, "SHOW STATUS LIKE 'binlog_snapshot_%'").await?;
        let of = |name: &str| {
            let is_it = |row: &&Vec<Option<String>>| {
                row.first().and_then(|cell| cell.as_deref()).is_some_and(|is| is.eq_ignore_ascii_case(name))
            };
            rows.iter().find(is_it).and_then(|row| row.get(1)?.clone()).unwrap_or_default()
        };
        let (file, offset) = (of("binlog_snapshot_file"), of("binlog_snapshot_position"));
        let sql =
            format!("SELECT BINLOG_GTID_POS({}, {})", literal(&file), offset.parse::<u64>().unwrap_or(0));
        let rows = self.session.texts(ASK, &sql).await?;
        let text = rows.into_iter().flatten().next().flatten();
        let read = text.as_deref().and_then(Position::domains);
        read.ok_or_else(|| Error::new(Kind::Corrupt, format!("{ASK}: `{file}` at {offset} has no number")))
    }

    /// Takes the log from a position on for a moment: whether the server has it, and gives it.
    pub(super) async fn try_log(&mut self, position: &Position, replica: u32) -> Result<(), Refused> {
        let flavor = self.session.flavor();
        let mut stream = Stream::open(&self.address, flavor, replica, position, &self.permits).await?;
        let begins = stream.begins(replica).await;
        stream.close(&mut self.session).await;
        begins
    }

    /// A table as it is now, with what is said of it; `None`: it is not there.
    pub(super) async fn table_now(
        &mut self,
        source: &str,
    ) -> Result<Option<(SourceTable, Vec<Note>)>, Error> {
        // Who changes it has it locked until it is done, which may be after it is logged.
        let wait = format!("SELECT 1 FROM {} LIMIT 0", quoted(source));
        match self.session.try_run(wait).await {
            Ok(_) => {}
            Err(e) if error::is_no_table(&e) => return Ok(None),
            Err(e) => return Err(self.session.failed("look for a table", &e)),
        }
        let surveyed = self.surveyed().await?;
        Ok(surveyed.into_iter().find(|(table, _)| table.source == source))
    }
}

/// Where the log is now, as a session is told.
pub(super) async fn now(session: &mut Session, has_gtids: bool) -> Result<Position, Error> {
    const ASK: &str = "ask where the server is";
    let flavor = session.flavor();
    let damaged = |text: &str| Error::new(Kind::Corrupt, format!("{ASK}: `{text}` is no position"));
    if flavor == Flavor::Mariadb || has_gtids {
        let sql = match flavor {
            Flavor::Mariadb => "SELECT @@global.gtid_binlog_pos",
            Flavor::Mysql => "SELECT @@global.gtid_executed",
        };
        let rows = session.texts(ASK, sql).await?;
        let text = rows.into_iter().flatten().next().flatten().unwrap_or_default();
        let read = match flavor {
            Flavor::Mariadb => Position::domains(&text),
            Flavor::Mysql => Position::executed(&text),
        };
        return read.ok_or_else(|| damaged(&text));
    }
    let rows = log_status(session).await?;
    let mut row = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
    let (name, offset) = (row.next().unwrap_or_default(), row.next().unwrap_or_default());
    let position = Position::parse(&format!("{name}:{offset}"));
    position.ok_or_else(|| damaged(&format!("{name}:{offset}")))
}

async fn log_status(session: &mut Session) -> Result<Vec<Vec<Option<String>>>, Error> {
    const ASK: &str = "ask where the server is";
    // The name since MySQL 8.2, and the one before.
    let names = match session.flavor() {
        Flavor::Mysql => ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"].as_slice(),
        Flavor::Mariadb => &["SHOW MASTER STATUS"],
    };
    let mut failed = None;
    for sql in names {
        match session.texts(ASK, sql).await {
            Ok(rows) => return Ok(rows),
            Err(error) if error.kind() == Kind::Invalid => _ = failed.get_or_insert(error),
            Err(error) => return Err(error),
        }
    }
    let said = failed.map_or_else(|| ASK.to_owned(), |error| error.to_string());
    Err(Error::with_hint(Kind::Invalid, said, error::grant_log(session.address())))
}
