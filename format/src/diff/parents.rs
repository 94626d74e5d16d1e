//! Who points to each page: what leads from a page that was written to the table that it belongs to.

use crate::PageSource;
use crate::btree::{BtreePage, Tree, in_runs};
use crate::error::Error;
use crate::table::header_of;
use litekeep_ltx::Pgno;
use rustc_hash::FxHashSet;

/// What is wrong with a page that has two parents.
pub(super) const TWO_LEAD_TO_IT: &str = "two pages lead to it";

/// Page numbers. All children of a page are looked for in it, of which mostly one is there: the others are told by a bit.
#[derive(Clone, Debug, Default)]
pub(super) struct PageSet {
    pages: FxHashSet<Pgno>,
    /// One for the last six bits of each number.
    bits: u64,
}

impl PageSet {
    fn bit(pgno: Pgno) -> u64 {
        1 << (pgno.get() % 64)
    }

    fn with_capacity(capacity: usize) -> PageSet {
        let pages = FxHashSet::with_capacity_and_hasher(capacity, Default::default());
        PageSet { pages, bits: 0 }
    }

    /// Whether it was not there.
    pub(super) fn insert(&mut self, pgno: Pgno) -> bool {
        self.bits |= PageSet::bit(pgno);
        self.pages.insert(pgno)
    }

    #[inline]
    pub(super) fn contains(&self, pgno: Pgno) -> bool {
        self.bits & PageSet::bit(pgno) != 0 && self.pages.contains(&pgno)
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Pgno> {
        self.pages.iter().copied()
    }
}

impl Extend<Pgno> for PageSet {
    fn extend<T: IntoIterator<Item = Pgno>>(&mut self, pages: T) {
        pages.into_iter().for_each(|pgno| _ = self.insert(pgno));
    }
}

impl FromIterator<Pgno> for PageSet {
    fn from_iter<T: IntoIterator<Item = Pgno>>(pages: T) -> PageSet {
        let mut set = PageSet::default();
        set.extend(pages);
        set
    }
}

/// The pages that were written between two states. More than that do no harm.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// Which ones.
    pub pages: &'a [Pgno],
    /// Pages whose bytes are the same in both states may be missing. A free page may then be in use again although it
    /// is not here, which takes more reading.
    pub only_different: bool,
}

/// The parent of each page that is live in the tree of a table: the page above it in the b-tree, the leaf for a first
/// overflow page, the page before it for other overflow pages, none for a root. What it says of other pages, those of
/// indexes and free ones included, means nothing. Takes 4 bytes a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentMap(Vec<u32>);

impl ParentMap {
    /// Goes over all trees of a state. `roots`: of its tables and its schema.
    ///
    /// # Errors
    /// Those of the source, and [`Error::Page`] for trees that are none.
    pub fn of<S: PageSource>(source: &S, roots: impl Iterator<Item = Pgno>) -> Result<ParentMap, S::Error> {
        let mut map = ParentMap::default();
        map.resize(source.page_count());
        if let Some(header) = header_of(source)? {
            let tree = Tree { source, usable: header.usable() };
            let mut extent = Extent::Everything;
            for root in roots {
                map.claim(&tree, root, &mut extent)?;
            }
        }
        Ok(map)
    }

    /// Makes the map of a state that of a later one. Both with the roots of their tables and their schema; the earlier one is
    /// read only where not all that was written is known.
    ///
    /// # Errors
    /// As [`of`](Self::of). The map is of no state then.
    pub fn advance<S: PageSource>(
        &mut self,
        (from, old_roots): (&S, impl Iterator<Item = Pgno>),
        (to, roots): (&S, impl Iterator<Item = Pgno>),
        written: Written<'_>,
    ) -> Result<(), S::Error> {
        let touched = self.touched(written.pages);
        let kept = written.only_different.then(|| border(from, old_roots, &touched)).transpose()?;
        self.resize(to.page_count());
        if let Some(header) = header_of(to)? {
            let tree = Tree { source: to, usable: header.usable() };
            let written = written.pages.iter().copied().collect();
            let mut extent = Extent::Touched { touched, written, kept, seen: PageSet::default() };
            for root in roots {
                self.claim(&tree, root, &mut extent)?;
            }
        }
        Ok(())
    }

    /// The pages and all that are above them.
    pub(super) fn touched(&self, written: &[Pgno]) -> PageSet {
        let mut touched = PageSet::with_capacity(written.len() * 3 + 16);
        for &pgno in written {
            let mut next = Some(pgno);
            while let Some(pgno) = next.filter(|pgno| touched.insert(*pgno)) {
                next = self.parent(pgno);
            }
        }
        touched
    }

    fn parent(&self, pgno: Pgno) -> Option<Pgno> {
        self.0.get(pgno.get() as usize - 1).copied().and_then(Pgno::new)
    }

    /// Returns what was there.
    fn set(&mut self, pgno: Pgno, parent: u32) -> Result<u32, Error> {
        let beyond = Error::Page { pgno, what: "it lies beyond the end of the database" };
        let entry = self.0.get_mut(pgno.get() as usize - 1).ok_or(beyond)?;
        Ok(std::mem::replace(entry, parent))
    }

    /// Bounded by the pages that there are, whatever a damaged page points to.
    fn resize(&mut self, page_count: u32) {
        self.0.resize(page_count as usize, 0);
    }

