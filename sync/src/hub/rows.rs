//! Rows on their way into a server that says only that one of them cannot be there.

use std::collections::HashMap;

use async_trait::async_trait;

use super::Writing;
use crate::Error;
use crate::halves::{Blame, Halves};

/// Rows may be in each other's way, a child before its parent: so often those that are refused are tried again.
const PASSES: usize = 4;

/// What is done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// They go, by their keys.
    Delete,
    /// They are there, and become otherwise.
    Update,
    /// They come.
    Insert,
}

/// A table that rows are written into, within a transaction.
#[async_trait]
pub trait RowWriter: Send {
    /// A row as it is written.
    type Row: Send + Sync;

    /// The row. `Err`: why the server cannot have it.
    ///
    /// # Errors
    /// In words.
    fn encoded(&self, writing: &Writing) -> Result<Self::Row, String>;

    /// What follows can be taken back.
    ///
    /// # Errors
    /// When there is no answer.
    async fn mark(&mut self) -> Result<(), Error>;

    /// What was done since the mark stays.
    ///
    /// # Errors
    /// When there is no answer.
    async fn keep(&mut self) -> Result<(), Error>;

    /// What was done since the mark is taken back.
    ///
    /// # Errors
    /// When there is no answer.
    async fn take_back(&mut self) -> Result<(), Error>;

    /// Does something with rows; with how many. `Err` in it: what the server says of one of them.
    ///
    /// # Errors
    /// When there is no answer.
    async fn act(&mut self, act: Act, rows: &[&Self::Row]) -> Result<Result<u64, Blame>, Error>;

    /// Whether one of them is there.
    ///
    /// # Errors
    /// When there is no answer.
    async fn has_any(&mut self, rows: &[&Self::Row]) -> Result<bool, Error>;
}

/// Writes rows, and tells which the server refuses, by their places, and why.
///
/// # Errors
/// Those of the server, when it is not about a row.
pub async fn write_rows<W: RowWriter>(
    writer: &mut W,
    rows: &[Writing],
) -> Result<Vec<(usize, String)>, Error> {
    let mut refused: HashMap<usize, String> = HashMap::new();
    let mut due = [Act::Delete, Act::Update, Act::Insert].map(|act| (act, vec![]));
    for (place, writing) in rows.iter().enumerate() {
        let act = match (&writing.row, writing.is_there) {
            (None, _) => 0,
            (Some(_), true) => 1,
            (Some(_), false) => 2,
        };
        match writer.encoded(writing) {
            Ok(row) => due[act].1.push((place, row)),
            Err(why) => drop(refused.insert(place, why)),
        }
    }
    for pass in 0..PASSES {
        let mut is_left = false;
        for (act, encoded) in &mut due {
            let mut halves = Halves::of(encoded);
            while let Some(group) = halves.next_group() {
                let rows: Vec<&W::Row> = group.iter().map(|(_, row)| row).collect();
                if let Err(blame) = all_or_none(writer, *act, &rows).await? {
                    halves.refused(group, blame);
                }
            }
            let blamed: HashMap<usize, String> =
                halves.blamed().into_iter().map(|((place, _), blame)| (*place, blame.reason)).collect();
            encoded.retain(|(place, _)| blamed.contains_key(place));
            is_left |= !encoded.is_empty();
            if pass + 1 == PASSES {
                refused.extend(blamed);
            }
        }
        if !is_left {
            break;
        }
    }
    let mut refused: Vec<(usize, String)> = refused.into_iter().collect();
    refused.sort();
    Ok(refused)
}

async fn all_or_none<W: RowWriter>(
    writer: &mut W,
    act: Act,
    rows: &[&W::Row],
) -> Result<Result<(), Blame>, Error> {
    writer.mark().await?;
    let blame = match writer.act(act, rows).await? {
        Ok(count) if count == rows.len() as u64 => None,
        // A foreign key may have taken them along with the row that they refer to.
        Ok(_) if act == Act::Delete && !writer.has_any(rows).await? => None,
        Ok(_) => {
            let reason = match act {
                Act::Insert => "another row there has its key, or one that is the same there",
                Act::Update | Act::Delete => "a trigger or a rule there leaves the row as it is",
            };
            Some(Blame { reason: reason.to_owned(), is_about_uniqueness: false })
        }
        Err(blame) => Some(blame),
    };
    let Some(blame) = blame else {
        writer.keep().await?;
        return Ok(Ok(()));
    };
    writer.take_back().await?;
    // Rows that exchange a unique value are in each other's way, unless all of them go first.
    if act == Act::Update && rows.len() > 1 && blame.is_about_uniqueness {
        let is_exchanged =
            writer.act(Act::Delete, rows).await?.is_ok() && writer.act(Act::Insert, rows).await?.is_ok();
        if is_exchanged {
            writer.keep().await?;
            return Ok(Ok(()));
        }
        writer.take_back().await?;
    }
    Ok(Err(blame))
}
