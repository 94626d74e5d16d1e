//! States of the database page by page, read from the log without restoring it.
//!
//! Promises:
//! - A page is the one that a restore of the same transaction writes.
//! - Only the pages that are asked for are read, by range requests where the log is not in a folder; files that are small
//!   are read and verified whole. Pages of larger ones are not verified: the format has no checksum for a page.
//! - Memory is bounded by the page indexes of the files and a cache.

use crate::restore::{self, Goal, RestorePlan};
use crate::{Error, Kind, Overlay, Single, commits};
use futures::stream::{self, StreamExt, TryStreamExt};
use litekeep_format::{PageBytes, PageSource, diff::Written};
use litekeep_ltx::{PageSize, Pgno, Point, Txid};
use litekeep_store::plan::Step;
use litekeep_store::{FileRef, PageFile, Store, plan as log_plan};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// Files that are opened at the same time.
const PARALLEL: usize = 8;
/// Bytes of pages that are kept, about.
const CACHE_BYTES: usize = 64 << 20;
/// How often a log is listed anew because compaction has replaced files under the reader.
const LISTINGS: usize = 4;

/// A state of the database.
#[derive(Clone, Debug)]
pub struct LogState {
    files: Files,
    /// The transaction that it is after, or within.
    pub txid: Txid,
    /// So many commits of that transaction; `None`: all of it.
    pub seq: Option<u32>,
    /// When that transaction was seen, milliseconds since the epoch.
    pub time_ms: i64,
    runtime: Handle,
    cache: Arc<Mutex<Cache>>,
}

/// What a state has over an earlier one.
#[derive(Clone, Debug)]
pub struct Later {
    files: Files,
    /// The transaction that it is after, or within.
    pub txid: Txid,
    /// So many commits of that transaction; `None`: all of it.
    pub seq: Option<u32>,
    /// When that transaction was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// Pages that were written in between, at least.
    pages: Vec<Pgno>,
    only_different: bool,
}

impl Later {
    /// Where it stands in the log.
    pub fn point(&self) -> Point {
        Point { txid: self.txid, seq: self.seq }
    }

    /// What was written in between.
    pub fn written(&self) -> Written<'_> {
        Written { pages: &self.pages, only_different: self.only_different }
    }
}

/// Pages over those of the layers before.
#[derive(Debug)]
enum Layer {
    File(PageFile),
    Commits(Overlay),
}

impl Layer {
    fn page_size(&self) -> PageSize {
        match self {
            Layer::File(file) => file.header().page_size,
            Layer::Commits(overlay) => overlay.page_size,
        }
    }

    fn page_count(&self) -> u32 {
        match self {
            Layer::File(file) => file.header().commit,
            Layer::Commits(overlay) => overlay.page_count,
        }
    }

    fn contains(&self, pgno: Pgno) -> bool {
        match self {
            Layer::File(file) => file.contains(pgno),
            Layer::Commits(overlay) => overlay.page(pgno).is_some(),
        }
    }

    fn pages(&self) -> Vec<Pgno> {
        match self {
            Layer::File(file) => file.pages().collect(),
            Layer::Commits(overlay) => overlay.pages().map(|(pgno, _)| pgno).collect(),
        }
    }

    /// Whether free pages may have come to life that it does not have: only a file that was captured from the WAL has all
    /// that was written, and what others have been made of cannot be told.
    fn has_only_different(&self) -> bool {
        match self {
            Layer::File(file) => file.file().level != 0 || file.header().wal_size == 0,
            Layer::Commits(overlay) => overlay.only_different,
        }
    }
}

/// Layers of the log, each over those before it.
#[derive(Clone, Debug)]
struct Files {
    all: Vec<Arc<Layer>>,
    /// The last file that has a page, but for those that only the first one has.
    last: HashMap<Pgno, usize>,
    page_size: PageSize,
    page_count: u32,
}

impl Files {
    fn new(all: Vec<Layer>) -> Option<Files> {
        let mut all = all.into_iter().map(Arc::new);
        let first = all.next()?;
        let (page_size, page_count) = (first.page_size(), first.page_count());
        let mut files = Files { all: vec![first], last: HashMap::new(), page_size, page_count };
        all.for_each(|file| files.push(file));
        Some(files)
    }

