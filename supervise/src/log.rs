//! What processes print: bytes, kept as they come.
//!
//! - The child never waits for the disk: its pipes are read whatever the file does. What the disk cannot take in time is dropped
//!   by whole chunks of lines, and the file says how many lines are missing.
//! - Memory is bounded: [`QUEUE`] bytes wait for the file (and as many are being written), the tail holds a number of lines of at most [`LONGEST_IN_TAIL`] each.
//! - The file is rotated by size and age while the process runs: `app.log` becomes `app.log.1`, then `app.log.1.gz`; a crash in
//!   between leaves the one or the other whole. One that somebody has deleted or moved away is begun anew with the next line, and
//!   the rotated ones stay as they are.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use litekeep_env::{Clock, process};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::spawn::Output;

/// Bytes that wait for the file at most.
pub const QUEUE: usize = 4 << 20;
/// Bytes of a line that the tail keeps.
pub const LONGEST_IN_TAIL: usize = 8 << 10;
/// Bytes without an end of line that are passed on as they are.
const LONGEST_HELD: usize = 64 << 10;
/// Bytes that the pipe holds while we do not read.
const PIPE: usize = 256 << 10;
/// How often the file that this process prints to itself is looked at.
const OWN_EVERY: Duration = Duration::from_secs(5);

/// How output is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file; without one only the tail is kept.
    pub path: Option<PathBuf>,
    /// The file is rotated before it grows beyond this; later while the one before is still being compressed.
    pub max_bytes: u64,
    /// The file is rotated when it is older than this and something is written.
    pub max_age: Option<Duration>,
    /// How many rotated files stay.
    pub keep: u32,
    /// Whether rotated files are compressed.
    pub gzip: bool,
    /// How many lines the tail holds.
    pub tail: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { path: None, max_bytes: 10 << 20, max_age: None, keep: 5, gzip: true, tail: 100 }
    }
}

/// Which of its two outputs a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number since the start; a gap means lines that the tail no longer has.
    pub number: u64,
    /// When it was read, in milliseconds since the Unix epoch.
    pub unix_ms: i64,
    /// Where it was written to.
    pub stream: Stream,
    /// The bytes without the end of line.
    pub bytes: Vec<u8>,
}

/// The output of one process over all its runs.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// The number of lines so far.
    count: watch::Sender<u64>,
    /// Whether something is on its way to the file.
    writing: watch::Sender<bool>,
}

struct State {
    settings: Arc<Settings>,
    tail: VecDeque<Line>,
    /// Chunks of whole lines, each with the number of lines that were dropped before it.
    queue: VecDeque<(u64, Vec<u8>)>,
    queued: usize,
    /// Lines dropped since the last chunk of the queue.
    dropped: u64,
    /// With the job that writes while there is one.
    writer: Option<Writer>,
    /// What takes the place of the writer that is at work.
    replacement: Option<Option<Writer>>,
}

impl Log {
    /// Opens the file, if there is to be one.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Log> {
        let writer = open_writer(&settings, &*clock)?;
        let state = State {
            settings: Arc::new(settings),
            tail: VecDeque::new(),
            queue: VecDeque::new(),
            queued: 0,
            dropped: 0,
            writer,
            replacement: None,
        };
        Ok(Log(Arc::new(Shared {
            clock,
            state: Mutex::new(state),
            count: watch::Sender::new(0),
            writing: watch::Sender::new(false),
        })))
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<PathBuf> {
        let state = self.0.state.lock().expect("no panic while held");
        state.settings.path.as_deref().map(absolute)
    }

