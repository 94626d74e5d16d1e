//! `verify.every`: proofs on a schedule, made by processes of this very binary.
//!
//! Promises: one at a time; after a restart the schedule goes on from the newest proof in the store; many replicators
//! that start together do not verify together. One that is under way when the replicator ends is asked to end, too, and
//! takes its scratch folder away; what a killed one leaves goes with the next.
//! A verification that fails does not touch the replication: it is logged, in the metrics, and in the status by its
//! record in the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::DatabaseConfig;
use litekeep_env::{Clock, SystemClock};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;

use crate::args::ConfigArgs;
use crate::child;
use crate::replication::Replication;
use crate::settings::Database;
use crate::{program, proof};

/// How often databases that have appeared in folders are looked for; one that is due waits as long at most.
const TICK: Duration = Duration::from_secs(30);
/// A verification comes up to this share of its interval later than it is due, so that many do not come together.
const JITTER_SHARE: u32 = 10;

/// The last verification of a database.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verified {
    /// Whether the backup was proven.
    pub(crate) proven: bool,
    /// When it ended, milliseconds since the epoch.
    pub(crate) at_ms: i64,
}

/// The last verification of each database, by its path.
#[derive(Debug, Default)]
pub(crate) struct Verifications(Mutex<HashMap<PathBuf, Verified>>);

impl Verifications {
    pub(crate) fn of(&self, database: &Path) -> Option<Verified> {
        self.lock().get(database).copied()
    }

    fn set(&self, database: &Path, verified: Verified) {
        self.lock().insert(database.to_owned(), verified);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Verified>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How databases are verified.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// For the processes that verify.
    config: ConfigArgs,
    databases: Vec<Database>,
    /// Where new ones may appear.
    folders: Vec<DatabaseConfig>,
}

impl Schedule {
    /// The schedule of these databases; `None` when none of them asks for one. `config` names the file that was read.
    pub(crate) fn new(
        config: ConfigArgs,
        databases: &[Database],
        folders: &[DatabaseConfig],
    ) -> Option<Schedule> {
        let wanted = |config: &&DatabaseConfig| config.verify_every.is_some();
        let folders: Vec<_> = folders.iter().filter(wanted).cloned().collect();
        let databases: Vec<_> = databases.iter().filter(|db| wanted(&&db.config)).cloned().collect();
        (!databases.is_empty() || !folders.is_empty()).then_some(Schedule { config, databases, folders })
    }

