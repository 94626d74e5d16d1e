//! What a database must be able to do to be kept in step in both directions.
//!
//! It is the hub: the order in which it commits is the one history that all nodes follow. Beside what a [`Source`] gives, rows are
//! written there while their present images are locked, together with how far the node is.

mod pairing;
mod parts;
mod rows;

use std::collections::BTreeMap;

use async_trait::async_trait;
use litekeep_schema::portable::Note;
use litekeep_sql::{Declaration, Profile};

pub use self::pairing::{There, check_named, only_here, read_only, unfit};
pub use self::parts::Parted;
pub use self::rows::{Act, RowWriter, write_rows};
use crate::source::{Source, SourceTable};
use crate::{Error, Value};

/// A table of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// How it is there, and here.
    pub table: SourceTable,
    /// What of it is not the same on both sides.
    pub notes: Vec<Note>,
    /// It is in SQLite.
    pub is_here: bool,
    /// It is in the hub.
    pub is_there: bool,
    /// The statements that make it there.
    pub statements: Vec<String>,
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Writing {
    /// Its key.
    pub key: Vec<Value>,
    /// Whether it is there, as [`lock`](Hub::lock) has told.
    pub is_there: bool,
    /// How it shall be; `None`: gone.
    pub row: Option<Vec<Value>>,
}

/// Such a database. After an error [`connect`](Source::connect) comes next.
#[async_trait]
pub trait Hub: Source {
    /// The tables of both sides, by those that are declared here.
    ///
    /// # Errors
    /// When there is no answer, `Invalid` when one that is named is on neither side.
    async fn pair(&mut self, declared: &[(Declaration, Vec<Profile>)]) -> Result<Vec<Paired>, Error>;

    /// Whether a table has no rows.
    ///
    /// # Errors
    /// When the server refuses.
    async fn is_empty(&mut self, table: &SourceTable) -> Result<bool, Error>;

    /// Makes tables that are not there, has old rows come whole with changes, and begins to keep how far nodes are.
    ///
    /// # Errors
    /// `Invalid` when the user may not.
    async fn make(&mut self, tables: &[Paired]) -> Result<(), Error>;

    /// Keeps changes from now on, under a name whose earlier changes are let go, and shows rows as they are at this very moment until
    /// [`end_picture`](Self::end_picture): the position.
    ///
    /// # Errors
    /// `Invalid` when it may not.
    async fn picture(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error>;

    /// Rows are shown as they are then.
    ///
    /// # Errors
    /// When there is no answer.
    async fn end_picture(&mut self) -> Result<(), Error>;

    /// What is kept there of a node, by item.
    ///
    /// # Errors
    /// When there is no answer.
    async fn items(&mut self, node: &str) -> Result<BTreeMap<String, String>, Error>;

    /// Begins a transaction of a node's. What it `says` of itself comes to all nodes before its changes.
    ///
    /// # Errors
    /// When there is no answer.
    async fn begin(&mut self, node: &str, says: Option<&str>) -> Result<(), Error>;

    /// Rows with these keys as they are, of which nobody else changes one until the transaction ends.
    ///
    /// # Errors
    /// When there is no answer.
    async fn lock(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error>;

    /// Up to where it has written: what is committed now is before it.
    ///
    /// # Errors
    /// When there is no answer.
    async fn written(&mut self) -> Result<String, Error>;

    /// Writes rows, and tells which it refuses, by their places, and why.
    ///
    /// # Errors
    /// When there is no answer.
    async fn write(&mut self, table: &SourceTable, rows: &[Writing]) -> Result<Vec<(usize, String)>, Error>;

    /// Keeps items of a node, takes those away that are `None`, and commits. The item `name` must be as it was `expected` to be.
    ///
    /// # Errors
    /// `Fenced` when it is not; else it may be committed or not.
    async fn commit(
        &mut self,
        node: &str,
        (name, expected): (&str, Option<&str>),
        items: &[(String, Option<String>)],
    ) -> Result<(), Error>;

    /// Ends the transaction without effect.
    ///
    /// # Errors
    /// When there is no answer.
    async fn roll_back(&mut self) -> Result<(), Error>;

    /// Forgets a node, but not its rows.
    ///
    /// # Errors
    /// When there is no answer.
    async fn forget_node(&mut self, node: &str) -> Result<(), Error>;
}

#[async_trait]
impl<H: Hub + ?Sized> Hub for Box<H> {
    async fn pair(&mut self, declared: &[(Declaration, Vec<Profile>)]) -> Result<Vec<Paired>, Error> {
        (**self).pair(declared).await
    }

    async fn is_empty(&mut self, table: &SourceTable) -> Result<bool, Error> {
        (**self).is_empty(table).await
    }

    async fn make(&mut self, tables: &[Paired]) -> Result<(), Error> {
        (**self).make(tables).await
    }

    async fn picture(&mut self, slot: &str, tables: &[SourceTable]) -> Result<String, Error> {
        (**self).picture(slot, tables).await
    }

    async fn end_picture(&mut self) -> Result<(), Error> {
        (**self).end_picture().await
    }

    async fn items(&mut self, node: &str) -> Result<BTreeMap<String, String>, Error> {
        (**self).items(node).await
    }

    async fn begin(&mut self, node: &str, says: Option<&str>) -> Result<(), Error> {
        (**self).begin(node, says).await
    }

    async fn lock(&mut self, table: &SourceTable, keys: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error> {
        (**self).lock(table, keys).await
    }

    async fn written(&mut self) -> Result<String, Error> {
        (**self).written().await
    }

    async fn write(&mut self, table: &SourceTable, rows: &[Writing]) -> Result<Vec<(usize, String)>, Error> {
        (**self).write(table, rows).await
    }

    async fn commit(
        &mut self,
        node: &str,
        expected: (&str, Option<&str>),
        items: &[(String, Option<String>)],
    ) -> Result<(), Error> {
        (**self).commit(node, expected, items).await
    }

    async fn roll_back(&mut self) -> Result<(), Error> {
        (**self).roll_back().await
    }

    async fn forget_node(&mut self, node: &str) -> Result<(), Error> {
        (**self).forget_node(node).await
    }
}
