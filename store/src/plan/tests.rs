//! Goal: the plans keep their promises whatever the history. Method: a simulated log, with captures, outages,
//! compactions and deletions of which only a random part happens, is held after each step against a model that knows
//! every commit and finds restorable transactions by brute force.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::executor::block_on;
use litekeep_ltx::{FileName, Point, Txid};
use proptest::prelude::*;

use super::retention::MOST_HELD;
use super::*;
use crate::error::Error;
use crate::log::{Log, Times};
use crate::packs::PackRef;

fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

fn file(level: u8, min: u64, max: u64, time_ms: i64) -> FileRef {
    FileRef { level, name: FileName { min: txid(min), max: txid(max) }, size: 100, modified_ms: time_ms }
}

/// All transactions that some chain of files ends at: a fixed point, with no cleverness to be wrong.
fn brute_force(log: &Log) -> BTreeSet<u64> {
    let mut reached = BTreeSet::new();
    loop {
        let before = reached.len();
        for f in log.files() {
            let (min, max) = (f.min().get(), f.max().get());
            if min == 1 || (min - 1..max).any(|from| reached.contains(&from)) {
                reached.insert(max);
            }
        }
        if reached.len() == before {
            return reached;
        }
    }
}

fn assert_chain(chain: &[FileRef], wanted: u64) {
    assert_eq!(chain[0].min().get(), 1);
    for pair in chain.windows(2) {
        assert!(pair[1].min().get() <= pair[0].max().get() + 1, "hole in {chain:?}");
        assert!(pair[1].max() > pair[0].max(), "no progress in {chain:?}");
    }
    assert_eq!(chain.last().unwrap().max().get(), wanted);
}

/// The fewest files that lead to a transaction from a base that ends furthest.
fn fewest(log: &Log, wanted: u64) -> usize {
    let base =
        log.files().filter(|f| f.is_base() && f.max().get() <= wanted).map(|f| f.max().get()).max().unwrap();
    let mut frontier = BTreeSet::from([base]);
    for steps in 1.. {
        if frontier.contains(&wanted) {
            return steps;
        }
        let next: BTreeSet<u64> = log
            .files()
            .filter(|f| frontier.iter().any(|from| f.min().get() <= from + 1 && f.max().get() > *from))
            .map(|f| f.max().get())
            .filter(|max| *max <= wanted)
            .collect();
        frontier.extend(next);
    }
    unreachable!()
}

