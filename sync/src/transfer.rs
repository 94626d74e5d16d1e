//! A database as it is at one moment, taken whole to a server.
//!
//! Needs no log: a read transaction holds the moment, in which the rows are read to be copied, and then again to be compared. Interrupted, it
//! goes on after the last row that is there; what has changed since is mended by the comparison. At its end nothing is kept of it there.

use std::path::{Path, PathBuf};

use litekeep_schema::portable::Note;
use litekeep_sql::{Declaration, Profile, RowReader};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::compare::{self, Found, MISSING};
use crate::copy::{self, Chunk};
use crate::cut::Cut;
use crate::push::{is_wanted, mapped};
use crate::target::{Kept, Listed, Stage, Target, TargetTable};
use crate::{Error, Kind};

/// What of a database is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// Tables, rows, indexes and foreign keys.
    #[default]
    All,
    /// All but rows.
    Schema,
    /// Rows, into tables that are there.
    Rows,
}

/// What is copied.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database.
    pub database: PathBuf,
    /// The tables; empty: all.
    pub tables: Vec<String>,
    /// What of them.
    pub parts: Parts,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// The tables, and how many rows each has where it comes from; none where no rows were wanted from a server.
    pub tables: Vec<(String, u64)>,
    /// What does not come as it is.
    pub notes: Vec<Note>,
    /// Rows that are not there, with the reason.
    pub refused: Vec<Listed>,
    /// Indexes and foreign keys that could not be made, with the reason.
    pub failed: Vec<String>,
    /// How both sides compare; `None`: no rows were wanted.
    pub found: Option<Found>,
    /// An earlier try had begun it.
    pub resumed: bool,
}

impl Copied {
    /// Rows that are refused are told as such, and not once more as missing.
    pub(crate) fn leave_out_refused(&mut self) {
        let Some(found) = &mut self.found else { return };
        let refused = &self.refused;
        let is_refused =
            |table: &str, key: &[String]| refused.iter().any(|row| row.table == table && row.key == key);
        found.told.retain(|told| told.what != MISSING || !is_refused(&told.table, &told.key));
        found.missing = found.missing.saturating_sub(refused.len() as u64);
    }
}

/// Copies. `told` hears how many rows are there, and of how many.
///
/// # Errors
/// Those of the database and of the target. What is there stays, and goes on when it is asked again.
pub async fn run<T: Target>(
    settings: &Settings,
    target: &mut T,
    mut told: impl FnMut(u64, u64),
) -> Result<Copied, Error> {
    let kept = target.connect().await?;
    let mut held = Held::new(settings);
    let surveyed = held.surveyed().await?;
    let mut copied = Copied { resumed: kept.is_some(), ..Copied::default() };
    for (declared, profiles, rows) in &surveyed {
        copied.notes.extend(target.map(declared, profiles).1);
        copied.tables.push((declared.name.clone(), *rows));
    }
    let surveyed: Vec<_> = surveyed.into_iter().map(|(declared, profiles, _)| (declared, profiles)).collect();
    let kept = match kept {
        Some(kept) if is_there(target, &kept).await? => kept,
        _ => set_up(settings, target, &surveyed).await?,
    };
    let mut stage = kept.stage;
    if settings.parts != Parts::Schema {
        let of = copied.tables.iter().map(|(_, rows)| rows).sum();
        held.begin(&kept.tables, &stage)?;
        while let Some(chunk) = held.chunks.recv().await {
            stage = put(target, &stage, chunk).await?;
            if let Stage::Copying { rows, .. } = &stage {
                told(*rows, of);
            }
        }
        if !matches!(&stage, Stage::Copying { table, .. } if *table == kept.tables.len()) {
            return Err(held.failed().await);
        }
    }
    if settings.parts != Parts::Rows {
        target.begin().await?;
        copied.failed = target.finish().await?;
        target.commit(&stage).await?;
    }
    if settings.parts != Parts::Schema {
        copied.found = Some(compared(target, &kept.tables, held, copied.resumed.then_some(&stage)).await?);
        copied.refused = target.listed().await?;
        copied.leave_out_refused();
    }
    if settings.parts != Parts::Rows {
        target.begin().await?;
        copied.failed.extend(target.constrain().await?);
        target.commit(&stage).await?;
    }
    target.forget().await?;
    Ok(copied)
}

