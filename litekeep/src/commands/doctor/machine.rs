//! What lies under the database: file system, space, the disk's speed, and who else is at work on it.
//!
//! Everything here opens the database's files and closes them again, which would drop the locks of a SQLite connection in
//! this process: so there must be none yet.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use litekeep_config::DatabaseConfig;
use litekeep_env::disk::{self, FileSystem};
use litekeep_env::file::sibling;
use litekeep_env::lock;
use litekeep_format::locks::WRITE_LOCK;
use litekeep_replicate::capture::readers;

use super::check::{Area, Check, Hold, Verdict};
use crate::report::text;

/// Databases that are watched at the same time: each has a file open meanwhile.
pub(super) const WATCHED: usize = 256;
/// How long WAL and locks are watched.
const WATCH: Duration = Duration::from_secs(2);
/// Under NORMAL a small write transaction is over sooner than that, but not each of many.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// A disk that needs longer for a commit is felt.
const SLOW: Duration = Duration::from_millis(20);
const SYNCS: usize = 50;
/// Beyond that many writers each waits for the others.
const MANY_WRITERS: usize = 10;

/// What the machine says, and what others need to know of it.
pub(super) struct Machine {
    pub(super) checks: Vec<Check>,
    pub(super) is_local: bool,
}

fn check(name: &'static str, verdict: Verdict, reason: impl Into<String>) -> Check {
    Check::new(Area::Machine, name, Hold::Checked, verdict, reason)
}

/// How long it takes each disk to make something durable. Several that are measured at once would wait for each other.
#[derive(Debug, Default)]
pub(super) struct Disks(Mutex<HashMap<u64, Check>>);

impl Disks {
    fn sync(&self, dir: &Path) -> Check {
        let Ok(metadata) = dir.metadata() else { return sync(dir) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(check) = known.get(&metadata.dev()) {
            return check.clone();
        }
        let check = sync(dir);
        // Another folder of the same disk may be open to us.
        if check.verdict != Verdict::NotChecked {
            known.insert(metadata.dev(), check.clone());
        }
        check
    }
}

/// What there is to say, with what was seen before.
pub(super) fn look(
    database: &Path,
    config: &DatabaseConfig,
    seen: &Seen,
    disks: &Disks,
    replicator: Option<u32>,
) -> Machine {
    let dir = match database.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let (file_system, is_local) = file_system(database);
    let mut checks = vec![file_system, space(database, dir, config), disks.sync(dir)];
    checks.push(seen.wal(config.wal_limit));
    checks.push(seen.writers(replicator));
    Machine { checks, is_local }
}

fn file_system(database: &Path) -> (Check, bool) {
    let name = "file_system";
    match disk::file_system(database) {
        Ok(FileSystem::Local("tmpfs")) => {
            let reason = "tmpfs: the database is in memory, and goes with the machine";
            (check(name, Verdict::Warning, reason).fix("put the database on a disk"), true)
        }
        Ok(FileSystem::Local(kind)) => (check(name, Verdict::Ok, format!("{kind}, local")), true),
        Ok(FileSystem::Overlay) => {
            let reason = "overlay: a container's own layer, which goes away with the container";
            (check(name, Verdict::Warning, reason).fix("put the database on a volume"), true)
        }
        Ok(FileSystem::Shared { name: kind, reason }) => {
            let reason = format!("{kind}: {reason}");
            (check(name, Verdict::Problem, reason).fix("move the database to a local disk"), false)
        }
        Ok(FileSystem::Unknown(magic)) => {
            (check(name, Verdict::Note, format!("unknown ({magic:#x}), taken for local")), true)
        }
        Err(error) => (check(name, Verdict::NotChecked, text::io_error(&error)), true),
    }
}

/// Room for the WAL, for what waits while the store is away, and for a copy of the database.
fn space(database: &Path, dir: &Path, config: &DatabaseConfig) -> Check {
    let name = "disk_space";
    let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let wal = size(&sibling(database, "-wal")).max(config.wal_limit);
    let copy = size(database);
    match disk::space(dir) {
        Err(error) => check(name, Verdict::NotChecked, text::io_error(&error)),
        Ok((free, _)) => space_of(free, wal, config.spool_limit, copy),
    }
}

fn space_of(free: u64, wal: u64, spool: u64, copy: u64) -> Check {
    let name = "disk_space";
    let size = text::size;
    let parts = format!("WAL {}, spool {}, a copy of the database {}", size(wal), size(spool), size(copy));
    match free {
        _ if free < wal => {
            check(name, Verdict::Problem, format!("{} free, not even the WAL's {}", size(free), size(wal)))
                .fix("make room: a full disk ends every write")
        }
        _ if free < wal + spool + copy => {
            check(name, Verdict::Warning, format!("{} free, less than {parts}", size(free)))
                .fix("make room, or set `spool_limit` and `wal_limit` in litekeep.toml")
        }
        _ => check(name, Verdict::Ok, format!("{} free; {parts}", size(free))),
    }
}

fn sync(dir: &Path) -> Check {
    let name = "sync_latency";
    match disk::sync_latencies(dir, SYNCS) {
        Err(error) => check(name, Verdict::NotChecked, text::io_error(&error)),
        Ok(times) => {
            let [p50, p99] = [50, 99].map(|percent| times[(times.len() - 1) * percent / 100]);
            let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
            let told = format!("p50 {}, p99 {} for 4 KiB", ms(p50), ms(p99));
            if p50 > SLOW {
                let reason = format!("{told}: under synchronous = FULL each commit waits that long");
                return check(name, Verdict::Warning, reason)
                    .fix("PRAGMA synchronous = NORMAL, several rows in a transaction, or a faster disk");
            }
            check(name, Verdict::Ok, told)
        }
    }
}

/// What happened to the WAL while it was watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    begin_bytes: u64,
    end_bytes: u64,
    /// Who had a read transaction both at the first and at the last look.
    readers: Vec<u32>,
    /// Who wrote.
    writers: BTreeSet<u32>,
    /// Who has the file open for writing.
    open: Vec<u32>,
}

