//! A file in the place of a database that has nothing of it, as far as that can be told while the log cannot be read.
//!
//! Local state has the checksum of each page as the log has it. A file of the same database agrees in some of them, or its WAL
//! does, whatever was committed since. One that agrees in none is somebody else's, or was made anew; a `VACUUM` that nobody
//! saw can look the same, so this is for a person to decide, and only until the log can be read.
//!
//! Nothing is concluded from little: a database of a few pages may well have changed in all of them.

use crate::capture::{Frames, Wal};
use crate::local::{PageSums, Spool, State, StateFile, restored};
use crate::{Error, Kind};
use litekeep_format::DatabaseHeader;
use litekeep_ltx::{Checksum, Pgno, page_checksum};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A database of fewer pages tells too little.
const LEAST_PAGES: u32 = 4;
/// Pages of the file that are looked at, spread evenly over it.
const LOOKED_AT: u32 = 4096;

/// Refuses a file that has nothing in common with the database that local state is about. Nobody may have it open.
/// `meta_dir`: litekeep's own state of the database.
///
/// # Errors
/// `Invalid` for such a file; when one cannot be read.
pub fn refuse_stranger(path: &Path, meta_dir: &Path) -> Result<(), Error> {
    let Some(state) = StateFile::peek(&meta_dir.join("state")) else { return Ok(()) };
    // What waits for a store is in no checksum yet, and whoever restores an earlier state may have had another in mind.
    if !Spool::of(meta_dir).list()?.is_empty() || restored::is_noted(meta_dir, path) {
        return Ok(());
    }
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut start = [0; DatabaseHeader::LEN];
    let header = file.read_exact_at(&mut start, 0).ok().and_then(|()| DatabaseHeader::parse(&start).ok());
    let Some(header) = header else { return Ok(()) };
    if header.page_size != state.page_size {
        let (here, there) = (header.page_size.get(), state.page_size.get());
        return Err(stranger(path, &state, &format!("has pages of {here} bytes, and had such of {there}")));
    }
    let sums = meta_dir.join("pages");
    if !sums.is_file() {
        return Ok(());
    }
    let sums = PageSums::open(&sums)?;
    if sums.page_count()? < LEAST_PAGES
        || is_in_file(&file, &sums, &state)?
        || is_in_wal(path, &sums, &state)?
    {
        return Ok(());
    }
    Err(stranger(path, &state, "has no page in common with what it was"))
}

/// Whether a page of the file is as the log has it.
fn is_in_file(file: &File, sums: &PageSums, state: &State) -> Result<bool, Error> {
    let count = sums.page_count()?;
    let step = count.div_ceil(LOOKED_AT).max(1) as usize;
    let mut known = sums.ascending();
    let mut page = vec![0; state.page_size.bytes()];
    for pgno in (1..=count).step_by(step).filter_map(Pgno::new) {
        if file.read_exact_at(&mut page, pgno.offset(state.page_size)).is_err() {
            break;
        }
        if is_same(pgno, &page, known.get(pgno)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same of any version of a page in the WAL.
fn is_in_wal(path: &Path, sums: &PageSums, state: &State) -> Result<bool, Error> {
    let Some(wal) = Wal::open(path)? else { return Ok(false) };
    let Some((start, header)) = wal.start()?.filter(|(_, header)| header.page_size == state.page_size) else {
        return Ok(false);
    };
    let mut frames = Frames::default();
    wal.read(&header, start, u32::MAX, &mut frames)?;
    let mut page = vec![0; state.page_size.bytes()];
    for slot in &frames.slots {
        wal.page(state.page_size, slot.index, &mut page)?;
        let mut known = [Checksum::default()];
        sums.get(slot.pgno, &mut known)?;
        if is_same(slot.pgno, &page, known[0]) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Empty b-trees are alike in all databases: only pages with cells tell something.
fn is_same(pgno: Pgno, page: &[u8], known: Checksum) -> bool {
    let has_cells = pgno == Pgno::FIRST || page[3..5] != [0, 0];
    has_cells && page_checksum(pgno, page) == known
}

fn stranger(path: &Path, state: &State, why: &str) -> Error {
    let name = path.display();
    Error::with_hint(
        Kind::Invalid,
        format!(
            "`{name}` {why} at transaction {} of its backup: it seems to be another database, and the backup cannot be read",
            state.txid
        ),
        "put the right file in its place; or start again when the backup can be read, which then decides; to go on with the present file, add `--new-timeline`",
    )
}