/// Whether the tables of an earlier try are there. Where none is, it begins anew.
async fn is_there<T: Target>(target: &mut T, kept: &Kept<T::Table>) -> Result<bool, Error> {
    let (mut there, mut gone) = (vec![], vec![]);
    for table in &kept.tables {
        let to = if target.has(table).await? { &mut there } else { &mut gone };
        to.push(format!("`{}`", table.source()));
    }
    if gone.is_empty() {
        return Ok(true);
    }
    if there.is_empty() {
        target.forget().await?;
        return Ok(false);
    }
    let message =
        format!("an earlier try has made tables in {}, of which {} are gone", target.name(), gone.join(", "));
    let hint = format!("drop the tables for {} as well, and it begins anew", there.join(", "));
    Err(Error::with_hint(Kind::Invalid, message, hint))
}

async fn set_up<T: Target>(
    settings: &Settings,
    target: &mut T,
    surveyed: &[(Declaration, Vec<Profile>)],
) -> Result<Kept<T::Table>, Error> {
    let tables = mapped(target, surveyed, &settings.tables)?;
    if settings.parts == Parts::Rows {
        for table in &tables {
            if !target.has(table).await? {
                let message = format!("there is no table for `{}` in {}", table.source(), target.name());
                let hint =
                    format!("make it ({}), or copy the schema, too", target.statements(table).join("; "));
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
    }
    let stage = Stage::Copying { txid: String::new(), time_ms: 0, table: 0, after: None, rows: 0 };
    target.set_up(&tables, &stage).await?;
    Ok(Kept { tables, paused: vec![], stage, refused: 0 })
}

async fn put<T: Target>(target: &mut T, stage: &Stage, chunk: Chunk) -> Result<Stage, Error> {
    let mut stage = stage.clone();
    if let Stage::Copying { table, after, rows, .. } = &mut stage {
        *rows += chunk.rows.len() as u64;
        *table = chunk.table + usize::from(chunk.after.is_none());
        *after = chunk.after;
    }
    target.begin().await?;
    target.load(chunk.table, &chunk.rows).await?;
    target.commit(&stage).await?;
    Ok(stage)
}

/// Compares, and mends when a stage is given that is kept afterwards.
async fn compared<T: Target>(
    target: &mut T,
    tables: &[T::Table],
    held: Held<T>,
    mends: Option<&Stage>,
) -> Result<Found, Error> {
    target.hold(mends.is_some()).await?;
    let mut found = compare::tables_of(target, tables, held.again, mends.is_some()).await?;
    // What a reader could not read is not there to be compared.
    held.reading.await.map_err(|e| Error::new(Kind::Internal, e.to_string()))??;
    match mends {
        None => target.roll_back().await?,
        Some(stage) => {
            target.commit(stage).await?;
            found = Found { rows: found.rows, refused: target.refused(), ..Found::default() };
        }
    }
    Ok(found)
}

/// The database at one moment, read by a thread of its own: once to copy, and once more to compare.
struct Held<T: Target> {
    surveyed: oneshot::Receiver<Surveyed>,
    begins: Option<oneshot::Sender<Beginning<T>>>,
    chunks: mpsc::Receiver<Chunk>,
    again: mpsc::Receiver<Chunk>,
    reading: JoinHandle<Result<(), Error>>,
}

/// Tables, what their columns hold, and their rows.
type Surveyed = Vec<(Declaration, Vec<Profile>, u64)>;
/// The tables as they are there, and where in them it begins.
type Beginning<T> = (Vec<<T as Target>::Table>, usize, Option<Vec<String>>);

impl<T: Target> Held<T> {
    fn new(settings: &Settings) -> Held<T> {
        let (path, wanted) = (settings.database.clone(), settings.tables.clone());
        let (tell, surveyed) = oneshot::channel();
        let (begins, begin) = oneshot::channel::<Beginning<T>>();
        let (send, chunks) = mpsc::channel(1);
        let (send_again, again) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || {
            let reader = copy::hold(&path)?;
            if tell.send(survey(&reader, &wanted)?).is_err() {
                return Ok(());
            }
            let Ok((tables, first, after)) = begin.blocking_recv() else { return Ok(()) };
            copy::read(&reader, (&tables, &Cut::default()), (first, after.as_deref()), &send)?;
            drop(send);
            copy::read_by_key(&reader, (&tables, &Cut::default()), &send_again)
        });
        Held { surveyed, begins: Some(begins), chunks, again, reading }
    }

    async fn surveyed(&mut self) -> Result<Surveyed, Error> {
        if let Ok(surveyed) = (&mut self.surveyed).await {
            return Ok(surveyed);
        }
        Err(self.failed().await)
    }

    /// Why the reading came to no end.
    async fn failed(&mut self) -> Error {
        let ended = (&mut self.reading).await.map_err(|e| Error::new(Kind::Internal, e.to_string()));
        let known = ended.and_then(|read| read).err();
        known.unwrap_or_else(|| Error::new(Kind::Internal, "the database was not read to its end"))
    }

    fn begin(&mut self, tables: &[T::Table], stage: &Stage) -> Result<(), Error> {
        let Stage::Copying { table, after, .. } = stage else {
            return Err(Error::new(Kind::Corrupt, "read how far the copy is: it follows something"));
        };
        if let Some(begins) = self.begins.take() {
            // Where nobody waits for it, the reading tells why.
            let _ = begins.send((tables.to_vec(), *table, after.clone()));
        }
        Ok(())
    }
}

fn survey(reader: &RowReader, wanted: &[String]) -> Result<Surveyed, Error> {
    let surveyed = copy::survey(reader.examiner(), |table| is_wanted(wanted, table), &Cut::default())?;
    let with_rows = parents_first(surveyed).into_iter().map(|(declared, profiles)| {
        let rows = reader.count(&declared.name)?;
        Ok((declared, profiles, rows))
    });
    with_rows.collect()
}

/// Tables after those that they refer to, where that is possible: a server may have the foreign keys already.
fn parents_first(mut tables: Vec<(Declaration, Vec<Profile>)>) -> Vec<(Declaration, Vec<Profile>)> {
    let mut ordered: Vec<(Declaration, Vec<Profile>)> = vec![];
    while !tables.is_empty() {
        let waits = |table: &Declaration| {
            let is_open = |parent: &str| {
                !parent.eq_ignore_ascii_case(&table.name)
                    && tables.iter().any(|(other, _)| other.name.eq_ignore_ascii_case(parent))
            };
            table.foreign_keys.iter().any(|key| is_open(&key.parent))
        };
        let next = tables.iter().position(|(table, _)| !waits(table)).unwrap_or(0);
        ordered.push(tables.remove(next));
    }
    ordered
}

/// The name under which a server keeps how far the copy of a database is.
pub fn name(database: &Path) -> String {
    let path = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    format!("copy of {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_come_after_those_that_they_refer_to() {
        let table = |name: &str, parents: &[&str]| {
            let keys: String =
                parents.iter().map(|parent| format!(", {parent} REFERENCES {parent}")).collect();
            (Declaration::read(name, &format!("CREATE TABLE {name}(id{keys})")).unwrap(), vec![])
        };
        let tables =
            vec![table("c", &["b", "A"]), table("b", &["a", "b"]), table("a", &[]), table("d", &["e"])];
        let ordered = |tables| -> Vec<String> {
            parents_first(tables).into_iter().map(|(table, _): (Declaration, _)| table.name).collect()
        };
        assert_eq!(ordered(tables), ["a", "b", "c", "d"]);
        assert_eq!(ordered(vec![table("x", &["y"]), table("y", &["x"]), table("z", &[])]), ["z", "x", "y"]);
    }
}
