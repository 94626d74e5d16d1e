//! How fast a live copy takes transactions: `cargo bench -p litekeep-replica`. A database of about 40 MiB is restored from a log in a
//! temporary folder; transactions of three pages follow, each of which is a file of the log,
//!
//! - one after the other, as when the copy is level: each is one transaction of the copy;
//! - all at once, as after an absence: many become one.
//!
//! What is timed is the follower alone; the CPU time is that of the process, which writes the log of the first, too. Nothing is
//! asserted about time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litekeep_env::SystemClock;
use litekeep_ltx::{Encoder, FileName, Header, PageSize, Pgno, Salt, Txid, WriterId};
use litekeep_replica::{Follower, Options};
use litekeep_store::{Store, Target};
use litekeep_testkit::Usage;

const PAGE_SIZE: usize = 4096;
const PAGES: u32 = 10_000;
const ONE_BY_ONE: u64 = 5_000;
const AT_ONCE: u64 = 50_000;

fn main() {
    let dir = tempfile::tempdir().expect("make a temporary folder");
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(follow(dir.path()));
}

async fn follow(dir: &std::path::Path) {
    let store = Store::open(&Target::Folder(dir.join("log"))).expect("open the log");
    let mut log =
        Writer { log: dir.join("log"), pages: database(dir), last: 0, random: fastrand::Rng::with_seed(1) };
    log.snapshot();
    let options = Options {
        force: false,
        new_timeline: false,
        parallelism: 8,
        clock: Arc::new(SystemClock),
        url: String::new(),
        command: String::new(),
    };
    let replica = dir.join("replica.db");
    let mut follower = Follower::open(&store, &replica, options, &()).await.expect("begin");
    let (mut spent, before) = (Duration::ZERO, cpu());
    for _ in 0..ONE_BY_ONE {
        log.transaction();
        let begin = Instant::now();
        assert_eq!(step(&mut follower).await, Some(1));
        spent += begin.elapsed();
    }
    tell("one by one", ONE_BY_ONE, ONE_BY_ONE, (spent, cpu() - before));
    for _ in 0..AT_ONCE {
        log.transaction();
    }
    let (begin, before, mut steps, mut done) = (Instant::now(), cpu(), 0, 0);
    while let Some(transactions) = step(&mut follower).await {
        (steps, done) = (steps + 1, done + transactions);
    }
    assert_eq!(done, AT_ONCE);
    tell("at once", AT_ONCE, steps, (begin.elapsed(), cpu() - before));
    let proof = follower.verify(&()).await.expect("compare");
    assert_eq!(proof.differs, None);
    follower.close().await.expect("end");
}

async fn step(follower: &mut Follower) -> Option<u64> {
    let work = follower.look().await.expect("read the log")?;
    Some(follower.apply(work, &()).await.expect("apply").transactions)
}

fn tell(how: &str, transactions: u64, steps: u64, (spent, cpu): (Duration, Duration)) {
    let a_second = transactions as f64 / spent.as_secs_f64();
    let each_us = cpu.as_secs_f64() * 1e6 / transactions as f64;
    println!(
        "{how}: {transactions} transactions in {steps} steps, {a_second:.0} a second, {each_us:.0} us of CPU each"
    );
}

fn cpu() -> Duration {
    Usage::of(std::process::id()).expect("look at this process").cpu
}

/// The pages of a database with one large table.
fn database(dir: &std::path::Path) -> Vec<Vec<u8>> {
    let path = dir.join("app.db");
    let db = rusqlite::Connection::open(&path).expect("make a database");
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(x)").expect("make a table");
    let rows = "WITH s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 10000) INSERT INTO t SELECT randomblob(3900) FROM s";
    db.execute_batch(rows).expect("fill it");
    db.close().expect("close it");
    let bytes = std::fs::read(path).expect("read it");
    assert!(bytes.len() / PAGE_SIZE >= PAGES as usize);
    bytes.chunks(PAGE_SIZE).map(<[u8]>::to_vec).collect()
}

struct Writer {
    log: PathBuf,
    pages: Vec<Vec<u8>>,
    last: u64,
    random: fastrand::Rng,
}

impl Writer {
    fn snapshot(&mut self) {
        let all = (1..=self.pages.len() as u32).collect();
        self.put(9, all);
    }

    /// Three pages that differ in a few bytes.
    fn transaction(&mut self) {
        let mut pages: Vec<u32> = (0..3).map(|_| self.random.u32(2..PAGES)).collect();
        pages.sort_unstable();
        pages.dedup();
        for page in &pages {
            let at = self.random.usize(2000..4000);
            self.pages[*page as usize - 1][at] = self.random.u8(..);
        }
        self.put(0, pages);
    }

    fn put(&mut self, level: u8, pages: Vec<u32>) {
        self.last += 1;
        let txid = Txid::new(self.last).expect("from 1");
        let header = Header {
            page_size: PageSize::new(PAGE_SIZE as u32).expect("a size of SQLite's"),
            commit: self.pages.len() as u32,
            min_txid: txid,
            max_txid: txid,
            timestamp_ms: self.last.cast_signed(),
            wal_offset: 32 + (self.last - 1) * 1000,
            wal_size: 1000,
            wal_salt: Salt(*b"saltSALT"),
            node: WriterId(1),
        };
        let mut encoder = Encoder::new(Vec::new(), &header).expect("begin a file");
        for pgno in pages.into_iter().filter_map(Pgno::new) {
            encoder.page(pgno, &self.pages[pgno.get() as usize - 1]).expect("encode a page");
        }
        let bytes = encoder.finish().expect("end a file").writer;
        let folder = self.log.join(format!("ltx/{level}"));
        std::fs::create_dir_all(&folder).expect("make a folder of the log");
        // Not as the store does it, which waits for the disk.
        let name = FileName { min: txid, max: txid };
        std::fs::write(folder.join(name.to_string()), bytes).expect("put a file");
    }
}