    /// Verifies whenever a database is due. Does not return.
    pub(crate) async fn keep(&self, replication: &Replication) {
        let mut due: HashMap<PathBuf, i64> = HashMap::new();
        loop {
            for (path, every) in self.wanted(replication) {
                if let Entry::Vacant(entry) = due.entry(path) {
                    let first_ms = self.first(entry.key(), every, replication).await;
                    entry.insert(first_ms);
                }
            }
            let now_ms = SystemClock.unix_ms();
            let next =
                due.iter().min_by_key(|(_, at_ms)| **at_ms).map(|(path, at_ms)| (path.clone(), *at_ms));
            match next {
                Some((path, at_ms)) if at_ms <= now_ms => match self.wanted(replication).remove(&path) {
                    Some(every) => {
                        self.verify(&path, replication).await;
                        due.insert(path, SystemClock.unix_ms() + millis(every) + jitter(every));
                    }
                    None => drop(due.remove(&path)),
                },
                next => {
                    let wait = next.map_or(TICK, |(_, at_ms)| {
                        Duration::from_millis((at_ms - now_ms).unsigned_abs()).min(TICK)
                    });
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Every replicated database that is to be verified, and how often. Its path is the configuration's, or for those
    /// in folders the replicator's.
    fn wanted(&self, replication: &Replication) -> HashMap<PathBuf, Duration> {
        let named = self.databases.iter().filter_map(|db| Some((db.path.clone(), db.config.verify_every?)));
        let mut wanted: HashMap<PathBuf, Duration> = named.collect();
        let known: Vec<PathBuf> = wanted.keys().map(|path| canonical(path)).collect();
        for folder in &self.folders {
            let Some(every) = folder.verify_every else { continue };
            let appeared = replication.statuses().into_iter().map(|status| status.path);
            let in_folder = appeared.filter(|path| !known.contains(path) && covers(folder, path));
            wanted.extend(in_folder.map(|path| (path, every)));
        }
        // What is not there cannot be compared with.
        wanted.retain(|path, _| path.exists());
        wanted
    }

    /// When a database is verified for the first time: after its newest proof, or soon where there is none.
    async fn first(&self, path: &Path, every: Duration, replication: &Replication) -> i64 {
        let mut newest: Option<Verified> = None;
        let database = self.databases.iter().find(|database| database.path == path);
        for destination in database.map_or(&[][..], |database| &database.destinations) {
            let Ok(store) = replication.stores().open(destination) else { continue };
            // A store that does not answer now is no reason to wait longer.
            let Ok(Some(proof)) = proof::newest(&store).await else { continue };
            let at_ms = proof.at.parse().map(|at: jiff::Timestamp| at.as_millisecond());
            let verified = at_ms.ok().map(|at_ms| Verified { proven: proof.proven, at_ms });
            // As a whole the database is proven since its oldest proof.
            newest = match (newest, verified) {
                (Some(a), Some(b)) => Some(if a.at_ms <= b.at_ms { a } else { b }),
                (a, b) => a.or(b),
            };
        }
        let Some(newest) = newest else { return SystemClock.unix_ms() + jitter(every) };
        replication.verifications().set(&canonical(path), newest);
        newest.at_ms + millis(every) + jitter(every)
    }

    async fn verify(&self, path: &Path, replication: &Replication) {
        let outcome = self.run(path).await;
        let proven = matches!(outcome, Ok(None));
        match outcome {
            Ok(None) => tracing::info!(path = %path.display(), "verified: a restore gives the live database"),
            Ok(Some(reason)) => {
                tracing::error!(path = %path.display(), "the verification failed: {reason}");
            }
            Err(error) => tracing::error!(path = %path.display(), "could not verify: {error:#}"),
        }
        replication.verifications().set(&canonical(path), Verified { proven, at_ms: SystemClock.unix_ms() });
    }

    /// `litekeep verify` in a process of its own. Returns what differs.
    async fn run(&self, path: &Path) -> Result<Option<String>> {
        let mut command = program::again();
        command.args(["verify", "--json"]);
        self.config.pass_on(&mut command);
        // After `--` a path may begin with a dash.
        command.arg("--").arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut verifying = Asked(command.spawn().context("start `litekeep verify`")?);
        let (stdout, stderr) = (verifying.0.stdout.take(), verifying.0.stderr.take());
        let (status, stdout, stderr) = tokio::try_join!(verifying.0.wait(), all_of(stdout), all_of(stderr))
            .context("wait for `litekeep verify`")?;
        let json: Option<Value> = serde_json::from_slice(&stdout).ok();
        match (status.code(), json) {
            (Some(0), _) => Ok(None),
            (Some(1), Some(json)) => Ok(Some(reasons(&json))),
            (_, _) => anyhow::bail!("{}", complaint(&String::from_utf8_lossy(&stderr), status)),
        }
    }
}

/// A process that is asked to end when nobody waits for it any more, so that it can clear up.
struct Asked(Child);

impl Drop for Asked {
    fn drop(&mut self) {
        child::terminate(&self.0);
    }
}

async fn all_of(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Whether a database is one of a folder's, both spelled as the replicator does.
pub(crate) fn covers(folder: &DatabaseConfig, path: &Path) -> bool {
    use litekeep_config::Source;
    let Source::Folder { dir, pattern, recursive, watch } = &folder.source else { return false };
    let (pattern, recursive, watch) = (pattern.clone(), *recursive, *watch);
    Source::Folder { dir: canonical(dir), pattern, recursive, watch }.covers(path)
}

/// As the replicator spells it: the folder resolved, the file's own name as it is.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn jitter(every: Duration) -> i64 {
    let most = millis(every / JITTER_SHARE).unsigned_abs();
    (litekeep_env::random_u64() % (most + 1)).cast_signed()
}

/// Why backups were not proven, from the JSON of `litekeep verify`.
fn reasons(json: &Value) -> String {
    let backups = json["backups"].as_array().into_iter().flatten();
    let unproven = backups.filter(|backup| backup["proven"] == false).map(|backup| {
        let text = |key: &str| backup[key].as_str().unwrap_or("?").to_owned();
        format!("{}, transaction {}: {}", text("url"), text("txid"), text("reason"))
    });
    unproven.collect::<Vec<_>>().join("; ")
}

/// The error that a process printed as its last line.
fn complaint(stderr: &str, status: std::process::ExitStatus) -> String {
    let last = stderr.lines().last().unwrap_or_default();
    let error: Option<Value> = serde_json::from_str(last).ok();
    let Some(error) = error.as_ref().map(|value| &value["error"]).filter(|error| error.is_object()) else {
        return format!("`litekeep verify` ended with {status}: {last}");
    };
    let causes = error["causes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let all: Vec<&str> = error["message"].as_str().into_iter().chain(causes).collect();
    all.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn words_of_the_process_that_verified() {
        let json = serde_json::json!({ "backups": [
            { "proven": true, "url": "a", "txid": "1" },
            { "proven": false, "url": "b", "txid": "2", "reason": "1 pages differ: 7" },
        ]});
        assert_eq!(reasons(&json), "b, transaction 2: 1 pages differ: 7");
        let error =
            r#"{"error":{"kind":"invalid","message":"could not verify","causes":["no file"],"hint":null}}"#;
        let status = std::process::ExitStatus::from_raw(512);
        assert_eq!(complaint(&format!("x\n{error}\n"), status), "could not verify: no file");
        assert!(complaint("killed", status).contains("exit status: 2: killed"));
    }

    #[test]
    fn the_jitter_is_a_tenth_at_most() {
        for _ in 0..1000 {
            assert!((0..=100).contains(&jitter(Duration::from_secs(1))));
        }
    }
}
