//! A file, one event a line.
//!
//! Promises:
//! - The file itself says what it has: after a crash a torn last line is cut off, and events that are there already are passed
//!   over, so that each stands there once.
//! - Lines are synced before they count as delivered.
//! - A file that is not ours is never touched, and one that was moved away (logrotate) is followed by a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use litekeep_env::{disk, lock};
use litekeep_ltx::Txid;

use crate::{Error, Event, Kind, Sink};

/// The end of the file is read in blocks.
const BLOCK: u64 = 64 << 10;

/// The file.
pub(crate) struct EventFile {
    path: PathBuf,
    /// Away while it is written to.
    open: Option<Opened>,
    /// After which transaction to go on, where nobody else knows.
    at: Option<Txid>,
}

struct Opened {
    file: File,
    /// The last event that is there, until one comes that is not.
    last: Option<Last>,
}

/// The last line of the file.
struct Last {
    txid: Txid,
    /// What the log needs to begin before it.
    first: Txid,
    order: u64,
    id: String,
}

impl EventFile {
    pub(crate) async fn open(path: &Path, at: Option<Txid>) -> Result<EventFile, Error> {
        let name = path.to_owned();
        let opened = blocking(move || Opened::open(&name, at)).await?;
        let before = opened.last.as_ref().and_then(|last| last.first.prev());
        Ok(EventFile { path: path.to_owned(), open: Some(opened), at: at.or(before) })
    }
}

#[async_trait]
impl Sink for EventFile {
    fn at(&self) -> Option<Txid> {
        self.at
    }

    async fn deliver(&mut self, events: &[Event]) -> Result<(), Error> {
        let gone = || Error::new(Kind::Internal, "the file is being written to");
        let (mut opened, path) = (self.open.take().ok_or_else(gone)?, self.path.clone());
        let events = events.to_vec();
        let opened = blocking(move || {
            if !opened.is_at(&path) {
                opened = Opened::open(&path, None)?;
            }
            opened.write(&path, &events)?;
            Ok(opened)
        });
        self.open = Some(opened.await?);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(Kind::Internal, error.to_string()))?
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |error| {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let kind = match error.kind() {
            NotFound | PermissionDenied | IsADirectory | NotADirectory => Kind::Invalid,
            _ => Kind::Unavailable,
        };
        Error::new(kind, format!("{doing}: {error}"))
    }
}

impl Opened {
    fn open(path: &Path, at: Option<Txid>) -> Result<Opened, Error> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(path).map_err(failed("open", path))?;
        if !lock::exclude(&file, 0, 1).map_err(failed("lock", path))? {
            let message = format!("write `{}`: another process delivers to it", path.display());
            return Err(Error::with_hint(Kind::Invalid, message, "give each feed a file of its own"));
        }
        let length = file.metadata().map_err(failed("read the size of", path))?.len();
        let (kept, line) = last_line(&file, length).map_err(failed("read", path))?;
        let last = line.as_deref().map(|line| Last::read(line).ok_or_else(|| foreign(path))).transpose()?;
        if kept < length {
            if last.is_none() && !(at.is_some() && is_torn(&file, length).map_err(failed("read", path))?) {
                return Err(foreign(path));
            }
            file.set_len(kept).map_err(failed("cut the torn last line of", path))?;
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        disk::sync_dir(folder.unwrap_or(Path::new("."))).map_err(failed("sync the folder of", path))?;
        Ok(Opened { file, last: last.filter(|last| at.is_none_or(|at| at < last.txid)) })
    }

    /// Whether the file still has its name.
    fn is_at(&self, path: &Path) -> bool {
        let same = |there: std::fs::Metadata, here: std::fs::Metadata| {
            (there.dev(), there.ino()) == (here.dev(), here.ino())
        };
        path.metadata().is_ok_and(|there| self.file.metadata().is_ok_and(|here| same(there, here)))
    }

    fn write(&mut self, path: &Path, events: &[Event]) -> Result<(), Error> {
        let mut lines = Vec::new();
        for event in events {
            if self.has(path, event)? {
                continue;
            }
            lines.extend_from_slice(event.line.as_bytes());
            lines.push(b'\n');
        }
        if lines.is_empty() {
            return Ok(());
        }
        // Asked each time: others may have emptied it (logrotate's `copytruncate`).
        let before = self.file.metadata().map_err(failed("read the size of", path))?.len();
        self.file.write_all(&lines).and_then(|()| self.file.sync_data()).map_err(|error| {
            // What of it is there comes again. Where this fails too, the next start finds it.
            let _ = self.file.set_len(before);
            failed("write", path)(error)
        })
    }

    /// Whether an event is there already.
    fn has(&mut self, path: &Path, event: &Event) -> Result<bool, Error> {
        let Some(last) = &self.last else { return Ok(false) };
        let place = place(&event.id).filter(|place| *place <= (last.txid, last.order));
        let is_last = place == Some((last.txid, last.order));
        if is_last && event.id != last.id {
            let message = format!(
                "write `{}`: its last line is the event {}, which is {} in the log now",
                path.display(),
                last.id,
                event.id
            );
            let hint = format!(
                "`tables` has changed, or the log was begun anew; to go on in a new file: mv '{0}' '{0}.old'",
                path.display()
            );
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        if is_last || place.is_none() {
            self.last = None;
        }
        Ok(place.is_some())
    }
}

/// Transaction and order of an event.
fn place(id: &str) -> Option<(Txid, u64)> {
    let mut parts = id.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Last {
    fn read(line: &[u8]) -> Option<Last> {
        let (event, json) = Event::read(std::str::from_utf8(line).ok()?)?;
        let (txid, order) = place(&event.id)?;
        let first = json["source"]["first_txid"].as_str()?.parse().ok()?;
        Some(Last { txid, first, order, id: event.id })
    }
}

fn foreign(path: &Path) -> Error {
    let message = format!("write `{}`: it has something else than events of a feed", path.display());
    Error::with_hint(Kind::Invalid, message, "name a file of its own, or move this one away")
}

/// Up to where the file has whole lines, and the last of them.
fn last_line(file: &File, length: u64) -> io::Result<(u64, Option<Vec<u8>>)> {
    let Some(end) = line_break_before(file, length)? else { return Ok((0, None)) };
    let begin = line_break_before(file, end)?.map_or(0, |before| before + 1);
    let mut line = vec![0; (end - begin) as usize];
    file.read_exact_at(&mut line, begin)?;
    Ok((end + 1, Some(line)))
}

/// Where the last line break before a place is.
fn line_break_before(file: &File, place: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; BLOCK as usize];
    let mut end = place;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let block = &mut block[..(end - begin) as usize];
        file.read_exact_at(block, begin)?;
        if let Some(found) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(begin + found as u64));
        }
        end = begin;
    }
    Ok(None)
}

/// Whether a file without a line break has the beginning of our first line, or what a power cut left of it.
fn is_torn(file: &File, length: u64) -> io::Result<bool> {
    let mut begin = vec![0; length.min(BLOCK) as usize];
    file.read_exact_at(&mut begin, 0)?;
    let is_whole = length <= BLOCK && serde_json::from_slice::<serde_json::Value>(&begin).is_ok();
    Ok(begin.iter().all(|byte| *byte == 0) || begin.starts_with(b"{") && !is_whole)
}
