//! Who streams from here: how far the copies of other nodes say that they are, and what was told to whom. Of one time as primary.
//!
//! Promise: what is counted as a replica that has a transaction is a node that has said so, under the token, since this node leads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use litekeep_ltx::Txid;

/// Nodes that are known of a database; more are no cluster.
const MOST_NODES: usize = 64;
/// A node tells once a second at least; one that has not for so long is not there now.
const THERE: Duration = Duration::from_secs(5);

/// Everybody.
#[derive(Default)]
pub(crate) struct Audience(Mutex<BTreeMap<PathBuf, Told>>);

/// Of one database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Where each node's copy is, and when it said so.
    copies: BTreeMap<String, (Txid, Instant)>,
    /// Connections that are open.
    pub(crate) connections: u64,
    /// Connections that there have been.
    pub(crate) begun: u64,
    /// Bytes of files that were told.
    pub(crate) bytes: u64,
}

impl Told {
    /// Nodes that have said lately how far they are.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, Txid)> {
        let is_there = |at: &Instant| at.elapsed() < THERE;
        self.copies
            .iter()
            .filter(move |(_, (_, at))| is_there(at))
            .map(|(node, (at, _))| (node.as_str(), *at))
    }
}

impl Audience {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy of a node is at a transaction: durably in the file that its readers see.
    pub(crate) fn is_at(&self, database: &Path, node: &str, at: Txid) {
        let mut all = self.lock();
        let copies = &mut all.entry(database.to_owned()).or_default().copies;
        if copies.len() >= MOST_NODES && !copies.contains_key(node) {
            copies.retain(|_, (_, at)| at.elapsed() < THERE);
            if copies.len() >= MOST_NODES {
                return;
            }
        }
        copies.insert(node.to_owned(), (at, Instant::now()));
    }

    /// The nodes whose copies have all of that.
    pub(crate) fn having(&self, wanted: &[(PathBuf, Txid)]) -> usize {
        let all = self.lock();
        let Some(((first, _), _)) = wanted.split_first() else { return 0 };
        let at = |path: &PathBuf, node: &String| Some(all.get(path)?.copies.get(node)?.0);
        let has = |node: &&String| wanted.iter().all(|(path, txid)| at(path, node) >= Some(*txid));
        all.get(first).map_or(0, |told| told.copies.keys().filter(has).count())
    }

    /// Of each database.
    pub(crate) fn told(&self) -> BTreeMap<PathBuf, Told> {
        self.lock().clone()
    }

    fn of(&self, database: &Path, count: impl FnOnce(&mut Told)) {
        count(self.lock().entry(database.to_owned()).or_default());
    }
}

/// One connection, for as long as this lives.
pub(super) struct Listener {
    audience: Arc<Audience>,
    database: PathBuf,
}

impl Listener {
    pub(super) fn of(audience: Arc<Audience>, database: PathBuf) -> Listener {
        audience
            .of(&database, |told| (told.connections, told.begun) = (told.connections + 1, told.begun + 1));
        Listener { audience, database }
    }

    pub(super) fn was_told(&self, bytes: usize) {
        self.audience.of(&self.database, |told| told.bytes += bytes as u64);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.audience.of(&self.database, |told| told.connections -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    #[test]
    fn a_replica_counts_once_it_has_everything() {
        let (audience, a, b) = (Audience::default(), PathBuf::from("a"), PathBuf::from("b"));
        let having = |a_at, b_at| audience.having(&[(a.clone(), txid(a_at)), (b.clone(), txid(b_at))]);
        audience.is_at(&a, "one", txid(5));
        assert_eq!(having(5, 1), 0, "of b it has said nothing");
        audience.is_at(&b, "one", txid(1));
        audience.is_at(&b, "two", txid(9));
        assert_eq!((having(5, 1), having(6, 1), having(5, 2)), (1, 0, 0));
        audience.is_at(&a, "two", txid(6));
        assert_eq!((having(5, 1), having(6, 1), having(6, 9), having(6, 10)), (2, 1, 1, 0));
        // One that was made anew has less than before.
        audience.is_at(&a, "two", txid(1));
        assert_eq!(having(5, 1), 1);
        assert_eq!(audience.having(&[]), 0);
    }

    #[test]
    fn the_names_of_nodes_are_bounded() {
        let (audience, a) = (Audience::default(), PathBuf::from("a"));
        for n in 0..2 * MOST_NODES {
            audience.is_at(&a, &n.to_string(), txid(1));
        }
        assert_eq!(audience.having(&[(a.clone(), txid(1))]), MOST_NODES);
        audience.is_at(&a, "0", txid(2));
        assert_eq!(audience.having(&[(a, txid(2))]), 1);
    }
}
