//! Which pages of a table's two trees must be read.
//!
//! *Touched* pages are those that were written and all above them. From the root, only touched pages are followed. Among
//! them a page is *unstable* if it was written, or if it is in one of the two trees only: all its cells may be new. Of a
//! stable page only those cells matter whose overflow pages are touched.
//!
//! A subtree that nobody wrote can still leave a tree: DELETE without WHERE and DROP TABLE free whole trees by one write,
//! and pages go to the freelist unwritten. Such subtrees hang below an unstable page of the old tree and below none of the
//! new one; they are read whole, but for what the new tree took over from them. The other way round, a subtree can come
//! back unwritten when pages count as written only if their bytes differ.

use super::parents::{PageSet, TWO_LEAD_TO_IT};
use crate::PageSource;
use crate::btree::{Tree, in_runs};
use crate::error::Error;
use litekeep_ltx::Pgno;
use rustc_hash::FxHashMap;
use std::collections::hash_map::Entry;

/// The pages of a tree to go over.
pub(super) type Plan = FxHashMap<Pgno, Part>;

/// What of a page.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// All cells, and all children.
    All,
    /// Cells whose overflow pages are touched, and the children that are touched: these, in their order.
    Touched(Vec<Pgno>),
}

/// Pages that were reached, and their touched children.
type Reached = FxHashMap<Pgno, Vec<Pgno>>;

/// The two states, and what was written between them.
pub(super) struct Scope<'a, S> {
    pub(super) old: Tree<'a, S>,
    pub(super) new: Tree<'a, S>,
    pub(super) written: &'a PageSet,
    pub(super) touched: &'a PageSet,
}

/// Plans for the old and the new tree; `None` when nothing in them has changed. `None` as a root: there is no such tree.
pub(super) fn plan<S: PageSource>(
    scope: &Scope<'_, S>,
    old_root: Option<Pgno>,
    new_root: Option<Pgno>,
    whole: bool,
) -> Result<Option<(Plan, Plan)>, S::Error> {
    if whole {
        let mut plans = (Plan::default(), Plan::default());
        subtrees(&scope.old, old_root.into_iter().collect(), &mut plans.0, |_| false)?;
        subtrees(&scope.new, new_root.into_iter().collect(), &mut plans.1, |_| false)?;
        return Ok(Some(plans));
    }
    if old_root == new_root && !old_root.is_some_and(|root| scope.touched.contains(root)) {
        return Ok(None);
    }
    let old_reached = reach(scope, &scope.old, old_root, None)?;
    let new_reached = reach(scope, &scope.new, new_root, Some(&old_reached))?;
    let (mut old, old_border) = side(scope, &scope.old, old_root, &old_reached, &new_reached)?;
    let (mut new, new_border) = side(scope, &scope.new, new_root, &new_reached, &old_reached)?;
    let mut moved = PageSet::default();
    let left = old_border.iter().filter(|pgno| !new_border.contains(*pgno)).collect();
    subtrees(&scope.old, left, &mut old, |pgno| {
        let stays = new_border.contains(pgno);
        if stays {
            moved.insert(pgno);
        }
        stays
    })?;
    let is_new = |pgno: &Pgno| !old_border.contains(*pgno) && !moved.contains(*pgno);
    let came = new_border.iter().filter(is_new).collect();
    subtrees(&scope.new, came, &mut new, |_| false)?;
    Ok(Some((old, new)))
}

/// The pages of a tree that are reached from its root through touched pages. `known`: those of the other state, where pages
/// that were not written have the same children.
fn reach<S: PageSource>(
    scope: &Scope<'_, S>,
    tree: &Tree<'_, S>,
    root: Option<Pgno>,
    known: Option<&Reached>,
) -> Result<Reached, S::Error> {
    let mut reached = Reached::default();
    let mut level: Vec<Pgno> = root.into_iter().filter(|root| scope.touched.contains(*root)).collect();
    reached.extend(level.iter().map(|pgno| (*pgno, vec![])));
    while !level.is_empty() {
        for pgno in in_runs(tree, std::mem::take(&mut level)) {
            let pgno = pgno?;
            let same = known.filter(|_| !scope.written.contains(pgno)).and_then(|known| known.get(&pgno));
            let children = match same {
                Some(children) => children.clone(),
                None => touched_children(tree, pgno, scope.touched)?,
            };
            for &child in &children {
                if let Entry::Vacant(place) = reached.entry(child) {
                    place.insert(vec![]);
                    level.push(child);
                }
            }
            reached.insert(pgno, children);
        }
    }
    Ok(reached)
}

fn touched_children<S: PageSource>(
    tree: &Tree<'_, S>,
    pgno: Pgno,
    touched: &PageSet,
) -> Result<Vec<Pgno>, S::Error> {
    let page = tree.page(pgno)?;
    let mut children = vec![];
    for nth in 0..page.children() {
        children.extend(Some(page.child(nth)?).filter(|child| touched.contains(*child)));
    }
    Ok(children)
}

/// The plan of one side so far, and its border: the untouched subtrees below unstable pages.
fn side<S: PageSource>(
    scope: &Scope<'_, S>,
    tree: &Tree<'_, S>,
    root: Option<Pgno>,
    reached: &Reached,
    other: &Reached,
) -> Result<(Plan, PageSet), S::Error> {
    let mut plan = Plan::with_capacity_and_hasher(reached.len(), Default::default());
    let mut border: PageSet = root.into_iter().filter(|root| !scope.touched.contains(*root)).collect();
    for (&pgno, children) in reached {
        if !scope.written.contains(pgno) && other.contains_key(&pgno) {
            plan.insert(pgno, Part::Touched(children.clone()));
            continue;
        }
        plan.insert(pgno, Part::All);
        let page = tree.page(pgno)?;
        for nth in 0..page.children() {
            border.extend(Some(page.child(nth)?).filter(|child| !scope.touched.contains(*child)));
        }
    }
    Ok((plan, border))
}

/// Adds whole subtrees to a plan, but for those below that are not wanted.
fn subtrees<S: PageSource>(
    tree: &Tree<'_, S>,
    mut level: Vec<Pgno>,
    plan: &mut Plan,
    mut is_other: impl FnMut(Pgno) -> bool,
) -> Result<(), S::Error> {
    while !level.is_empty() {
        for pgno in in_runs(tree, std::mem::take(&mut level)) {
            let pgno = pgno?;
            if plan.insert(pgno, Part::All).is_some() {
                return Err(Error::Page { pgno, what: TWO_LEAD_TO_IT }.into());
            }
            let page = tree.page(pgno)?;
            for nth in 0..page.children() {
                let child = page.child(nth)?;
                if !is_other(child) {
                    level.push(child);
                }
            }
        }
    }
    Ok(())
}
