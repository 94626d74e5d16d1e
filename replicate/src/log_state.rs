//! States of the database page by page, read from the log without restoring it.
//!
//! Promises:
//! - A page is the one that a restore of the same transaction writes.
//! - Only the pages that are asked for are read, by range requests where the log is not in a folder; files that are small
//!   are read whole. Each page is verified ([`Store::open_pages`]).
//! - Memory is bounded by the page indexes and checksums of large files, 8 bytes a page, the newest version of each page that small ones have, and a
//!   cache. What newer files replace is let go as they come.

use crate::restore::{self, Goal, RestorePlan};
use crate::{Error, Kind, Overlay, Single, commits};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use litekeep_format::{PageBytes, PageSource, diff::Written};
use litekeep_ltx::{PageSize, Pgno, Point, Txid};
use litekeep_store::plan::Step;
use litekeep_store::{FileRef, PageFile, Store, plan as log_plan};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
    /// The snapshot that it begins with.
    base: Arc<PageFile>,
    /// What was written since.
    written: Pages,
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
    written: Pages,
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

    /// Bytes of its pages in memory.
    pub fn bytes(&self) -> usize {
        self.written.bytes
    }

    /// What was written in between.
    pub fn written(&self) -> Written<'_> {
        Written { pages: &self.pages, only_different: self.only_different }
    }

    fn add(&mut self, layer: Layer, page_size: PageSize) -> Result<(), Error> {
        if layer.page_size() != page_size {
            let (before, since) = (page_size.get(), layer.page_size().get());
            let from = match &layer {
                // A snapshot, of which only the last state has them.
                Layer::File(file) if file.header().min_txid == Txid::FIRST => file.header().max_txid,
                Layer::File(file) => file.header().min_txid,
                Layer::Commits(_) => self.txid,
            };
            let until = from.prev().unwrap_or(Txid::FIRST);
            return Err(Error::with_hint(
                Kind::Invalid,
                format!("the pages had {before} bytes until transaction {until} and have {since} since"),
                format!("look at one side of it only: `--to {until}`, or `--from {from}`"),
            ));
        }
        self.only_different |= layer.has_only_different();
        self.pages.extend(layer.pages());
        self.written.add(layer);
        Ok(())
    }

    fn sorted(mut self) -> Later {
        self.pages.sort_unstable();
        self.pages.dedup();
        self
    }
}

/// Pages over those of the layers before.
#[derive(Debug)]
enum Layer {
    File(Arc<PageFile>),
    Commits(Overlay),
}

