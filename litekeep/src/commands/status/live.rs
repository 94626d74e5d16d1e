//! The database's side: what the replicator says it has confirmed, and what SQLite has committed since.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use litekeep_env::Clock;
use litekeep_env::file::sibling;
use litekeep_format::{WalHeader, WalIndexHeader, frame_size};
use litekeep_ltx::Txid;
use litekeep_replicate::capture::{is_in_log, readers};
use litekeep_replicate::local::{MetaDir, State, StateFile, Trouble};
use litekeep_replicate::replicator::{Stranded, stranded};
use serde::Serialize;

use super::REPLICATE;
use crate::report::text;
use crate::settings::Database;

/// How long beyond twice its upload interval a replicator may be behind before it counts as stuck.
const GRACE_MS: i64 = 10_000;

/// How often an index that is not valid is read again, and what lies between the later half of these tries.
const INDEX_TRIES: u32 = 200;
const INDEX_PAUSE: Duration = Duration::from_millis(2);

/// One look, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Live {
    pub(super) exists: bool,
    pub(super) size_bytes: Option<u64>,
    pub(super) wal_bytes: Option<u64>,
    /// Who keeps a WAL from being reset that has grown beyond its limit.
    pub(super) wal_reader_pid: Option<u32>,
    pub(super) replicator_pid: Option<u32>,
    pub(super) confirmed: Option<Confirmed>,
    /// Frames of the WAL that are not confirmed; `None`: nobody can tell.
    pub(super) pending_frames: Option<u64>,
    /// How old the oldest unconfirmed commit can be.
    pub(super) lag_seconds_at_most: Option<f64>,
    #[serde(skip)]
    stuck: bool,
    /// What the replicator says is wrong.
    #[serde(skip)]
    trouble: Option<Trouble>,
    /// What waits on this machine.
    #[serde(skip)]
    stranded: Option<Stranded>,
    /// There is neither the file nor anything of ours: whoever waits for it leaves no trace.
    #[serde(skip)]
    is_untouched: bool,
    #[serde(skip)]
    at_ms: i64,
}

/// The last transaction that the store confirmed, in the replicator's words.
#[derive(Debug, Serialize)]
pub(super) struct Confirmed {
    pub(super) txid: String,
    pub(super) at: String,
    captured_at: String,
    pages: u32,
    page_size: u32,
    #[serde(skip)]
    number: Txid,
    #[serde(skip)]
    pub(super) captured_ms: i64,
}

impl From<&State> for Confirmed {
    fn from(state: &State) -> Self {
        Confirmed {
            txid: state.txid.to_string(),
            at: text::rfc3339(state.confirmed_ms),
            captured_at: text::rfc3339(state.captured_ms),
            pages: state.page_count,
            page_size: state.page_size.get(),
            number: state.txid,
            captured_ms: state.captured_ms,
        }
    }
}

impl Confirmed {
    /// The pages of so many frames.
    pub(super) fn behind_bytes(&self, frames: Option<u64>) -> u64 {
        frames.unwrap_or(0) * u64::from(self.page_size)
    }
}

/// Who replicates a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replicates {
    /// A `litekeep up` that runs.
    Up,
    /// Nobody that is known; this starts one.
    Command(&'static str),
}

/// One look, as it is compared.
#[derive(Debug)]
pub(in crate::commands) struct Look {
    size_bytes: Option<u64>,
    wal_bytes: Option<u64>,
    wal_reader_pid: Option<u32>,
    replicator_pid: Option<u32>,
    state: Option<State>,
    pending_frames: Option<u64>,
    trouble: Option<Trouble>,
    stranded: Option<Stranded>,
    is_untouched: bool,
    at_ms: i64,
}

/// Looks at one database until it is known whether its replicator moves.
#[derive(Debug)]
pub(super) struct Watch {
    first: Option<Txid>,
    last: Look,
}

