//! The backup: is it fresh, may litekeep do there what it must, and how long would a restore take.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use litekeep_env::Clock;
use litekeep_replicate::restore::{self, Goal, RestorePlan};
use litekeep_store::{Conditional, Error, Store};
use tokio::sync::Mutex;

use super::check::{Area, Check, Hold, Verdict};
use crate::proof;
use crate::report::{Report, text};
use crate::settings::{Database, Stores};

/// A proof should be younger.
const PROOF_DAYS: i64 = 7;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// With less, a mistake that is found a week later cannot be undone.
const SHORT_KEEP: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much is read to learn how fast the store is.
const SAMPLE: u64 = 8 << 20;
/// A store that does not answer is as bad as one that refuses.
const PATIENCE: Duration = Duration::from_secs(30);

fn check(name: &'static str, verdict: Verdict, reason: impl Into<String>) -> Check {
    Check::new(Area::Backup, name, Hold::Checked, verdict, reason)
}

/// A database without a backup.
pub(super) fn none(database: &Database) -> Vec<Check> {
    let line = format!("litekeep init {}", text::shell_word(&database.path.to_string_lossy()));
    let reason = "there is none: what the disk loses is lost";
    vec![check("freshness", Verdict::Warning, reason).fix(line)]
}

/// All checks of a database's backups; `red` is what `status` finds wrong. Of several that are looked at one at a time measures how fast its
/// store is, which is who has `line`.
pub(super) async fn checks(
    database: &Database,
    red: &[String],
    line: &Mutex<()>,
    clock: &dyn Clock,
) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    match red {
        [] => checks.push(check("freshness", Verdict::Ok, "`litekeep status` is green")),
        red => checks.extend(red.iter().map(|reason| {
            check("freshness", Verdict::Problem, reason).fix("litekeep status  # shows what is behind")
        })),
    }
    checks.push(retention(database));
    let stores = Stores::default();
    for destination in &database.destinations {
        let store = stores.open(destination)?;
        let of = destination.url.to_string();
        let mut own = vec![within(permissions(&store), "permissions").await];
        own.push(within(conditional(&store), "conditional_writes").await);
        own.push(within(last_proof(database, &store, clock), "proof").await);
        let alone = line.lock().await;
        own.push(within(restore_time(&store), "restore_time").await);
        drop(alone);
        checks.extend(own.into_iter().map(|check| check.of(&of)));
    }
    Ok(checks)
}

async fn within(checking: impl Future<Output = Result<Check>>, name: &'static str) -> Check {
    let failed = |error| check(name, Verdict::Problem, format!("{error:#}")).fixes(Report::of(&error).hint);
    match tokio::time::timeout(PATIENCE, checking).await {
        Ok(checked) => checked.unwrap_or_else(failed),
        Err(_) => check(
            name,
            Verdict::NotChecked,
            format!("the store did not answer within {} s", PATIENCE.as_secs()),
        ),
    }
}

fn retention(database: &Database) -> Check {
    let config = &database.config;
    let span = |time: Duration| text::age(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let keep = config.keep.map_or("for ever".to_owned(), span);
    let reason = format!(
        "any second of the last {}, snapshots every {}, all kept {keep}",
        span(config.any_second),
        span(config.snapshot_every)
    );
    let verdict = match config.keep {
        Some(keep) if keep < SHORT_KEEP => Verdict::Warning,
        _ => Verdict::Ok,
    };
    let check = Check::new(Area::Backup, "retention", Hold::Enforced, verdict, reason);
    if verdict == Verdict::Ok { check } else { check.fix("keep = \"30d\"  # litekeep.toml") }
}

/// Puts, lists, reads and deletes an object of its own.
async fn permissions(store: &Store) -> Result<Check> {
    let name = "permissions";
    if store.as_folder().is_some_and(|folder| !folder.exists()) {
        return Ok(check(
            name,
            Verdict::NotChecked,
            "the folder is not there yet; the first backup makes it",
        ));
    }
    let record = format!("doctor-{:016x}", litekeep_env::random_u64());
    let body = record.clone().into_bytes();
    let failed = |step: &'static str, error: litekeep_store::Error| match error {
        Error::Denied { .. } => check(name, Verdict::Problem, format!("it may not {step}: {error}"))
            .fix(format!("allow {} to litekeep's key", action(step))),
        error => {
            let reason = format!("{step}: {error}");
            check(name, Verdict::Problem, reason).fixes(Report::of(&error.into()).hint)
        }
    };
    if let Err(error) = store.put_record(&record, body.clone().into(), false).await {
        return Ok(failed("put", error));
    }
    let listed = store.list_records("").await;
    let got = store.get_record(&record).await;
    // Removed whatever the others have said.
    if let Err(error) = store.delete_records(std::slice::from_ref(&record)).await {
        return Ok(failed("delete", error));
    }
    match (listed, got) {
        (Err(error), _) => return Ok(failed("list", error)),
        (_, Err(error)) => return Ok(failed("get", error)),
        (Ok(listed), Ok(got)) => {
            ensure!(listed.iter().any(|object| object.name == record), "a listing lacks what was just put");
            ensure!(got.is_some_and(|got| got[..] == body[..]), "what was just put does not come back");
        }
    }
    if store.get_record(&record).await?.is_some() {
        return Ok(check(name, Verdict::Problem, "what was deleted is still there"));
    }
    Ok(check(name, Verdict::Ok, "put, list, get and delete, tried on an object of its own"))
}

