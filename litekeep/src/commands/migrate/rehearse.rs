//! `litekeep migrate rehearse`: the pending migrations on a copy that comes from the backup, and what they cost there.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_env::file::{read_up_to, sibling};
use litekeep_format::{FrameHeader, WalHeader, frame_size};
use litekeep_ltx::{Encoder, Header, PageSize, Pgno, Salt, Txid, WriterId};
use litekeep_replicate::restore::{Goal, Options, to_path};
use litekeep_schema::migrations::{self, Attend, Done, Folder};
use litekeep_sql::Observer;
use serde::Serialize;

use super::waiting::PATIENCE;
use super::{Ran, folder, marks};
use crate::args;
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::scratch::Scratch;
use crate::settings::{Settings, Stores, database};

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
    /// Pages that the migrations change.
    changed_bytes: u64,
    /// What is uploaded of them, compressed as the backup has them.
    upload_bytes: u64,
    /// Room for the larger of the two sizes and the largest WAL.
    disk_bytes: u64,
}

pub(super) async fn run(args: &args::MigrateTarget, format: Format) -> Result<Outcome> {
    let rehearsed = rehearse(args, format).await.context("rehearse the migrations")?;
    report::result(format, &rehearsed, || rehearsed.text());
    Ok(if rehearsed.damage.is_empty() { Outcome::Done } else { Outcome::No })
}

async fn rehearse(args: &args::MigrateTarget, format: Format) -> Result<Rehearsed> {
    let mut databases = database::databases(args.database.as_deref(), &args.config, format)?;
    let database = match databases.len() {
        1 => databases.remove(0),
        _ => {
            let settings = Settings::load(&args.config, format)?;
            let (_, one) = super::only_of(databases, &settings, "rehearse")?;
            one.context("one of the configuration")?
        }
    };
    let files =
        Folder::read(&folder(&args.dir, Some(&database))?, args.dir.convention, Some(&database.path))?;
    let Some(destination) = database.destinations.first() else {
        return Err(Failure::invalid(format!("`{}` has no backup", database.path.display())).into());
    };
    if !marks::come_up(&database, PATIENCE.backup) {
        let behind = "the backup does not have everything: the copy is an older state than the database";
        report::warning(behind, format);
    }
    let beside = database.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let scratch = Scratch::beside(beside.unwrap_or(Path::new(".")), ".litekeep-rehearsal-")?;
    let copy = scratch.path().join("copy.db");
    let shown = Shown::new(format);
    let store = Stores::default().open(destination)?;
    let restored = to_path(&store, Goal::Latest, &copy, &Options::default(), &shown).await;
    shown.end();
    let restored = restored?.context("restore a copy")?;

    let cost = Cost { size_before_bytes: size(&copy), ..Cost::default() };
    let mut measure = Measure { copy: &copy, cost, changed: BTreeSet::new(), read: Read::default() };
    let applied: Vec<Ran> = migrations::up(&copy, &files, &mut measure)?.iter().map(Ran::from).collect();
    let Measure { mut cost, changed, .. } = measure;
    cost.size_after_bytes = size(&copy);
    cost.changed_bytes = changed.len() as u64 * u64::from(restored.page_size.get());
    cost.upload_bytes = compressed(&copy, &changed, restored.page_size, restored.txid.next())
        .context("measure what is uploaded")?;
    cost.disk_bytes = cost.size_before_bytes.max(cost.size_after_bytes) + cost.wal_bytes;
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
    changed: BTreeSet<Pgno>,
    read: Read,
}

impl Attend for Measure<'_> {
    fn ran(&mut self, _: &Done) {
        // The migration's own connection is still open, so that it is there.
        let wal = sibling(self.copy, "-wal");
        self.cost.wal_bytes = self.cost.wal_bytes.max(size(&wal));
        // A WAL that cannot be read measures nothing.
        _ = self.read.on(&wal, &mut self.changed);
    }
}

/// How far a WAL was read.
#[derive(Default)]
struct Read {
    salt: Option<Salt>,
    /// Behind its last commit.
    end: u64,
}

