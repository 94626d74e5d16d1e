//! How many connections there may be to a server at a time, for all processes of this machine that say where they count them.
//!
//! Each connection that may be is a byte of a file. Who connects locks as many as it needs at most, all or none, and lets go of them when the
//! server has closed the last of its connections: what it counts is what the server counts.
//!
//! A crash leaves: no lock, for locks go with the process; but bytes that say that somebody has not closed its connections. Whoever takes those gives the
//! server a moment to see that nobody is there any more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use litekeep_env::{Clock as _, SystemClock, lock};
use tokio::sync::watch;

use crate::{Error, Kind};

/// How long others are waited for who use all connections.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether they do.
const LOOK: Duration = Duration::from_millis(50);
/// How long a server may take to close a connection that it is told to close: it may have to come to the end of a statement.
const CLOSING: Duration = Duration::from_secs(30);
/// How long the end of a process waits for that.
const END: Duration = Duration::from_secs(5);
/// How long a server takes to see that nobody is there any more: MySQL's log has no word of a client, and is heard of each half second.
const SETTLING: Duration = Duration::from_secs(2);
/// The byte that is locked while the others are looked at, behind all of these.
const GATE: u64 = 1 << 20;
/// What a byte says.
const USED: u8 = b'1';
const FREE: u8 = b'0';

/// Connections that are closing, of those that count.
static UNDER_WAY: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// How many connections there may be.
#[derive(Clone, Debug, Default)]
pub struct Budget(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    /// The server, for people.
    server: String,
    most: u32,
    file: PathBuf,
}

/// Connections that may be, until the last of those who have them is dropped. Without a budget they stand for any number.
#[derive(Clone, Debug, Default)]
pub struct Permits(Option<Arc<Taken>>);

#[derive(Debug)]
struct Taken {
    file: File,
    places: Vec<u64>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        for place in &self.places {
            // Where it cannot be said, the next one waits in vain.
            _ = self.file.write_all_at(&[FREE], *place);
        }
    }
}

impl Budget {
    /// So many at most to a server, of all who name the file.
    pub fn new(server: impl Into<String>, most: u32, file: impl Into<PathBuf>) -> Budget {
        Budget(Some(Arc::new(Limit { server: server.into(), most, file: file.into() })))
    }

    /// How many there may be; `None`: any number.
    pub fn most(&self) -> Option<u32> {
        self.0.as_ref().map(|limit| limit.most)
    }

    /// Refuses what needs more connections than there may be.
    ///
    /// # Errors
    /// `Invalid` with how many it needs.
    pub fn fits(&self, needed: u32) -> Result<(), Error> {
        match &self.0 {
            Some(limit) if needed > limit.most => Err(limit.too_small(needed)),
            _ => Ok(()),
        }
    }

    /// So many connections, as soon as there may be so many.
    ///
    /// # Errors
    /// `Invalid` when there may never be so many, `Unavailable` when others use them for long.
    pub async fn take(&self, needed: u32) -> Result<Permits, Error> {
        self.fits(needed)?;
        let Some(limit) = &self.0 else { return Ok(Permits(None)) };
        let failed = |e: io::Error| {
            let message = format!("count connections in `{}`: {e}", limit.file.display());
            Error::new(Kind::Unavailable, message)
        };
        let file = open(&limit.file).map_err(failed)?;
        let begun = SystemClock.boottime();
        loop {
            if let Some(places) = lock_free(&file, limit.most, needed).map_err(failed)? {
                let mut said = vec![FREE; limit.most as usize];
                let read = file.read_at(&mut said, 0).map_err(failed)?;
                let is_left = |place: &u64| (*place as usize) < read && said[*place as usize] == USED;
                // Killed meanwhile, the next one waits all the same.
                if places.iter().any(is_left) {
                    tokio::time::sleep(SETTLING).await;
                }
                for place in &places {
                    file.write_all_at(&[USED], *place).map_err(failed)?;
                }
                return Ok(Permits(Some(Arc::new(Taken { file, places }))));
            }
            if SystemClock.boottime().saturating_sub(begun) >= PATIENCE {
                return Err(limit.in_use(needed));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Limit {
    fn too_small(&self, needed: u32) -> Error {
        let Limit { server, most, .. } = self;
        let message = format!("{needed} connections to {server} are needed, and `max_connections` is {most}");
        Error::with_hint(Kind::Invalid, message, format!("max_connections = {needed}, or more"))
    }

    fn in_use(&self, needed: u32) -> Error {
        let Limit { server, most, .. } = self;
        let message = format!(
            "`max_connections` is {most} for {server}, of which fewer than the {needed} that are needed are free"
        );
        let hint =
            "`litekeep sync pause NAME` lets a sync rest, without connections; or raise `max_connections`";
        Error::with_hint(Kind::Unavailable, message, hint)
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Locks so many bytes of the first `most`, or none.
fn lock_free(file: &File, most: u32, needed: u32) -> io::Result<Option<Vec<u64>>> {
    if !lock::exclude(file, GATE, 1)? {
        return Ok(None);
    }
    let mut places = vec![];
    for place in 0..u64::from(most) {
        if places.len() < needed as usize && lock::exclude(file, place, 1)? {
            places.push(place);
        }
    }
    let are_enough = places.len() == needed as usize;
    if !are_enough {
        for place in places.drain(..) {
            lock::release(file, place, 1)?;
        }
    }
    lock::release(file, GATE, 1)?;
    Ok(are_enough.then_some(places))
}

impl Permits {
    /// Whether anybody counts.
    pub fn are_counted(&self) -> bool {
        self.0.is_some()
    }

    /// Has a connection close by itself. Its permit is kept until the server has closed it, which is when `closed` says so, or until the server
    /// must have seen that nobody is there any more.
    pub fn keep_until(self, closed: impl Future<Output = bool> + Send + 'static) {
        // Whoever is not there any more takes the connection with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let is_counted = self.are_counted();
        let under_way = is_counted.then(UnderWay::begin);
        runtime.spawn(async move {
            let closed = tokio::time::timeout(CLOSING, closed).await.unwrap_or(false);
            if is_counted && !closed {
                tokio::time::sleep(SETTLING).await;
            }
            drop((self, under_way));
        });
    }

    /// Gives the server time to see that connections are closed that have said so to nobody.
    pub async fn settle(&self) {
        if self.are_counted() {
            tokio::time::sleep(SETTLING).await;
        }
    }

    /// A connection that is being made: it counts for a moment longer where that is given up.
    pub fn opening(&self) -> Opening {
        Opening(self.clone())
    }
}

/// A connection that is being made.
pub struct Opening(Permits);

impl Opening {
    /// It is made.
    pub fn done(mut self) -> Permits {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.0.are_counted() {
            std::mem::take(&mut self.0).keep_until(std::future::ready(false));
        }
    }
}

struct UnderWay;

impl UnderWay {
    fn begin() -> UnderWay {
        UNDER_WAY.send_modify(|count| *count += 1);
        UnderWay
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.send_modify(|count| *count -= 1);
    }
}

/// Waits until all connections that count and that nobody uses any more are closed, so that whoever comes next need not.
pub async fn settled() {
    let mut under_way = UNDER_WAY.subscribe();
    _ = tokio::time::timeout(END, under_way.wait_for(|count| *count == 0)).await;
}
