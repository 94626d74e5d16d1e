//! Where the chain of records stands.

use async_trait::async_trait;

use crate::{Record, Result};

/// How a put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The record is next, by this put or by an earlier one of the same bytes.
    Done,
    /// Another record is.
    Lost,
}

/// A chain of records that all nodes see in one order.
#[async_trait]
pub trait Register: Send + Sync {
    /// The newest record, `None` before the first. `known`: one that was the newest once; what it was asked for costs less with it, and
    /// may then be an older state, but never one before `known`.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers, `Corrupt` for what is no record.
    async fn newest(&self, known: Option<&Record>) -> Result<Option<Record>>;

    /// Puts a record where `before` is the newest (`None`: there is none). After an `Unavailable` nobody knows whether it came.
    ///
    /// # Errors
    /// As [`newest`](Self::newest); `Invalid` where that cannot be promised.
    async fn put(&self, before: Option<&Record>, next: &Record) -> Result<Put>;

    /// Where it is, for people.
    fn place(&self) -> String;
}
