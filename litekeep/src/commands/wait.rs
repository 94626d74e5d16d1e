//! `litekeep wait`: until what was committed is in the backup, or what was told of is in a live copy.
//!
//! It reads what the replicator and the follower keep beside the files, and asks nobody: a backup that somebody deleted since it was
//! confirmed is not missed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_env::SystemClock;
use litekeep_ltx::{Salt, Txid};
use litekeep_replica::State as Replica;
use litekeep_replicate::local::{MetaDir, Places, State, StateFile};
use serde::Serialize;

use super::status::live::{Look, index};
use crate::args::wait::Wait;
use crate::control::{Ask, talk};
use crate::report::{self, Failure, Format, Kind, Outcome};
use crate::settings::{Database, Stores, database};
use crate::verification::canonical;
use crate::waiting::{self, Wanted};

/// So long nobody need be there who works on it.
const GRACE: Duration = Duration::from_secs(2);
/// More than begin while somebody waits.
const MOST_GENERATIONS: u32 = 1 << 24;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Serialize)]
struct Waited {
    /// Whether it is there.
    ok: bool,
    database: PathBuf,
    /// How far the backup, or the copy, is.
    txid: Option<String>,
    /// How many replicas have it, where that was asked.
    replicas: Option<usize>,
    seconds: f64,
}

/// What is waited for.
enum Goal {
    Txid(Txid),
    Wal(End),
    /// What is there, of which the index of the WAL does not tell.
    Rest,
}

/// Where the WAL ended when it was asked for, and what was confirmed before.
struct End {
    salt: Salt,
    frames: u32,
    confirmed: Option<Txid>,
    /// What was confirmed is not in this WAL: the file, or its volume, was set back.
    is_set_back: bool,
}

/// Whose position is looked at.
enum Subject {
    /// With the identities of its backups.
    Database(Box<Database>, Vec<String>),
    Copy(PathBuf),
}

pub(super) async fn run(args: &Wait, format: Format) -> Result<Outcome> {
    let waited = wait(args, format)
        .await
        .with_context(|| format!("wait for the backup of `{}`", args.target.display()))?;
    report::result(format, &waited, || {
        let at = waited.txid.as_deref().map_or("nothing".to_owned(), |txid| format!("transaction {txid}"));
        let having = waited.replicas.map_or(String::new(), |n| format!(", which {n} of the replicas have"));
        match waited.ok {
            true => format!("it is safe up to {at}{having}\n"),
            false => format!("NOT SAFE after {:.1} s: it has come as far as {at}{having}\n", waited.seconds),
        }
    });
    Ok(if waited.ok { Outcome::Done } else { Outcome::No })
}

/// Asks the litekeep that is up.
async fn wait_for_replicas(args: &Wait, replicas: u32, format: Format) -> Result<Waited> {
    let name = canonical(&args.target);
    let wanted = Wanted {
        database: Some(name.display().to_string()),
        txid: args.txid.map(|txid| txid.to_string()),
        replicas,
        timeout: args.timeout,
    };
    let mut client = talk(&args.config, format, &Ask::Wait(wanted)).await?;
    let mut found = None;
    while let Some(item) = client.next().await? {
        found = Some(serde_json::from_value::<waiting::Waited>(item)?);
    }
    let waiting::Waited { ok, database, txid, confirmed, replicas, seconds } =
        found.context("the node said nothing")?;
    Ok(Waited { ok, database, txid: if ok { txid } else { confirmed }, replicas, seconds })
}

