//! Where the log of a database is, and where it was.

use super::database::{Database, Local, lock};
use super::destination::Standing;
use crate::Error;
use litekeep_store::{FileRef, Log, Store};
use std::sync::Arc;

impl Local {
    /// Looks whether a listing shows the log that was there, if one was. A disk that is not mounted shows an empty folder,
    /// and whoever deleted a backup by mistake must hear of it: neither is a place for a new one, unless a person says so.
    ///
    /// # Errors
    /// `Unavailable` when nothing can be restored from what is left.
    pub(super) fn meet_log(&self, store: &Store, log: &Log, may_begin_anew: bool) -> Result<(), Error> {
        let mut places = lock(&self.places);
        let place = store.identity();
        if !is_restorable(log) && places.has_held(&place) && !may_begin_anew {
            return Err(store.vanished().into());
        }
        if log.is_empty() { Ok(()) } else { places.note_held(&place) }
    }

    /// Whether this state is about the log at a place.
    pub(super) fn is_about(&self, store: &Store) -> bool {
        lock(&self.places).is_current(&store.identity())
    }

    /// This state is about the log at a place, too.
    pub(super) fn becomes_about(&self, store: &Store) -> Result<(), Error> {
        lock(&self.places).note_current(&store.identity())
    }
}

impl Database {
    /// Before local state follows the log at one of the destinations, or a new one.
    pub(super) fn leave_other_places(&self, local: &Local, nth: Option<usize>) -> Result<(), Error> {
        let places: Vec<String> = self.destinations().iter().map(|d| d.store.identity()).collect();
        let mut known = lock(&local.places);
        let stays = nth.is_some_and(|nth| known.is_current(&places[nth]));
        known.forget_all_but(if stays { &places } else { &[] })
    }

    /// Local state follows the log at the destinations that have all of it. Others are told which of their stores have no fence.
    pub(super) fn keep_to_places(self: &Arc<Self>, local: &Local) -> Result<(), Error> {
        let listed: Vec<(Store, bool, bool)> = (self.destinations().iter())
            .filter(|d| d.standing != Standing::Unlisted)
            .map(|d| (d.store.clone(), d.lags, d.unfenced))
            .collect();
        for (store, lags, unfenced) in &listed {
            if !lags {
                local.becomes_about(store)?;
            }
            lock(&local.places).note_unfenced(&store.identity(), *unfenced)?;
        }
        Ok(())
    }
}

/// Without a file that a restore can begin with, the rest is of no use.
pub(super) fn is_restorable(log: &Log) -> bool {
    log.files().any(FileRef::is_base)
}
