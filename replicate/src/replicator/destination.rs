//! One place that a database's log goes to, and what waits for it.

use crate::capture::{Body, Segment};
use crate::local::Spool;
use crate::{Error, Kind};
use litekeep_ltx::{FileName, Txid};
use litekeep_store::{FileRef, Log, PackRef, Store, Times};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of segments that wait in memory before they go to the spool.
pub(crate) const MEMORY_LIMIT: u64 = 16 << 20;

/// What is known of the log at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not even what it consists of.
    Unlisted,
    /// Not whether its end is in the other destinations' logs.
    Listed,
    /// What the others have can continue it.
    Joined,
}

/// A destination.
pub(crate) struct Destination {
    pub(crate) store: Store,
    /// What the log there consists of, kept up to date without listing.
    pub(crate) log: Log,
    pub(crate) times: Times,
    /// Files that were found to be damaged: they stand there, and nothing counts on them.
    pub(crate) damaged: Vec<FileRef>,
    /// The packs there, by first transaction, once somebody has looked.
    pub(crate) packs: Option<Vec<PackRef>>,
    pub(crate) queue: VecDeque<Arc<Segment>>,
    pub(crate) durable: Option<Txid>,
    pub(crate) error: Option<String>,
    pub(crate) unfenced: bool,
    pub(crate) failures: u32,
    /// Of compaction, retention or snapshots, since they last succeeded.
    pub(crate) maintenance_failures: u32,
    /// It lacks files that only another destination has.
    pub(crate) lags: bool,
    pub(crate) standing: Standing,
    /// Since when it does not show what it has, while another one waits for that.
    pub(crate) silent_since: Option<Instant>,
    pub(crate) shipping: bool,
    /// When the put that is under way has taken so long that it hangs. Into a folder it never fails by itself.
    pub(crate) hangs_from: Option<Instant>,
}

impl Destination {
    pub(crate) fn new(store: Store) -> Destination {
        Destination {
            store,
            log: Log::default(),
            times: Times::default(),
            damaged: vec![],
            packs: None,
            queue: VecDeque::new(),
            durable: None,
            error: None,
            unfenced: false,
            failures: 0,
            maintenance_failures: 0,
            lags: false,
            standing: Standing::Unlisted,
            silent_since: None,
            shipping: false,
            hangs_from: None,
        }
    }

    /// Takes out of a listing what is known to be damaged; but not its end, whose name the next file must not take.
    pub(crate) fn leave_out_damaged(&self, log: &mut Log) {
        let last = log.last();
        let gone: Vec<FileRef> =
            self.damaged.iter().filter(|file| Some(file.max()) != last).cloned().collect();
        log.remove_all(&gone);
    }

    /// Notes a file that is there now.
    pub(crate) fn landed(&mut self, level: u8, name: FileName, size: u64, timestamp_ms: i64) {
        self.log.insert(FileRef { level, name, size, modified_ms: timestamp_ms });
        self.times.insert(level, name, timestamp_ms);
        self.durable = self.durable.max(Some(name.max));
        self.silent_since = None;
        self.store.expect_log(true);
    }

    /// Timestamp of the newest file, there or waiting; milliseconds since the epoch.
    pub(crate) fn newest_time(&self) -> Option<i64> {
        let waiting = self.queue.back().map(|s| s.header.timestamp_ms);
        waiting.or_else(|| self.log.newest_l0().map(|f| self.times.of(f)))
    }

    /// The put of a segment begins.
    pub(crate) fn begins(&mut self, segment: &Segment) {
        self.hangs_from = Some(Instant::now() + litekeep_store::time_limit(segment.size));
    }

    /// Bytes that wait in memory.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        let in_memory = |s: &&Arc<Segment>| matches!(s.body, Body::Memory(_));
        self.queue.iter().filter(in_memory).map(|s| s.size).sum()
    }

    /// Whether it answers puts: none has failed since the last that succeeded, and none hangs.
    pub(crate) fn answers(&self) -> bool {
        self.failures == 0 && self.hangs_from.is_none_or(|from| Instant::now() < from)
    }

    /// Before the next try after a failure: 0.1 s, doubling to 3.2 s.
    pub(crate) fn back_off(&self) -> Duration {
        Duration::from_millis(100 << self.failures.min(5))
    }
}

/// Makes what the segment was read from durable, then puts it at level 0: the store must not get ahead of the file, or
/// after a power cut the application would be behind its own backup.
pub(crate) async fn put(store: &Store, spool: &Spool, segment: &Arc<Segment>) -> Result<(), Error> {
    let (name, time) = (segment.name(), segment.header.timestamp_ms);
    let here = (store.clone(), segment.clone());
    if blocking(name, move || sync_and_put_here(&here.0, &here.1)).await? {
        return Ok(());
    }
    match &segment.body {
        Body::Memory(bytes) => {
            store.put(0, name, bytes.clone(), time).await?;
        }
        Body::Spooled if segment.size <= MEMORY_LIMIT => {
            store.put(0, name, spool.read(name)?.into(), time).await?;
        }
        Body::Spooled => {
            let mut file = spool.open(name)?;
            let copied = store.put_from(0, name, time, Some(segment.size), move |to| {
                let mut buffer = vec![0; 256 << 10];
                loop {
                    let n = file.read(&mut buffer).map_err(spool_failed)?;
                    if n == 0 {
                        return Ok::<_, Error>(());
                    }
                    to.write_all(&buffer[..n]).map_err(spool_failed)?;
                }
            });
            copied.await?;
        }
    }
    Ok(())
}

/// The part of [`put`] that blocks: all of it for a segment in memory and a store that is a folder with few calls under way,
/// else only the sync.
pub(crate) fn sync_and_put_here(store: &Store, segment: &Segment) -> Result<bool, Error> {
    sync_wal(segment)?;
    let (Body::Memory(bytes), Some(_)) = (&segment.body, store.as_folder()) else { return Ok(false) };
    let put = store.put_blocking(0, segment.name(), bytes.clone(), segment.header.timestamp_ms)?;
    Ok(put.is_some())
}

fn sync_wal(segment: &Segment) -> Result<(), Error> {
    let Some(wal) = &segment.wal else { return Ok(()) };
    wal.sync_data().map_err(|e| Error::new(Kind::Unavailable, format!("sync the WAL: {e}")))
}

async fn blocking<T: Send + 'static>(
    name: FileName,
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| Error::new(Kind::Internal, format!("put {name}: {e}")))?
}

fn spool_failed(e: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, format!("copy a file from the spool: {e}"))
}