    /// Whether this is the file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.path().is_some_and(|own| own == absolute(path))
    }

    /// Whether both are the output of the very same process.
    pub fn is(&self, other: &Log) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Keeps the output of now on otherwise; the tail stays. Leaves everything as it was if the new file cannot be opened.
    pub fn reconfigure(&self, settings: Settings) -> Result<()> {
        let path = self.0.state.lock().expect("no panic while held").settings.path.clone();
        let writer = match settings.path == path {
            true => None,
            false => Some(open_writer(&settings, &*self.0.clock)?),
        };
        let mut state = self.0.state.lock().expect("no panic while held");
        state.settings = Arc::new(settings);
        match writer {
            Some(writer) if *self.0.writing.borrow() => state.replacement = Some(writer),
            Some(writer) => state.writer = writer,
            None => {}
        }
        Ok(())
    }

    /// Pipes for one run, with the tasks that read them until all of the run's processes have closed them.
    pub fn output(&self) -> Result<(Output, Readers)> {
        let pipe = |stream| -> io::Result<(OwnedFd, JoinHandle<()>)> {
            let (read, write) = io::pipe()?;
            Ok((write.into(), self.read(stream, read.into())?))
        };
        let both = || Ok((pipe(Stream::Stdout)?, pipe(Stream::Stderr)?));
        let ((stdout, out), (stderr, err)) =
            both().map_err(Error::file("open a pipe for its output".into()))?;
        Ok((Output { stdout, stderr }, Readers(vec![out, err])))
    }

    /// As [`Log::output`], by pipes with names, which another litekeep reads on. The run holds a reading end itself, so it lives
    /// when nobody reads: it waits once the pipe is full.
    pub(crate) fn named_output(&self, names: &[PathBuf; 2]) -> Result<(Output, Readers)> {
        let write = |path: &PathBuf| {
            process::make_fifo(path)?;
            File::options().read(true).write(true).open(path).map(OwnedFd::from)
        };
        let both = || Ok((write(&names[0])?, write(&names[1])?));
        let (stdout, stderr) = both().map_err(cannot_open(names))?;
        Ok((Output { stdout, stderr }, self.named_output_again(names)?))
    }

    /// Reads on what was opened by [`Log::named_output`].
    pub(crate) fn named_output_again(&self, names: &[PathBuf; 2]) -> Result<Readers> {
        let read = |stream, path| self.read(stream, process::open_fifo(path)?);
        let both = || Ok(vec![read(Stream::Stdout, &names[0])?, read(Stream::Stderr, &names[1])?]);
        both().map(Readers).map_err(cannot_open(names))
    }

    fn read(&self, stream: Stream, read: OwnedFd) -> io::Result<JoinHandle<()>> {
        process::widen_pipe(&read, PIPE);
        let read = pipe::Receiver::from_owned_fd(read)?;
        Ok(tokio::spawn(self.clone().follow(stream, read)))
    }

    /// The lines of the tail from a number on.
    pub fn lines_from(&self, number: u64) -> Vec<Line> {
        let state = self.0.state.lock().expect("no panic while held");
        state.tail.iter().filter(|line| line.number >= number).cloned().collect()
    }

    /// The last line from a number on that says something, for a reason; of standard error if there is any.
    pub fn last_words(&self, from: u64) -> Option<String> {
        let state = self.0.state.lock().expect("no panic while held");
        let says = |line: &&Line| line.number >= from && !line.bytes.trim_ascii().is_empty();
        let on = |stream| state.tail.iter().rev().filter(says).find(|line| line.stream == stream);
        let line = on(Stream::Stderr).or_else(|| on(Stream::Stdout))?;
        Some(String::from_utf8_lossy(line.bytes.trim_ascii()).chars().take(200).collect())
    }

    /// The number of lines so far, to wait for more.
    pub fn count(&self) -> watch::Receiver<u64> {
        self.0.count.subscribe()
    }

    /// Waits until what was read is in the file.
    pub async fn written(&self) {
        _ = self.0.writing.subscribe().wait_for(|writing| !writing).await;
    }

    async fn follow(self, stream: Stream, pipe: pipe::Receiver) {
        let mut held = Vec::new();
        while pipe.readable().await.is_ok() {
            held.reserve(LONGEST_HELD);
            match pipe.try_read_buf(&mut held) {
                Ok(0) => break,
                Ok(_) => {}
                // Nothing for now: memory only for who prints.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    held.shrink_to_fit();
                    continue;
                }
                Err(_) => break,
            }
            let whole = held.iter().rposition(|b| *b == b'\n').map(|end| end + 1);
            let whole = whole.or((held.len() >= LONGEST_HELD).then_some(held.len()));
            if let Some(end) = whole {
                // A copy, for the buffer is mostly longer than what it holds.
                self.take(stream, &held[..end]);
                held.drain(..end);
            }
            tokio::task::yield_now().await;
        }
        if !held.is_empty() {
            held.push(b'\n');
            self.take(stream, &held);
        }
    }

    /// Takes whole lines.
    fn take(&self, stream: Stream, chunk: &[u8]) {
        let unix_ms = self.0.clock.unix_ms();
        let count = chunk.iter().filter(|b| **b == b'\n').count().max(1) as u64;
        let mut state = self.0.state.lock().expect("no panic while held");
        let mut end = 0;
        self.0.count.send_modify(|total| {
            *total += count;
            end = *total;
        });
        self.keep_tail(&mut state, stream, chunk, end, unix_ms);
        if state.settings.path.is_none() {
            return;
        }
        if state.queued + chunk.len() > QUEUE {
            state.dropped += count;
            return;
        }
        state.enqueue(chunk);
        if let Some(writer) = state.writer.take() {
            self.0.writing.send_replace(true);
            drop(state);
            let log = self.clone();
            tokio::task::spawn_blocking(move || log.write(writer));
        }
    }

    fn keep_tail(&self, state: &mut State, stream: Stream, chunk: &[u8], end: u64, unix_ms: i64) {
        let keep = state.settings.tail;
        let lines = chunk.strip_suffix(b"\n").unwrap_or(chunk).rsplit(|b| *b == b'\n').take(keep);
        let lines: Vec<_> = lines.enumerate().collect();
        for (back, bytes) in lines.into_iter().rev() {
            while state.tail.len() >= keep {
                state.tail.pop_front();
            }
            let bytes = bytes[..bytes.len().min(LONGEST_IN_TAIL)].to_vec();
            state.tail.push_back(Line { number: end - 1 - back as u64, unix_ms, stream, bytes });
        }
    }

    /// Writes until the queue is empty.
    fn write(&self, mut writer: Writer) {
        loop {
            let mut state = self.0.state.lock().expect("no panic while held");
            match state.replacement.take() {
                Some(Some(other)) => writer = other,
                Some(None) => {
                    (state.queued, state.dropped) = (0, 0);
                    state.queue.clear();
                    self.0.writing.send_replace(false);
                    return;
                }
                None => {}
            }
            let settings = state.settings.clone();
            let mut chunks = std::mem::take(&mut state.queue);
            if std::mem::take(&mut state.queued) == 0 && state.dropped > 0 {
                chunks.push_back((std::mem::take(&mut state.dropped), Vec::new()));
            }
            if chunks.is_empty() {
                state.writer = Some(writer);
                self.0.writing.send_replace(false);
                return;
            }
            drop(state);
            for (dropped, chunk) in chunks {
                writer.write(dropped, &chunk, &settings, self.0.clock.unix_ms());
            }
        }
    }
}

