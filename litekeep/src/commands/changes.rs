//! `litekeep changes`: the change feed, one JSON object a line, or delivered to somebody.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::{FeedFrom, FeedUrl};
use litekeep_env::{Clock, SystemClock};
use litekeep_feed::{Delivery, Settings, State};
use litekeep_replicate::restore::{self, Goal};
use litekeep_rows::feed::{Feed, Transaction};
use litekeep_rows::{Kind, Selection, json};
use serde::Serialize;

use super::diff::{best_backup, goal};
use crate::args;
use crate::child::Signals;
use crate::followers::{OUTAGE_PAUSE, pause};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::database::backups;

pub(super) async fn run(args: &args::Changes, format: Format) -> Result<Outcome> {
    let target = args.target.as_deref().unwrap_or("the database");
    match (&args.to, &args.position) {
        (Some(to), Some(position)) => deliver(args, (to, position), format)
            .await
            .with_context(|| format!("deliver the changes of `{target}`")),
        _ => changes(args, format).await.with_context(|| format!("read the changes of `{target}`")),
    }
}

fn no_beginning() -> Failure {
    let hint = "--from \"1 hour ago\", --from TXID to go on after it, or --follow for what is to come";
    Failure::invalid("say from where on").hint(hint)
}

/// The database's name, as events tell it.
fn name(args: &args::Changes, format: Format) -> Result<String> {
    let name = match &args.target {
        Some(name) => name.clone(),
        None => {
            let found = backups(None, &args.config, format)?;
            let path = found.into_iter().find_map(|backup| Some(backup.database?.path));
            path.map_or(String::new(), |path| path.to_string_lossy().into_owned())
        }
    };
    Ok(name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned())
}

fn wanted(args: &args::Changes) -> Selection {
    Selection { tables: args.table.clone(), condition: args.condition.clone(), ..Selection::default() }
}

/// How far the events are delivered.
#[derive(Serialize)]
struct Delivered {
    to: String,
    /// Up to here, with what was delivered before.
    txid: Option<String>,
    events: u64,
}

/// Delivers until nothing is left, or until a signal.
async fn deliver(args: &args::Changes, (to, position): (&str, &Path), format: Format) -> Result<Outcome> {
    let to = FeedUrl::parse(to)?;
    let known = State::read(position)?;
    let from = args.from.as_deref().map(goal).transpose()?;
    let begin = known.as_ref().and_then(State::at).map(Goal::Txid).or(from);
    let goals: Vec<Goal> = begin.into_iter().chain([Goal::Latest]).collect();
    let (_, store) = best_backup(args.target.as_deref(), &args.config, &goals, format).await?;
    let from = match from {
        // From the middle of a transaction it tells all of it: again rather than never.
        Some(goal) => match restore::plan(&store, goal).await?.point().whole() {
            Some(txid) => FeedFrom::Txid(txid.get()),
            None => FeedFrom::Beginning,
        },
        None => FeedFrom::Now,
    };
    if let Some(known) = &known {
        let (from, to) = (args.from.as_ref().map(|_| from), to.to_string());
        go_on(known, position, (from, &to), format)?;
    }
    let mut delivery = Delivery::new(Settings {
        name: position.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        database: name(args, format)?,
        stores: vec![store.clone()],
        wanted: wanted(args),
        from,
        to,
        ca_file: args.ca_file.clone(),
        position: position.to_owned(),
    })?;
    if args.from.is_none() && !args.follow && delivery.state().at().is_none() {
        return Err(no_beginning().into());
    }
    tell_unknown_table(delivery.check_tables().await, args, format)?;
    let mut signals = Signals::catch().context("catch signals")?;
    let ended = tokio::select! {
        ended = steps(&mut delivery, pause(&store), args.follow, format) => ended,
        () = signals.end() => Ok(()),
    };
    // Whatever ended it, what is confirmed counts.
    let kept = delivery.keep().await;
    ended?;
    kept?;
    let (state, events) = (delivery.state(), delivery.events());
    let delivered = Delivered { to: state.to.clone(), txid: state.txid.clone(), events };
    let count = text::count(usize::try_from(events).unwrap_or(usize::MAX), "event");
    report::result(format, &delivered, || match (&delivered.txid, events) {
        (Some(txid), 1..) => format!("delivered {count} to {}, up to transaction {txid}\n", delivered.to),
        (Some(txid), 0) => format!("nothing new for {} up to transaction {txid}\n", delivered.to),
        (None, _) => format!("nothing to deliver to {} yet\n", delivered.to),
    });
    Ok(Outcome::Done)
}

