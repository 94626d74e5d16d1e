//! `litekeep migrate undo`: the database as it was before the last `up`, from the backup. What was written since is lost, so it is
//! said first; the present file is kept aside.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use litekeep_config::StoreUrl;
use litekeep_env::SystemClock;
use litekeep_ltx::Txid;
use litekeep_replicate::restore::{self, Goal, Options};
use litekeep_store::{Store, Times};
use serde::Serialize;

use super::marks::{Mark, Marks};
use crate::args;
use crate::commands::status::live::Look;
use crate::report::progress::Shown;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::restore_points::Points;
use crate::settings::{Database, Stores, database};

#[derive(Serialize)]
struct Undone {
    database: PathBuf,
    url: StoreUrl,
    /// The state is that after this transaction.
    txid: String,
    versions: Vec<String>,
    lost: Lost,
    kept_aside: Option<PathBuf>,
}

/// What is lost beside what the migrations did.
#[derive(Debug, Serialize)]
struct Lost {
    /// Transactions of the backup after the migrations; `None`: which are theirs is not known.
    transactions: Option<u64>,
    first_at: Option<String>,
    last_at: Option<String>,
    /// The database has more than the backup.
    unsaved: bool,
}

impl Lost {
    fn is_nothing(&self) -> bool {
        self.transactions == Some(0) && !self.unsaved
    }

    fn text(&self) -> String {
        let range = match (&self.first_at, &self.last_at) {
            (Some(first), Some(last)) if first == last => format!(", at {first}"),
            (Some(first), Some(last)) => format!(", from {first} to {last}"),
            _ => String::new(),
        };
        let mut out = match self.transactions {
            Some(0) => "no later transaction of the backup is lost".to_owned(),
            Some(n) => format!("{n} later transactions of the backup are lost{range}"),
            None => format!("what others wrote since the migrations began is lost with them{range}"),
        };
        if self.unsaved {
            out += "; the database has commits that are not in the backup, which are lost too";
        }
        out
    }
}

pub(super) async fn run(args: &args::MigrateUndo, format: Format) -> Result<Outcome> {
    let undone = undo(args, format).await.context("undo the last migrations")?;
    report::result(format, &undone, || {
        let mut out = format!("`{}` is as after transaction {}\n", undone.database.display(), undone.txid);
        if let Some(kept) = &undone.kept_aside {
            out += &format!("the former database is kept as {}\n", kept.display());
        }
        out
    });
    Ok(Outcome::Done)
}

async fn undo(args: &args::MigrateUndo, format: Format) -> Result<Undone> {
    let mut all = database::databases(args.database.as_deref(), &args.config, format)?;
    let (Some(database), true) = (all.pop(), all.is_empty()) else {
        let failure = Failure::invalid("the configuration does not have one database");
        return Err(failure.hint("name the one: `litekeep migrate undo app.db`").into());
    };
    let Some(mark) = Marks::read(&database)?.0.pop() else {
        let hint =
            "`litekeep history` lists what can be restored, and `litekeep restore --force --txid` does it";
        return Err(Failure::invalid("no `up` has left a mark").hint(hint).into());
    };
    let Some(goal) = mark.txid.as_deref().and_then(|txid| txid.parse::<Txid>().ok()) else {
        let reason = mark.reason.unwrap_or_else(|| "it was not in the backup".to_owned());
        let failure =
            Failure::invalid(format!("there is no way back to before the `up` of {}: {reason}", mark.at));
        return Err(failure.hint("`litekeep history` lists what can be restored").into());
    };
    let (url, store) = store_with(&database, goal).await?;
    let lost = lost(&database, &store, &mark).await?;
    if !lost.is_nothing() {
        consent(args, &lost, format)?;
    }
    let meta_dir = Some(database.meta_dir.clone());
    let options = Options { force: true, meta_dir, ..Options::default() };
    let shown = Shown::new(format);
    let restored = restore::to_path(&store, Goal::Txid(goal), &database.path, &options, &shown).await;
    shown.end();
    let kept_aside = restored?.and_then(|restored| restored.kept_aside);
    Marks::remove(&database, &mark)?;
    let Database { path, .. } = database;
    Ok(Undone { database: path, url, txid: goal.to_string(), versions: mark.versions, lost, kept_aside })
}

/// The first backup from which the transaction can be restored.
async fn store_with(database: &Database, goal: Txid) -> Result<(StoreUrl, Store)> {
    let (stores, mut failed) = (Stores::default(), None);
    for destination in &database.destinations {
        let store = stores.open(destination)?;
        match restore::plan(&store, Goal::Txid(goal)).await {
            Ok(_) => return Ok((destination.url.clone(), store)),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.map_or_else(|| Failure::invalid("there is no backup").into(), anyhow::Error::from))
}

async fn lost(database: &Database, store: &Store, mark: &Mark) -> Result<Lost> {
    let log = store.list().await?;
    let times = Times::default();
    let points = Points::of(&log, &times);
    let end = mark.end.as_deref().and_then(|txid| txid.parse::<Txid>().ok());
    let begin = mark.txid.as_deref().and_then(|txid| txid.parse::<Txid>().ok());
    let after = end.or(begin);
    let last = points.last();
    let range = points.times_after(after);
    let look = Look::at(database, &SystemClock);
    let count = |end: Txid| last.map_or(0, |(last, _)| last.get().saturating_sub(end.get()));
    Ok(Lost {
        transactions: end.map(count),
        first_at: range.map(|(first, _)| text::rfc3339(first)),
        last_at: range.map(|(_, last)| text::rfc3339(last)),
        unsaved: !look.is_confirmed(),
    })
}

/// Asks whoever sits there, or wants it said on the command line.
fn consent(args: &args::MigrateUndo, lost: &Lost, format: Format) -> Result<()> {
    if format == Format::Text {
        report::line(&lost.text());
    }
    if args.yes {
        return Ok(());
    }
    if report::is_agreed(format) {
        return Ok(());
    }
    let failure = Failure::invalid(lost.text());
    Err(failure.hint("add --yes if that may be; the present file is kept aside in any case").into())
}
