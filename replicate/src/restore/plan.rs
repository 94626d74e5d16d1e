//! Which files bring a goal back, and what the result will be.

use crate::{Error, Instead, Kind, commits};
use litekeep_ltx::{PackEntry, PageSize, Point, Pos, Txid};
use litekeep_store::plan::Step;
use litekeep_store::{self as store, FileRef, Log, Store, plan as log_plan};

/// What to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The last transaction of the log.
    Latest,
    /// Exactly this transaction.
    Txid(Txid),
    /// A single commit of the application within a transaction.
    Commit(Pos),
    /// The state at an instant, milliseconds since the epoch: the last transaction at or before it.
    Time(i64),
}

impl From<Point> for Goal {
    fn from(Point { txid, seq }: Point) -> Goal {
        match seq {
            Some(seq) => Goal::Commit(Pos { txid, seq }),
            None => Goal::Txid(txid),
        }
    }
}

/// A file of the log that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Which one.
    pub file: FileRef,
    /// What is wrong with it, beginning with its place.
    pub cause: String,
}

/// What a restore will do.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The transaction that is restored. Fixed: going around a damaged file never changes it.
    pub txid: Txid,
    /// When that transaction was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages of the database.
    pub page_count: u32,
    /// In the order in which they are applied.
    pub files: Vec<FileRef>,
    /// What single commits are taken from, after the files.
    pub steps: Vec<Step>,
    /// So many commits of the transaction; `None`: all of it.
    pub seq: Option<u32>,
    /// Files that would be used if they were intact.
    pub damaged: Vec<Damaged>,
    /// The goal was an instant after the last transaction of the log: right if the database has not changed since.
    pub after_end: bool,
}

impl RestorePlan {
    /// Bytes of the log that are read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).chain(self.steps.iter().map(Step::size)).sum()
    }

    /// What is restored.
    pub fn point(&self) -> Point {
        Point { txid: self.txid, seq: self.seq }
    }

    /// The last transaction that the files have all of.
    pub fn whole(&self) -> Option<Txid> {
        self.files.last().map(FileRef::max)
    }

    /// Bytes of the database.
    pub fn database_bytes(&self) -> u64 {
        u64::from(self.page_count) * u64::from(self.page_size.get())
    }

    /// A plan for the same transaction that goes around one more file.
    pub(super) async fn without(
        mut self,
        store: &Store,
        file: FileRef,
        cause: String,
    ) -> Result<RestorePlan, Error> {
        self.damaged.push(Damaged { file, cause });
        self.again(store).await
    }

    /// A plan for the same transaction from a new listing.
    pub(super) async fn again(self, store: &Store) -> Result<RestorePlan, Error> {
        let log = store.list().await?;
        if !self.steps.is_empty() {
            return by_commits(store, &log, self.point(), self.damaged).await;
        }
        to_txid(store, &log, self.txid, self.after_end, self.damaged).await
    }
}

/// Plans a restore; reads listings and a few headers only, and for an instant whose files were merged a pack or two.
///
/// # Errors
/// `Invalid` for a goal outside the log, `Corrupt` for a hole; both name the nearest point that can be restored.
pub async fn plan(store: &Store, goal: Goal) -> Result<RestorePlan, Error> {
    let log = store.list().await?;
    match goal {
        Goal::Latest => {
            let last = log.last().ok_or(store::Error::Empty)?;
            lead_to(store, &log, last, false, vec![]).await
        }
        Goal::Txid(txid) => to_txid(store, &log, txid, false, vec![]).await,
        Goal::Commit(pos) => by_commits(store, &log, pos.into(), vec![]).await,
        Goal::Time(at_ms) => plan_instant(store, &log, at_ms).await,
    }
}

async fn plan_instant(store: &Store, log: &Log, at_ms: i64) -> Result<RestorePlan, Error> {
    let last = log.last().ok_or(store::Error::Empty)?;
    let Some(txid) = log_plan::at_time(log, at_ms, |file| time_of(store, file)).await? else {
        return Err(before_begin(store, log, at_ms).await);
    };
    let after_end = txid == last && at_ms > time_of_txid(store, log, last).await?;
    if let Some(plan) = plan_among_merged(store, log, txid, at_ms).await? {
        return Ok(plan);
    }
    // Compaction has merged the transaction with later ones, so the one before it is the last that was whole by then.
    let txid = match log_plan::restore(log, log_plan::Goal::Txid(txid)) {
        Err(store::Error::Merged { before: Some(before), .. }) => before,
        Err(store::Error::Merged { before: None, .. }) => return Err(before_begin(store, log, at_ms).await),
        _ => txid,
    };
    lead_to(store, log, txid, after_end, vec![]).await
}

