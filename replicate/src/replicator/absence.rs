//! A database whose file is gone, or another than before.

use super::database::{Database, lock};
use super::start;
use super::status::Phase;
use super::stranded::{Stranded, put_claimed, stranded};
use std::sync::Arc;

impl Database {
    /// Lets go of a file that has its name no more, and takes with it what was committed last: nobody else can read that.
    pub(super) async fn part_from_former(self: &Arc<Self>, is_replaced: bool) {
        let path = self.settings.path.display();
        let what =
            if is_replaced { "was replaced by another file" } else { "is gone; waiting for it to come back" };
        tracing::warn!(%path, "the database {what}");
        let this = self.clone();
        // One that rests has lent its local state back, which may have gone with its folder.
        let is_there = self.settings.meta_dir.is_dir();
        let opened = if is_there { start::open_local(self).await.map(drop) } else { Ok(()) };
        let looked = match opened {
            Ok(()) => self.run_blocking(move || this.last_look()).await,
            failed => failed,
        };
        if let Err(e) = looked {
            tracing::warn!(%path, "take the last commits of the former file: {e}");
        }
        self.work().capture = None;
        self.ship();
    }

    /// Local state goes where the folder of the database goes.
    pub(super) fn let_go_of_moved_local(&self) {
        let mut work = self.work();
        if work.local.as_ref().is_some_and(|local| !local.meta.is_in_place()) {
            work.local = None;
        }
    }

    /// Says whether the file was ever there. Keeps the claim on the local state, by which others see that somebody waits.
    pub(super) async fn tell_of_absence(self: &Arc<Self>) {
        if self.destinations().iter().all(|d| d.queue.is_empty()) {
            self.let_go_of_moved_local();
        }
        // A database that never was has none, and a path that was mistyped gets none.
        let known = match self.settings.meta_dir.is_dir() {
            true => start::open_local(self).await.map(|local| local.state()),
            false => Ok(None),
        };
        let known = known.unwrap_or_else(|e| {
            tracing::debug!(path = %self.settings.path.display(), "{e}");
            None
        });
        // The folder may have gone, and local state with it.
        let last = self.destinations().iter().filter_map(|d| d.durable).max();
        let Some(known) = known.map(|known| known.txid).or(last) else { return self.phase(Phase::Waiting) };
        self.phase(Phase::Gone);
        self.put_stranded().await;
        let waits = match stranded(&self.settings.meta_dir) {
            Some(Stranded { first, last }) => format!("; {first} to {last} wait on this machine"),
            None => String::new(),
        };
        self.set_status(|s| {
            s.message = Some(format!(
                "the database file is gone or empty; its backup has transaction {known}{waits}"
            ));
            s.hint = Some(format!("`litekeep restore {}` brings it back", self.settings.path.display()));
        });
    }

    /// What an earlier replicator left of a file that is gone is in no queue.
    async fn put_stranded(&self) {
        let local = self.work().local.clone();
        let Some(local) = local.filter(|_| self.destinations().iter().all(|d| d.queue.is_empty())) else {
            return;
        };
        let stores: Vec<_> = self.destinations().iter().map(|d| d.store.clone()).collect();
        if let Err(e) = put_claimed(&stores, &self.settings.path, &local.spool, local.state()).await {
            // It is tried again and again.
            let message = e.to_string();
            if lock(&self.told).replace(message.clone()).as_ref() != Some(&message) {
                tracing::warn!(path = %self.settings.path.display(), "{message}");
            }
        }
    }

    /// Whether something of a file that is gone waits for a store.
    pub(super) fn has_stranded(&self) -> bool {
        lock(&self.status).phase == Phase::Gone && stranded(&self.settings.meta_dir).is_some()
    }
}