/// The action's name in a policy of S3.
fn action(step: &str) -> &'static str {
    match step {
        "put" => "s3:PutObject",
        "list" => "s3:ListBucket",
        "get" => "s3:GetObject",
        _ => "s3:DeleteObject",
    }
}

async fn conditional(store: &Store) -> Result<Check> {
    let name = "conditional_writes";
    if store.as_folder().is_some() {
        return Ok(check(name, Verdict::Ok, "a folder takes no name twice"));
    }
    Ok(match store.probe().await? {
        Conditional::Honoured => check(name, Verdict::Ok, "the store takes no name twice: a second writer is refused"),
        Conditional::Ignored => check(
            name,
            Verdict::Warning,
            "the store does not refuse a name that is taken: a second litekeep on another machine is not noticed",
        )
        .fix("never replicate this database from two machines, or use a store with If-None-Match"),
    })
}

async fn last_proof(database: &Database, store: &Store, clock: &dyn Clock) -> Result<Check> {
    let name = "proof";
    let line = format!("litekeep verify {}", text::shell_word(&database.path.to_string_lossy()));
    let Some(proof) = proof::newest(store).await? else {
        let reason = "no restore was ever compared with the database";
        return Ok(check(name, Verdict::Warning, reason).fix(line));
    };
    if !proof.proven {
        let reason = proof.reason.unwrap_or_else(|| "it differs from the database".to_owned());
        return Ok(check(name, Verdict::Problem, format!("the last one, at {}, failed: {reason}", proof.at))
            .fix(line));
    }
    let at: jiff::Timestamp = proof.at.parse()?;
    let age = clock.unix_ms() - at.as_millisecond();
    let reason = format!("proven restorable {} ago", text::age(age));
    Ok(match age {
        _ if age > PROOF_DAYS * DAY_MS => {
            check(name, Verdict::Warning, reason).fix("verify_every = \"24h\"  # litekeep.toml").fix(line)
        }
        _ => check(name, Verdict::Ok, reason),
    })
}

/// The bytes of a restore at the speed of a sample.
async fn restore_time(store: &Store) -> Result<Check> {
    let name = "restore_time";
    let Ok(plan) = restore::plan(store, Goal::Latest).await else {
        return Ok(check(name, Verdict::NotChecked, "there is nothing to restore yet"));
    };
    let RestorePlan { files, .. } = &plan;
    let Some(largest) = files.iter().max_by_key(|file| file.size) else {
        return Ok(check(name, Verdict::NotChecked, "there is nothing to restore yet"));
    };
    let begin = Instant::now();
    let sample = store.get_range(largest, 0..largest.size.min(SAMPLE)).await?.len().max(1) as u64;
    let took = begin.elapsed();
    let seconds = took.as_secs_f64() * plan.bytes() as f64 / sample as f64;
    let reason = format!(
        "about {seconds:.1} s to fetch {} in {} ({} took {:.0} ms), and the time to write {}",
        text::size(plan.bytes()),
        text::count(files.len(), "file"),
        text::size(sample),
        took.as_secs_f64() * 1000.0,
        text::size(plan.database_bytes())
    );
    Ok(check(name, Verdict::Note, reason))
}
