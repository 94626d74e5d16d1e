//! The server of a cache: a connection that is there while somebody asks.

use std::sync::Arc;
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock};

use super::shelf::Said;
use crate::pull::apply::key_of;
use crate::pull::state::with_more;
use crate::source::{Rows, Source, SourceTable, Unfit};
use crate::{Error, Value};

/// Between two looks at what the tables are, where rows do not tell.
const SURVEY: Duration = Duration::from_secs(60);

/// What a server says of keys, in their order.
pub(super) struct Looked {
    /// `None`: it is to be asked for alone, for one of the other rows may be the one that the server takes for the same.
    pub(super) said: Vec<Option<Said>>,
    /// The table as it is now, where its rows have further columns.
    pub(super) grown: Option<SourceTable>,
}

/// A connection, or none.
pub(super) struct Link {
    pub(super) source: Box<dyn Source>,
    connection: Option<Connection>,
    failed: Option<(Duration, Arc<Error>)>,
}

struct Connection {
    /// What the tables are is asked for, and was at that time.
    surveyed: Option<Duration>,
    asks_for_tables: bool,
    used: Duration,
}

impl Link {
    pub(super) fn new(source: Box<dyn Source>) -> Link {
        Link { source, connection: None, failed: None }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Why the server is not asked: it has not answered so short a time ago.
    pub(super) fn away(&self, within: Duration) -> Option<Arc<Error>> {
        let (at, error) = self.failed.as_ref()?;
        (SystemClock.boottime().saturating_sub(*at) < within).then(|| error.clone())
    }

    /// Connects, where it is not connected.
    pub(super) async fn connect(&mut self, known: &[SourceTable]) -> Result<(), Error> {
        let now = SystemClock.boottime();
        match &mut self.connection {
            Some(connection) => connection.used = now,
            None => {
                self.source.keep_to(known);
                let asks_for_tables = self.source.connect_to_look().await?;
                self.connection = Some(Connection { surveyed: None, asks_for_tables, used: now });
                self.failed = None;
            }
        }
        Ok(())
    }

    /// Whether it is time to ask what the tables are; they are asked for then.
    pub(super) fn surveys(&mut self) -> bool {
        let now = SystemClock.boottime();
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.asks_for_tables)
        else {
            return false;
        };
        let is_due = connection.surveyed.is_none_or(|at| now.saturating_sub(at) >= SURVEY);
        if is_due {
            connection.surveyed = Some(now);
        }
        is_due
    }

    pub(super) fn disconnect(&mut self) {
        self.source.disconnect();
        self.connection = None;
    }

    /// Lets go of a connection that nobody has used for so long.
    pub(super) fn rest(&mut self, idle: Duration) {
        let now = SystemClock.boottime();
        if self.connection.as_ref().is_some_and(|connection| now.saturating_sub(connection.used) >= idle) {
            self.disconnect();
        }
    }

    /// After an error.
    pub(super) fn fail(&mut self, error: &Arc<Error>, is_away: bool) {
        self.disconnect();
        self.failed = is_away.then(|| (SystemClock.boottime(), error.clone()));
    }

    /// What the server has of these keys.
    pub(super) async fn look(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Looked, Error> {
        let (found, unfit, grown) = self.read(table, keys).await?;
        let is_alone = keys.len() == 1;
        let any = !found.is_empty() || !unfit.is_empty();
        let of = |key: &Vec<Value>| {
            // Alone it is whatever the server takes for the same key.
            let is_it = |other: &[Value]| is_alone || other == key;
            let row = found.iter().find(|row| is_it(&key_of(&table.mirror, row))).cloned();
            let why = unfit.iter().find(|unfit| is_it(&unfit.key));
            match (row, why) {
                (Some(row), _) => Some(Ok(Some(row))),
                (None, Some(unfit)) => Some(Err(unfit.reason.clone())),
                (None, None) => (is_alone || !any).then_some(Ok(None)),
            }
        };
        Ok(Looked { said: keys.iter().map(of).collect(), grown })
    }

    async fn read(
        &mut self,
        table: &SourceTable,
        keys: &[Vec<Value>],
    ) -> Result<(Vec<Vec<Value>>, Vec<Unfit>, Option<SourceTable>), Error> {
        self.source.open(table, Rows::With(keys)).await?;
        let (mut found, mut unfit, mut grown) = (vec![], vec![], None);
        loop {
            let rows = self.source.fetch().await?;
            unfit.extend(self.source.unfit());
            grown = self.source.grown().and_then(|now| with_more(table, &now)).or(grown);
            if rows.is_empty() {
                break;
            }
            found.extend(rows);
        }
        // Those that came before had nothing in the further columns.
        if let Some(longer) = &grown {
            found.iter_mut().for_each(|row| row.resize(longer.mirror.columns.len(), Value::Null));
        }
        Ok((found, unfit, grown))
    }
}