impl Read {
    /// Notes which pages it holds that it did not before.
    fn on(&mut self, wal: &Path, pages: &mut BTreeSet<Pgno>) -> std::io::Result<()> {
        let file = File::open(wal)?;
        let mut head = [0; WalHeader::LEN];
        file.read_exact_at(&mut head, 0)?;
        let Ok(header) = WalHeader::parse(&head) else { return Ok(()) };
        if self.salt != Some(header.salt) {
            *self = Read { salt: Some(header.salt), end: WalHeader::LEN as u64 };
        }
        let (mut frame, mut at) = ([0; FrameHeader::LEN], self.end);
        while read_up_to(&file, &mut frame, at)? == frame.len() {
            let Some(frame) = FrameHeader::parse(&frame).filter(|frame| frame.salt == header.salt) else {
                // What follows is left from an older one.
                return Ok(());
            };
            pages.insert(frame.pgno);
            at += frame_size(header.page_size);
            if frame.commit > 0 {
                self.end = at;
            }
        }
        Ok(())
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// The size of the file of the backup that has these pages as they are now. They are all in the database file: its last connection is closed.
fn compressed(database: &Path, pages: &BTreeSet<Pgno>, page_size: PageSize, txid: Txid) -> Result<u64> {
    let commit = u32::try_from(size(database) / u64::from(page_size.get()))?;
    let header = Header {
        page_size,
        commit,
        min_txid: txid,
        max_txid: txid,
        timestamp_ms: 1,
        wal_offset: WalHeader::LEN as u64,
        wal_size: 0,
        wal_salt: Salt::default(),
        node: WriterId(0),
    };
    let pages = pages.iter().filter(|pgno| pgno.get() <= commit);
    let (file, mut page) = (File::open(database)?, vec![0; page_size.bytes()]);
    let mut encoder = Encoder::new(std::io::sink(), &header)?;
    let mut any = false;
    for pgno in pages {
        file.read_exact_at(&mut page, pgno.offset(page_size))?;
        encoder.page(*pgno, &page)?;
        any = true;
    }
    Ok(if any { encoder.finish()?.size } else { 0 })
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
            "other writers wait for up to {:.0} ms; the WAL grows to {}; {} of pages change, {} are uploaded; the database goes from {} to {}, and needs {} with its WAL\n",
            longest * 1000.0,
            text::size(cost.wal_bytes),
            text::size(cost.changed_bytes),
            text::size(cost.upload_bytes),
            text::size(cost.size_before_bytes),
            text::size(cost.size_after_bytes),
            text::size(cost.disk_bytes),
        );
        match &self.damage[..] {
            [] => out += "`PRAGMA integrity_check` finds nothing wrong\n",
            damage => out += &format!("`PRAGMA integrity_check`: {}\n", damage.join("; ")),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAL may be larger than the memory, and each of many migrations asks.
    #[test]
    fn of_a_wal_only_what_is_new_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let app = litekeep_sql::Application::create(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE a(x)")
            .unwrap();
        let wal = sibling(&path, "-wal");
        let (mut read, mut pages) = (Read::default(), BTreeSet::new());
        let numbers = |pages: &BTreeSet<Pgno>| pages.iter().map(|pgno| pgno.get()).collect::<Vec<_>>();
        read.on(&wal, &mut pages).unwrap();
        assert_eq!(numbers(&pages), [1, 2]);
        assert_eq!(read.end, size(&wal));
        app.execute_batch("CREATE TABLE b(x)").unwrap();
        // No memory holds so much. What is behind the last frame is none.
        let file = File::options().write(true).open(&wal).unwrap();
        let end = size(&wal);
        file.set_len(1 << 40).unwrap();
        pages.clear();
        read.on(&wal, &mut pages).unwrap();
        assert_eq!(numbers(&pages), [1, 3]);
        assert_eq!(read.end, end);
        // It begins anew.
        app.execute_batch("PRAGMA wal_checkpoint(RESTART); CREATE TABLE c(x)").unwrap();
        pages.clear();
        read.on(&wal, &mut pages).unwrap();
        assert_eq!(numbers(&pages), [1, 4]);
        assert!(read.end < end);
    }
}