    /// Adds a layer; commits become one with those before.
    fn add(&mut self, layer: Arc<Layer>) {
        let at = self.all.len() - 1;
        let last = self.all.last_mut().and_then(Arc::get_mut);
        match (last, Arc::try_unwrap(layer)) {
            (Some(Layer::Commits(before)), Ok(Layer::Commits(overlay))) => {
                self.page_count = overlay.page_count;
                self.last.extend(overlay.pages().map(|(pgno, _)| (pgno, at)));
                before.append(overlay);
            }
            (_, Ok(layer)) => self.push(Arc::new(layer)),
            (_, Err(layer)) => self.push(layer),
        }
    }

    fn push(&mut self, layer: Arc<Layer>) {
        self.page_count = layer.page_count();
        self.last.extend(layer.pages().into_iter().map(|pgno| (pgno, self.all.len())));
        self.all.push(layer);
    }

    fn layer_of(&self, pgno: Pgno) -> Option<&Layer> {
        let layer = &self.all[self.last.get(&pgno).copied().unwrap_or(0)];
        layer.contains(pgno).then_some(layer)
    }
}

/// Pages by the file that they are from: the newer half, and the half before.
#[derive(Debug, Default)]
struct Cache {
    newer: HashMap<(FileRef, Pgno), PageBytes>,
    older: HashMap<(FileRef, Pgno), PageBytes>,
}

impl Cache {
    fn get(&mut self, key: &(FileRef, Pgno)) -> Option<PageBytes> {
        if let Some(page) = self.newer.get(key) {
            return Some(page.clone());
        }
        let (key, page) = self.older.remove_entry(key)?;
        self.put(key, page.clone());
        Some(page)
    }

    fn put(&mut self, key: (FileRef, Pgno), page: PageBytes) {
        if self.newer.len() * page.len() >= CACHE_BYTES / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, page);
    }
}

/// Opens a state. Call from within the runtime.
///
/// # Errors
/// As [`restore::plan`].
pub async fn open(store: &Store, goal: Goal) -> Result<LogState, Error> {
    let mut listings = 0;
    loop {
        listings += 1;
        match open_once(store, goal).await {
            Err(e) if is_gone(&e) && listings < LISTINGS => {}
            other => return other,
        }
    }
}

async fn open_once(store: &Store, goal: Goal) -> Result<LogState, Error> {
    let plan = restore::plan(store, goal).await?;
    state(store, plan).await
}

/// Opens two states. Call from within the runtime.
///
/// # Errors
/// As [`restore::plan`]; `Invalid` when the second is before the first.
pub async fn open_both(store: &Store, from: Goal, to: Goal) -> Result<(LogState, Later), Error> {
    let mut listings = 0;
    loop {
        listings += 1;
        match open_both_once(store, from, to).await {
            Err(e) if is_gone(&e) && listings < LISTINGS => {}
            other => return other,
        }
    }
}

async fn open_both_once(store: &Store, from: Goal, to: Goal) -> Result<(LogState, Later), Error> {
    let plan = restore::plan(store, from).await?;
    let to = restore::plan(store, to).await?;
    let (earlier, point) = (plan.point(), to.point());
    if point < earlier {
        return Err(Error::new(
            Kind::Invalid,
            format!("transaction {point} is before transaction {earlier}: exchange the two"),
        ));
    }
    let old = state(store, plan).await?;
    let layers = layers_between(store, earlier.whole(), point).await?;
    let later = old.with(layers, point, to.time_ms)?;
    Ok((old, later))
}

/// What was written after a transaction, up to another one or into it.
async fn layers_between(store: &Store, from: Option<Txid>, to: Point) -> Result<Vec<Layer>, Error> {
    let log = store.list().await?;
    let txid = to.txid;
    if let Some(from) = from.filter(|_| to.seq.is_none()) {
        match log_plan::between(&log, from, txid) {
            Ok(files) => return open_layers(store, files).await,
            Err(e) if !matches!(e, litekeep_store::Error::Hole { .. }) => return Err(e.into()),
            Err(_) => {}
        }
    }
    let steps = log_plan::steps_to(&log, &commits::packs(store, &log).await?, from, to)?;
    read_steps(store, steps, from, to).await
}

