//! `litekeep demo`: a bank under load is replicated, deleted and restored, and every account is checked.
//!
//! Everything is real: the writers and the replicator are processes of this very binary, and what they did is judged by
//! what the writers had printed and by the files in the backup, not by what the replicator says of itself. Nothing
//! outside a temporary folder is touched; the processes end with the demo, also when it is interrupted.

mod bank;
mod landings;
mod measured;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use litekeep_config::{Destination, StoreUrl};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::Pgno;
use litekeep_replicate::local::{MetaDir, StateFile};
use litekeep_replicate::restore::{self, Goal, Options, Restored};
use litekeep_store::Store;
use tokio::process::Child;

use crate::args;
use crate::child::Signals;
use crate::program;
use crate::report::{self, Format, Outcome, text};
use crate::scratch::Scratch;
use crate::settings::Stores;

use bank::Progress;
use landings::Landings;
use measured::{Ack, AfterLoss, BeforeDelete, Load, Measured};

/// Processes that write at the same time.
const WRITERS: u32 = 3;
/// How long they write after the restore, until the bad DELETE.
const SECOND_LOAD: Duration = Duration::from_secs(1);
/// Longer than any step takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn run(args: &args::demo::Demo, format: Format) -> Result<Outcome> {
    demo(args, format).await.context("show what litekeep does")
}

/// One writer, until it is killed.
pub(super) fn write(args: &args::demo::DemoWriter) -> Result<Outcome> {
    let acks = std::io::stdout().lock();
    bank::write(&args.database, args.writer, acks).context("write to the bank")?;
    Ok(Outcome::Done)
}

async fn demo(args: &args::demo::Demo, format: Format) -> Result<Outcome> {
    let mut signals = Signals::catch().context("catch signals")?;
    let mut scratch = Scratch::new(&std::env::temp_dir(), "litekeep-demo-")?;
    let begin = SystemClock.boottime();
    let played = {
        let stage = Stage::build(scratch.path(), format)?;
        signals.unless_ended(stage.play(Duration::from_secs(args.seconds))).await
    };
    let mut measured = played?;
    measured.seconds = (SystemClock.boottime() - begin).as_secs_f64();
    if args.keep {
        scratch.keep();
        measured.folder = Some(scratch.path().to_owned());
    }
    let ok = measured.ok;
    report::result(format, &measured, || measured.text());
    Ok(if ok { Outcome::Done } else { Outcome::No })
}

/// The bank with its backup, and how to start the processes.
struct Stage {
    dir: PathBuf,
    db: PathBuf,
    url: String,
    store: Store,
    /// Where the log's newest files appear.
    level0: PathBuf,
    /// The page that holds the writers' progress.
    page: Pgno,
    format: Format,
}

impl Stage {
    fn build(dir: &Path, format: Format) -> Result<Stage> {
        let db = dir.join("bank.db");
        let backup = dir.join("backup");
        let destination = Destination::new(StoreUrl::File { path: backup.clone() });
        let store = Stores::default().open(&destination)?;
        let level0 = backup.join(store.layout().level_dir(0));
        let page = bank::open(&db, WRITERS)?;
        let (dir, url) = (dir.to_owned(), destination.url.to_string());
        Ok(Stage { dir, db, url, store, level0, page, format })
    }

    async fn play(&self, load: Duration) -> Result<Measured> {
        let mut measured = Measured::new(WRITERS, bank::ACCOUNTS.unsigned_abs());
        let acks = self.lose_the_database(load, &mut measured).await?;
        self.bring_it_back(&acks, &mut measured).await?;
        if measured.ok {
            self.undo_a_delete(&mut measured).await?;
        }
        Ok(measured)
    }

    fn say(&self, what: &str) {
        if self.format == Format::Text {
            eprintln!("{what}");
        }
    }