impl Watch {
    pub(super) fn begin(database: &Database, clock: &dyn Clock) -> Watch {
        let last = Look::at(database, clock);
        Watch { first: last.state.map(|state| state.txid), last }
    }

    pub(super) fn look(&mut self, database: &Database, clock: &dyn Clock) {
        self.last = Look::at(database, clock);
    }

    /// There is something to confirm, somebody to do it, and nothing was confirmed since the first look.
    pub(super) fn is_behind(&self) -> bool {
        let unmoved = self.last.state.map(|state| state.txid) == self.first;
        self.last.replicator_pid.is_some() && unmoved && self.last.has_pending()
    }

    pub(super) fn end(self, upload_interval: Duration) -> Live {
        let behind = self.is_behind();
        let Look {
            size_bytes,
            wal_bytes,
            wal_reader_pid,
            replicator_pid,
            state,
            pending_frames,
            trouble,
            stranded,
            is_untouched,
            at_ms,
        } = self.last;
        let since_ms = state.map(|state| (at_ms - state.confirmed_ms).max(0));
        // What was committed while that was on its way is older than the confirmation.
        let oldest_ms = state.map(|state| (at_ms - state.captured_ms).max(0));
        let allowed_ms = 2 * i64::try_from(upload_interval.as_millis()).unwrap_or(i64::MAX / 4) + GRACE_MS;
        Live {
            exists: size_bytes.is_some(),
            size_bytes,
            wal_bytes,
            wal_reader_pid,
            replicator_pid,
            confirmed: state.as_ref().map(Confirmed::from),
            pending_frames,
            lag_seconds_at_most: match (pending_frames, oldest_ms) {
                (Some(0), Some(_)) => Some(0.0),
                (Some(_), Some(oldest_ms)) => Some(oldest_ms as f64 / 1000.0),
                _ => None,
            },
            at_ms,
            trouble,
            stranded,
            is_untouched,
            stuck: behind && since_ms.is_none_or(|since_ms| since_ms > allowed_ms),
        }
    }
}

impl Look {
    pub(in crate::commands) fn at(database: &Database, clock: &dyn Clock) -> Look {
        // What was in the log then is in the state that is read after it.
        let in_log = is_told_in_log(&database.path);
        // Before the WAL: frames that are confirmed between the two readings would else count as lost.
        let state = StateFile::peek(&database.meta_dir.join("state"));
        let metadata = std::fs::metadata(&database.path).ok();
        let wal = sibling(&database.path, "-wal");
        let replicator_pid = MetaDir::claimed_by(&database.meta_dir, &database.path);
        let modified_ms = metadata.as_ref().map(|metadata| {
            use std::os::unix::fs::MetadataExt;
            let of = |seconds: i64, nanoseconds: i64| seconds * 1000 + nanoseconds / 1_000_000;
            // A file that was put in the place of another may be older than that.
            of(metadata.mtime(), metadata.mtime_nsec()).max(of(metadata.ctime(), metadata.ctime_nsec()))
        });
        let at_rest_ms = modified_ms.filter(|_| replicator_pid.is_none());
        let pending = Pending { database: &database.path, wal: &wal, state: state.as_ref() };
        let wal_bytes = std::fs::metadata(&wal).ok().map(|metadata| metadata.len());
        Look {
            size_bytes: metadata.map(|metadata| metadata.len()),
            wal_bytes,
            wal_reader_pid: if wal_in_use(&database.path) > 2 * database.config.wal_limit {
                let readers = readers(&database.path).unwrap_or_default();
                readers.into_iter().find(|pid| Some(*pid) != replicator_pid)
            } else {
                None
            },
            pending_frames: pending.frames(in_log, at_rest_ms),
            replicator_pid,
            state,
            trouble: Trouble::read(&database.meta_dir),
            stranded: stranded(&database.meta_dir),
            is_untouched: database.is_untouched(),
            at_ms: clock.unix_ms(),
        }
    }

