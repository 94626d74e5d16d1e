//! What comes next in the log, and whether it is still the same log.

use crate::batch::Batch;
use crate::position::{Held, Mark};
use crate::source::Source;
use litekeep_ltx::{FileName, Header, Txid};
use litekeep_replicate::restore::RestorePlan;
use litekeep_replicate::{Error, Kind};
use litekeep_store::{Error as StoreError, ErrorKind, FileRef, Log, PageFile, SNAPSHOT_LEVEL, Store, plan};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two listings of a log that has nothing new.
const LISTING_PAUSE: Duration = Duration::from_secs(30);
/// A source that tells of nothing for so long is held against the store, where more may be.
const TRUST: Duration = Duration::from_secs(60);
/// About the bytes of merged files that become one transaction, unless one alone is larger.
const BATCH_BYTES: u64 = 16 << 20;

/// What follows a state.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing yet.
    Nothing,
    /// Files that follow one another.
    Files(Batch),
    /// The log does not lead on from there, only to a later state.
    Elsewhere {
        why: String,
        /// It is the same log.
        is_same: bool,
    },
}

/// What a source says.
enum Told {
    Next(Next),
    /// Nothing, for so long that the store is asked whether that is so.
    Doubtful(Arc<dyn Source>),
    /// The store is to be asked.
    Unknown,
}

/// Reads a log.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) store: Store,
    /// For pasting: the command that follows.
    command: String,
    /// The log is known to be the one that the state is of; holds for what was read after it.
    is_same: bool,
    /// Files that were listed.
    due: VecDeque<FileRef>,
    /// How many files were found one after the other since one was not there yet.
    found: usize,
    listed_at: Option<Instant>,
    /// What is asked first.
    source: Option<Arc<dyn Source>>,
    /// The last that it gave: of which connection, the transaction, and its end.
    given: Option<(u64, Txid, Mark)>,
    /// When it was right last.
    right_at: Instant,
}

impl Tail {
    pub(crate) fn new(store: &Store, command: &str) -> Tail {
        let (store, command, due) = (store.clone(), command.to_owned(), VecDeque::new());
        Tail {
            store,
            command,
            is_same: false,
            due,
            found: 0,
            listed_at: None,
            source: None,
            given: None,
            right_at: Instant::now(),
        }
    }

    pub(crate) fn listen_to(&mut self, source: Option<Arc<dyn Source>>) {
        // Each source counts its own connections.
        (self.source, self.given, self.right_at) = (source, None, Instant::now());
    }

    /// Everything is looked up anew.
    pub(crate) fn forget(&mut self) {
        (self.due, self.found, self.listed_at) = (VecDeque::new(), 0, None);
    }

    /// A person has said that it is the right one, or pages have.
    pub(crate) fn believe(&mut self) {
        self.is_same = true;
    }

    /// What follows a state. Costs a request when there is nothing. Nothing is lost when it is not awaited to its end.
    ///
    /// # Errors
    /// Those of the store, and `Invalid` for another log.
    pub(crate) async fn next(&mut self, held: &Held) -> Result<Next, Error> {
        let next = self.try_next(held).await;
        match next {
            // A damaged file: perhaps others have the same pages.
            Err(e) if e.kind() == Kind::Corrupt => {
                self.forget();
                Ok(Next::Elsewhere { why: e.to_string(), is_same: self.is_same })
            }
            Err(e) => {
                self.forget();
                Err(e)
            }
            next => next,
        }
    }