async fn read_steps(
    store: &Store,
    steps: Vec<Step>,
    mut reached: Option<Txid>,
    to: Point,
) -> Result<Vec<Layer>, Error> {
    let reading = steps.into_iter().map(|step| {
        let (store, after) = (store.clone(), reached);
        reached = Some(step.end(to.txid));
        async move {
            Ok::<_, Error>(match (step, after) {
                (Step::File(file), _) => Layer::File(store.open_pages(&file).await?),
                (pack, Some(after)) => Layer::Commits(Overlay::of_step(&store, &pack, after, to).await?),
                (Step::Pack(_), None) => {
                    return Err(Error::new(Kind::Internal, "a restore begins with a pack"));
                }
            })
        }
    });
    let reading: Vec<_> = reading.collect();
    stream::iter(reading).buffered(PARALLEL).try_collect().await
}

/// Compaction has taken a file away since the listing.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Store(e) if e.is_missing())
}

async fn state(store: &Store, plan: RestorePlan) -> Result<LogState, Error> {
    let (point, whole) = (plan.point(), plan.whole());
    let mut layers = open_layers(store, plan.files).await?;
    layers.extend(read_steps(store, plan.steps, whole, point).await?);
    let (point, time_ms) = match layers.last() {
        Some(Layer::Commits(overlay)) => (overlay.end, overlay.time_ms),
        _ => (point, plan.time_ms),
    };
    let files = Files::new(layers).ok_or_else(|| Error::new(Kind::Internal, "a restore takes no file"))?;
    let Point { txid, seq } = point;
    Ok(LogState { files, txid, seq, time_ms, runtime: Handle::current(), cache: Arc::default() })
}

async fn open_layers(store: &Store, files: Vec<FileRef>) -> Result<Vec<Layer>, Error> {
    // Owned by each task: a stream of borrowing ones is not `Send` for every lifetime.
    let opening = files.into_iter().map(|file| {
        let store = store.clone();
        async move { store.open_pages(&file).await.map(Layer::File) }
    });
    Ok(stream::iter(opening).buffered(PARALLEL).try_collect().await?)
}

impl LogState {
    /// The state after a file that follows it.
    ///
    /// # Errors
    /// Those of the store, and `Invalid` when the pages have another size from there on.
    pub async fn after(&self, store: &Store, file: &FileRef) -> Result<Later, Error> {
        let file = store.open_pages(file).await?;
        let (txid, time_ms) = (file.header().max_txid, file.header().timestamp_ms);
        self.with(vec![Layer::File(file)], txid.into(), time_ms)
    }

    /// The state after a commit that follows it.
    ///
    /// # Errors
    /// `Invalid` when the pages have another size from there on.
    pub fn after_commit(&self, page_size: PageSize, single: Single) -> Result<Later, Error> {
        let overlay = Overlay::of(page_size, single);
        let (end, time_ms) = (overlay.end, overlay.time_ms);
        self.with(vec![Layer::Commits(overlay)], end, time_ms)
    }

    /// The state of the snapshot that this one begins with.
    pub(crate) fn base(&self) -> LogState {
        let base = &self.files.all[0];
        let (page_size, page_count) = (base.page_size(), base.page_count());
        let (txid, time_ms) = match &**base {
            Layer::File(file) => (file.header().max_txid, file.header().timestamp_ms),
            Layer::Commits(_) => (self.txid, self.time_ms),
        };
        let files = Files { all: vec![base.clone()], last: HashMap::new(), page_size, page_count };
        let (runtime, cache) = (self.runtime.clone(), self.cache.clone());
        LogState { files, txid, seq: None, time_ms, runtime, cache }
    }

    /// What this state has over an earlier one of the same log.
    pub(crate) async fn since(&self, store: &Store, earlier: Txid) -> Result<Later, Error> {
        let layers = layers_between(store, Some(earlier), self.point()).await?;
        self.with(layers, self.point(), self.time_ms)
    }