impl State {
    /// Puts a chunk at the end; small ones together, so that their number is bounded too.
    fn enqueue(&mut self, chunk: &[u8]) {
        self.queued += chunk.len();
        match (std::mem::take(&mut self.dropped), self.queue.back_mut()) {
            (0, Some((_, last))) if last.len() + chunk.len() <= LONGEST_HELD => last.extend_from_slice(chunk),
            (dropped, _) => self.queue.push_back((dropped, chunk.to_vec())),
        }
    }
}

fn cannot_open(names: &[PathBuf; 2]) -> impl FnOnce(io::Error) -> Error {
    Error::file(format!("open the pipe `{}` for its output", names[0].display()))
}

fn open_writer(settings: &Settings, clock: &dyn Clock) -> Result<Option<Writer>> {
    let open = |path: &PathBuf| Writer::open(path, clock.unix_ms()).map_err(cannot_open_file(path));
    settings.path.as_ref().map(open).transpose()
}

/// Whether a file can be a log; afterwards it is there.
pub(crate) fn check(path: &Path) -> Result<()> {
    open_file(path).map(drop).map_err(cannot_open_file(path))
}

fn cannot_open_file(path: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::file(format!("open the log `{}`", path.display()))
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    File::options().append(true).create(true).open(path)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Rotates the file that is this process's own standard output and error. Does not return.
///
/// # Errors
/// When the file cannot be opened.
pub async fn rotate_own(settings: Settings, clock: Arc<dyn Clock>) -> Result<()> {
    let Some(mut writer) = open_writer(&settings, &*clock)? else { return Ok(()) };
    loop {
        tokio::time::sleep(OWN_EVERY).await;
        let now_ms = clock.unix_ms();
        let begun_anew = match writer.begin_anew_if_gone(now_ms) {
            Ok(begun_anew) => begun_anew,
            Err(error) => {
                tracing::warn!("could not open the log `{}`: {error}", writer.path.display());
                continue;
            }
        };
        writer.bytes = writer.file.metadata().map_or(0, |metadata| metadata.len());
        let rotated =
            !begun_anew && writer.must_rotate(0, &settings, now_ms) && writer.rotate(&settings, now_ms);
        if !begun_anew && !rotated {
            continue;
        }
        // Before the old file is compressed: nothing is written to it any more.
        match process::print_to(&writer.file) {
            Ok(()) if begun_anew => {}
            Ok(()) => writer.compress(&settings),
            Err(error) => tracing::warn!("could not print to `{}`: {error}", writer.path.display()),
        }
    }
}

/// The tasks that read one run's output.
#[derive(Debug)]
pub struct Readers(Vec<JoinHandle<()>>);

impl Readers {
    /// Of a run whose output cannot be read.
    pub(crate) fn none() -> Readers {
        Readers(vec![])
    }

    /// Waits until both outputs are closed and read to their end.
    pub async fn ended(&mut self) {
        for reader in self.0.iter_mut().filter(|reader| !reader.is_finished()) {
            _ = reader.await;
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    begun_ms: i64,
    /// Lines that were dropped and are not marked in the file yet.
    lost: u64,
    is_failing: bool,
    compressing: Arc<AtomicBool>,
}

impl Writer {
    fn open(path: &Path, now_ms: i64) -> io::Result<Writer> {
        _ = fs::remove_file(numbered(path, 1, PARTIAL));
        let file = open_file(path)?;
        let metadata = file.metadata()?;
        let begun = metadata.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let begun_ms = begun.map_or(now_ms, |begun| (begun.as_millis() as i64).min(now_ms));
        let compressing = Arc::default();
        Ok(Writer {
            path: path.into(),
            file,
            bytes: metadata.len(),
            begun_ms,
            lost: 0,
            is_failing: false,
            compressing,
        })
    }

    /// Writes a chunk after the mark for what is missing before it. What cannot be written is lost, and told once.
    fn write(&mut self, dropped: u64, chunk: &[u8], settings: &Settings, now_ms: i64) {
        self.lost += dropped;
        let failed = self.try_write(chunk, settings, now_ms).err();
        if let Some(error) = &failed {
            self.lost += chunk.iter().filter(|b| **b == b'\n').count() as u64;
            if !self.is_failing {
                tracing::warn!("could not write the log `{}`: {error}", self.path.display());
            }
        }
        self.is_failing = failed.is_some();
    }

    /// Opens the file anew if somebody has deleted it or moved it away; whether that was so.
    fn begin_anew_if_gone(&mut self, now_ms: i64) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt as _;
        let own = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = open_file(&self.path)?;
        (self.bytes, self.begun_ms) = (self.file.metadata()?.len(), now_ms);
        Ok(true)
    }

    fn try_write(&mut self, chunk: &[u8], settings: &Settings, now_ms: i64) -> io::Result<()> {
        self.begin_anew_if_gone(now_ms)?;
        if self.must_rotate(chunk.len(), settings, now_ms) && self.rotate(settings, now_ms) {
            self.compress(settings);
        }
        if self.lost > 0 {
            let mark =
                format!("[litekeep: {} lines dropped: the disk did not take them in time]\n", self.lost);
            self.file.write_all(mark.as_bytes())?;
            (self.bytes, self.lost) = (self.bytes + mark.len() as u64, 0);
        }
        self.file.write_all(chunk)?;
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Whether the file is to be rotated before this many bytes are written.
    fn must_rotate(&self, bytes: usize, settings: &Settings, now_ms: i64) -> bool {
        let too_old = settings
            .max_age
            .is_some_and(|age| now_ms.saturating_sub(self.begun_ms) >= age.as_millis() as i64);
        let too_big = self.bytes + bytes as u64 > settings.max_bytes;
        // The number that a file under compression has must stay its own; the next chunk asks again.
        self.bytes > 0 && (too_old || too_big) && !self.compressing.load(SeqCst)
    }

    /// Begins a new file. If that fails the file goes on; the next try comes when it would be due again.
    fn rotate(&mut self, settings: &Settings, now_ms: i64) -> bool {
        let rotated = self.try_rotate(settings);
        if let Err(error) = &rotated {
            tracing::warn!("could not rotate the log `{}`: {error}", self.path.display());
        }
        (self.bytes, self.begun_ms) = (0, now_ms);
        rotated.is_ok()
    }

    fn try_rotate(&mut self, settings: &Settings) -> io::Result<()> {
        for suffix in ["", GZIP] {
            _ = fs::remove_file(numbered(&self.path, settings.keep, suffix));
            for number in (1..settings.keep).rev() {
                _ = fs::rename(
                    numbered(&self.path, number, suffix),
                    numbered(&self.path, number + 1, suffix),
                );
            }
        }
        match settings.keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, numbered(&self.path, 1, ""))?,
        }
        self.file = File::options().append(true).create(true).open(&self.path)?;
        Ok(())
    }

    /// Compresses the newest rotated file beside the writing, if it is to be.
    fn compress(&self, settings: &Settings) {
        if !settings.gzip || settings.keep == 0 {
            return;
        }
        let (path, compressing) = (self.path.clone(), self.compressing.clone());
        compressing.store(true, SeqCst);
        let job = move || {
            let plain = numbered(&path, 1, "");
            if let Err(error) = compress(&plain, &numbered(&path, 1, PARTIAL), &numbered(&path, 1, GZIP)) {
                tracing::warn!("could not compress the log `{}`: {error}", plain.display());
            }
            compressing.store(false, SeqCst);
        };
        tokio::task::spawn_blocking(job);
    }
}

const GZIP: &str = ".gz";
const PARTIAL: &str = ".gz.partial";

/// The file of one of several instances: `app.log` becomes `app.2.log`.
pub fn of_instance(path: &Path, number: u32) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()));
    path.with_file_name(format!("{stem}.{number}{extension}"))
}

/// `app.log` with a number and a suffix.
fn numbered(path: &Path, number: u32, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}{suffix}"));
    name.into()
}

/// The compressed file appears whole, then the plain one goes.
fn compress(plain: &Path, partial: &Path, target: &Path) -> io::Result<()> {
    let mut encoder = GzEncoder::new(File::create(partial)?, Compression::fast());
    io::copy(&mut File::open(plain)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(partial, target)?;
    fs::remove_file(plain)
}

#[cfg(test)]
mod tests;
