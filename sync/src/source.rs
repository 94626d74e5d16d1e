//! What a database must be able to do so that SQLite is kept as it is.

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_sql::{MirrorColumn, MirrorTable};
use serde::{Deserialize, Serialize};

use crate::cut::Cut;
use crate::{Error, Value};

/// A table of a source, and what it is in SQLite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTable {
    /// Its name there, for the source.
    pub source: String,
    /// The types there of the columns that [come](Self::coming).
    pub types: Vec<SourceType>,
    /// What it is in SQLite, column by column the same.
    pub mirror: MirrorTable,
    /// What of it is there to come.
    #[serde(default)]
    pub part: Part,
}

/// What is noted of a table without a primary key that is copied once.
pub const NO_KEY: &str =
    "has no primary key: it is copied in one piece, and compared by the number and a checksum of its rows";

/// What of a table comes; by default all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Columns that it has beside those that come are as if they were not there.
    pub is_some_columns: bool,
    /// The condition of SQL that rows must fulfil. Sources tell of all rows: it is looked at here, and so means the same for each of them.
    pub condition: Option<String>,
    /// Columns that come for the condition only, after those of the mirror, and are not kept.
    pub unkept: Vec<MirrorColumn>,
    /// Rows are here from when they are asked for, until they change.
    #[serde(default)]
    pub is_asked_for: bool,
}

impl SourceTable {
    /// The columns that come, in the order of the values of a row.
    pub fn coming(&self) -> impl Iterator<Item = (&MirrorColumn, &SourceType)> {
        self.mirror.columns.iter().chain(&self.part.unkept).zip(&self.types)
    }
}

/// A type of a column, as the source has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceType {
    /// Its name.
    pub name: String,
    /// How its values come, for the source. Where only the name changes, the column here can stay.
    pub form: String,
}

/// A change of a row, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The row is so now.
    Put {
        /// Its values.
        row: Vec<Value>,
    },
    /// A row is otherwise now.
    Update {
        /// Its key until now.
        key: Vec<Value>,
        /// Its values; `None`: as before.
        row: Vec<Option<Value>>,
    },
    /// A row is gone.
    Delete {
        /// Its key.
        key: Vec<Value>,
    },
    /// A row as it was and as it is: what comes where rows go there, too.
    Images {
        /// `None`: it is new.
        before: Option<Vec<Value>>,
        /// `None`: it is gone.
        after: Option<Vec<Value>>,
    },
    /// A row is so now that it cannot be here exactly.
    Unfit(Unfit),
    /// One that could not be here is gone there.
    NoLonger {
        /// What it was listed under.
        key: Vec<Value>,
    },
    /// All rows are gone.
    Clear,
}

/// A row that cannot be here exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfit {
    /// Its key; or what it is known by, where its very key cannot be here.
    pub key: Vec<Value>,
    /// Why not.
    pub reason: String,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A change within a transaction.
    Change {
        /// The table, by its place in the plan.
        table: usize,
        /// What happened.
        change: Incoming,
    },
    /// A table has other columns from now on.
    Table {
        /// The table, by its place in the plan.
        table: usize,
        /// How it is now.
        now: Box<SourceTable>,
        /// Where it goes on after that; `None`: what has told of it comes again, and tells nothing of a table that is known so.
        position: Option<String>,
    },
    /// A table has further columns from now on, of which rows that have come have nothing. What has told of it comes again.
    Grows {
        /// The table, by its place in the plan.
        table: usize,
        /// How it is now.
        now: Box<SourceTable>,
    },
    /// A table is not there any more.
    Gone {
        /// The table, by its place in the plan.
        table: usize,
        /// What is known of it.
        reason: String,
    },
    /// What whoever makes the transaction says of it, before its changes.
    Said {
        /// As a [hub](crate::hub::Hub) was given it.
        content: String,
    },
    /// A transaction ends.
    Commit {
        /// Where it goes on after it.
        position: String,
        /// When it was committed, milliseconds since the epoch.
        time_ms: i64,
    },
    /// Everything up to a position has come.
    Alive {
        /// The position.
        position: String,
        /// The source waits until something is confirmed.
        wants_answer: bool,
    },
}

/// Which rows of a table are wanted.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// All of them.
    All,
    /// Those after one, by its key.
    After(&'a [Value]),
    /// Those with one of these keys.
    With(&'a [Vec<Value>]),
}

/// Whether a source still has what comes after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has.
    There,
    /// It does not keep changes for this sync, any more or yet.
    Gone,
    /// It has let go of some, or is another server: everything must be compared.
    Beyond,
}

/// A database from which changes come. After an error [`connect`](Self::connect) comes next.
#[async_trait]
pub trait Source: Send {
    /// The server and the database, without a password.
    fn name(&self) -> String;

    /// How many connections it has at most that is [connected](Self::connect), as a [hub](crate::hub::Hub) those that write included.
    fn connections(&self) -> u32;

    /// The same where it is connected [to copy](Self::connect_to_copy), or [to look](Self::connect_to_look).
    fn connections_to_read(&self) -> u32;

    /// Connects anew; who the server is.
    ///
    /// # Errors
    /// `Unavailable` when there is no answer, `Invalid` when a person must change something.
    async fn connect(&mut self) -> Result<String, Error>;

    /// Lets go of every connection.
    fn disconnect(&mut self);

    /// Connects anew only to read, and everything as it is at one moment; who the server is. Changes need not be kept there.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    async fn connect_to_copy(&mut self) -> Result<String, Error>;

    /// Connects anew only to read rows by their keys, each as it is then; whether what the tables are must be asked for, for rows do not tell
    /// that it has changed. Changes need not be kept there.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    async fn connect_to_look(&mut self) -> Result<bool, Error>;

