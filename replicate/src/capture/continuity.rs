//! What happened to the WAL while nobody watched.
//!
//! The saved place names a generation (salt), a number of frames and the checksum up to there. On return, under a hold
//! on the WAL:
//! - The file still has the generation: the frames after the place follow the chain up to `mxFrame`. If the wal-index has
//!   moved on to another salt, the generation has ended, and everything to the chain's end belongs to it.
//! - The file has the next generation (first salt one higher): one reset happened. The rest of the old generation can be
//!   salvaged when the last known frame is intact in its slot, the old chain ends at a commit that an older frame or the
//!   aligned end of the file follows, and each salvaged page equals the database file unless the new generation has
//!   overwritten it there: a reset happens only when everything was copied.
//! - Anything else proves nothing: [`Broken`]. That is never silent and never loses data: the caller compares page
//!   checksums instead.
//!
//! Not used, because they prove nothing: the checkpoint sequence (belongs to a connection), the first salt as a counter
//! (random after TRUNCATE), the change counter (unchanged in WAL mode unless page 1 is written). Known gap: a
//! `journal_size_limit` that cuts exactly between two frames.

use super::held::HeldFiles;
use super::wal::{End, Frames, Place, Slot, Wal};
use crate::Error;
use litekeep_format::{WalChecksum, WalHeader, WalIndexHeader};
use litekeep_ltx::{Pgno, Salt};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Why the WAL alone does not lead from the saved place to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// There is no WAL, or it has no valid header.
    #[error("the WAL is gone or empty")]
    Gone,
    /// Fewer frames than the log has: a power cut took them, or an older file was put in place.
    #[error("the WAL ends before the last transaction in the log")]
    Behind,
    /// The frames at the place are others than those in the log.
    #[error("the WAL's frames differ from those in the log")]
    Differs,
    /// A frame below `mxFrame` is not what was committed, or is not there; its number, from 1.
    #[error("frame {0} of the WAL is damaged")]
    Damaged(u32),
    /// More than one reset.
    #[error("the WAL was reset more than once")]
    Resets,
    /// The tail of the old generation is overwritten or cut.
    #[error("the end of the previous WAL generation is overwritten")]
    TailLost,
    /// The place was never known.
    #[error("the position in the WAL is unknown")]
    Unknown,
    /// The WAL was empty when the log ended, so there never was a place. Nothing need have happened since.
    #[error("the WAL was empty at the end of the log")]
    NoPlace,
}

/// Reads everything after `place` into `out` and returns the new place, or says why that is impossible.
pub fn resume(
    files: &HeldFiles,
    wal: &Wal,
    place: Place,
    index: &WalIndexHeader,
    out: &mut Frames,
) -> Result<Result<Place, Broken>, Error> {
    let Some(header) = wal.header()? else { return Ok(Err(Broken::Gone)) };
    if header.salt == place.salt {
        return same_generation(wal, &header, place, index, out);
    }
    if header.salt.first() != place.salt.first().wrapping_add(1) {
        return Ok(Err(Broken::Resets));
    }
    one_reset(files, wal, &header, place, index, out)
}

/// A new generation adds one to the first salt; a WAL whose salt lies at most so far behind is an older one. Truncating
/// the WAL begins at a random salt, which looks older once in a million times.
const OLDER_GENERATIONS: u32 = 4096;

/// Up to where the log has a WAL.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// The generation.
    pub salt: Salt,
    /// Its frames that are in the log.
    pub frames: u32,
    /// The running checksum there, where it is known.
    pub checksum: Option<WalChecksum>,
}

/// Whether the WAL of a database that nobody has open proves that the file has lost what the log has: a disk that lost
/// writes in a power cut, or a file or volume that was set back. `None` when it proves nothing of the kind.
pub fn lost(database: &Path, log: Reached) -> Result<Option<Broken>, Error> {
    let Some(wal) = Wal::open(database)? else { return Ok(None) };
    let Some((start, header)) = wal.start()? else { return Ok(None) };
    if header.salt != log.salt {
        let generations = log.salt.first().wrapping_sub(header.salt.first());
        return Ok((1..=OLDER_GENERATIONS).contains(&generations).then_some(Broken::Behind));
    }
    // Without a wal-index the last commit of the chain is the last commit, as it is for SQLite's recovery.
    let (end, _) = wal.read(&header, start, u32::MAX, &mut Frames::default())?;
    if end.frames < log.frames {
        return Ok(Some(Broken::Behind));
    }
    let Some(checksum) = log.checksum else { return Ok(None) };
    let place = Place { salt: log.salt, frames: log.frames, checksum };
    Ok((!is_intact(&wal, &header, place)?).then_some(Broken::Differs))
}

