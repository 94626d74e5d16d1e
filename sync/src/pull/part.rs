//! Rows of which only a part comes, and which are not here as they were before.

use std::collections::BTreeMap;

use super::Pull;
use super::apply::{key_of, key_of_part};
use crate::ledger::refused_item;
use crate::source::{Incoming, Rows, Source};
use crate::{Error, Value};

impl<S: Source> Pull<S> {
    /// A row that was refused is not here as it was, so a part of it is not enough: it comes whole, as it is now. What comes after leads to
    /// the same.
    pub(super) async fn complete(&mut self, changes: &mut [(usize, Incoming)]) -> Result<(), Error> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let is_unfit = |(_, change): &(usize, Incoming)| matches!(change, Incoming::Unfit(_));
        let has_parts = changes.iter().any(|(_, change)| key_of_part(change).is_some());
        if !has_parts || kept.refused == 0 && !changes.iter().any(is_unfit) {
            return Ok(());
        }
        let name = |nth: usize| &kept.plan.tables[nth].mirror.name;
        let mut unfit: Vec<String> = vec![];
        // Each part of a row, by where it is among the changes, and whether it is known to be of one that is refused.
        let mut parts: Vec<(usize, String, bool)> = vec![];
        for (place, (nth, change)) in changes.iter().enumerate() {
            if let Incoming::Unfit(row) = change {
                unfit.push(refused_item(name(*nth), &row.key));
            } else if let Some(key) = key_of_part(change) {
                let item = refused_item(name(*nth), key);
                let is_known = unfit.contains(&item);
                parts.push((place, item, is_known));
            }
        }
        let refused = self.local.on(move |mirror| {
            let of = parts.into_iter().map(|(place, item, is_known)| {
                Ok((is_known || mirror.item(&item)?.is_some()).then_some(place))
            });
            of.filter_map(Result::transpose).collect::<Result<Vec<usize>, Error>>()
        });
        let mut by_table: BTreeMap<usize, Vec<(usize, Vec<Value>)>> = BTreeMap::new();
        for place in refused.await? {
            let (nth, change) = &changes[place];
            let key = key_of_part(change).map(<[Value]>::to_vec).unwrap_or_default();
            by_table.entry(*nth).or_default().push((place, key));
        }
        for (nth, rows) in by_table {
            self.complete_of(nth, rows, changes).await?;
        }
        Ok(())
    }

    async fn complete_of(
        &mut self,
        nth: usize,
        rows: Vec<(usize, Vec<Value>)>,
        changes: &mut [(usize, Incoming)],
    ) -> Result<(), Error> {
        let Some(table) = self.kept.as_ref().map(|kept| kept.plan.tables[nth].clone()) else { return Ok(()) };
        let keys: Vec<Vec<Value>> = rows.iter().map(|(_, key)| key.clone()).collect();
        self.source.open(&table, Rows::With(&keys)).await?;
        let (mut found, mut unfit) = (vec![], vec![]);
        loop {
            let rows = self.source.fetch().await?;
            unfit.extend(self.source.unfit());
            if rows.is_empty() {
                break;
            }
            found.extend(rows);
        }
        for (place, key) in rows {
            let whole = found.iter().find(|row| key_of(&table.mirror, row) == key).cloned();
            let refused = unfit.iter().find(|unfit| unfit.key == key).cloned();
            changes[place].1 = match (whole, refused) {
                (Some(mut row), _) => {
                    // What it has more comes when the table has grown.
                    row.truncate(table.mirror.columns.len());
                    Incoming::Put { row }
                }
                (None, Some(unfit)) => Incoming::Unfit(unfit),
                (None, None) => Incoming::Delete { key },
            };
        }
        Ok(())
    }
}
