//! Which column of a table is which one of an earlier state.

use crate::table::TableLayout;

/// The columns of two states of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    /// For each new column, the old one that it is.
    pub(crate) from: Vec<Option<usize>>,
    /// The same bytes may be another row: a column has another type or default than before.
    pub(crate) may_mean_other: bool,
    /// The new columns that had other names, if they are those columns. A key cannot be dropped, so it is not among them.
    pub(crate) renamed: Vec<usize>,
}

impl Matching {
    pub(crate) fn none(layout: &TableLayout) -> Matching {
        Matching { from: vec![None; layout.columns.len()], ..Matching::default() }
    }

    pub(crate) fn same(layout: &TableLayout) -> Matching {
        Matching { from: (0..layout.columns.len()).map(Some).collect(), ..Matching::default() }
    }
}

/// Matches what ALTER TABLE can have made of a table. `None` when that is ambiguous: it is another table then, and so it may be when
/// columns have other names.
pub(crate) fn matching(old: &TableLayout, new: &TableLayout) -> Option<Matching> {
    if old.key != new.key {
        return None;
    }
    let from = by_name(old, new)?;
    let alias = old.rowid_alias.map(|nth| from.iter().position(|of| *of == Some(nth)));
    if alias != new.rowid_alias.map(Some) {
        return None;
    }
    // A key column stays in its place of the key.
    for part in 0..new.key.len() {
        let of = |layout: &TableLayout| layout.field_of.iter().position(|field| *field == part);
        if from[of(new)?] != Some(of(old)?) {
            return None;
        }
    }
    let may_mean_other = from.iter().zip(&new.columns).any(|(from, new)| {
        from.map(|nth| &old.columns[nth]).is_some_and(|old| {
            (old.is_real, old.is_any, &old.declared, &old.default_text)
                != (new.is_real, new.is_any, &new.declared, &new.default_text)
        })
    });
    let is_key = |nth: &usize| new.rowid_alias == Some(*nth) || new.field_of[*nth] < new.key.len();
    let is_renamed =
        |nth: &usize| from[*nth].is_some_and(|from| old.columns[from].name != new.columns[*nth].name);
    let renamed = (0..from.len()).filter(|nth| is_renamed(nth) && !is_key(nth)).collect();
    Some(Matching { from, may_mean_other, renamed })
}

fn by_name(old: &TableLayout, new: &TableLayout) -> Option<Vec<Option<usize>>> {
    let names = |layout: &TableLayout| -> Vec<String> {
        layout.columns.iter().map(|column| column.name.clone()).collect()
    };
    let (old_names, new_names) = (names(old), names(new));
    let count = old_names.len();
    // The same columns, perhaps with others behind them.
    if new_names.starts_with(&old_names) {
        return Some((0..new_names.len()).map(|nth| (nth < count).then_some(nth)).collect());
    }
    if is_renamed(old, new, &old_names, &new_names) {
        return Some((0..count).map(Some).collect());
    }
    // Columns were dropped: the others keep their order. With a column added as well, it could also be a renamed one.
    let from: Vec<_> = new_names.iter().map(|name| old_names.iter().position(|old| old == name)).collect();
    (!from.is_empty() && from.is_sorted() && from.iter().all(Option::is_some)).then_some(from)
}

/// Whether columns only have other names: names that came, in place of names that went.
fn is_renamed(old: &TableLayout, new: &TableLayout, old_names: &[String], new_names: &[String]) -> bool {
    let declared = |layout: &TableLayout| -> Vec<String> {
        layout.columns.iter().map(|column| column.declared.clone()).collect()
    };
    let mut renamed = old_names.iter().zip(new_names).filter(|(old, new)| old != new);
    old_names.len() == new_names.len()
        && declared(old) == declared(new)
        && renamed.all(|(old, new)| !new_names.contains(old) && !old_names.contains(new))
}