    async fn try_next(&mut self, held: &Held) -> Result<Next, Error> {
        if !self.is_same {
            match self.is_of(held).await? {
                true => self.is_same = true,
                false => {
                    let why = format!("no file of the log ends with transaction {}", held.txid);
                    return Ok(Next::Elsewhere { why, is_same: false });
                }
            }
        }
        while self.due.pop_front_if(|file| file.max() <= held.txid).is_some() {}
        if !self.due.is_empty() {
            return self.listed().await;
        }
        let told = self.told(held);
        if let Told::Next(next) = told {
            self.found = 0;
            return Ok(next);
        }
        let files = self.store.open_following(held.txid, self.found).await?;
        self.found = if files.is_empty() { 0 } else { self.found + files.len() };
        if let Told::Doubtful(source) = told {
            match files.first() {
                Some(file) => source.refuse(&format!("it has not told of `{}`", file.file().name)),
                None => self.right_at = Instant::now(),
            }
        }
        if let Some(first) = files.first().map(|file| *file.header()) {
            return self.follow(held, &first, files).await;
        }
        // Compaction may have merged it, which is minutes ago then.
        if self.listed_at.is_some_and(|listed_at| listed_at.elapsed() < LISTING_PAUSE) {
            return Ok(Next::Nothing);
        }
        let log = self.store.list().await?;
        self.listed_at = Some(Instant::now());
        match log.last() {
            None => Err(self.store.vanished().into()),
            Some(last) if last < held.txid => Err(self.another(held, &format!("it ends with {last}"))),
            Some(last) if last == held.txid => Ok(Next::Nothing),
            Some(last) => match plan::between(&log, held.txid, last) {
                Ok(files) if !files.iter().any(FileRef::is_base) => {
                    self.due = files.into();
                    self.listed().await
                }
                Ok(_) | Err(StoreError::Hole { .. }) => Ok(Next::Elsewhere {
                    why: format!("the log has a snapshot only after transaction {}", held.txid),
                    is_same: true,
                }),
                Err(e) => Err(e.into()),
            },
        }
    }

    /// What the source tells. A file that it gives goes on where the state ended in the WAL, or comes from
    /// the same writer over the connection that gave the state: nothing else says that it is of the same log.
    fn told(&mut self, held: &Held) -> Told {
        let Some(source) = self.source.clone() else { return Told::Unknown };
        let Some(came) = source.following(held.txid) else { return Told::Unknown };
        let is_unbroken = self.given == Some((came.connection, held.txid, held.mark));
        let is_of_same = |node| is_unbroken && node == held.mark.node;
        let mut files: Vec<PageFile> = vec![];
        for bytes in &came.files {
            let next = files.last().map_or(held.txid, |last| last.file().max()).next();
            let name = FileName { min: next, max: next };
            match self.store.open_given(bytes) {
                Ok(file) if file.file().name == name => files.push(file),
                Ok(file) => source.refuse(&format!("it gave `{}` where {next} follows", file.file().name)),
                Err(e) => source.refuse(&e.to_string()),
            }
            if files.last().is_none_or(|last| last.file().max() != next) {
                break;
            }
        }
        let Some(first) = files.first().map(|file| *file.header()) else {
            return match came.files.is_empty() {
                true if self.right_at.elapsed() < TRUST => Told::Next(Next::Nothing),
                // Whoever has lost the log without knowing it keeps nobody from what others put there.
                true => Told::Doubtful(source),
                false => Told::Unknown,
            };
        };
        if !held.mark.leads_to(&first) && !is_of_same(first.node) {
            return Told::Unknown;
        }
        let of_one = files.iter().take_while(|file| file.header().node == first.node).count();
        files.truncate(of_one);
        cut_by_page_size(&mut files);
        self.right_at = Instant::now();
        let last = files.last().map(PageFile::header);
        self.given = last.map(|last| (came.connection, last.max_txid, Mark::of(last)));
        Told::Next(Next::Files(Batch::new(files)))
    }

    /// Files that were found by their names. A log that was begun anew has the same names.
    async fn follow(&mut self, held: &Held, first: &Header, mut files: Vec<PageFile>) -> Result<Next, Error> {
        if !held.mark.leads_to(first) && !self.is_of(held).await? {
            self.is_same = false;
            let why = format!("transaction {} does not begin where the one before ended", first.min_txid);
            return Ok(Next::Elsewhere { why, is_same: false });
        }
        cut_by_page_size(&mut files);
        Ok(Next::Files(Batch::new(files)))
    }

    /// Files that were listed, as many as make a transaction.
    async fn listed(&mut self) -> Result<Next, Error> {
        let (mut files, mut bytes) = (vec![], 0);
        for file in &self.due {
            if !files.is_empty() && bytes + file.size > BATCH_BYTES {
                break;
            }
            bytes += file.size;
            files.push(self.store.open_pages(file).await?);
        }
        cut_by_page_size(&mut files);
        Ok(Next::Files(Batch::new(files)))
    }