    fn with(&self, layers: Vec<Layer>, to: Point, time_ms: i64) -> Result<Later, Error> {
        let Point { txid, seq } = to;
        let (pages, only_different) = written(layers.iter());
        let page_size = self.files.page_size;
        if let Some(other) = layers.iter().find(|layer| layer.page_size() != page_size) {
            let (before, since) = (page_size.get(), other.page_size().get());
            let from = match other {
                Layer::File(file) => file.header().min_txid,
                Layer::Commits(_) => txid,
            };
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "the pages had {before} bytes until transaction {} and have {since} since: look at one side of it only",
                    from.prev().unwrap_or(Txid::FIRST),
                ),
            ));
        }
        let files = Files::new(layers).unwrap_or_else(|| Files {
            all: vec![],
            last: HashMap::new(),
            page_size,
            page_count: self.files.page_count,
        });
        Ok(Later { files, txid, seq, time_ms, pages, only_different })
    }

    /// Where it stands in the log.
    pub fn point(&self) -> Point {
        Point { txid: self.txid, seq: self.seq }
    }

    /// The state as pages.
    pub fn view(&self) -> View<'_> {
        View { state: self, later: None }
    }

    /// A later state as pages.
    pub fn view_of<'a>(&'a self, later: &'a Later) -> View<'a> {
        View { state: self, later: Some(later) }
    }

    /// Becomes the later state.
    pub fn advance(&mut self, later: Later) {
        later.files.all.into_iter().for_each(|layer| self.files.add(layer));
        (self.txid, self.seq, self.time_ms) = (later.txid, later.seq, later.time_ms);
    }

    /// How many files it is made of.
    pub fn files(&self) -> usize {
        self.files.all.len()
    }

    /// Bytes of the single commits that it has in memory.
    pub fn commit_bytes(&self) -> usize {
        let of = |layer: &Arc<Layer>| match &**layer {
            Layer::Commits(overlay) => overlay.bytes(),
            Layer::File(_) => 0,
        };
        self.files.all.iter().map(of).sum()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages that cost requests, together.
    fn fetch(&self, file: &PageFile, pages: &[Pgno]) -> Result<(), Error> {
        let found = self.runtime.block_on(file.read(pages))?;
        let mut cache = self.cache();
        found.into_iter().for_each(|(pgno, page)| cache.put((file.file().clone(), pgno), page));
        Ok(())
    }
}

/// All pages of these layers, and whether free pages may have come to life that are not among them.
fn written<'a>(layers: impl Iterator<Item = &'a Layer>) -> (Vec<Pgno>, bool) {
    let mut pages: Vec<Pgno> = vec![];
    let mut only_different = false;
    for layer in layers {
        pages.extend(layer.pages());
        only_different |= layer.has_only_different();
    }
    pages.sort_unstable();
    pages.dedup();
    (pages, only_different)
}

/// The pages of a state, to be read on a blocking thread.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a LogState,
    later: Option<&'a Later>,
}

impl View<'_> {
    fn layer_of(&self, pgno: Pgno) -> Result<&Layer, Error> {
        let later = self.later.filter(|later| !later.files.all.is_empty());
        let layer = later.and_then(|later| later.files.layer_of(pgno));
        let layer = layer.or_else(|| self.state.files.layer_of(pgno));
        layer.ok_or_else(|| {
            let txid = self.later.map_or(self.state.txid, |later| later.txid);
            Error::new(Kind::Corrupt, format!("no file of the log has page {pgno} of transaction {txid}"))
        })
    }
}

impl PageSource for View<'_> {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.later.map_or(self.state.files.page_count, |later| later.files.page_count)
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        let file = match self.layer_of(pgno)? {
            Layer::Commits(overlay) => {
                let page = overlay.page(pgno).cloned();
                return page.ok_or_else(|| Error::new(Kind::Internal, format!("page {pgno} is gone")));
            }
            Layer::File(file) => file,
        };
        let key = (file.file().clone(), pgno);
        let cached = self.state.cache().get(&key);
        if let Some(page) = cached {
            return Ok(page);
        }
        if let Some(page) = file.read_here(pgno) {
            let page = page?;
            self.state.cache().put(key, page.clone());
            return Ok(page);
        }
        self.state.fetch(file, &[pgno])?;
        let page = self.state.cache().get(&key);
        page.ok_or_else(|| Error::new(Kind::Internal, format!("page {pgno} was read and is not there")))
    }

    fn prefetch(&self, pages: &[Pgno]) -> Result<(), Error> {
        let mut by_file: BTreeMap<usize, (&PageFile, Vec<Pgno>)> = BTreeMap::new();
        for &pgno in pages {
            let Layer::File(file) = self.layer_of(pgno)? else { continue };
            if file.is_remote() && self.state.cache().get(&(file.file().clone(), pgno)).is_none() {
                let place = std::ptr::from_ref(file).addr();
                by_file.entry(place).or_insert_with(|| (file, vec![])).1.push(pgno);
            }
        }
        by_file.values().try_for_each(|(file, pages)| self.state.fetch(file, pages))
    }
}
