//! Which commits a store holds, and since when: found after a run, by applying the log's files in the order of their
//! transactions to a shadow of the database and asking it, after each, for the newest commit. A state counts from the
//! moment when its file *and all before it* were there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use litekeep_ltx::{Decoder, FileName};
use rusqlite::{Connection, OpenFlags};

use crate::arrivals::{Arrival, Store};
use crate::source::Commit;

/// A state that can be restored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipped {
    /// Since when, CLOCK_MONOTONIC, nanoseconds.
    pub(crate) ns: i64,
    /// Its newest commit.
    pub(crate) newest: i64,
}

struct LogFile {
    name: FileName,
    level: u32,
    arrival: Arrival,
}

/// Whether a file is one from which this database can be restored alone.
pub(crate) fn is_first_copy(arrival: &Arrival, db: &str) -> bool {
    parse(arrival, db).is_some_and(|file| file.name.min.get() == 1)
}

/// `DB/ltx/LEVEL/NAME` in a folder, `DB/LEVEL/NAME` with four hexadecimal digits on S3.
fn parse(arrival: &Arrival, db: &str) -> Option<LogFile> {
    let rest = arrival.key.strip_prefix(db)?.strip_prefix('/')?;
    let (level, name) = rest.strip_prefix("ltx/").unwrap_or(rest).split_once('/')?;
    Some(LogFile {
        name: name.parse().ok()?,
        level: u32::from_str_radix(level, 16).ok()?,
        arrival: arrival.clone(),
    })
}

/// The states of one database that the store came to hold, in their order.
pub(crate) fn states(store: &Store, db: &str, dir: &Path) -> Result<Vec<Shipped>> {
    let files: Vec<LogFile> = store.arrivals()?.iter().filter_map(|arrival| parse(arrival, db)).collect();
    let begins = |file: &LogFile| file.name.min.get() == 1;
    let begins_at_level_0 = files.iter().any(|file| file.level == 0 && begins(file));
    // Merged files hold nothing that the files of level 0 did not; only the first may be a snapshot instead.
    let mut chain: Vec<LogFile> = files
        .into_iter()
        .filter(|file| file.level == 0 || (!begins_at_level_0 && file.level == 9 && begins(file)))
        .collect();
    chain.sort_by_key(|file| (file.name, file.arrival.ns));
    let shadow = dir.join("shadow.db");
    let mut shipped: Vec<Shipped> = Vec::new();
    let (mut applied, mut since) = (0, 0);
    for file in &chain {
        if file.name.max.get() <= applied {
            continue;
        }
        ensure!(file.name.min.get() <= applied + 1, "the log of {db} has a hole before {}", file.name);
        apply(&store.object(&file.arrival.key), &shadow)
            .with_context(|| format!("apply {}", file.arrival.key))?;
        applied = file.name.max.get();
        since = since.max(file.arrival.ns);
        shipped.push(Shipped { ns: since, newest: newest(&shadow)? });
    }
    if shadow.exists() {
        std::fs::remove_file(&shadow)?;
    }
    Ok(shipped)
}

fn apply(file: &Path, shadow: &Path) -> Result<()> {
    let mut decoder = Decoder::new(File::open(file)?)?;
    let page_size = decoder.header().page_size;
    let shadow = File::options().create(true).truncate(false).write(true).open(shadow)?;
    let mut page = vec![0; page_size.bytes()];
    while let Some(pgno) = decoder.next_page(&mut page)? {
        shadow.write_all_at(&page, pgno.offset(page_size))?;
    }
    shadow.set_len(u64::from(decoder.header().commit) * page_size.bytes() as u64)?;
    Ok(())
}

/// The newest commit in a database that nobody has open; 0 before the tables are there.
fn newest(shadow: &Path) -> Result<i64> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(format!("file:{}?immutable=1", shadow.display()), flags)?;
    Ok(db.query_row("SELECT n FROM newest", [], |row| row.get(0))?)
}

/// From each commit's return to the moment when the store held it, milliseconds; and how many it never did.
pub(crate) fn lags_ms<'a>(
    commits: impl Iterator<Item = &'a Commit>,
    states: &[Shipped],
) -> (Vec<f64>, usize) {
    let (mut lags, mut missing) = (Vec::new(), 0);
    for commit in commits {
        match states.get(states.partition_point(|state| state.newest < commit.n)) {
            Some(state) => lags.push((state.ns - commit.done_ns) as f64 / 1e6),
            None => missing += 1,
        }
    }
    (lags, missing)
}
