//! The rows of both sides, held against each other: at the beginning, and where changes cannot be followed any more.
//!
//! Both are seen as they were at one moment: the hub at the very position from which its changes follow, SQLite at a transaction of
//! the log from which that is read. So what happens meanwhile is told by the changes, and nothing is told twice.

use std::collections::HashMap;

use litekeep_sql::MirrorTable;
use tempfile::TempDir;

use super::TwoWay;
use super::inward::Arrival;
use super::outward::Way;
use super::state::{FLIGHT, Follows, Kept, NONE, Outward, SEEN, Seen, Stage, Waits, Work, image, parsed};
use crate::hub::{Hub, Paired};
use crate::ledger::{STAGE, row_id, text as json};
use crate::local::Local;
use crate::push::DATABASE;
use crate::source::Rows;
use crate::{Error, Kind, Value};

/// Rows that are only here and are looked at together.
const ONLY_HERE: usize = 2_000;

/// A key, the row here, and that of the hub.
type OnBoth = (Vec<Value>, Option<Vec<Value>>, Vec<Value>);

/// How far it is.
pub(super) struct Merge {
    /// The state of the log.
    state: Local,
    _database: TempDir,
    /// When that was seen, milliseconds since the epoch.
    time_ms: i64,
    /// The moment of the hub.
    position: String,
    /// Pushes that were before it.
    pushes: u64,
    /// Which image both sides had of a row when they last were the same, where that is known.
    bases: HashMap<String, String>,
    /// The table.
    nth: usize,
    is_open: bool,
    /// The state has the table.
    is_here: bool,
    /// The hub has no more rows of it.
    is_read: bool,
    /// Rows that were compared.
    pub(super) rows: u64,
}

impl<H: Hub> TwoWay<H> {
    /// Does what is next.
    pub(super) async fn merge_some(&mut self) -> Result<(), Error> {
        let Some(merge) = &self.merge else { return self.begin_merge().await };
        let Some(kept) = &self.kept else { return Ok(()) };
        if merge.nth == kept.plan.tables.len() {
            return self.end_merge().await;
        }
        if !merge.is_open {
            return self.open_table().await;
        }
        if !merge.is_read {
            return self.compare_some().await;
        }
        self.only_here().await
    }

    async fn begin_merge(&mut self) -> Result<(), Error> {
        let Some(Kept { plan, .. }) = &self.kept else { return Ok(()) };
        let plan = plan.clone();
        let pair = |table: &crate::source::SourceTable| Paired {
            table: table.clone(),
            notes: vec![],
            is_here: true,
            is_there: true,
            statements: vec![],
        };
        self.hub.make(&plan.tables.iter().map(pair).collect::<Vec<_>>()).await?;
        let none = || Error::new(Kind::Unavailable, "the log is empty");
        let txid = self.settings.push.logs.last().await?.ok_or_else(none)?;
        let (database, time_ms) = self.settings.push.restored(txid).await?;
        let mut state = Local::default();
        state.open(&database.path().join(DATABASE), &self.settings.push.name, false).await?;
        let here = state.on(|mirror| Ok(mirror.items()?)).await?;
        let there = self.hub.items(&plan.slot).await?;
        let mut bases = HashMap::new();
        for (item, content) in &here {
            if let Some(id) = item.strip_prefix(SEEN) {
                bases.insert(id.to_owned(), parsed::<Seen>(content)?.image);
            }
        }
        let echoed = match here.get(STAGE).map(|stage| parsed(stage)).transpose()? {
            Some(Stage::Following(follows)) => follows.pushes,
            _ => 0,
        };
        for (item, content) in &there {
            let push: Option<u64> = item.strip_prefix(FLIGHT).and_then(|push| push.parse().ok());
            if push.is_some_and(|push| push > echoed) {
                bases.extend(parsed::<Vec<(String, String)>>(content)?);
            }
        }
        let position = self.hub.picture(&plan.slot, &plan.tables).await?;
        // All that was written before the moment is seen in it.
        let mut way = Way::read(&there, &plan, u64::MAX)?;
        let pushes = way.pushes();
        way.works.clear();
        way.read = Some((txid, time_ms));
        self.way = Some(way);
        self.merge = Some(Merge {
            state,
            _database: database,
            time_ms,
            position,
            pushes,
            bases,
            nth: 0,
            is_open: false,
            is_here: false,
            is_read: false,
            rows: 0,
        });
        self.keep_way(true).await
    }