fn any_log() -> impl Strategy<Value = Log> {
    let one = (0u8..4, 1u64..30, 0u64..12).prop_map(|(level, min, more)| file(level, min, min + more, 0));
    let base = (1u64..30).prop_map(|max| file(9, 1, max, 0));
    (prop::collection::vec(one, 0..40), prop::collection::vec(base, 0..3))
        .prop_map(|(files, bases)| Log::new(files.into_iter().chain(bases)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn restore_agrees_with_brute_force(log in any_log(), wanted in 1u64..45) {
        let model = brute_force(&log);
        let fast: BTreeSet<u64> = restorable(log.files()).into_iter().map(Txid::get).collect();
        prop_assert_eq!(&fast, &model);
        let nearest = model.range(..wanted).next_back().copied().and_then(Txid::new);
        match restore(&log, Goal::Txid(txid(wanted))) {
            Ok(chain) => {
                prop_assert!(model.contains(&wanted));
                assert_chain(&chain, wanted);
                prop_assert_eq!(chain.len(), fewest(&log, wanted));
            }
            Err(e) => {
                prop_assert!(!model.contains(&wanted), "{} although it can be restored", e);
                match e {
                    Error::Empty => prop_assert!(log.is_empty()),
                    Error::BeyondEnd { last, .. } => prop_assert!(last.get() < wanted),
                    Error::Merged { before, after, .. } => {
                        prop_assert_eq!(before, nearest);
                        prop_assert_eq!(Some(after.get()), model.range(wanted..).next().copied());
                    }
                    Error::Hole { first_missing, last_missing, nearest: told, .. } => {
                        prop_assert_eq!(told, nearest);
                        prop_assert_eq!(first_missing.get(), nearest.map_or(1, |n| n.get() + 1));
                        prop_assert!(first_missing <= last_missing);
                    }
                    e => prop_assert!(false, "unexpected {}", e),
                }
            }
        }
    }

    #[test]
    fn at_time_finds_the_last_at_or_before(
        gaps in prop::collection::vec((0i64..5, 0i64..20), 1..60),
        at in -5i64..150,
        snapshot in 0usize..60,
    ) {
        let mut time = 0;
        let mut uploaded = 0;
        let mut truth = Vec::new();
        let mut files = Vec::new();
        for (i, (gap, delay)) in gaps.iter().enumerate() {
            time += gap;
            uploaded = (time + delay).max(uploaded);
            truth.push(time);
            files.push(file(0, i as u64 + 1, i as u64 + 1, uploaded));
        }
        // A snapshot stamped too late must not mislead the search.
        let end = snapshot.min(truth.len() - 1);
        files.push(file(9, 1, end as u64 + 1, 1000));
        let log = Log::new(files);
        let mut calls = 0;
        let found = block_on(at_time(&log, at, |f| {
            calls += 1;
            let time = truth[f.max().get() as usize - 1];
            async move { Ok(time) }
        })).unwrap();
        let expected = truth.partition_point(|t| *t <= at) as u64;
        prop_assert_eq!(found.map_or(0, Txid::get), expected);
        prop_assert!(calls <= 2 + 2 * truth.len().ilog2() as usize, "{} calls for {} files", calls, truth.len());
    }
}

#[test]
fn at_time_asks_twice_where_modification_times_are_true() {
    let log = Log::new((1..=100_000).map(|n| file(0, n, n, n as i64 * 10)));
    let mut calls = 0;
    let found = block_on(at_time(&log, 543_217, |f| {
        calls += 1;
        async move { Ok(f.modified_ms) }
    }));
    assert_eq!(found.unwrap(), Some(txid(54_321)));
    assert_eq!(calls, 2);
}

#[test]
fn a_hole_is_named_with_the_nearest_intact_point() {
    let log = Log::new([file(9, 1, 10, 0), file(0, 11, 11, 0), file(0, 14, 14, 0)]);
    let error = restore(&log, Goal::Latest).unwrap_err();
    assert_eq!(
        error.to_string(),
        "plan a restore to 000000000000000e: transactions 000000000000000c to 000000000000000d are missing from the \
         log; the nearest intact transaction before it is 000000000000000b"
    );
}

#[test]
fn busy_windows_become_seconds_and_then_one_window() {
    let policy = Policy::default();
    // Four captures a second for ten seconds, after a snapshot.
    let captures = (0..40).map(|i| file(0, i + 2, i + 2, 1_000_000_000_000 + i as i64 * 250));
    let mut log = Log::new(captures.chain([file(9, 1, 1, 1_000_000_000_000 - 1)]));
    let (times, now) = (Times::default(), 1_000_000_000_000 + WINDOW_MS + GRACE_MS + 60_000);
    assert!(
        compaction(&log, &times, 1_000_000_000_000 + 20_000, &policy).is_empty(),
        "the window is not over"
    );
    let merges = compaction(&log, &times, now, &policy);
    assert_eq!(merges.iter().map(|m| (m.level, m.inputs.len())).collect::<Vec<_>>(), vec![(1, 4); 10]);
    for merge in &merges {
        log.insert(file(1, merge.name.min.get(), merge.name.max.get(), merge.inputs[3].modified_ms));
    }
    assert_eq!(retention(&log, &times, &[], now, &policy), [], "nothing else tells the commits apart");
    let packs = [PackRef { name: FileName { min: txid(2), max: txid(41) }, size: 1, path: None }];
    let gone = retention(&log, &times, &packs, now, &policy);
    assert_eq!(gone.len(), 39, "all of level 0 but the newest");
    log.remove_all(&gone);
    let merges = compaction(&log, &times, now, &policy);
    assert_eq!(merges.len(), 1);
    assert_eq!((merges[0].level, merges[0].inputs.len()), (2, 10));
    assert_eq!((merges[0].name.min.get(), merges[0].name.max.get()), (2, 41));
}

/// The horizon of `any_transaction` lies between two transactions of one second: the younger is reached through the older.
#[test]
fn what_leads_to_a_single_transaction_stays() {
    let second = 1_700_000_000_000;
    let files =
        [file(9, 1, 1, 0), file(0, 2, 2, second), file(0, 3, 3, second + 500), file(0, 4, 4, second + 900)];
    let log = Log::new(files.into_iter().chain([file(1, 2, 4, second + 900)]));
    let policy = Policy::default();
    let now = second + 100 + policy.any_transaction.as_millis() as i64;
    assert_eq!(retention(&log, &Times::default(), &[], now, &policy), []);
    let gone = retention(&log, &Times::default(), &[], now + 1000, &policy);
    assert_eq!(gone.len(), 2, "all of level 0 but the newest");
}

#[test]
fn quiet_windows_skip_the_seconds() {
    let policy = Policy::default();
    let captures = (0..100).map(|i| file(0, i + 2, i + 2, 1_200_000_000_000 + i as i64 * 2000));
    let log = Log::new(captures.chain([file(0, 1, 1, 0)]));
    let merges = compaction(&log, &Times::default(), 1_200_000_000_000 + 2 * HOUR_MS, &policy);
    assert_eq!(merges.iter().map(|m| (m.level, m.inputs.len())).collect::<Vec<_>>(), vec![(2, 100)]);
}

/// What happens to the simulated log.
#[derive(Clone, Debug)]
enum Event {
    /// Captures, each so many milliseconds after the one before, uploaded after a delay.
    Captures { gaps_ms: Vec<i64>, delay_ms: i64 },
    /// Time passes.
    Pause { ms: i64 },
    /// Of the merges that are due each happens with this chance in 256, taken from the bits.
    Compact { luck: Vec<u8> },
    /// As with merges, for deletions.
    Retain { luck: Vec<u8> },
    /// A snapshot of the latest transaction.
    Snapshot,
    /// A pack of what was captured since the last one, perhaps with a hole before it.
    Pack { skipped: u64 },
    /// Packs that are too old go.
    Unpack,
    /// The program starts anew and has forgotten all timestamps.
    Restart,
}

fn any_event() -> impl Strategy<Value = Event> {
    let gap = prop_oneof![5 => 1i64..400, 3 => 400i64..3000, 1 => 3000i64..400_000];
    let luck = || prop::collection::vec(any::<u8>(), 64);
    prop_oneof![
        6 => (prop::collection::vec(gap, 1..60), prop_oneof![4 => 0i64..50, 1 => 0i64..900_000])
            .prop_map(|(gaps_ms, delay_ms)| Event::Captures { gaps_ms, delay_ms }),
        3 => (0i64..HOUR_MS).prop_map(|ms| Event::Pause { ms }),
        6 => luck().prop_map(|luck| Event::Compact { luck }),
        4 => luck().prop_map(|luck| Event::Retain { luck }),
        1 => Just(Event::Snapshot),
        4 => prop_oneof![3 => Just(0u64), 1 => 1u64..4].prop_map(|skipped| Event::Pack { skipped }),
        1 => Just(Event::Unpack),
        1 => Just(Event::Restart),
    ]
}

struct Simulation {
    log: Log,
    packs: Vec<PackRef>,
    times: Times,
    /// Time of each transaction, from 1.
    truth: Vec<i64>,
    now: i64,
    policy: Policy,
    /// Modification times are timestamps, as in a folder.
    is_folder: bool,
}

impl Simulation {
    fn new(is_folder: bool) -> Simulation {
        let now = 1_700_000_000_000;
        let mut log = Log::default();
        log.insert(file(9, 1, 1, now));
        log.insert(file(0, 1, 1, now));
        let policy = Policy {
            any_transaction: Duration::from_secs(20 * 60),
            any_second: Duration::from_secs(25 * 60),
            keep: Duration::from_secs(4 * 3600),
            snapshot_every: Duration::from_secs(2 * 3600),
        };
        let packs = vec![];
        Simulation { log, packs, times: Times::default(), truth: vec![now], now, policy, is_folder }
    }

    fn put(&mut self, level: u8, min: u64, max: u64) {
        let time = self.truth[max as usize - 1];
        self.log.insert(file(level, min, max, if self.is_folder { time } else { self.now }));
    }

    fn learn(&mut self) {
        for f in untimed(&self.log) {
            self.times.insert(f.level, f.name, self.truth[f.max().get() as usize - 1]);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Captures { gaps_ms, delay_ms } => {
                let mut fresh = Vec::new();
                for gap in gaps_ms {
                    self.now += gap;
                    self.truth.push(self.now);
                    fresh.push(self.truth.len() as u64);
                }
                self.now += delay_ms;
                for n in fresh {
                    self.put(0, n, n);
                }
            }
            Event::Pause { ms } => self.now += ms,
            Event::Compact { luck } => {
                self.learn();
                let merges = compaction(&self.log, &self.times, self.now, &self.policy);
                for (i, merge) in merges.into_iter().enumerate() {
                    assert_consecutive(&merge);
                    if luck[i % luck.len()] > 60 {
                        self.put(merge.level, merge.name.min.get(), merge.name.max.get());
                    }
                }
            }
            Event::Retain { luck } => {
                let gone = retention(&self.log, &self.times, &self.packs, self.now, &self.policy);
                let newest = self.log.newest_l0().unwrap().clone();
                assert!(!gone.contains(&newest));
                for (i, f) in gone.into_iter().enumerate() {
                    if luck[i % luck.len()] > 60 {
                        self.log.remove(f.level, f.name).unwrap();
                    }
                }
            }
            Event::Snapshot => {
                if snapshot_due(&self.log, &self.times, self.now, &self.policy) {
                    self.put(9, 1, self.truth.len() as u64);
                }
            }
            Event::Pack { skipped } => {
                let last = self.packs.last().map_or(1, |pack| pack.name.max.get());
                let (min, max) = (last + 1 + skipped, self.truth.len() as u64);
                if min <= max {
                    let name = FileName { min: txid(min), max: txid(max) };
                    self.packs.push(PackRef { name, size: 1, path: None });
                }
            }
            Event::Unpack => {
                let gone = expired_packs(&self.log, &self.times, &self.packs, self.now, &self.policy);
                self.packs.retain(|pack| !gone.contains(pack));
            }
            Event::Restart => self.times = Times::default(),
        }
    }

    /// The last transaction at or before an instant.
    fn at(&self, instant: i64) -> u64 {
        self.truth.partition_point(|t| *t <= instant) as u64
    }

    fn assert_promises(&self) {
        let points = brute_force(&self.log);
        let any_second = self.now - self.policy.any_second.as_millis() as i64;
        let keep = self.now - self.policy.keep.as_millis() as i64;
        assert!(points.contains(&(self.truth.len() as u64)), "the latest transaction is lost");
        // The end of every second that had a commit, and of the one in which the horizon lies.
        let second_end = |t: i64| t.div_euclid(1000) * 1000 + 999;
        let ends = self.truth.iter().map(|t| second_end(*t)).chain([second_end(any_second)]);
        for end in ends.filter(|end| *end >= any_second) {
            let wanted = self.at(end);
            if wanted > 0 && end < self.now {
                assert!(points.contains(&wanted), "instant {end} (transaction {wanted}) is lost");
                assert_chain(&restore(&self.log, Goal::Txid(txid(wanted))).unwrap(), wanted);
            }
        }
        let any_transaction = self.now - self.policy.any_transaction.as_millis() as i64;
        for (n, _) in (1..).zip(&self.truth).filter(|(n, t)| *n > 1 && **t > any_transaction) {
            let packed = self.packs.iter().any(|pack| pack.has(txid(n)));
            let to = Point { txid: txid(n), seq: packed.then_some(1) };
            let steps = steps_to(&self.log, &self.packs, None, to);
            let steps: Vec<Step> = steps.unwrap_or_else(|e| panic!("transaction {n}, packed: {packed}: {e}"));
            assert!(!steps.is_empty());
            let is_there = self.log.level(0).iter().any(|f| f.name.max == txid(n));
            assert!(packed || is_there, "nothing tells transaction {n} from its neighbours");
        }
        let hours = self.truth.iter().map(|t| (t.div_euclid(HOUR_MS) + 1) * HOUR_MS - 1);
        for end in hours.filter(|end| *end >= keep && *end < self.now) {
            let wanted = self.at(end);
            assert!(points.contains(&wanted), "hour that ends at {end} (transaction {wanted}) is lost");
        }
    }
}

fn assert_consecutive(merge: &Merge) {
    assert!(merge.inputs.windows(2).all(|pair| pair[0].max().next() == pair[1].min()), "{merge:?}");
    assert!(merge.inputs.iter().all(|f| f.level < merge.level && !f.is_base()), "{merge:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_history_loses_an_instant(
        is_folder: bool,
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut simulation = Simulation::new(is_folder);
        for event in events {
            simulation.apply(event);
            simulation.assert_promises();
        }
    }
}

/// Without crashes the log stays small: what is old has become hours, and what is older than `keep` is gone.
#[test]
fn a_steady_log_stays_small() {
    let mut simulation = Simulation::new(true);
    for _ in 0..12 * 12 {
        simulation.apply(Event::Captures { gaps_ms: vec![1000; 150], delay_ms: 0 });
        simulation.apply(Event::Captures { gaps_ms: vec![100; 1500], delay_ms: 0 });
        for _ in 0..2 {
            simulation.apply(Event::Compact { luck: vec![255] });
        }
        simulation.apply(Event::Snapshot);
        simulation.apply(Event::Pack { skipped: 0 });
        simulation.apply(Event::Retain { luck: vec![255] });
        simulation.apply(Event::Unpack);
    }
    simulation.assert_promises();
    let count = |level| simulation.log.level(level).len();
    assert!(count(9) <= 4, "{} snapshots for 4 hours at one in 2", count(9));
    assert!((4..=6).contains(&count(3)), "{} hours", count(3));
    assert!(count(2) <= 24, "{} windows", count(2));
    assert!(count(1) <= 45 * 60, "{} seconds", count(1));
    assert!(count(0) <= 4 * 1650 + 1, "{} captures", count(0));
}

/// A writer of one file for each commit, whose packs are never put.
#[test]
fn files_that_are_held_for_their_commits_do_not_pile_up_without_bound() {
    let policy = Policy { any_second: Duration::from_secs(1), ..Policy::default() };
    let now_ms = 3_600_000;
    for (files, may_go) in [(MOST_HELD, 0), (MOST_HELD + 1, MOST_HELD)] {
        let last = files as u64 + 1;
        let mut log = Log::new((2..=last).map(|n| file(0, n, n, 1000)));
        log.insert(file(9, 1, 1, 0));
        log.insert(file(2, 2, last, 1000));
        let gone = retention(&log, &Times::default(), &[], now_ms, &policy);
        assert_eq!(gone.len(), may_go, "of {files}");
        assert!(gone.iter().all(|file| file.level == 0 && file.max().get() != last));
    }
}
