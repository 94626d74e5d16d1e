//! `litekeep verify`: proof that a restore gives the live database, recorded beside the backup.
//!
//! It is a process of its own, as the comparison needs: see [`litekeep_replicate::verify`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_env::{Clock, SystemClock};
use litekeep_replicate::local::Places;
use litekeep_replicate::verify::{self, Proof as Outcomes};
use litekeep_replicate::{Error, Kind};
use litekeep_store::Store;
use serde::Serialize;

use crate::args;
use crate::child::Signals;
use crate::proof::{self, Proof};
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::scratch::Scratch;
use crate::settings::{Database, Stores, database};

#[derive(Serialize)]
struct Verified {
    ok: bool,
    backups: Vec<Verification>,
}

#[derive(Serialize)]
struct Verification {
    database: PathBuf,
    url: StoreUrl,
    read_bytes: u64,
    seconds: f64,
    #[serde(flatten)]
    proof: Proof,
}

impl Verification {
    fn text(&self) -> String {
        let Proof { txid, pages, proven, reason, .. } = &self.proof;
        let seconds = self.seconds;
        let read = text::size(self.read_bytes);
        let of = format!("{} from {}", self.database.display(), self.url);
        if *proven {
            return format!(
                "proven: {of}, transaction {txid}: {pages} pages are the live ones ({read} read, {seconds:.1} s)\n"
            );
        }
        let reason = reason.as_deref().unwrap_or_default();
        format!("NOT PROVEN: {of}, transaction {txid}: {reason}\n")
    }
}

pub(super) async fn run(args: &args::Verify, format: Format) -> Result<Outcome> {
    let what =
        args.target.as_deref().map_or("verify the backups".to_owned(), |target| format!("verify `{target}`"));
    let mut signals = Signals::catch_unignored().context("catch signals")?;
    let (verified, failed) = signals.unless_ended(verify(args, format)).await.context(what.clone())?;
    // What was found of the others is told all the same.
    if failed.is_none() || !verified.backups.is_empty() {
        report::result(format, &verified, || verified.backups.iter().map(Verification::text).collect());
    }
    match failed {
        Some(error) => Err(error.context(what)),
        None => Ok(if verified.ok { Outcome::Done } else { Outcome::No }),
    }
}

/// Every backup, and the first of those that could not be looked at.
async fn verify(args: &args::Verify, format: Format) -> Result<(Verified, Option<anyhow::Error>)> {
    let databases = database::databases(args.target.as_deref().map(Path::new), &args.config, format)?;
    let stores = Stores::default();
    let (mut backups, mut failures) = (Vec::new(), Vec::new());
    for database in &databases {
        for destination in &database.destinations {
            let store = stores.open(destination)?;
            let verification = one(database, &destination.url, &store, args, format).await;
            let doing = || format!("compare `{}` with `{}`", database.path.display(), destination.url);
            match verification.with_context(doing) {
                Ok(verification) => backups.push(verification),
                Err(error) => failures.push(error),
            }
        }
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|error| report::warning(&format!("{error:#}"), format));
    let ok = first.is_none() && backups.iter().all(|backup| backup.proof.proven);
    Ok((Verified { ok, backups }, first))
}

async fn one(
    database: &Database,
    url: &StoreUrl,
    store: &Store,
    args: &args::Verify,
    format: Format,
) -> Result<Verification> {
    if !database.path.exists() {
        let failure = Failure::invalid(format!("`{}` does not exist", database.path.display()));
        return Err(failure.hint("without the database there is nothing to compare with: restore it").into());
    }
    refuse_other_modes(&database.path)?;
    let beside = database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = args.scratch.as_deref().or(beside).unwrap_or(Path::new("."));
    let scratch = Scratch::beside(parent, ".litekeep-verify-")
        .map_err(|failure| failure.hint("name a writable folder with --scratch"))?;
    let clock = SystemClock;
    let begin = clock.boottime();
    let shown = Shown::new(format);
    let patience = Duration::from_secs(args.patience);
    let found = verify::verify(&database.path, store, scratch.path(), patience, &shown).await;
    shown.end();
    let at = text::rfc3339(clock.unix_ms());
    let (proof, read_bytes) = match found {
        Ok(found) => {
            for damaged in &found.damaged {
                report::warning(&format!("gone around a damaged file: {}", damaged.cause), format);
            }
            let (txid, pages) = (found.txid.to_string(), found.page_count.into());
            (Proof { txid, at, proven: found.holds(), pages, reason: reason(&found) }, found.bytes)
        }
        Err(Error::Store(litekeep_store::Error::Empty)) => return Err(no_backup(database, url, store)),
        // A backup that cannot be restored is known from now on as one.
        Err(error) if error.kind() == Kind::Corrupt => {
            let Some(last) = store.list().await?.last() else { return Err(no_backup(database, url, store)) };
            let txid = last.to_string();
            let reason = match error.hint() {
                Some(hint) => format!("it cannot be restored: {error}; {hint}"),
                None => format!("it cannot be restored: {error}"),
            };
            (Proof { txid, at, proven: false, pages: 0, reason: Some(reason) }, 0)
        }
        Err(error) => return Err(error.into()),
    };
    proof::record(store, &proof, clock.unix_ms()).await?;
    let seconds = (clock.boottime() - begin).as_secs_f64();
    Ok(Verification { database: database.path.clone(), url: url.clone(), read_bytes, seconds, proof })
}

/// Where there is nothing, nothing was proven or not, and there is nothing to record it beside.
fn no_backup(database: &Database, url: &StoreUrl, store: &Store) -> anyhow::Error {
    if Places::read(&database.meta_dir).has_held(&store.identity()) {
        return store.vanished().into();
    }
    let failure = Failure::invalid(format!("there is no backup at `{url}` yet"));
    failure.hint("`litekeep replicate` makes it, and `litekeep status` shows how far it is").into()
}

/// Looking must not change the database: replication switches it to WAL mode, and nobody else does.
fn refuse_other_modes(path: &Path) -> Result<(), Failure> {
    let name = path.display();
    match database::look(path, File::options().read(true))? {
        (Some(header), _) if header.is_wal() => Ok(()),
        (Some(_), _) => Err(Failure::invalid(format!(
            "`{name}` is not in WAL mode, so no litekeep replicates it, and nothing of it was compared"
        ))
        .hint("`litekeep replicate` switches it; when the application has switched it out of WAL mode, change that there")),
        (None, _) => Err(Failure::invalid(format!("`{name}` is empty"))
            .hint(format!("there is nothing to compare with: remove it and run `litekeep restore {name}`"))),
    }
}

fn reason(found: &Outcomes) -> Option<String> {
    let differences = &found.differences;
    if let Some(length) = differences.length {
        let pages = u64::from(found.page_count) * u64::from(found.page_size.get());
        return Some(format!("the restored file has {length} bytes and the database {pages}"));
    }
    let named: Vec<String> = differences.pages.iter().map(|page| page.to_string()).collect();
    let more = if differences.count as usize > named.len() { ", …" } else { "" };
    (differences.count > 0).then(|| format!("{} pages differ: {}{more}", differences.count, named.join(", ")))
}