    async fn open_table(&mut self) -> Result<(), Error> {
        let (Some(merge), Some(kept)) = (&mut self.merge, &self.kept) else { return Ok(()) };
        let table = kept.plan.tables[merge.nth].clone();
        self.hub.open(&table, Rows::All).await?;
        let mirrored = table.mirror;
        let is_here = merge.state.on(move |mirror| {
            let is_here = mirror.has(&mirrored)?;
            if is_here {
                mirror.begin_sweep(&mirrored)?;
            }
            Ok(is_here)
        });
        (merge.is_here, merge.is_open, merge.is_read) = (is_here.await?, true, false);
        Ok(())
    }

    /// Compares rows of the hub's.
    async fn compare_some(&mut self) -> Result<(), Error> {
        let rows = self.hub.fetch().await?;
        let (Some(merge), Some(kept)) = (&mut self.merge, &self.kept) else { return Ok(()) };
        if rows.is_empty() {
            merge.is_read = true;
            return Ok(());
        }
        merge.rows += rows.len() as u64;
        let (nth, is_here) = (merge.nth, merge.is_here);
        let mirrored = kept.plan.tables[nth].mirror.clone();
        let of_both = merge.state.on(move |mirror| {
            let one = |there: Vec<Value>| {
                let key: Vec<Value> = mirrored.key.iter().map(|nth| there[*nth].clone()).collect();
                if !is_here {
                    return Ok((key, None, there));
                }
                mirror.keep(&key)?;
                let here = mirror.row(&mirrored, &key)?;
                Ok((key, here, there))
            };
            mirror.begin(false)?;
            let both: Vec<OnBoth> = rows.into_iter().map(one).collect::<Result<_, Error>>()?;
            mirror.commit()?;
            Ok(both)
        });
        let of_both = of_both.await?;
        let table = kept.plan.tables[nth].mirror.clone();
        let (mut arrivals, mut works) = (vec![], vec![]);
        for (key, here, there) in of_both {
            let id = row_id(&table.name, &key);
            let (image_here, image_there) = (image(here.as_deref()), image(Some(&there)));
            let base = merge.bases.get(&id).cloned();
            if image_here == image_there {
                continue;
            }
            let work = |base: String| Work {
                table: nth,
                key: key.clone(),
                want: here.clone(),
                base,
                time_ms: merge.time_ms,
                waits: Waits::Due,
                is_late: false,
            };
            match base {
                // Changed only here.
                Some(base) if base == image_there => works.push((id, work(base))),
                base => {
                    let work = work(image_there);
                    // A row that is only there is new; of one that both have otherwise nobody knows.
                    let old = base.or_else(|| here.is_none().then(|| NONE.to_owned()));
                    let arrival = Arrival {
                        table: nth,
                        key: key.clone(),
                        old,
                        before: None,
                        new: Some(there),
                        made: None,
                        is_ours: false,
                    };
                    arrivals.push((arrival, id, work));
                }
            }
        }
        self.bring(arrivals, works).await
    }