/// A position says where it goes on, whatever else is said, and is of one place that events go to.
fn go_on(
    known: &State,
    position: &Path,
    (from, to): (Option<FeedFrom>, &str),
    format: Format,
) -> Result<(), Failure> {
    let Some(at) = known.at() else { return Ok(()) };
    let path = position.display();
    if from.is_some_and(|from| !matches!(from, FeedFrom::Txid(txid) if txid == at.get())) {
        let message = format!("`{path}` goes on after transaction {at}, and --from names another beginning");
        let hint = format!(
            "leave --from out to go on, or name another file to begin there: `{path}` stays as it is"
        );
        return Err(Failure::invalid(message).hint(hint));
    }
    if known.to != to {
        let was = &known.to;
        report::warning(
            &format!("`{path}` is of what went to {was}: nothing up to transaction {at} goes to {to}"),
            format,
        );
    }
    Ok(())
}

async fn steps(delivery: &mut Delivery, pause: Duration, follow: bool, format: Format) -> Result<()> {
    let mut is_down = false;
    loop {
        match delivery.step().await {
            Ok(true) => is_down = false,
            Ok(false) if follow => tokio::time::sleep(pause).await,
            Ok(false) => return Ok(()),
            Err(e) if follow && e.kind() == Kind::Unavailable => {
                if !is_down {
                    report::warning(&format!("{e}; trying again"), format);
                }
                is_down = true;
                tokio::time::sleep(OUTAGE_PAUSE).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Refuses a table that is not there; with `--follow` it may be made yet, and a store may answer later.
fn tell_unknown_table(
    checked: Result<(), litekeep_rows::Error>,
    args: &args::Changes,
    format: Format,
) -> Result<()> {
    match checked {
        Err(e) if args.follow && matches!(e.kind(), Kind::Invalid | Kind::Unavailable) => {
            report::warning(&e.to_string(), format);
        }
        checked => checked?,
    }
    Ok(())
}

async fn changes(args: &args::Changes, format: Format) -> Result<Outcome> {
    let from = match &args.from {
        Some(from) => goal(from)?,
        None if args.follow => Goal::Latest,
        None => return Err(no_beginning().into()),
    };
    let goals = [from, Goal::Latest];
    let (_, store) = best_backup(args.target.as_deref(), &args.config, &goals, format).await?;
    let name = name(args, format)?;
    let mut feed = Feed::of_commits(&store, from, wanted(args)).await?;
    tell_unknown_table(feed.check_tables().await, args, format)?;
    let mut is_down = false;
    loop {
        match feed.next().await {
            Ok(Some(transaction)) => {
                is_down = false;
                if !print(&name, &transaction)? {
                    return Ok(Outcome::Done);
                }
            }
            Ok(None) if args.follow => tokio::time::sleep(pause(&store)).await,
            Ok(None) => return Ok(Outcome::Done),
            Err(e) if args.follow && e.kind() == Kind::Unavailable => {
                if !is_down {
                    report::warning(&format!("{e}; trying again"), format);
                }
                is_down = true;
                tokio::time::sleep(OUTAGE_PAUSE).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// Prints the events of a transaction; `false` when nobody reads any more.
fn print(name: &str, transaction: &Transaction) -> Result<bool> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut events = json::envelopes(name, transaction, SystemClock.unix_ms());
    let printed = events.try_for_each(|event| writeln!(out, "{event}"));
    match printed.and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("print"),
    }
}