/// A plan for the last transaction by an instant where no file ends with it: compaction has merged it with others, and packs tell
/// it apart. `txid`: the last one by then that ends a file. `None`: that one it is, as far as anybody can tell.
async fn plan_among_merged(
    store: &Store,
    log: &Log,
    txid: Txid,
    at_ms: i64,
) -> Result<Option<RestorePlan>, Error> {
    let next = log.files().map(FileRef::max).filter(|end| *end > txid).min();
    let is_whole = log_plan::restore(log, log_plan::Goal::Txid(txid)).is_ok();
    if is_whole && next.is_none_or(|next| next == txid.next()) {
        return Ok(None);
    }
    let is_before_next = |txid: Txid| next.is_none_or(|next| txid < next);
    let packs = commits::packs(store, log).await?;
    let mut last: Option<PackEntry> = None;
    for pack in packs.iter().filter(|pack| pack.name.max >= txid && is_before_next(pack.name.min)) {
        let entries = commits::entries(store, pack).await?.into_iter();
        let by_then = entries.filter(|entry| entry.timestamp_ms <= at_ms && is_before_next(entry.txid));
        last = last.into_iter().chain(by_then).max_by_key(|entry| entry.txid);
    }
    let leads = |entry: &PackEntry| {
        entry.txid >= txid && log_plan::steps_to(log, &packs, None, entry.txid.into()).is_ok()
    };
    let Some(last) = last.filter(leads) else { return Ok(None) };
    let plan = by_commits(store, log, last.txid.into(), vec![]).await?;
    Ok(Some(RestorePlan { time_ms: last.timestamp_ms, ..plan }))
}