fn is_intact(wal: &Wal, header: &WalHeader, place: Place) -> Result<bool, Error> {
    if place.frames == 0 {
        return Ok(header.salt == place.salt && header.checksum == place.checksum);
    }
    let last = wal.frame_header(header.page_size, place.frames - 1)?;
    Ok(last.is_some_and(|f| f.salt == place.salt && f.checksum == place.checksum))
}

fn same_generation(
    wal: &Wal,
    header: &WalHeader,
    place: Place,
    index: &WalIndexHeader,
    out: &mut Frames,
) -> Result<Result<Place, Broken>, Error> {
    let current = index.salt == header.salt;
    if current && index.max_frame < place.frames {
        return Ok(Err(Broken::Behind));
    }
    if !is_intact(wal, header, place)? {
        return Ok(Err(Broken::Differs));
    }
    let limit = if current { index.max_frame } else { u32::MAX };
    let (end, why) = wal.read(header, place, limit, out)?;
    if current && let Some(broken) = damaged(why, end, limit, out) {
        out.clear();
        return Ok(Err(broken));
    }
    Ok(Ok(end))
}

/// Whether frames that the wal-index counts up to `limit` were not all read, or do not end in a commit.
pub(super) fn damaged(why: End, end: Place, limit: u32, read: &Frames) -> Option<Broken> {
    let is_whole = why == End::Limit && end.frames == limit;
    (!is_whole).then(|| Broken::Damaged((read.reached + 1).min(limit)))
}

fn one_reset(
    files: &HeldFiles,
    wal: &Wal,
    header: &WalHeader,
    place: Place,
    index: &WalIndexHeader,
    out: &mut Frames,
) -> Result<Result<Place, Broken>, Error> {
    // With nothing known of the old generation its end cannot be told from the middle.
    if place.frames == 0 || index.salt != header.salt || !is_intact(wal, header, place)? {
        return Ok(Err(Broken::TailLost));
    }
    let (_, why) = wal.read(header, place, u32::MAX, out)?;
    let ended = match why {
        End::OtherSalt(salt) => salt != header.salt,
        End::File { aligned } => aligned,
        End::BadChecksum | End::Limit => false,
    };
    let old = std::mem::take(&mut out.slots);
    let fresh = if ended {
        let start = Place { salt: header.salt, frames: 0, checksum: header.checksum };
        let (old_commits, old_count) = (out.commits, out.page_count);
        let (end, why) = wal.read(header, start, index.max_frame, out)?;
        let whole = why == End::Limit && end.frames == index.max_frame;
        let salvaged = if out.slots.is_empty() { old_count } else { out.page_count };
        (whole && is_in_database(files, wal, header, &old, old_count, index, out)?).then_some((
            end,
            old_commits,
            salvaged,
        ))
    } else {
        None
    };
    let Some((end, old_commits, page_count)) = fresh else {
        out.clear();
        return Ok(Err(Broken::TailLost));
    };
    // The two runs stand in different slots of one file, so page numbers with slots describe both; the bytes of the
    // second alone would not.
    out.drop_bytes();
    let fresh = std::mem::replace(&mut out.slots, old);
    out.slots.extend(fresh);
    out.commits += old_commits;
    out.page_count = page_count;
    Ok(Ok(end))
}

/// Whether each salvaged page is what the database file holds, unless the new generation was copied over it.
fn is_in_database(
    files: &HeldFiles,
    wal: &Wal,
    header: &WalHeader,
    old: &[Slot],
    old_count: u32,
    index: &WalIndexHeader,
    fresh: &Frames,
) -> Result<bool, Error> {
    let attempted = index.checkpoint.backfill_attempted.max(index.checkpoint.backfilled);
    let overwritten: HashSet<Pgno> =
        fresh.slots.iter().filter(|s| s.index < attempted).map(|s| s.pgno).collect();
    let last: HashMap<Pgno, u32> = old.iter().map(|s| (s.pgno, s.index)).collect();
    let n = header.page_size.bytes();
    let (mut in_wal, mut in_file) = (vec![0; n], vec![0; n]);
    for (pgno, slot) in last {
        if pgno.get() > old_count || overwritten.contains(&pgno) {
            continue;
        }
        wal.page(header.page_size, slot, &mut in_wal)?;
        if files.database().read_exact_at(&mut in_file, pgno.offset(header.page_size)).is_err()
            || in_wal != in_file
        {
            return Ok(false);
        }
    }
    Ok(true)
}