    /// Everything that was committed is in the backup, as far as can be told.
    pub(in crate::commands) fn is_confirmed(&self) -> bool {
        self.pending_frames == Some(0)
    }

    fn has_pending(&self) -> bool {
        self.pending_frames.is_some_and(|frames| frames > 0)
    }
}

/// Finds out what of the WAL the log does not have yet.
struct Pending<'a> {
    database: &'a Path,
    wal: &'a Path,
    state: Option<&'a State>,
}

impl Pending<'_> {
    /// `at_rest_ms`: when the file was written to last, where nobody works on it.
    fn frames(&self, in_log: bool, at_rest_ms: Option<i64>) -> Option<u64> {
        let of_wal = || self.wal().map(|(header, frames)| (header.salt, frames));
        let present = index(self.database).map(|index| (index.salt, index.max_frame.into())).or_else(of_wal);
        let place = self.state.and_then(|state| state.place);
        match (present, place) {
            (Some((salt, frames)), Some(place)) if place.salt == salt => {
                // One that is shorter than what was confirmed was set back.
                return frames.checked_sub(place.frames.into());
            }
            (Some((_, frames)), _) if frames > 0 => return Some(frames),
            _ => {}
        }
        // Without frames everything is in the database file. A replicator says whether the log has it. Where none runs, nothing got there since
        // the capture that is confirmed: what is copied there was captured before. Captures are stamped with the next millisecond.
        let captured_ms = self.state?.captured_ms;
        // Asked again: since the first time the WAL may have been captured, which is not confirmed yet, and begun anew.
        let in_log = in_log && is_told_in_log(self.database);
        (in_log || at_rest_ms.is_some_and(|at_ms| at_ms + 1 < captured_ms)).then_some(0)
    }

    /// Header and whole frames of a WAL that no process has open.
    fn wal(&self) -> Option<(WalHeader, u64)> {
        let mut file = File::open(self.wal).ok()?;
        let length = file.metadata().ok()?.len();
        let mut bytes = [0; WalHeader::LEN];
        file.read_exact(&mut bytes).ok()?;
        let header = WalHeader::parse(&bytes).ok()?;
        Some((header, (length - WalHeader::LEN as u64) / frame_size(header.page_size)))
    }
}

/// Whether a replicator says that everything is in the log.
fn is_told_in_log(database: &Path) -> bool {
    File::open(database).is_ok_and(|file| is_in_log(&file).unwrap_or(false))
}

pub(in crate::commands) fn index(database: &Path) -> Option<WalIndexHeader> {
    let mut bytes = [0; WalIndexHeader::LEN];
    // Caught in the middle of a commit the header is not valid. The next moment it is, if its writer has a core then.
    for nth in 0..INDEX_TRIES {
        let mut file = File::open(sibling(database, "-shm")).ok()?;
        file.read_exact(&mut bytes).ok()?;
        if let Some(index) = WalIndexHeader::parse(&bytes) {
            return Some(index);
        }
        if nth > INDEX_TRIES / 2 {
            std::thread::sleep(INDEX_PAUSE);
        }
    }
    None
}

/// How many bytes of a WAL are in use: the file keeps its size after a reset.
pub(super) fn wal_in_use(database: &Path) -> u64 {
    index(database).map_or(0, |index| u64::from(index.max_frame) * index.page_size.map_or(0, frame_size))
}

impl Live {
    /// The last transaction that must be in the store.
    pub(super) fn durable(&self) -> Option<Txid> {
        self.confirmed.as_ref().map(|confirmed| confirmed.number)
    }

