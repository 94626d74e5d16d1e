//! Tables without a key, both sides of them: nothing tells which rows belong together.
//!
//! They are held against each other by how many there are and by a checksum in which their order does not count, so that no row is held in
//! memory. Only where these differ are all rows.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::compare::Sides;
use super::sieve::Sieve;
use crate::compare::Found;
use crate::source::{Rows, Source, SourceTable};
use crate::target::{key_text, key_value};
use crate::{Error, Value};

/// How many rows there are, and what they have, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    rows: u64,
    sum: u128,
}

impl Tally {
    /// Equal rows count each time, as they do in a sum and would not with exclusive-or.
    fn add(&mut self, row: &[Value]) {
        let mut hasher = SipHasher13::new();
        let mut bytes = |kind: u8, bytes: &[u8]| {
            hasher.write_u8(kind);
            hasher.write_u64(bytes.len() as u64);
            hasher.write(bytes);
        };
        for value in row {
            match value {
                Value::Null => bytes(0, &[]),
                Value::Integer(i) => bytes(1, &i.to_le_bytes()),
                Value::Real(f) => bytes(2, &f.to_bits().to_le_bytes()),
                Value::Text(text) => bytes(3, text),
                Value::Blob(blob) => bytes(4, blob),
            }
        }
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hasher.finish128().as_u128());
    }
}

impl<S: Source> Sides<'_, S> {
    pub(super) async fn compare_without_key(
        &mut self,
        (table, sieve): (&SourceTable, &Sieve),
        found: &mut Found,
    ) -> Result<(), Error> {
        let mut there = Tally::default();
        self.each_there((table, sieve), |row| there.add(&row)).await?;
        found.rows += there.rows;
        let mirrored = table.mirror.clone();
        let here = self.local.on(move |mirror| {
            let mut here = Tally::default();
            mirror.each_row(&mirrored, |row| here.add(&row))?;
            Ok(here)
        });
        if here.await? == there {
            return Ok(());
        }
        let name = |row: &[Value]| -> Vec<String> { row.iter().map(key_text).collect() };
        let mut surplus: BTreeMap<Vec<String>, i64> = BTreeMap::new();
        self.each_there((table, sieve), |row| *surplus.entry(name(&row)).or_default() += 1).await?;
        let mirrored = table.mirror.clone();
        let surplus = self.local.on(move |mirror| {
            mirror.each_row(&mirrored, |row| *surplus.entry(name(&row)).or_default() -= 1)?;
            Ok(surplus)
        });
        for (row, surplus) in surplus.await? {
            let row: Vec<Value> = row.iter().filter_map(|text| key_value(text)).collect();
            let of = if surplus > 0 { (Some(&row), None) } else { (None, Some(&row)) };
            (0..surplus.abs()).for_each(|_| found.count(&table.mirror.name, &[], &row, of));
        }
        Ok(())
    }

    async fn each_there(
        &mut self,
        (table, sieve): (&SourceTable, &Sieve),
        mut given: impl FnMut(Vec<Value>),
    ) -> Result<(), Error> {
        self.source.open(table, Rows::All).await?;
        loop {
            let rows = self.source.fetch().await?;
            if rows.is_empty() {
                return Ok(());
            }
            sieve.rows(rows).await?.into_iter().for_each(&mut given);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_knows_values_and_not_their_order() {
        let tally = |rows: &[&[Value]]| {
            let mut tally = Tally::default();
            rows.iter().for_each(|row| tally.add(row));
            tally
        };
        let (text, blob) = (Value::Text("1".into()), Value::Blob("1".into()));
        let rows: [&[Value]; 7] = [
            &[Value::Integer(1)],
            &[Value::Real(1.0)],
            std::slice::from_ref(&text),
            std::slice::from_ref(&blob),
            &[Value::Null],
            &[text.clone(), Value::Text("".into())],
            &[Value::Text("".into()), text.clone()],
        ];
        for a in &rows {
            for b in &rows {
                assert_eq!(tally(&[a, b]), tally(&[b, a]));
                assert_eq!(tally(&[a, a, b]) == tally(&[a, b, b]), a == b, "{a:?} {b:?}");
            }
        }
    }
}