impl Seen {
    /// Watches all of them in the same seconds.
    pub(super) fn watch(databases: &[&Path]) -> Vec<Seen> {
        let bytes = |database: &Path| sibling(database, "-wal").metadata().map_or(0, |wal| wal.len());
        let readers = |database: &Path| readers(database).unwrap_or_default();
        let begin = |&database: &&Path| {
            let shm = File::open(sibling(database, "-shm")).ok()?;
            let seen = Seen { begin_bytes: bytes(database), readers: readers(database), ..Seen::default() };
            Some((seen, shm))
        };
        let mut watched: Vec<Option<(Seen, File)>> = databases.iter().map(begin).collect();
        let until = Instant::now() + if watched.iter().any(Option::is_some) { WATCH } else { Duration::ZERO };
        while Instant::now() < until {
            for (seen, shm) in watched.iter_mut().flatten() {
                // litekeep's own lock bears no process id.
                seen.writers.extend(lock::holder(shm, WRITE_LOCK, 1).ok().flatten().flatten());
            }
            sleep(LOOK_EVERY);
        }
        let mut open = disk::processes_that_may_write(databases).into_iter();
        let end = |(database, watched): (&&Path, Option<(Seen, File)>)| {
            let open = open.next().unwrap_or_default();
            let Some((mut seen, _)) = watched else { return Seen { open, ..Seen::default() } };
            seen.end_bytes = bytes(database);
            let still = readers(database);
            seen.readers.retain(|pid| still.contains(pid));
            Seen { open, ..seen }
        };
        databases.iter().zip(watched).map(end).collect()
    }

    fn wal(&self, limit: u64) -> Check {
        let name = "wal_size";
        let growth = self.end_bytes.saturating_sub(self.begin_bytes);
        let told =
            format!("{}, {} more in {} s", text::size(self.end_bytes), text::size(growth), WATCH.as_secs());
        if self.end_bytes <= 2 * limit {
            return check(name, Verdict::Ok, told);
        }
        let Some(pid) = self.readers.first() else {
            let reason = format!("{told}; no reader holds it now, so the next checkpoint can start it anew");
            return check(name, Verdict::Warning, reason).fix("PRAGMA wal_checkpoint(TRUNCATE);");
        };
        let reason = format!(
            "{told}; {} reads from it since before, and it grows until that ends",
            text::process(*pid)
        );
        check(name, Verdict::Warning, reason)
            .fix(format!("end the read transaction of process {pid}: an open cursor, a statement not reset"))
    }

    fn writers(&self, replicator: Option<u32>) -> Check {
        let name = "writers";
        let open: Vec<u32> = self.open.iter().copied().filter(|pid| Some(*pid) != replicator).collect();
        let active = self.writers.len();
        let told = |pids: &mut dyn Iterator<Item = &u32>| {
            pids.map(|pid| text::process(*pid)).collect::<Vec<_>>().join("; ")
        };
        if active > 1 || open.len() > MANY_WRITERS {
            let reason = format!(
                "{active} processes wrote within {} s, {} have the file open for writing: each waits for the others: {}",
                WATCH.as_secs(),
                open.len(),
                told(
                    &mut self
                        .writers
                        .iter()
                        .chain(open.iter().filter(|pid| !self.writers.contains(pid)))
                        .take(5)
                )
            );
            return check(name, Verdict::Warning, reason).fix(
                "let one process write, fed by a queue, or keep transactions short and busy_timeout at 5000",
            );
        }
        match open.as_slice() {
            [] => check(name, Verdict::Ok, "nobody has the file open"),
            open => check(
                name,
                Verdict::Ok,
                format!("{} can write: {}", open.len(), told(&mut open.iter().take(5))),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_needed_for_all_three() {
        let verdict = |free| space_of(free, 64, 1000, 500).verdict;
        assert_eq!(verdict(63), Verdict::Problem);
        assert_eq!(verdict(1563), Verdict::Warning);
        assert_eq!(verdict(1564), Verdict::Ok);
    }

    #[test]
    fn several_writers_are_heavy_only_when_they_write() {
        let verdict = |writers: &[u32], open: &[u32]| {
            let writers = writers.iter().copied().collect();
            Seen { writers, open: open.to_vec(), ..Seen::default() }.writers(Some(99)).verdict
        };
        let many: Vec<u32> = (1..=11).collect();
        assert_eq!(verdict(&[], &[]), Verdict::Ok);
        assert_eq!(verdict(&[1], &[1, 2]), Verdict::Ok);
        assert_eq!(verdict(&[1, 2], &[1, 2]), Verdict::Warning);
        assert_eq!(verdict(&[], &many), Verdict::Warning);
        assert_eq!(verdict(&[], &[&many[1..], &[99]].concat()), Verdict::Ok, "the replicator does not count");
    }
}
