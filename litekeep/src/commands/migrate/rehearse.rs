//! `litekeep migrate rehearse`: the pending migrations on a copy that comes from the backup, and what they cost there.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_format::{FrameHeader, WalHeader, frame_size};
use litekeep_ltx::Pgno;
use litekeep_replicate::restore::{Goal, Options, to_path};
use litekeep_schema::migrations::{self, Attend, Done, Folder};
use litekeep_sql::Observer;
use serde::Serialize;

use super::{Ran, folder, marks};
use crate::args;
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::scratch::Scratch;
use crate::settings::{Stores, database};

#[derive(Serialize)]
struct Rehearsed {
    database: PathBuf,
    backup: StoreUrl,
    txid: String,
    time: String,
    applied: Vec<Ran>,
    /// What `PRAGMA integrity_check` finds on the copy afterwards.
    damage: Vec<String>,
    cost: Cost,
}

/// Bytes.
#[derive(Default, Serialize)]
struct Cost {
    size_before_bytes: u64,
    size_after_bytes: u64,
    /// The largest WAL.
    wal_bytes: u64,
    /// Pages that the migrations change; what is uploaded of them is smaller, being compressed.
    changed_bytes: u64,
}

pub(super) async fn run(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let rehearsed = rehearse(args, format).await.context("rehearse the migrations")?;
    report::result(format, &rehearsed, || rehearsed.text());
    Ok(if rehearsed.damage.is_empty() { Outcome::Done } else { Outcome::No })
}

async fn rehearse(args: &args::MigrateTarget, format: Format) -> Result<Rehearsed> {
    let mut databases = database::databases(args.database.as_deref(), &args.config, format)?;
    let (Some(database), true) = (databases.pop(), databases.is_empty()) else {
        let failure = Failure::invalid("the configuration does not have one database");
        return Err(failure.hint("name the one to rehearse: `litekeep migrate rehearse app.db`").into());
    };
    let files =
        Folder::read(&folder(&args.dir, Some(&database))?, args.dir.convention, Some(&database.path))?;
    let Some(destination) = database.destinations.first() else {
        return Err(Failure::invalid(format!("`{}` has no backup", database.path.display())).into());
    };
    if !marks::come_up(&database, marks::PATIENCE) {
        let behind = "the backup does not have everything: the copy is an older state than the database";
        report::warning(behind, format);
    }
    let beside = database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let scratch = Scratch::new(beside.unwrap_or(Path::new(".")), ".litekeep-rehearsal-")?;
    let copy = scratch.path().join("copy.db");
    let shown = Shown::new(format);
    let store = Stores::default().open(destination)?;
    let restored = to_path(&store, Goal::Latest, &copy, &Options::default(), &shown).await;
    shown.end();
    let restored = restored?.context("restore a copy")?;

    let cost = Cost { size_before_bytes: size(&copy), ..Cost::default() };
    let mut measure = Measure { copy: &copy, cost, changed: HashSet::new() };
    let applied: Vec<Ran> = migrations::up(&copy, &files, &mut measure)?.iter().map(Ran::from).collect();
    let Measure { mut cost, changed, .. } = measure;
    cost.size_after_bytes = size(&copy);
    cost.changed_bytes = changed.len() as u64 * u64::from(restored.page_size.get());
    let damage = Observer::open(&copy)?.integrity(false)?;
    Ok(Rehearsed {
        database: database.path.clone(),
        backup: destination.url.clone(),
        txid: restored.txid.to_string(),
        time: text::rfc3339(restored.time_ms),
        applied,
        damage,
        cost,
    })
}

/// Looks at the WAL after each migration.
struct Measure<'a> {
    copy: &'a Path,
    cost: Cost,
    changed: HashSet<Pgno>,
}

impl Attend for Measure<'_> {
    fn ran(&mut self, _: &Done) {
        self.cost.wal_bytes = self.cost.wal_bytes.max(pages_of_wal(self.copy, &mut self.changed));
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// Notes which pages the WAL holds; returns its size. The migration's own connection is still open, so that it is there.
fn pages_of_wal(database: &Path, pages: &mut HashSet<Pgno>) -> u64 {
    let mut read = || {
        let mut bytes = vec![];
        File::open(litekeep_env::file::sibling(database, "-wal"))?.read_to_end(&mut bytes)?;
        let Some(header) = bytes.first_chunk().and_then(|head| WalHeader::parse(head).ok()) else {
            return Ok(0);
        };
        for frame in bytes[WalHeader::LEN..].chunks_exact(frame_size(header.page_size) as usize) {
            let frame = frame.first_chunk().and_then(FrameHeader::parse);
            pages.extend(frame.filter(|frame| frame.salt == header.salt).map(|frame| frame.pgno));
        }
        std::io::Result::Ok(bytes.len() as u64)
    };
    read().unwrap_or(0)
}

impl Rehearsed {
    fn text(&self) -> String {
        let mut out =
            format!("a copy of `{}` as of {}, from {}:\n", self.database.display(), self.time, self.backup);
        if self.applied.is_empty() {
            return out + "nothing is pending\n";
        }
        self.applied.iter().for_each(|ran| out += &ran.text("  applied"));
        let longest = self.applied.iter().map(|ran| ran.locked_seconds).fold(0.0, f64::max);
        let cost = &self.cost;
        out += &format!(
            "other writers wait for up to {:.0} ms; the WAL grows to {}; {} of pages change; the database goes from {} to {}\n",
            longest * 1000.0,
            text::size(cost.wal_bytes),
            text::size(cost.changed_bytes),
            text::size(cost.size_before_bytes),
            text::size(cost.size_after_bytes),
        );
        match &self.damage[..] {
            [] => out += "`PRAGMA integrity_check` finds nothing wrong\n",
            damage => out += &format!("`PRAGMA integrity_check`: {}\n", damage.join("; ")),
        }
        out
    }
}
