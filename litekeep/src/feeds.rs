//! Feeds of the configuration, beside the replication.
//!
//! Promise: how each stands is in a file that `status` reads without asking.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use litekeep_config::FeedConfig;
use litekeep_feed::{Delivery, State};
use litekeep_ltx::Txid;
use litekeep_rows::Selection;
use serde::{Deserialize, Serialize};

use crate::dashboard::file_name;
use crate::followers::{self, Followers, News};
use crate::replication::Replication;
use crate::report::text;
use crate::settings::{Database, Settings};
use crate::verification::canonical;

/// A feed and the database that it tells of.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    pub(crate) config: FeedConfig,
    pub(crate) database: Database,
}

impl Feed {
    /// The feeds of a configuration.
    ///
    /// # Errors
    /// When one tells of a database that is not in it.
    pub(crate) fn all(settings: &Settings) -> Result<Vec<Feed>> {
        let of = |config: &FeedConfig| {
            let database = Database::named(settings, &config.database)?;
            Ok(Feed { config: config.clone(), database })
        };
        settings.config.feeds.iter().map(of).collect()
    }

    /// Where its position is kept.
    fn position(&self) -> PathBuf {
        self.database.meta_dir.join("feeds").join(&self.config.name)
    }

    /// How it stands, where the backup ends with a transaction.
    pub(crate) fn status(&self, durable: Option<Txid>, now_ms: i64) -> FeedStatus {
        let read = State::read(&self.position());
        let error = read.as_ref().err().map(ToString::to_string);
        let state = read.ok().flatten().unwrap_or_default();
        let number = |txid: Option<Txid>| txid.map_or(0, Txid::get);
        let behind = state.at().map(|at| number(durable).saturating_sub(at.get()));
        let trouble = state.trouble.as_ref();
        let said = trouble.map(|trouble| trouble.message.clone());
        FeedStatus {
            name: self.config.name.clone(),
            to: self.config.to.to_string(),
            txid: state.txid.clone(),
            lag_transactions: behind,
            lag_seconds_at_most: match (behind, state.time_ms) {
                (Some(0), _) => Some(0.0),
                (Some(_), Some(time_ms)) => Some((now_ms - time_ms).max(0) as f64 / 1000.0),
                _ => None,
            },
            delivered_at: state.delivered_ms.map(text::rfc3339),
            error: error.or(said),
            hint: trouble.and_then(|trouble| trouble.hint.clone()),
            error_since: trouble.map(|trouble| text::rfc3339(trouble.since_ms)),
        }
    }
}

/// How the feeds of a database stand, where its backup ends with a transaction.
pub(crate) fn statuses(
    feeds: &[Feed],
    database: &Path,
    durable: Option<Txid>,
    now_ms: i64,
) -> Vec<FeedStatus> {
    let path = canonical(database);
    let of = feeds.iter().filter(|feed| canonical(&feed.database.path) == path);
    of.map(|feed| feed.status(durable, now_ms)).collect()
}

/// How a feed stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FeedStatus {
    pub(crate) name: String,
    pub(crate) to: String,
    /// The last transaction whose every event is confirmed; `None` until it has begun.
    pub(crate) txid: Option<String>,
    /// Transactions of the backup that are not delivered.
    pub(crate) lag_transactions: Option<u64>,
    /// How old the oldest of them can be.
    pub(crate) lag_seconds_at_most: Option<f64>,
    pub(crate) delivered_at: Option<String>,
    /// Why the last try failed, when it did.
    pub(crate) error: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) error_since: Option<String>,
}

impl FeedStatus {
    /// What is wrong, in words.
    pub(crate) fn problem(&self) -> Option<String> {
        let since = self.error_since.as_ref().map_or(String::new(), |since| format!(" since {since}"));
        let hint = self.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
        let error = self.error.as_ref()?;
        Some(format!("the feed `{}` does not deliver{since}: {error}{hint}", self.name))
    }

    pub(crate) fn text(&self) -> String {
        let (name, to) = (&self.name, &self.to);
        let stands = match (&self.txid, self.lag_transactions) {
            (None, _) => "has not begun".to_owned(),
            (Some(txid), Some(0)) => format!("has everything, up to transaction {txid}"),
            (Some(txid), behind) => {
                let behind = usize::try_from(behind.unwrap_or(0)).unwrap_or(usize::MAX);
                format!("stands at transaction {txid}, {} behind", text::count(behind, "transaction"))
            }
        };
        format!("    feed {name} to {to}: {stands}\n")
    }
}

/// Begins to deliver. One that cannot begin is only reported: it must not keep an application from starting.
pub(crate) fn start(feeds: &[Feed], replication: &Arc<Replication>, followers: &mut Followers) {
    for feed in feeds {
        if let Err(error) = deliver(feed, replication, followers) {
            tracing::error!(feed = feed.config.name, "could not start: {error:#}");
        }
    }
}

fn deliver(feed: &Feed, replication: &Arc<Replication>, followers: &mut Followers) -> Result<()> {
    let Feed { config, database } = feed;
    let stores = followers::opened(database, replication.stores())?;
    let news = News::new(database, replication, stores.first());
    let delivery = Delivery::new(litekeep_feed::Settings {
        name: config.name.clone(),
        database: file_name(&database.path),
        stores,
        wanted: Selection { tables: config.tables.clone(), ..Selection::default() },
        from: config.from,
        to: config.to.clone(),
        ca_file: config.ca_file.clone(),
        position: feed.position(),
    })?;
    tracing::info!(
        feed = config.name,
        "delivering the changes of {} to {}",
        database.path.display(),
        config.to
    );
    followers.start(|stop| delivery.follow(stop, async move |at| news.after(at).await));
    Ok(())
}