    /// Every page of a tree that the extent has says whose parent it is.
    fn claim<S: PageSource>(
        &mut self,
        tree: &Tree<'_, S>,
        root: Pgno,
        extent: &mut Extent,
    ) -> Result<(), S::Error> {
        self.set(root, 0)?;
        let mut level = vec![];
        if extent.has(root) {
            extent.enter(root, 0)?;
            level.push(root);
        }
        while !level.is_empty() {
            for pgno in in_runs(tree, std::mem::take(&mut level)) {
                let page = tree.page(pgno?)?;
                let is_known = extent.knows_children(page.pgno());
                for nth in 0..page.children() {
                    let child = page.child(nth)?;
                    if is_known && !extent.has(child) {
                        continue;
                    }
                    let before = self.set(child, page.pgno().get())?;
                    if extent.has(child) {
                        extent.enter(child, before)?;
                        level.push(child);
                    }
                }
                self.claim_overflow(tree, &page, extent)?;
            }
        }
        Ok(())
    }

    fn claim_overflow<S: PageSource>(
        &mut self,
        tree: &Tree<'_, S>,
        page: &BtreePage,
        extent: &mut Extent,
    ) -> Result<(), S::Error> {
        for nth in (0..page.cells()).filter(|_| page.has_payload()) {
            let cell = page.cell(nth)?;
            tree.check(&cell)?;
            let mut left = cell.payload_len - cell.local().len();
            let mut link = cell.overflow.map(|first| (first, page.pgno()));
            while let Some((pgno, parent)) = link {
                let before = self.set(pgno, parent.get())?;
                left = left.saturating_sub(tree.usable - 4);
                if !extent.has_rest_of_chain(pgno) {
                    break;
                }
                extent.enter(pgno, before)?;
                if left == 0 {
                    break;
                }
                link = tree.next_overflow(pgno)?.1.map(|next| (next, pgno));
            }
        }
        Ok(())
    }

    /// The parents, from page 1 on; 0 for none.
    pub fn to_words(&self) -> &[u32] {
        &self.0
    }

    /// A map from its parents. One that is wrong makes a diff miss rows: whoever keeps one keeps a checksum with it.
    pub fn from_words(parents: Vec<u32>) -> ParentMap {
        ParentMap(parents)
    }
}

/// The untouched pages of a state that touched ones lead to, and untouched roots.
fn border<S: PageSource>(
    source: &S,
    roots: impl Iterator<Item = Pgno>,
    touched: &PageSet,
) -> Result<PageSet, S::Error> {
    let Some(header) = header_of(source)? else { return Ok(PageSet::default()) };
    let tree = Tree { source, usable: header.usable() };
    let (mut level, untouched): (Vec<Pgno>, Vec<Pgno>) = roots.partition(|root| touched.contains(*root));
    let mut border: PageSet = untouched.into_iter().collect();
    let mut seen = PageSet::default();
    while !level.is_empty() {
        for pgno in in_runs(&tree, std::mem::take(&mut level)) {
            let pgno = pgno?;
            if !seen.insert(pgno) {
                return Err(Error::Page { pgno, what: TWO_LEAD_TO_IT }.into());
            }
            let page = tree.page(pgno)?;
            for nth in 0..page.children() {
                let child = page.child(nth)?;
                if touched.contains(child) {
                    level.push(child);
                } else {
                    border.insert(child);
                }
            }
        }
    }
    Ok(border)
}

/// How much of the trees is gone over.
enum Extent {
    Everything,
    Touched {
        touched: PageSet,
        /// Of these, which were written.
        written: PageSet,
        /// And subtrees that are not among these, which were in use below touched pages: others may have been free. What
        /// the map says of pages that were free means nothing, also where it seems right. `None`: all that was written
        /// is touched, and nothing comes back unwritten.
        kept: Option<PageSet>,
        seen: PageSet,
    },
}

impl Extent {
    #[inline]
    fn has(&self, pgno: Pgno) -> bool {
        match self {
            Extent::Everything => true,
            Extent::Touched { touched, kept, .. } => {
                touched.contains(pgno) || kept.as_ref().is_some_and(|kept| !kept.contains(pgno))
            }
        }
    }

    /// Whether the map is right about the children of a page already: it had the same before, and was in use.
    fn knows_children(&self, pgno: Pgno) -> bool {
        matches!(self, Extent::Touched { written, kept: None, .. } if !written.contains(pgno))
    }

    /// Refuses a page that two others lead to: no loop is gone over without an end. `before`: its parent until now.
    fn enter(&mut self, pgno: Pgno, before: u32) -> Result<(), Error> {
        let is_first = match self {
            // All were without one.
            Extent::Everything => before == 0,
            Extent::Touched { seen, .. } => seen.insert(pgno),
        };
        if is_first { Ok(()) } else { Err(Error::Page { pgno, what: TWO_LEAD_TO_IT }) }
    }

    /// Beyond its first page, a chain differs only where it was written.
    fn has_rest_of_chain(&self, pgno: Pgno) -> bool {
        match self {
            Extent::Everything => true,
            Extent::Touched { touched, kept, .. } => kept.is_some() || touched.contains(pgno),
        }
    }
}
