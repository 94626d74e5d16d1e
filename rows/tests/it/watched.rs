//! A database whose states are compared one after the other, in each way in which a diff can be asked for.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use litekeep_format::Catalog;
use litekeep_format::diff::{self, Options, ParentMap, Written};
use litekeep_ltx::Pgno;
use litekeep_sql::TableReader;
use litekeep_testkit::churn::Contents;
use rusqlite::Connection;

use crate::image::{Image, Tail};
use crate::reported::Reported;

/// What is known of a database's last state.
pub(crate) struct Watched {
    tail: Tail,
    layouts: TableReader,
    image: Image,
    pub(crate) contents: Contents,
    catalog: Catalog,
    parents: [ParentMap; 3],
}

/// Which of the parent maps are kept up to date by what was written, by what differs, and by the one and the other in turn.
const BY_WAL: usize = 0;
const BY_BYTES: usize = 1;
const MIXED: usize = 2;

impl Watched {
    /// Begins with the database as it is, whose WAL has just been emptied.
    pub(crate) fn begin(db: &Connection) -> Result<Watched> {
        let image = Image::read(db, &Image::default())?;
        let layouts = TableReader::new()?;
        let catalog = diff::catalog(&image, &layouts)?;
        let parents = ParentMap::of(&image, catalog.roots())?;
        let contents = Contents::read(db)?;
        let parents = [parents.clone(), parents.clone(), parents];
        Ok(Watched { tail: Tail::default(), layouts, image, contents, catalog, parents })
    }

    /// The WAL was emptied.
    pub(crate) fn checkpointed(&mut self) {
        self.tail.restart();
    }

    /// Compares the state that it knows with the one that is there now, which it knows then. Returns what a diff reported,
    /// and how many transactions the WAL has in between.
    ///
    /// # Errors
    /// When anything reported is not so, or anything that is so was not reported.
    pub(crate) fn step(&mut self, db: &Connection, path: &Path) -> Result<(Reported, u64)> {
        let (wal, commits) = self.tail.written(path)?;
        let new = Image::read(db, &self.image)?;
        let contents = Contents::read(db)?;
        let different = self.image.different(&new);
        let by_wal = Written { pages: &wal, only_different: false };
        let by_bytes = Written { pages: &different, only_different: true };
        let mixed = if commits % 2 == 0 { by_wal } else { by_bytes };

        let everything = Options { everything: true };
        let mut first = None;
        for (what, nth, written, options) in [
            ("written", BY_WAL, by_wal, Options::default()),
            ("different", BY_BYTES, by_bytes, Options::default()),
            ("written or different", MIXED, mixed, Options::default()),
            ("everything", BY_WAL, by_wal, everything),
        ] {
            let mut reported = Reported::default();
            let states = (&self.image, &self.parents[nth], &self.catalog);
            let after = diff::diff(states, &new, written, options, &self.layouts, &mut reported)
                .with_context(|| format!("diff of what is {what}"))?;
            reported.check(&self.contents, &contents).with_context(|| format!("diff of what is {what}"))?;
            first.get_or_insert((reported, after));
        }
        let (reported, catalog) = first.expect("four diffs");
        let whole = ParentMap::of(&new, catalog.roots())?;
        for (nth, written) in [(BY_WAL, by_wal), (BY_BYTES, by_bytes), (MIXED, mixed)] {
            let map = &mut self.parents[nth];
            map.advance((&self.image, self.catalog.roots()), (&new, catalog.roots()), written)?;
            check_map(map, &whole, catalog.roots()).with_context(|| format!("map {nth}"))?;
        }
        (self.image, self.contents, self.catalog) = (new, contents, catalog);
        Ok((reported, commits))
    }
}

/// Whether the maps agree on all pages that are live in a table.
fn check_map(map: &ParentMap, whole: &ParentMap, roots: impl Iterator<Item = Pgno>) -> Result<()> {
    for (nth, (found, wanted)) in map.to_words().iter().zip(whole.to_words()).enumerate() {
        ensure!(*wanted == 0 || found == wanted, "page {}: parent {found}, not {wanted}", nth + 1);
    }
    for root in roots {
        let parent = map.to_words()[root.get() as usize - 1];
        ensure!(parent == 0, "the root {root} has the parent {parent}");
    }
    Ok(())
}
