//! Single commits of the log, read from its packs.

use crate::{Error, Kind};
use litekeep_format::PageBytes;
use litekeep_ltx::{Commit, FileName, Pack, PackDecoder, PackEntry, PageSize, Pgno, Point, Txid};
use litekeep_store::plan::Step;
use litekeep_store::{Log, PackRef, Store};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::iter::Peekable;
use std::path::Path;
use std::vec;

/// The commits of a pack, one after the other.
#[derive(Debug)]
pub struct CommitReader {
    place: String,
    decoder: PackDecoder<Vec<u8>>,
    /// On this machine: it may grow.
    file: Option<File>,
    entry: Option<PackEntry>,
    commits: Peekable<vec::IntoIter<Commit>>,
}

/// A commit, or those of one file of the log that are kept together.
#[derive(Clone, Debug)]
pub struct Single {
    /// What it is part of.
    pub entry: PackEntry,
    /// Which part, from 1.
    pub seq: u32,
    /// What it wrote.
    pub commit: Commit,
}

impl Single {
    /// The state after it.
    pub fn point(&self) -> Point {
        point(&self.entry, self.seq)
    }
}

/// The state after a part of a file; after the last one, after the file.
fn point(entry: &PackEntry, seq: u32) -> Point {
    Point { txid: entry.txid, seq: (seq < entry.parts).then_some(seq) }
}

impl CommitReader {
    /// Reads a pack whole; it is small.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` for what is no pack.
    pub async fn open(store: &Store, pack: &PackRef) -> Result<CommitReader, Error> {
        let place = store.place_of_object(&format!("litekeep/commits/{}", PackRef::file_name(pack.name)));
        // Of one descriptor: another pack may take its name.
        let file = pack.path.as_ref().and_then(|path| File::open(path).ok());
        let bytes = match &file {
            Some(file) => rest_of(file, 0)
                .map_err(Error::file("read", pack.path.as_deref().unwrap_or(Path::new(""))))?,
            None => store.get_pack(&PackRef { path: None, ..pack.clone() }).await?.into(),
        };
        let decoder = PackDecoder::new(bytes).map_err(failed(&place))?;
        let end = decoder.pack().entries.last().map(|(entry, _)| entry.txid);
        if end < Some(pack.name.max) && file.is_none() {
            return Err(Error::new(Kind::Corrupt, format!("read `{place}`: it is damaged")));
        }
        Ok(CommitReader { place, decoder, file, entry: None, commits: vec![].into_iter().peekable() })
    }

    /// Size of the pages.
    pub fn page_size(&self) -> PageSize {
        self.decoder.pack().page_size
    }

    /// The state after the next commit; `None` when there is none, or, in a pack that grows, none yet.
    ///
    /// # Errors
    /// `Corrupt` for damage that no checksum has shown.
    pub fn peek(&mut self) -> Result<Option<Point>, Error> {
        while self.commits.peek().is_none() {
            let mut capture = self.decoder.next_capture().map_err(failed(&self.place))?;
            if capture.is_none() && self.has_grown()? {
                capture = self.decoder.next_capture().map_err(failed(&self.place))?;
            }
            let Some(capture) = capture else { return Ok(None) };
            (self.entry, self.commits) = (Some(capture.entry), capture.commits.into_iter().peekable());
        }
        Ok(self.entry.map(|entry| point(&entry, self.seq_of_next(&entry))))
    }

    /// When what comes next was seen, milliseconds since the epoch: the time of the file that it is part of.
    pub fn time_of_next(&self) -> Option<i64> {
        self.entry.map(|entry| entry.timestamp_ms)
    }

    /// The next commit.
    ///
    /// # Errors
    /// As [`peek`](Self::peek).
    pub fn next_commit(&mut self) -> Result<Option<Single>, Error> {
        self.peek()?;
        let Some(entry) = self.entry else { return Ok(None) };
        let seq = self.seq_of_next(&entry);
        Ok(self.commits.next().map(|commit| Single { entry, seq, commit }))
    }

    fn seq_of_next(&self, entry: &PackEntry) -> u32 {
        entry.parts - self.commits.len() as u32 + 1
    }

    fn has_grown(&mut self) -> Result<bool, Error> {
        let Some(file) = &self.file else { return Ok(false) };
        let end = self.decoder.pack().end() as u64;
        let rest = rest_of(file, end).map_err(Error::file("read", Path::new(&self.place)))?;
        Ok(self.decoder.grow(&rest))
    }
}

/// The packs of a log. Those on this machine go as far as the log does, and only if they are of this log: what nobody has
/// confirmed may become something else.
pub(crate) async fn packs(store: &Store, log: &Log) -> Result<Vec<PackRef>, Error> {
    let mut packs = vec![];
    for pack in store.list_packs().await? {
        let Some(path) = &pack.path else {
            packs.push(pack);
            continue;
        };
        let Some(found) = std::fs::read(path).ok().and_then(|bytes| Pack::scan(&bytes).ok()) else {
            continue;
        };
        let in_log = |txid| log.level(0).iter().rev().find(|file| file.max() == txid);
        let mut entries = found.entries.iter().rev().map(|(entry, _)| entry);
        let last = entries.find(|entry| Some(entry.txid) <= log.last());
        let Some((last, file)) = last.and_then(|last| Some((last, in_log(last.txid)?))) else { continue };
        if store.header(file).await?.timestamp_ms == last.timestamp_ms {
            let name = FileName { min: pack.name.min, max: last.txid };
            packs.push(PackRef { name, ..pack });
        }
    }
    Ok(packs)
}