    /// Whether a state is one of this log; `false`: nobody can tell, as no file ends with it.
    ///
    /// # Errors
    /// `Invalid` when it is of another one.
    pub(crate) async fn is_of(&self, held: &Held) -> Result<bool, Error> {
        let name = FileName { min: held.txid, max: held.txid };
        if let Some(file) = self.store.find(0, name).await? {
            return self.ends_with(&file, held).await;
        }
        let log = self.store.list().await?;
        let Some(last) = log.last() else { return Err(self.store.vanished().into()) };
        if last < held.txid {
            return Err(self.another(held, &format!("it ends with {last}")));
        }
        match log.files().find(|file| file.max() == held.txid) {
            Some(file) => self.ends_with(file, held).await,
            None => Ok(false),
        }
    }

    async fn ends_with(&self, file: &FileRef, held: &Held) -> Result<bool, Error> {
        let header = match self.store.header(file).await {
            Ok(header) => header,
            Err(e) if e.kind() == ErrorKind::Corrupt || e.is_missing() => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        // A snapshot may be stamped later than its last transaction.
        match header.timestamp_ms == held.time_ms {
            true => Ok(true),
            false if file.level == SNAPSHOT_LEVEL => Ok(false),
            false => Err(self.another(held, "it has another transaction of that number")),
        }
    }

    /// All that the log has after a transaction, as one transaction to its end. The file may have some of it.
    pub(crate) async fn all_after(&self, held: &Held, after: Txid) -> Result<Between, Error> {
        let log = self.store.list().await?;
        match log.last() {
            None => Err(self.store.vanished().into()),
            Some(last) if last < held.txid => Err(self.another(held, &format!("it ends with {last}"))),
            Some(last) => self.between(&log, after, last).await,
        }
    }

    /// All that is between two states, as one transaction.
    pub(crate) async fn between(&self, log: &Log, after: Txid, to: Txid) -> Result<Between, Error> {
        let files = match plan::between(log, after, to) {
            Ok(files) if files.is_empty() => return Ok(Between::Nothing),
            Ok(files) if files.iter().any(FileRef::is_base) => return Ok(Between::Hole),
            Ok(files) => files,
            Err(StoreError::Hole { .. } | StoreError::BeyondEnd { .. }) => return Ok(Between::Hole),
            Err(e) => return Err(e.into()),
        };
        let mut opened = vec![];
        for file in &files {
            opened.push(self.store.open_pages(file).await?);
        }
        let count = opened.len();
        cut_by_page_size(&mut opened);
        Ok(if opened.len() == count { Between::Batch(Batch::new(opened)) } else { Between::Hole })
    }

    /// The error for another log than before.
    pub(crate) fn another(&self, held: &Held, why: &str) -> Error {
        let (place, txid, command) = (self.store.place(), held.txid, &self.command);
        Error::with_hint(
            Kind::Invalid,
            format!(
                "the log at {place} is another one than before: the replica has transaction {txid} of the former one, and {why}"
            ),
            format!(
                "if it is the right one, `{command} --new-timeline` goes over to its last state; readers go on"
            ),
        )
    }

    /// How the end of a restored state is known again.
    pub(crate) async fn held(&self, plan: &RestorePlan, applied_ms: i64) -> Result<Held, Error> {
        let log = self.store.list().await?;
        let gone = || {
            Error::new(
                Kind::Unavailable,
                format!("the log has changed while transaction {} was read", plan.txid),
            )
        };
        let file = log.files().find(|file| file.max() == plan.txid).ok_or_else(gone)?;
        let header = self.store.header(file).await?;
        Ok(Held {
            txid: plan.txid,
            time_ms: header.timestamp_ms,
            applied_ms,
            page_count: plan.page_count,
            page_size: plan.page_size,
            mark: Mark::of(&header),
        })
    }
}

/// What the log has between two states.
#[derive(Debug)]
pub(crate) enum Between {
    Nothing,
    Batch(Batch),
    /// It does not lead from one to the other, but by a snapshot.
    Hole,
}

/// Keeps the first files, whose pages have one size.
fn cut_by_page_size(files: &mut Vec<PageFile>) {
    let Some(page_size) = files.first().map(|file| file.header().page_size) else { return };
    let same = files.iter().take_while(|file| file.header().page_size == page_size).count();
    files.truncate(same);
}