async fn wait(args: &Wait, format: Format) -> Result<Waited> {
    if let Some(replicas) = args.replicas {
        return wait_for_replicas(args, replicas, format).await;
    }
    let begun = Instant::now();
    let (subject, goal) = match (Replica::read(&args.target), args.txid) {
        (Some(copy), Some(txid)) => (Subject::Copy(copy.path), Goal::Txid(txid)),
        (Some(_), None) => {
            return Err(Failure::invalid("this is a live copy, in which nothing is committed")
                .hint("say with --txid which transaction shall be there")
                .into());
        }
        (None, txid) => {
            let database = database::databases(Some(&args.target), &args.config, format)?.remove(0);
            if !database.path.exists() {
                return Err(Failure::invalid(format!("there is no `{}`", database.path.display())).into());
            }
            let goal = txid.map_or_else(|| Goal::now(&database), Goal::Txid);
            let stores = Stores::default();
            let places = database.destinations.iter().map(|to| anyhow::Ok(stores.open(to)?.identity()));
            let places = places.collect::<Result<_>>()?;
            (Subject::Database(Box::new(database), places), goal)
        }
    };
    loop {
        let (txid, is_there) = subject.look(&goal);
        let is_over = begun.elapsed() >= args.timeout;
        if !is_there && !is_over {
            // One that has just been started is not there yet.
            if begun.elapsed() >= GRACE {
                subject.require_somebody()?;
            }
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let database = subject.path().to_owned();
        let seconds = begun.elapsed().as_secs_f64();
        return Ok(Waited {
            ok: is_there,
            database,
            txid: txid.map(|txid| txid.to_string()),
            replicas: None,
            seconds,
        });
    }
}

impl Subject {
    fn path(&self) -> &Path {
        match self {
            Subject::Database(database, _) => &database.path,
            Subject::Copy(path) => path,
        }
    }

    /// How far it is, and whether that is far enough.
    fn look(&self, goal: &Goal) -> (Option<Txid>, bool) {
        match self {
            Subject::Copy(path) => {
                let held = Replica::read(path).and_then(|copy| copy.held).map(|held| held.txid);
                (held, matches!(goal, Goal::Txid(txid) if held >= Some(*txid)))
            }
            Subject::Database(database, places) => {
                let state = confirmed(database);
                let known = Places::read(&database.meta_dir);
                let is_configured = places.iter().any(|place| known.is_current(place));
                let is_there =
                    is_configured && state.as_ref().is_some_and(|state| covers(database, state, goal));
                (state.map(|state| state.txid), is_there)
            }
        }
    }

    /// # Errors
    /// When nobody is there to move it.
    fn require_somebody(&self) -> Result<(), Failure> {
        let path = self.path().display();
        let (pid, command) = match self {
            Subject::Database(database, _) => {
                (MetaDir::claimed_by(&database.meta_dir, &database.path), "replicate")
            }
            Subject::Copy(path) => (Replica::read(path).and_then(|copy| copy.follower_pid), "follow"),
        };
        match pid {
            Some(_) => Ok(()),
            None => Err(Failure::new(
                Kind::Unavailable,
                format!("it is not there, and no process works on `{path}`"),
            )
            .hint(format!("`litekeep {command}` starts one; `litekeep status` says more"))),
        }
    }
}

impl Goal {
    /// What is committed now.
    fn now(database: &Database) -> Goal {
        // Before the WAL, in which it is then, unless that is another one.
        let state = confirmed(database);
        let Some(index) = index(&database.path) else { return Goal::Rest };
        let is_set_back = state.and_then(|state| state.place).is_some_and(|place| {
            let is_other = place.frames == index.max_frame && place.checksum != index.frame_checksum;
            let is_beyond = place.salt == index.salt && (place.frames > index.max_frame || is_other);
            is_beyond || is_later(place.salt, index.salt)
        });
        let confirmed = state.map(|state| state.txid);
        Goal::Wal(End { salt: index.salt, frames: index.max_frame, confirmed, is_set_back })
    }
}

fn confirmed(database: &Database) -> Option<State> {
    StateFile::peek(&database.meta_dir.join("state"))
}

/// Whether a WAL has begun after another one: SQLite counts.
fn is_later(salt: Salt, other: Salt) -> bool {
    (1..=MOST_GENERATIONS).contains(&salt.first().wrapping_sub(other.first()))
}

/// Whether the backup has all of it.
fn covers(database: &Database, state: &State, goal: &Goal) -> bool {
    let end = match goal {
        Goal::Txid(txid) => return state.txid >= *txid,
        Goal::Wal(end) => Some(end),
        Goal::Rest => None,
    };
    // What was confirmed before tells nothing of a file that was set back.
    let has_moved = |end: &End| Some(state.txid) != end.confirmed;
    match (end, state.place) {
        (Some(end), Some(place)) if place.salt == end.salt => {
            place.frames >= end.frames && (!end.is_set_back || has_moved(end))
        }
        // A WAL begins anew only when all of the one before is captured, and captures are confirmed in their order.
        (Some(end), Some(place)) if is_later(place.salt, end.salt) => has_moved(end),
        _ => Look::at(database, &SystemClock).is_confirmed(),
    }
}