/// How many commits of a transaction can be told apart: more than one only where a pack has them.
///
/// # Errors
/// Those of the store.
pub async fn commits_of(store: &Store, txid: Txid) -> Result<u32, Error> {
    let log = store.list().await?;
    for pack in packs(store, &log).await?.into_iter().filter(|pack| pack.has(txid)) {
        if let Some(entry) = entries(store, &pack).await?.into_iter().find(|entry| entry.txid == txid) {
            return Ok(entry.parts);
        }
    }
    Ok(1)
}

/// The transactions that a pack tells apart; of one that is damaged, those before the damage.
pub(crate) async fn entries(store: &Store, pack: &PackRef) -> Result<Vec<PackEntry>, Error> {
    let bytes = store.get_pack(pack).await?;
    let entries = Pack::scan(&bytes).map(|pack| pack.entries).unwrap_or_default();
    Ok(entries.into_iter().map(|(entry, _)| entry).collect())
}

fn rest_of(file: &File, from: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len().saturating_sub(from);
    let mut bytes = vec![0; len as usize];
    let read = litekeep_env::file::read_up_to(file, &mut bytes, from)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn failed(place: &str) -> impl FnOnce(litekeep_ltx::Error) -> Error {
    move |source| Error::Ltx { doing: format!("read `{place}`"), source }
}

/// The pages of one or more commits, over the state before them.
#[derive(Clone, Debug)]
pub struct Overlay {
    pages: HashMap<Pgno, PageBytes>,
    /// Size of the pages.
    pub page_size: PageSize,
    /// Pages of the database after them.
    pub page_count: u32,
    /// Where the state after them stands.
    pub end: Point,
    /// When the last of them was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// Something was made by comparing pages: not all that was written is among them.
    pub only_different: bool,
}

impl Overlay {
    /// One commit.
    pub fn of(page_size: PageSize, single: Single) -> Overlay {
        let mut overlay = Overlay {
            pages: HashMap::with_capacity(single.commit.pages.len()),
            page_size,
            page_count: 0,
            end: single.point(),
            time_ms: 0,
            only_different: false,
        };
        overlay.add(single);
        overlay
    }

    fn add(&mut self, single: Single) {
        self.end = single.point();
        self.pages.extend(single.commit.pages);
        self.page_count = single.commit.page_count;
        self.pages.retain(|pgno, _| pgno.get() <= single.commit.page_count);
        self.time_ms = single.entry.timestamp_ms;
        self.only_different |= single.entry.commits == 0;
    }

    /// What a step has after a transaction, on the way to another one or into it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) async fn of_step(
        store: &Store,
        step: &Step,
        after: Txid,
        to: Point,
    ) -> Result<Overlay, Error> {
        let file = match step {
            Step::Pack(pack) => return Overlay::read(store, pack, after, to).await,
            Step::File(file) => store.open_pages(file).await?,
        };
        let header = *file.header();
        let pages: Vec<Pgno> = file.pages().collect();
        Ok(Overlay {
            pages: file.read(&pages).await?,
            page_size: header.page_size,
            page_count: header.commit,
            end: header.max_txid.into(),
            time_ms: header.timestamp_ms,
            only_different: file.file().level != 0 || header.wal_size == 0,
        })
    }

    /// What a pack has after a transaction, up to another one or into it: so many of its commits.
    ///
    /// # Errors
    /// Those of reading, and `Invalid` for a commit that is not there or not kept by itself.
    pub(crate) async fn read(
        store: &Store,
        pack: &PackRef,
        after: Txid,
        to: Point,
    ) -> Result<Overlay, Error> {
        let mut reader = CommitReader::open(store, pack).await?;
        let page_size = reader.page_size();
        let mut overlay: Option<Overlay> = None;
        let goal = to.txid.min(pack.name.max);
        let mut is_end = false;
        while let Some(single) = reader.next_commit()? {
            let txid = single.entry.txid;
            if txid <= after {
                continue;
            }
            if txid > goal || overlay.is_none() && txid != after.next() {
                break;
            }
            let seq = to.seq.filter(|_| txid == to.txid);
            if let Some(seq) = seq {
                check_seq(&single.entry, seq)?;
            }
            is_end = txid == goal && (single.point().seq.is_none() || seq == Some(single.seq));
            match &mut overlay {
                Some(overlay) => overlay.add(single),
                None => overlay = Some(Overlay::of(page_size, single)),
            }
            if is_end {
                break;
            }
        }
        // Another pack has taken the place of one that was on this machine.
        overlay.filter(|_| is_end).ok_or_else(|| store.pack_is_gone(pack).into())
    }

    /// The pages.
    pub fn pages(&self) -> impl Iterator<Item = (Pgno, &PageBytes)> {
        self.pages.iter().map(|(pgno, page)| (*pgno, page))
    }

    /// The pages themselves.
    pub(crate) fn into_pages(self) -> impl Iterator<Item = (Pgno, PageBytes)> {
        self.pages.into_iter()
    }

    /// A page that was written.
    pub fn page(&self, pgno: Pgno) -> Option<&PageBytes> {
        self.pages.get(&pgno)
    }
}

/// Whether so many commits of a transaction are a state that is kept.
fn check_seq(entry: &PackEntry, seq: u32) -> Result<(), Error> {
    let PackEntry { txid, commits, parts, .. } = *entry;
    if seq >= 1 && seq <= parts && (parts == commits || commits <= 1) || seq == commits {
        return Ok(());
    }
    let message = match parts == commits || commits <= 1 {
        true => format!("transaction {txid} has {} commits: there is no {txid}.{seq}", commits.max(1)),
        false => format!(
            "the {commits} commits of transaction {txid} came too fast to be kept by themselves: there is no {txid}.{seq}"
        ),
    };
    let hint = format!("take the whole transaction, {txid}, or the one before");
    Err(Error::with_hint(Kind::Invalid, message, hint))
}