    /// Writes, replicates, and deletes the database under load. Returns what was acknowledged.
    async fn lose_the_database(&self, load: Duration, measured: &mut Measured) -> Result<Vec<Ack>> {
        self.say(&format!(
            "{WRITERS} processes write to a bank of {} accounts in {}, and litekeep replicates it ...",
            bank::ACCOUNTS,
            self.db.display()
        ));
        let landings = Landings::watch(&self.level0, self.page)?;
        let mut replicator = self.replicate().await?;
        let begin = SystemClock.boottime();
        let mut writers = self.writers("first")?;
        tokio::time::sleep(load).await;
        for writer in &mut writers {
            ensure!(writer.try_wait()?.is_none(), "a writer has ended: {}", self.log("writers"));
        }
        let deleted_at = SystemClock.boottime();
        for suffix in ["", "-wal", "-shm"] {
            let path = self.dir.join(format!("bank.db{suffix}"));
            std::fs::remove_file(&path).with_context(|| format!("delete `{}`", path.display()))?;
        }
        for writer in &mut writers {
            writer.kill().await.context("kill a writer")?;
        }
        // As if the machine were gone: nothing that waits is shipped any more.
        replicator.kill().await.context("kill the replicator")?;
        self.say("the database was deleted under load, and everybody was killed");
        let acks = self.acks("first")?;
        let load = Load { begin, deleted_at, landings: landings.end() };
        measured.load = load.measure(&acks);
        measured.load.uploaded_bytes = self.store.list().await?.size();
        measured.after_loss.confirmed = load.confirmed();
        measured.after_loss.written_into_the_deleted_file =
            acks.iter().filter(|ack| ack.at > deleted_at).count() as u64;
        let mut before = acks;
        before.retain(|ack| ack.at <= deleted_at);
        measured.deleted_at = deleted_at;
        Ok(before)
    }

    /// Restores the last state and holds it against what was acknowledged and what was in the backup.
    async fn bring_it_back(&self, acks: &[Ack], measured: &mut Measured) -> Result<()> {
        let (restored, seconds) = self.restore(Goal::Latest, &self.db).await?;
        let books = measured.books(bank::check(&self.db), "the restored bank");
        let AfterLoss { confirmed, .. } = &measured.after_loss;
        let missing = measured::missing(confirmed, &books.progress);
        let lost: Vec<&Ack> = acks.iter().filter(|ack| ack.is_missing_in(&books.progress)).collect();
        let oldest = lost.iter().map(|ack| measured.deleted_at.saturating_sub(ack.at)).max();
        let after_loss = &mut measured.after_loss;
        after_loss.restore_seconds = seconds;
        after_loss.database_bytes = u64::from(restored.page_count) * u64::from(restored.page_size.get());
        after_loss.rows_checked = books.rows;
        after_loss.lost_commits = lost.len() as u64;
        after_loss.oldest_lost_ms = oldest.map(|age| age.as_secs_f64() * 1000.0);
        after_loss.confirmed_but_missing = missing;
        if missing > 0 {
            measured
                .problem(format!("{missing} commits were in the backup and are not in the restored bank"));
        }
        Ok(())
    }

    /// Goes on with the restored bank in the same backup, makes a mistake, and restores the second before it.
    async fn undo_a_delete(&self, measured: &mut Measured) -> Result<()> {
        self.say("the bank is restored and goes on; now somebody deletes accounts by mistake ...");
        let landings = Landings::watch(&self.level0, self.page)?;
        let replicator = self.replicate().await?;
        let mut writers = self.writers("second")?;
        tokio::time::sleep(SECOND_LOAD).await;
        for writer in &mut writers {
            writer.kill().await.context("kill a writer")?;
        }
        let acks = self.acks("second")?;
        let mut wanted = Progress::new();
        for ack in &acks {
            wanted.insert(ack.writer, ack.number.max(wanted.get(&ack.writer).copied().unwrap_or(0)));
        }
        until("the last commits are in the backup", || landings.have(&wanted)).await?;
        // The next full second, which is before the mistake and after everything else.
        let second_ms = (SystemClock.unix_ms() / 1000 + 1) * 1000;
        until("that second is over", || SystemClock.unix_ms() > second_ms + 10).await?;
        let deleted_accounts = bank::delete_the_poor(&self.db)?;
        self.stop(replicator).await?;

        let path = self.dir.join("before-the-delete.db");
        let (restored, seconds) = self.restore(Goal::Time(second_ms), &path).await?;
        let books = measured.books(bank::check(&path), "the bank before the DELETE");
        let missing = acks.iter().filter(|ack| ack.is_missing_in(&books.progress)).count() as u64;
        if missing > 0 {
            measured.problem(format!("{missing} commits are missing in the bank before the DELETE"));
        }
        if restored.after_end {
            measured.problem("the DELETE is not in the backup".to_owned());
        }
        measured.before_delete = Some(BeforeDelete {
            deleted_accounts,
            restored_to: text::rfc3339(second_ms),
            restore_seconds: seconds,
            rows_checked: books.rows,
            missing_commits: missing,
        });
        Ok(())
    }