    /// When this was, milliseconds since the epoch.
    pub(super) fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// `path`: as the user calls the database.
    pub(super) fn red(&self, by: Replicates, path: &Path) -> Vec<String> {
        let mut red = Vec::new();
        let waits = |pid: u32| format!("; process {pid} replicates it and waits for it");
        match (self.exists, &self.confirmed) {
            (true, _) => {}
            (false, None) if by == Replicates::Up => {
                red.push("`litekeep up` waits for the application to create it".to_owned());
                return red;
            }
            (false, None) => red.push(format!(
                "the database file does not exist{}",
                self.replicator_pid.map_or(String::new(), waits)
            )),
            (false, Some(confirmed)) => red.push(format!(
                "the database file is gone{}; transactions up to {} of {} were confirmed, and `litekeep restore {}` brings them \
                 back",
                self.replicator_pid.map_or(String::new(), waits),
                confirmed.txid,
                text::rfc3339(confirmed.captured_ms),
                text::shell_word(&path.to_string_lossy())
            )),
        }
        if let Some(Stranded { first, last }) = self.stranded.filter(|_| !self.exists) {
            red.push(format!(
                "transactions {first} to {last} wait on this machine: a replicator puts them into the backup, and so does a restore"
            ));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        if let Some(folder) = folder {
            // Whoever replicates the others leaves no trace here.
            let folder = folder.display();
            red.push(format!("its folder `{folder}` does not exist: make it, or correct the path"));
        } else if self.replicator_pid.is_none() {
            red.push(match by {
                // Whether `litekeep up` runs is known.
                Replicates::Command(command) if self.is_untouched && command == REPLICATE => {
                    format!(
                        "whoever replicates it waits until it is there: unless one runs, start `{command}`"
                    )
                }
                Replicates::Command(command) => format!("no replicator is running: start `{command}`"),
                Replicates::Up => "`litekeep up` does not replicate it yet: its log says why".to_owned(),
            });
        } else if self.confirmed.is_none() && self.trouble.is_none() {
            red.push("the replicator has not had anything confirmed yet".to_owned());
        }
        if let Some(Trouble { phase, message, hint, at_ms }) = &self.trouble {
            let hint = hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
            red.push(format!("{phase} at {}: {message}{hint}", text::rfc3339(*at_ms)));
        } else if self.stuck {
            red.push("commits are waiting and the replicator does not move: look at its log".to_owned());
        }
        red
    }

    /// `is_kept`: what was confirmed is where it is looked for now, and not `elsewhere`.
    pub(super) fn text(&self, is_kept: bool, elsewhere: Option<&str>, now_ms: i64) -> String {
        let mut out = String::new();
        match (&self.confirmed, self.pending_frames) {
            (Some(confirmed), _) if !is_kept => out.push_str(&format!(
                "    transaction {} was confirmed at {}{}, and no backup that is configured now has it\n",
                confirmed.txid,
                confirmed.at,
                elsewhere.map_or(String::new(), |place| format!(" in {}", place.trim_end_matches('/')))
            )),
            (Some(confirmed), Some(0)) => {
                out.push_str(&format!(
                    "    everything is in the backup, up to transaction {}\n",
                    confirmed.txid
                ));
            }
            (Some(confirmed), pending) => {
                let pending = pending.map_or("an unknown number of frames is not".to_owned(), |frames| {
                    format!("{frames} frames are not")
                });
                out.push_str(&format!(
                    "    the backup ends with transaction {}, captured at {} ({} ago); {pending}\n",
                    confirmed.txid,
                    text::rfc3339(confirmed.captured_ms),
                    text::age(now_ms - confirmed.captured_ms)
                ));
            }
            (None, _) => {}
        }
        let size = |bytes: Option<u64>| bytes.map_or("none".to_owned(), text::size);
        let by = self.replicator_pid.map_or(String::new(), |pid| format!(", replicated by process {pid}"));
        out.push_str(&format!("    database {}, WAL {}{by}\n", size(self.size_bytes), size(self.wal_bytes)));
        if let Some(pid) = self.wal_reader_pid {
            out.push_str(&format!("    the WAL grows because process {pid} has a read transaction open\n"));
        }
        out
    }
}