    /// What tables are in SQLite already. Where rows alone tell what a column is, the next [survey](Self::survey) keeps to it.
    fn keep_to(&mut self, _known: &[SourceTable]) {}

    /// The tables that are wanted, and what of them does not come as it is there.
    ///
    /// # Errors
    /// `Invalid` when one is not there.
    async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error>;

    /// What is in the way of telling of every change whether the row fulfils the condition of a [part](SourceTable::part): for that
    /// each changed row must come with all of its values.
    ///
    /// # Errors
    /// When there is no answer.
    async fn partial(&mut self, table: &SourceTable) -> Result<Option<Note>, Error>;

    /// Makes the server keep the changes of tables from now on, under a name of the sync's own, and tells from which position; where it
    /// keeps them already, as it does.
    ///
    /// # Errors
    /// `Invalid` when it may not.
    async fn prepare(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error>;

    /// Whether it has what comes after a position.
    ///
    /// # Errors
    /// When there is no answer.
    async fn standing(&mut self, slot: &str, position: &str) -> Result<Standing, Error>;

    /// Begins to read rows of a table as they are now, in the order of the key.
    ///
    /// # Errors
    /// When the server refuses.
    async fn open(&mut self, table: &SourceTable, rows: Rows<'_>) -> Result<(), Error>;

    /// The next rows of what was [opened](Self::open); none: it has no more.
    ///
    /// # Errors
    /// When there is no answer.
    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error>;

    /// Of the rows that were last [fetched](Self::fetch) those that cannot be here exactly, which are not among them.
    fn unfit(&mut self) -> Vec<Unfit> {
        vec![]
    }

    /// The table that is read as it is now, where the rows that were last [fetched](Self::fetch) have further columns; those before have nothing in them.
    fn grown(&mut self) -> Option<SourceTable> {
        None
    }

    /// Where the server is now.
    ///
    /// # Errors
    /// When there is no answer.
    async fn position(&mut self) -> Result<String, Error>;

    /// Begins to take what comes after a position.
    ///
    /// # Errors
    /// `Unavailable` when somebody else takes it.
    async fn follow(&mut self, slot: &str, tables: &[SourceTable], position: &str) -> Result<(), Error>;

    /// What comes next. Nothing is lost when it is not awaited to its end.
    ///
    /// # Errors
    /// When the connection is lost.
    async fn next(&mut self) -> Result<Event, Error>;

    /// Tells the server that it need not keep what comes before a position, and perhaps asks how far it is, which comes as
    /// [`Event::Alive`].
    ///
    /// # Errors
    /// When the connection is lost.
    async fn confirm(&mut self, position: &str, asks: bool) -> Result<(), Error>;

    /// Whether a position is not before another one.
    fn is_at(&self, position: &str, goal: &str) -> bool;

    /// Makes the server keep changes no more.
    ///
    /// # Errors
    /// When it refuses.
    async fn forget(&mut self, slot: &str) -> Result<(), Error>;
}

/// The tables of a source with what of them comes, and what of that does not come as it is there, or not at all.
///
/// # Errors
/// Those of the source; `Invalid` when something that is named is not there.
pub async fn surveyed(source: &mut impl Source, cut: &Cut) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
    let mut surveyed = cut.of_source(source.survey().await?)?;
    for (table, notes) in &mut surveyed {
        if table.part.condition.is_some() {
            notes.extend(source.partial(table).await?);
        }
    }
    Ok(surveyed)
}

#[async_trait]
impl<S: Source + ?Sized> Source for Box<S> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn connections(&self) -> u32 {
        (**self).connections()
    }

    fn connections_to_read(&self) -> u32 {
        (**self).connections_to_read()
    }

    async fn connect(&mut self) -> Result<String, Error> {
        (**self).connect().await
    }

    fn disconnect(&mut self) {
        (**self).disconnect();
    }

    async fn connect_to_copy(&mut self) -> Result<String, Error> {
        (**self).connect_to_copy().await
    }

    async fn connect_to_look(&mut self) -> Result<bool, Error> {
        (**self).connect_to_look().await
    }

    fn keep_to(&mut self, known: &[SourceTable]) {
        (**self).keep_to(known);
    }

    async fn survey(&mut self) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        (**self).survey().await
    }

    async fn partial(&mut self, table: &SourceTable) -> Result<Option<Note>, Error> {
        (**self).partial(table).await
    }

    async fn prepare(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error> {
        (**self).prepare(slot, tables).await
    }

    async fn standing(&mut self, slot: &str, position: &str) -> Result<Standing, Error> {
        (**self).standing(slot, position).await
    }

    async fn open(&mut self, table: &SourceTable, rows: Rows<'_>) -> Result<(), Error> {
        (**self).open(table, rows).await
    }

    async fn fetch(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        (**self).fetch().await
    }

    fn unfit(&mut self) -> Vec<Unfit> {
        (**self).unfit()
    }

    fn grown(&mut self) -> Option<SourceTable> {
        (**self).grown()
    }

    async fn position(&mut self) -> Result<String, Error> {
        (**self).position().await
    }

    async fn follow(&mut self, slot: &str, tables: &[SourceTable], position: &str) -> Result<(), Error> {
        (**self).follow(slot, tables, position).await
    }

    async fn next(&mut self) -> Result<Event, Error> {
        (**self).next().await
    }

    async fn confirm(&mut self, position: &str, asks: bool) -> Result<(), Error> {
        (**self).confirm(position, asks).await
    }

    fn is_at(&self, position: &str, goal: &str) -> bool {
        (**self).is_at(position, goal)
    }

    async fn forget(&mut self, slot: &str) -> Result<(), Error> {
        (**self).forget(slot).await
    }
}