    /// Looks at rows that the hub does not have.
    async fn only_here(&mut self) -> Result<(), Error> {
        let (Some(merge), Some(kept)) = (&mut self.merge, &self.kept) else { return Ok(()) };
        let nth = merge.nth;
        let table: MirrorTable = kept.plan.tables[nth].mirror.clone();
        let mirrored = table.clone();
        let rows: Vec<(Vec<Value>, Option<Vec<Value>>)> = match merge.is_here {
            false => vec![],
            true => {
                let look = move |mirror: &litekeep_sql::Mirror| {
                    let mut rows = vec![];
                    mirror.begin(false)?;
                    for key in mirror.unseen(&mirrored, ONLY_HERE)? {
                        mirror.keep(&key)?;
                        let row = mirror.row(&mirrored, &key)?;
                        rows.push((key, row));
                    }
                    mirror.commit()?;
                    Ok(rows)
                };
                merge.state.on(look).await?
            }
        };
        if rows.is_empty() {
            (merge.nth, merge.is_open) = (nth + 1, false);
            return Ok(());
        }
        merge.rows += rows.len() as u64;
        let (mut arrivals, mut works) = (vec![], vec![]);
        for (key, row) in rows {
            let id = row_id(&table.name, &key);
            let work = Work {
                table: nth,
                key: key.clone(),
                want: row,
                base: NONE.to_owned(),
                time_ms: merge.time_ms,
                waits: Waits::Due,
                is_late: false,
            };
            match merge.bases.get(&id).filter(|base| *base != NONE) {
                None => works.push((id, work)),
                // It was deleted there.
                Some(base) => {
                    let old = Some(base.clone());
                    let (before, new, made) = (None, None, None);
                    let arrival = Arrival { table: nth, key, old, before, new, made, is_ours: false };
                    arrivals.push((arrival, id, work));
                }
            }
        }
        self.bring(arrivals, works).await
    }

    /// Brings rows to either side. An arrival that loses leaves work to do.
    async fn bring(
        &mut self,
        arrivals: Vec<(Arrival, String, Work)>,
        mut works: Vec<(String, Work)>,
    ) -> Result<(), Error> {
        if !arrivals.is_empty() {
            let Some(commits) = self.kept.as_ref().map(|kept| kept.stage.commits()) else { return Ok(()) };
            let stage = Stage::Merging { commits: commits + 1 };
            let (arrivals, mut lost): (Vec<Arrival>, Vec<Option<(String, Work)>>) =
                arrivals.into_iter().map(|(arrival, id, work)| (arrival, Some((id, work)))).unzip();
            for nth in self.arrive(stage, arrivals).await?.kept {
                works.extend(lost[nth].take());
            }
        }
        if works.is_empty() {
            return Ok(());
        }
        if let Some(way) = &mut self.way {
            way.works.extend(works);
        }
        self.push_due().await.map(drop)
    }

    async fn end_merge(&mut self) -> Result<(), Error> {
        self.hub.end_picture().await?;
        let Some(Merge { position, pushes, .. }) = &self.merge else { return Ok(()) };
        let (position, pushes) = (position.clone(), *pushes);
        self.keep_way(false).await?;
        let Some(kept) = &self.kept else { return Ok(()) };
        let tables: Vec<MirrorTable> = kept.plan.tables.iter().map(|table| table.mirror.clone()).collect();
        let server = self.server.clone().unwrap_or_default();
        let commits = kept.stage.commits() + 1;
        let stage = Stage::Following(Follows { position, server, time_ms: None, pushes, commits });
        let name = self.settings.push.name.clone();
        self.commit(stage, move |mirror| {
            for table in &tables {
                if let Err(error) = mirror.make_indexes(table) {
                    tracing::warn!(sync = name, "{error}");
                }
            }
            Ok(())
        })
        .await?;
        self.merge = None;
        Ok(())
    }

    /// Keeps how far the log was read.
    pub(super) async fn keep_way(&mut self, is_merging: bool) -> Result<(), Error> {
        let (Some(way), Some(kept)) = (&mut self.way, &self.kept) else { return Ok(()) };
        let Some((txid, time_ms)) = way.read else { return Ok(()) };
        let pushes = way.pushes();
        let at = Outward { txid: txid.to_string(), time_ms, pushes, is_merging };
        let text = json(&at);
        let mut items = way.pending(&kept.plan);
        items.push((STAGE.to_owned(), Some(text.clone())));
        if let Stage::Following(follows) = &kept.stage {
            items.extend(way.landed(follows.pushes));
        }
        self.hub.begin(&kept.plan.slot, None).await?;
        self.hub.commit(&kept.plan.slot, (STAGE, way.written.as_deref()), &items).await?;
        way.saved(&items);
        self.settings.push.logs.has_told();
        if let Stage::Following(follows) = &kept.stage {
            let landed = follows.pushes;
            way.kept_flights.retain(|push| *push > landed);
        }
        (way.at, way.written) = (Some(at), Some(text));
        Ok(())
    }
}