    async fn restore(&self, goal: Goal, to: &Path) -> Result<(Restored, f64)> {
        let begin = SystemClock.boottime();
        let restored = restore::to_path(&self.store, goal, to, &Options::default(), &()).await?;
        let seconds = (SystemClock.boottime() - begin).as_secs_f64();
        Ok((restored.context("restore over nothing")?, seconds))
    }

    /// Starts a process of this binary, which ends with the demo.
    fn start(&self, arguments: &[&str], stdout: Stdio, log: &str) -> Result<Child> {
        let path = self.dir.join(format!("{log}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open `{}`", path.display()))?;
        let mut command = program::again();
        command.args(arguments).current_dir(&self.dir).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        command.spawn().with_context(|| format!("start `litekeep {}`", arguments.join(" ")))
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Starts the replicator. Returns when its first copy of the bank is in the backup; later starts find their way
    /// while the writers write.
    async fn replicate(&self) -> Result<Child> {
        let state = MetaDir::default_path(&self.db).join("state");
        let mut child = self.start(&["replicate", "bank.db", &self.url], Stdio::null(), "replicate")?;
        let mut ended = None;
        let begun = || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || StateFile::peek(&state).is_some()
        };
        until("the bank is in the backup", begun).await?;
        ensure!(ended.is_none(), "the replicator has ended: {}", self.log("replicate"));
        Ok(child)
    }

    /// Ends the replicator, which first has everything confirmed.
    async fn stop(&self, mut replicator: Child) -> Result<()> {
        crate::child::terminate(&replicator);
        let status = tokio::time::timeout(PATIENCE, replicator.wait()).await;
        let status = status.context("wait for the replicator")?.context("wait for the replicator")?;
        ensure!(status.success(), "the replicator ended with {status}: {}", self.log("replicate"));
        Ok(())
    }

    /// Starts the writers, each with a list of its own for this load.
    fn writers(&self, load: &str) -> Result<Vec<Child>> {
        let start = |writer: u32| {
            let path = self.acks_of(load, writer);
            let acks = File::create(&path).with_context(|| format!("make `{}`", path.display()))?;
            self.start(&["demo-writer", "bank.db", &writer.to_string()], acks.into(), "writers")
        };
        (0..WRITERS).map(start).collect()
    }

    fn acks_of(&self, load: &str, writer: u32) -> PathBuf {
        self.dir.join(format!("acknowledged-{load}-{writer}"))
    }

    /// What the writers acknowledged; a last line that a kill has cut does not count.
    fn acks(&self, load: &str) -> Result<Vec<Ack>> {
        let mut acks = Vec::new();
        for writer in 0..WRITERS {
            let path = self.acks_of(load, writer);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
            acks.extend(text.split_inclusive('\n').filter_map(|line| Ack::parse(writer, line)));
        }
        ensure!(!acks.is_empty(), "the writers have not written anything: {}", self.log("writers"));
        Ok(acks)
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let begin = SystemClock.boottime();
    while !done() {
        ensure!(
            SystemClock.boottime() - begin < PATIENCE,
            "waited for {} s until {what}",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