impl Layer {
    fn page_size(&self) -> PageSize {
        match self {
            Layer::File(file) => file.header().page_size,
            Layer::Commits(overlay) => overlay.page_size,
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

/// Where a page is.
#[derive(Clone, Debug)]
enum Place {
    Memory(PageBytes),
    File(Arc<PageFile>),
}

impl Place {
    /// What it takes in memory of its own.
    fn bytes(&self) -> usize {
        match self {
            Place::Memory(page) => page.len(),
            Place::File(_) => 0,
        }
    }
}

/// The newest version of each page that some layers have.
#[derive(Clone, Debug)]
struct Pages {
    places: FxHashMap<Pgno, Place>,
    /// Bytes of those that are in memory.
    bytes: usize,
    /// The files that the others are in.
    files: Vec<Weak<PageFile>>,
    /// Pages of the database after the layers.
    page_count: u32,
}

impl Pages {
    fn none(page_count: u32) -> Pages {
        Pages { places: FxHashMap::default(), bytes: 0, files: vec![], page_count }
    }

    fn add(&mut self, layer: Layer) {
        match layer {
            Layer::Commits(overlay) => {
                self.resize(overlay.page_count);
                overlay.into_pages().for_each(|(pgno, page)| self.put(pgno, Place::Memory(page)));
            }
            Layer::File(file) => {
                self.resize(file.header().commit);
                if let Some(pages) = file.decoded() {
                    pages.for_each(|(pgno, page)| self.put(pgno, Place::Memory(page.clone())));
                } else {
                    file.pages().for_each(|pgno| self.put(pgno, Place::File(file.clone())));
                    self.add_files(vec![Arc::downgrade(&file)]);
                }
            }
        }
    }

    fn append(&mut self, later: Pages) {
        self.resize(later.page_count);
        later.places.into_iter().for_each(|(pgno, place)| self.put(pgno, place));
        self.add_files(later.files);
    }

    fn put(&mut self, pgno: Pgno, place: Place) {
        self.bytes += place.bytes();
        let before = self.places.insert(pgno, place);
        self.bytes -= before.map_or(0, |place| place.bytes());
    }

    fn add_files(&mut self, files: Vec<Weak<PageFile>>) {
        if !files.is_empty() {
            self.files.extend(files);
            self.files.retain(|file| file.strong_count() > 0);
        }
    }

    /// Pages beyond the end are of no use to anybody: should the database grow again, it writes them anew.
    fn resize(&mut self, page_count: u32) {
        if page_count < self.page_count {
            self.places.retain(|pgno, _| pgno.get() <= page_count);
            self.bytes = self.places.values().map(Place::bytes).sum();
        }
        self.page_count = page_count;
    }
}

/// Pages by the file that they are from: the newer half, and the half before.
#[derive(Debug, Default)]
struct Cache {
    newer: FxHashMap<(FileRef, Pgno), PageBytes>,
    older: FxHashMap<(FileRef, Pgno), PageBytes>,
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
    let later = old.to(store, earlier.whole(), point, to.time_ms).await?;
    Ok((old, later))
}

/// Layers of the log, in their order.
type Layers = BoxStream<'static, Result<Layer, Error>>;

/// What was written after a transaction, up to another one or into it.
async fn layers_between(store: &Store, from: Option<Txid>, to: Point) -> Result<Layers, Error> {
    let log = store.list().await?;
    let txid = to.txid;
    if let Some(from) = from.filter(|_| to.seq.is_none()) {
        match log_plan::between(&log, from, txid) {
            Ok(files) => return Ok(open_layers(store, files)),
            Err(e) if !matches!(e, litekeep_store::Error::Hole { .. }) => return Err(e.into()),
            Err(_) => {}
        }
    }
    let steps = log_plan::steps_to(&log, &commits::packs(store, &log).await?, from, to)?;
    Ok(read_steps(store, steps, from, to))
}

fn read_steps(store: &Store, steps: Vec<Step>, mut reached: Option<Txid>, to: Point) -> Layers {
    let store = store.clone();
    let reading = steps.into_iter().map(move |step| {
        let (store, after) = (store.clone(), reached);
        reached = Some(step.end(to.txid));
        async move {
            Ok(match (step, after) {
                (Step::File(file), _) => Layer::File(Arc::new(store.open_pages(&file).await?)),
                (pack, Some(after)) => Layer::Commits(Overlay::of_step(&store, &pack, after, to).await?),
                (Step::Pack(_), None) => {
                    return Err(Error::new(Kind::Internal, "a restore begins with a pack"));
                }
            })
        }
    });
    stream::iter(reading).buffered(PARALLEL).boxed()
}

fn open_layers(store: &Store, files: Vec<FileRef>) -> Layers {
    let store = store.clone();
    let opening = files.into_iter().map(move |file| {
        let store = store.clone();
        async move { Ok(Layer::File(Arc::new(store.open_pages(&file).await?))) }
    });
    stream::iter(opening).buffered(PARALLEL).boxed()
}

/// Compaction has taken a file away since the listing.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Store(e) if e.is_missing())
}

async fn state(store: &Store, plan: RestorePlan) -> Result<LogState, Error> {
    let planned = (plan.point(), plan.time_ms);
    let steps = read_steps(store, plan.steps.clone(), plan.whole(), plan.point());
    let mut layers = open_layers(store, plan.files).chain(steps);
    let Some(Layer::File(base)) = layers.try_next().await? else {
        return Err(Error::new(Kind::Internal, "a restore begins with no file"));
    };
    let (mut written, mut reached) = (Pages::none(base.header().commit), planned);
    while let Some(layer) = layers.try_next().await? {
        reached = match &layer {
            Layer::Commits(overlay) => (overlay.end, overlay.time_ms),
            Layer::File(_) => planned,
        };
        written.add(layer);
    }
    let (Point { txid, seq }, time_ms) = reached;
    let (runtime, cache) = (Handle::current(), Arc::default());
    Ok(LogState { base, written, txid, seq, time_ms, runtime, cache })
}

impl LogState {
    /// The state after a file that follows it.
    ///
    /// # Errors
    /// `Invalid` when the pages have another size from there on.
    pub fn after_file(&self, file: PageFile) -> Result<Later, Error> {
        let (txid, time_ms) = (file.header().max_txid, file.header().timestamp_ms);
        let mut later = self.later(txid.into(), time_ms);
        later.add(Layer::File(Arc::new(file)), self.page_size())?;
        Ok(later.sorted())
    }

    /// The state after a commit that follows it.
    ///
    /// # Errors
    /// `Invalid` when the pages have another size from there on.
    pub fn after_commit(&self, page_size: PageSize, single: Single) -> Result<Later, Error> {
        let overlay = Overlay::of(page_size, single);
        let (end, time_ms) = (overlay.end, overlay.time_ms);
        let mut later = self.later(end, time_ms);
        later.add(Layer::Commits(overlay), self.page_size())?;
        Ok(later.sorted())
    }

    /// The state of the snapshot that this one begins with.
    pub(crate) fn base(&self) -> LogState {
        let header = self.base.header();
        let written = Pages::none(header.commit);
        let (txid, time_ms) = (header.max_txid, header.timestamp_ms);
        let (runtime, cache) = (self.runtime.clone(), self.cache.clone());
        LogState { base: self.base.clone(), written, txid, seq: None, time_ms, runtime, cache }
    }

    /// What this state has over an earlier one of the same log.
    pub(crate) async fn since(&self, store: &Store, earlier: Txid) -> Result<Later, Error> {
        self.to(store, Some(earlier), self.point(), self.time_ms).await
    }

    /// What a later state has, of which the log up to a transaction is in this one, or none of it.
    async fn to(&self, store: &Store, from: Option<Txid>, to: Point, time_ms: i64) -> Result<Later, Error> {
        let mut layers = layers_between(store, from, to).await?;
        let mut later = self.later(to, time_ms);
        while let Some(layer) = layers.try_next().await? {
            if let Layer::Commits(overlay) = &layer {
                // The plan knows the time of the upload that it begins with only.
                later.time_ms = overlay.time_ms;
            }
            later.add(layer, self.page_size())?;
        }
        Ok(later.sorted())
    }

    /// A later state, without what was written in between.
    fn later(&self, to: Point, time_ms: i64) -> Later {
        let written = Pages::none(self.written.page_count);
        Later { written, txid: to.txid, seq: to.seq, time_ms, pages: vec![], only_different: false }
    }

    fn page_size(&self) -> PageSize {
        self.base.header().page_size
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
        self.written.append(later.written);
        (self.txid, self.seq, self.time_ms) = (later.txid, later.seq, later.time_ms);
    }

    /// How many files it keeps open over the snapshot.
    pub fn files(&self) -> usize {
        self.written.files.iter().filter(|file| file.strong_count() > 0).count()
    }

    /// Bytes of pages that it has in memory, but for the cache.
    pub fn bytes(&self) -> usize {
        self.written.bytes
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

/// The pages of a state, to be read on a blocking thread.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a LogState,
    later: Option<&'a Later>,
}

impl View<'_> {
    /// The file that has the page, or the page itself.
    fn place(&self, pgno: Pgno) -> Result<std::result::Result<&Arc<PageFile>, &PageBytes>, Error> {
        let later = self.later.and_then(|later| later.written.places.get(&pgno));
        match later.or_else(|| self.state.written.places.get(&pgno)) {
            Some(Place::Memory(page)) => Ok(Err(page)),
            Some(Place::File(file)) => Ok(Ok(file)),
            None if self.state.base.contains(pgno) => Ok(Ok(&self.state.base)),
            None => {
                let txid = self.later.map_or(self.state.txid, |later| later.txid);
                Err(Error::new(
                    Kind::Corrupt,
                    format!("no file of the log has page {pgno} of transaction {txid}"),
                ))
            }
        }
    }
}

impl PageSource for View<'_> {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.later.map_or(self.state.written.page_count, |later| later.written.page_count)
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        let file = match self.place(pgno)? {
            Err(page) => return Ok(page.clone()),
            Ok(file) => file,
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
            let Ok(file) = self.place(pgno)? else { continue };
            if file.is_remote() && self.state.cache().get(&(file.file().clone(), pgno)).is_none() {
                by_file.entry(Arc::as_ptr(file).addr()).or_insert_with(|| (file, vec![])).1.push(pgno);
            }
        }
        by_file.values().try_for_each(|(file, pages)| self.state.fetch(file, pages))
    }
}