async fn lead_to(
    store: &Store,
    log: &Log,
    txid: Txid,
    after_end: bool,
    mut damaged: Vec<Damaged>,
) -> Result<RestorePlan, Error> {
    let mut usable = log.clone();
    for bad in &damaged {
        usable.remove(bad.file.level, bad.file.name);
    }
    loop {
        let files = log_plan::restore(&usable, log_plan::Goal::Txid(txid))
            .map_err(|e| no_chain(e, &usable, damaged.last()))?;
        let last = files.last().expect("a chain has a base");
        let header = match store.header(last).await {
            Ok(header) => header,
            Err(e) if e.kind() == store::ErrorKind::Corrupt => {
                usable.remove(last.level, last.name);
                damaged.push(Damaged { file: last.clone(), cause: e.to_string() });
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let time_ms = time_of_txid(store, log, txid).await?;
        let (page_size, page_count) = (header.page_size, header.commit);
        let (steps, seq) = (vec![], None);
        return Ok(RestorePlan {
            txid,
            time_ms,
            page_size,
            page_count,
            files,
            steps,
            seq,
            damaged,
            after_end,
        });
    }
}

/// A plan for a transaction, also one that the log has merged with others and a pack tells apart.
async fn to_txid(
    store: &Store,
    log: &Log,
    txid: Txid,
    after_end: bool,
    damaged: Vec<Damaged>,
) -> Result<RestorePlan, Error> {
    match log_plan::restore(log, log_plan::Goal::Txid(txid)) {
        Err(merged @ store::Error::Merged { .. }) => {
            let steps = log_plan::steps_to(log, &commits::packs(store, log).await?, None, txid.into());
            match steps {
                Ok(_) => by_commits(store, log, txid.into(), damaged).await,
                Err(_) => Err(no_chain(merged, log, damaged.last())),
            }
        }
        _ => lead_to(store, log, txid, after_end, damaged).await,
    }
}

/// A plan that ends with packs: into a transaction, or to one that the log has merged with others.
async fn by_commits(
    store: &Store,
    log: &Log,
    to: Point,
    damaged: Vec<Damaged>,
) -> Result<RestorePlan, Error> {
    let mut usable = log.clone();
    for bad in &damaged {
        usable.remove(bad.file.level, bad.file.name);
    }
    let packs = commits::packs(store, log).await?;
    let mut steps = log_plan::steps_to(&usable, &packs, None, to).map_err(|e| match e {
        store::Error::Hole { .. } if damaged.is_empty() => not_apart(to.txid),
        e => no_chain(e, &usable, damaged.last()),
    })?;
    let rest = steps.split_off(steps.iter().take_while(|step| matches!(step, Step::File(_))).count());
    let file = |step| match step {
        Step::File(file) => Some(file),
        Step::Pack(_) => None,
    };
    let files: Vec<FileRef> = steps.into_iter().filter_map(file).collect();
    let last = files.last().expect("a chain has a base");
    let header = store.header(last).await?;
    let time_ms = header.timestamp_ms;
    let Point { txid, seq } = to;
    let (page_size, page_count, steps) = (header.page_size, header.commit, rest);
    Ok(RestorePlan { txid, time_ms, page_size, page_count, files, steps, seq, damaged, after_end: false })
}

/// The error for a commit that no pack has.
fn not_apart(txid: Txid) -> Error {
    Error::with_hint(
        Kind::Invalid,
        format!("the commits of transaction {txid} are not kept by themselves"),
        format!(
            "take the whole transaction, `{txid}`; single commits are kept for `any_transaction`, and of the last minute \
             on the machine of the database only"
        ),
    )
}

/// A file's timestamp, as it says itself: a folder that was copied has other modification times. A damaged header must not hide
/// the rest of the log, so there the modification time stands in.
async fn time_of(store: &Store, file: FileRef) -> store::Result<i64> {
    match store.header(&file).await {
        Ok(header) => Ok(header.timestamp_ms),
        Err(e) if e.kind() == store::ErrorKind::Corrupt => Ok(file.modified_ms),
        Err(e) => Err(e),
    }
}

/// When a transaction was seen. A snapshot may be stamped later than its last transaction: the lowest level knows best.
async fn time_of_txid(store: &Store, log: &Log, txid: Txid) -> Result<i64, Error> {
    let file = log.files().find(|f| f.max() == txid).expect("a restorable transaction ends a file");
    Ok(time_of(store, file.clone()).await?)
}

/// The error for an instant before the log's first restorable transaction.
async fn before_begin(store: &Store, log: &Log, at_ms: i64) -> Error {
    let first = log.files().filter(|f| f.is_base()).map(FileRef::max).min();
    let (Some(first), Some(last)) = (first, log.last()) else { return store::Error::Empty.into() };
    let range = async { Ok((time_of_txid(store, log, first).await?, time_of_txid(store, log, last).await?)) };
    let (first_ms, last_ms) = match range.await {
        Ok(range) => range,
        Err(e) => return e,
    };
    Error::Instead {
        kind: Kind::Invalid,
        message: format!(
            "plan a restore of `{}` to {}: the log begins later; it can be restored from {} (transaction {first}) to \
             {} (transaction {last})",
            store.place(),
            instant(at_ms),
            instant(first_ms),
            instant(last_ms),
        ),
        instead: Instead::Time(first_ms),
    }
}

/// The error for a transaction to which no chain leads, with what can be had instead.
fn no_chain(error: store::Error, usable: &Log, damaged: Option<&Damaged>) -> Error {
    let nearest = match &error {
        store::Error::Hole { nearest, .. } => *nearest,
        store::Error::Merged { before, .. } => *before,
        // The goal itself was in a damaged file at the end of the log, or is no transaction of the log at all.
        store::Error::BeyondEnd { .. } => match log_plan::restore(usable, log_plan::Goal::Latest) {
            Ok(chain) => chain.last().map(FileRef::max),
            Err(store::Error::Hole { nearest, .. }) => nearest,
            Err(_) => None,
        },
        _ => None,
    };
    let (kind, message) = match damaged {
        Some(Damaged { file, cause }) => {
            let (min, max) = (file.min(), file.max());
            (Kind::Corrupt, format!("{cause}; the log has no other files for transactions {min} to {max}"))
        }
        None if nearest.is_none() => return error.into(),
        None => {
            let error = Error::from(error);
            (error.kind(), error.to_string())
        }
    };
    match nearest {
        Some(txid) => Error::Instead { kind, message, instead: Instead::Txid(txid) },
        None => Error::new(kind, message),
    }
}

/// RFC 3339 in UTC.
pub(super) fn instant(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}
