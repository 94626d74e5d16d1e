//! What row changes cost: `cargo bench -p litekeep-rows`. A database of about 800 MiB (6 million rows) is made in a temporary
//! folder, changed by one transaction after the other, and each change is told
//!
//! - from pages that lie in memory, which is the cost of the diff itself (CPU time of this thread, the mean of many rounds);
//! - from a log in a folder by a feed (CPU time of the whole process), in which each transaction is a file of its own, and in
//!   which twenty share one.
//!
//! Values are decoded. Nothing is asserted about time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litekeep_format::diff::{self, Change, Options, Pair, ParentMap, Sink, Written};
use litekeep_format::{Catalog, Chain, FrameHeader, PageBytes, PageSource, WalHeader, frame_offset};
use litekeep_ltx::{Encoder, FileName, Header, PackEncoder, PageSize, Pgno, Salt, Txid, WriterId};
use litekeep_replicate::parents;
use litekeep_replicate::restore::Goal;
use litekeep_rows::feed::Feed;
use litekeep_rows::{Error, Selection};
use litekeep_sql::TableReader;
use litekeep_store::{Store, Target};
use litekeep_testkit::Usage;
use rusqlite::Connection;

const PAGE_SIZE: u32 = 4096;
/// Small transactions that a feed follows.
const FOLLOWED: usize = 2000;

const MAKE: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL, d BLOB);
    CREATE TABLE small(id INTEGER PRIMARY KEY, a);
    CREATE TABLE w(k TEXT PRIMARY KEY, v INTEGER, x) WITHOUT ROWID;
    WITH s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 6000000)
    INSERT INTO t(a, b, c, d) SELECT i, 'name ' || i || ' of customer', i * 0.25, randomblob(80) FROM s;
    INSERT INTO small(a) SELECT a FROM t LIMIT 100000;
    INSERT INTO w SELECT printf('key%08d', id), id, randomblob(40) FROM t LIMIT 500000;";

const CHANGES: &[(&str, &str)] = &[
    ("one row", "UPDATE t SET a = a + 1 WHERE id = 3000000"),
    ("ten scattered rows", "UPDATE t SET a = a + 1 WHERE id % 600000 = 5"),
    ("one row, WITHOUT ROWID", "UPDATE w SET v = v + 1 WHERE k = 'key00250000'"),
    ("100,000 contiguous updates", "UPDATE t SET a = a + 1 WHERE id BETWEEN 1000000 AND 1099999"),
    (
        "100,000 inserts",
        "INSERT INTO t(a, b, c, d) SELECT a, b, c, d FROM t WHERE id BETWEEN 2000000 AND 2099999",
    ),
    ("DELETE FROM, 100,000 rows", "DELETE FROM small"),
    ("CREATE INDEX on 6 million rows", "CREATE INDEX i ON t(b)"),
];

fn main() {
    let dir = tempfile::tempdir().expect("make a temporary folder");
    let path = dir.path().join("big.db");
    let db = make(&path);
    for (_, sql) in CHANGES {
        db.execute_batch(&format!("BEGIN; {sql}; COMMIT")).expect("change rows");
    }
    let (commits, after_changes) = commits(&path, 0);
    assert_eq!(commits.len(), CHANGES.len());
    let snapshot = Pages::of(&path);
    println!("{} MiB", (u64::from(snapshot.count) * u64::from(PAGE_SIZE)) >> 20);
    let layouts = TableReader::new().expect("make a reader of tables");
    changes(&snapshot, &commits, &layouts);

    // The feed follows the state before all of this, with the same schema.
    for n in 0..FOLLOWED as u32 {
        let sql = format!("UPDATE t SET a = a + 1 WHERE id = {}", n * 2999 + 1);
        db.execute_batch(&sql).expect("change a row");
        db.execute("INSERT INTO t(a, b) VALUES (?1, 'new')", [n]).expect("insert a row");
    }
    let (followed, _) = self::commits(&path, after_changes);
    let all: Vec<Commit> = commits.into_iter().collect();
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(follow(&dir.path().join("log"), &snapshot, &all, &followed));
}

fn make(path: &Path) -> Connection {
    let db = Connection::open(path).expect("make a database");
    let set = format!(
        "PRAGMA page_size = {PAGE_SIZE}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;"
    );
    db.execute_batch(&set).expect("set a database up");
    db.execute_batch(&format!("BEGIN; {MAKE}; COMMIT")).expect("fill a database");
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("empty the WAL");
    db.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("keep the WAL");
    db
}

/// Pages and size of a transaction.
struct Commit {
    pages: HashMap<Pgno, PageBytes>,
    page_count: u32,
}

/// The transactions of a WAL beyond so many frames, and its frames.
fn commits(path: &Path, from: u32) -> (Vec<Commit>, u32) {
    let wal = File::open(path.with_extension("db-wal")).expect("open the WAL");
    let mut header = [0; WalHeader::LEN];
    wal.read_exact_at(&mut header, 0).expect("read the WAL");
    let header = WalHeader::parse(&header).expect("the header of a WAL");
    let mut chain = Chain::new(&header);
    let mut frame = vec![0; FrameHeader::LEN + header.page_size.bytes()];
    let (mut found, mut frames, mut pages) = (vec![], 0, HashMap::new());
    while wal.read_exact_at(&mut frame, frame_offset(header.page_size, frames)).is_ok() {
        let Ok(step) = chain.step(&frame) else { break };
        frames += 1;
        if frames <= from {
            continue;
        }
        pages.insert(step.pgno, Arc::from(&frame[FrameHeader::LEN..]));
        if step.is_commit() {
            found.push(Commit { pages: std::mem::take(&mut pages), page_count: step.commit });
        }
    }
    (found, frames)
}

/// A state whose pages lie in memory once they were read.
#[derive(Clone)]
struct Pages {
    file: Arc<File>,
    count: u32,
    read: RefCell<HashMap<Pgno, PageBytes>>,
    asked: Cell<u64>,
}

impl Pages {
    fn of(path: &Path) -> Pages {
        let file = File::open(path).expect("open the database");
        let count = file.metadata().expect("look at the database").len() / u64::from(PAGE_SIZE);
        let read = RefCell::default();
        Pages { file: Arc::new(file), count: count as u32, read, asked: Cell::new(0) }
    }

    fn after(&self, commit: &Commit) -> Pages {
        let after = self.clone();
        after.read.borrow_mut().extend(commit.pages.iter().map(|(pgno, page)| (*pgno, page.clone())));
        Pages { count: commit.page_count, ..after }
    }
}

impl PageSource for Pages {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.count
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        self.asked.set(self.asked.get() + 1);
        if let Some(page) = self.read.borrow().get(&pgno) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE_SIZE as usize];
        let at = u64::from(pgno.get() - 1) * u64::from(PAGE_SIZE);
        self.file.read_exact_at(&mut page, at).expect("read a page of the database");
        let page: PageBytes = page.into();
        self.read.borrow_mut().insert(pgno, page.clone());
        Ok(page)
    }
}

/// Counts rows and decodes their values.
#[derive(Default)]
struct Decoded(usize);

impl Sink<Error> for Decoded {
    fn begin(&mut self, _: &Catalog, _: &Catalog, _: &[(String, String)]) -> Result<(), Error> {
        Ok(())
    }

    fn table(&mut self, _: Pair<'_>, _: &[Option<usize>]) -> Result<(), Error> {
        Ok(())
    }

    fn change(&mut self, _: Pair<'_>, change: Change<'_>) -> Result<(), Error> {
        let rows = match change {
            Change::Inserted(row) | Change::Deleted(row) => [Some(row), None],
            Change::Updated(old, new) => [Some(old), Some(new)],
        };
        for row in rows.into_iter().flatten() {
            std::hint::black_box(row.values()?);
        }
        self.0 += 1;
        Ok(())
    }
}

/// CPU time of this thread, of which the kernel tells to a few milliseconds.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("read what this thread used");
    let nanoseconds = stat.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number of nanoseconds"))
}

/// The mean of at least 0.3 seconds.
fn mean(mut run: impl FnMut()) -> Duration {
    run();
    let (began, mut rounds) = (thread_cpu(), 0);
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        run();
        rounds += 1;
    }
    (thread_cpu() - began) / rounds
}

fn changes(snapshot: &Pages, commits: &[Commit], layouts: &TableReader) {
    let mut old = snapshot.clone();
    let mut tables = diff::catalog(&old, layouts).expect("read the schema");
    let map = || ParentMap::of(&old, tables.roots()).expect("make a parent map");
    let took = mean(|| drop(map()));
    let mut map = map();
    let bytes = map.to_words().len() * 4;
    println!("parent map: {:.3} s, {:.2} MiB", took.as_secs_f64(), bytes as f64 / f64::from(1 << 20));
    println!("{:32} {:>9} {:>9} {:>12} {:>12} {:>12}", "", "pages", "rows", "diff", "map", "pages read");
    for ((what, _), commit) in CHANGES.iter().zip(commits) {
        let new = old.after(commit);
        let mut pages: Vec<Pgno> = commit.pages.keys().copied().collect();
        pages.sort_unstable();
        let written = Written { pages: &pages, only_different: false };
        let (mut rows, mut after) = (0, None);
        old.asked.set(0);
        new.asked.set(0);
        let mut asked = None;
        let told = mean(|| {
            let mut sink = Decoded::default();
            let states = (&old, &map, &tables);
            after = Some(
                diff::diff(states, &new, written, Options::default(), layouts, &mut sink).expect("a diff"),
            );
            rows = sink.0;
            asked.get_or_insert(old.asked.get() + new.asked.get());
        });
        let after = after.expect("a diff");
        let roots = || ((&old, tables.roots()), (&new, after.roots()));
        let advanced = {
            let mut map = map.clone();
            mean(|| {
                let (from, to) = roots();
                map.advance(from, to, written).expect("a map");
            })
        };
        let (from, to) = roots();
        map.advance(from, to, written).expect("a map");
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{what:32} {:9} {rows:9} {:9.1} µs {:9.1} µs {:12}",
            pages.len(),
            micros(told),
            micros(advanced),
            asked.expect("a diff")
        );
        (old, tables) = (new, after);
    }
}

fn header(min: u64, max: u64, page_count: u32) -> Header {
    Header {
        page_size: PageSize::new(PAGE_SIZE).expect("a page size"),
        commit: page_count,
        min_txid: Txid::new(min).expect("a transaction"),
        max_txid: Txid::new(max).expect("a transaction"),
        timestamp_ms: 1_700_000_000_000 + max as i64,
        wal_offset: WalHeader::LEN as u64,
        // Read from a WAL, so all that was written is there.
        wal_size: 1,
        wal_salt: Salt::default(),
        node: WriterId(1),
    }
}

async fn put(store: &Store, level: u8, header: Header, mut pages: Vec<(Pgno, PageBytes)>) {
    pages.sort_unstable_by_key(|(pgno, _)| *pgno);
    let mut encoder = Encoder::new(Vec::new(), &header).expect("begin a file");
    for (pgno, page) in pages {
        encoder.page(pgno, &page).expect("encode a page");
    }
    let bytes = encoder.finish().expect("end a file").writer;
    let name = FileName { min: header.min_txid, max: header.max_txid };
    store.put(level, name, bytes.into(), header.timestamp_ms).await.expect("put a file");
}

/// Follows small transactions, first one a file, then twenty, then each of these by itself.
async fn follow(dir: &Path, snapshot: &Pages, changes: &[Commit], followed: &[Commit]) {
    let mut state = snapshot.clone();
    for commit in changes {
        state = state.after(commit);
    }
    let page_size = PageSize::new(PAGE_SIZE).expect("a page size");
    for (together, is_packed) in [(1, false), (20, false), (20, true)] {
        let folder = dir.join(format!("{together} {is_packed}"));
        let store = Store::open(&Target::Folder(folder)).expect("open a folder as a store");
        let lock_page = page_size.lock_page();
        let pages = (1..=state.count).filter_map(Pgno::new).filter(|pgno| *pgno != lock_page);
        let pages = pages.map(|pgno| (pgno, state.page(pgno).expect("a page"))).collect();
        put(&store, 9, header(1, 1, state.count), pages).await;
        let layouts = TableReader::new().expect("make a reader of tables");
        let tables = diff::catalog(&state, &layouts).expect("read the schema");
        let map = ParentMap::of(&state, tables.roots()).expect("make a parent map");
        parents::put(&store, Txid::FIRST, &map).await.expect("keep the parent map");
        let (mut files, mut pack) = (0, PackEncoder::header(page_size, WriterId(1)));
        let mut encoder = PackEncoder::new(page_size, 1 << 20);
        for commits in followed.chunks(together) {
            files += 1;
            let mut pages = HashMap::new();
            commits.iter().for_each(|commit| pages.extend(commit.pages.clone()));
            let page_count = commits[commits.len() - 1].page_count;
            let header = header(files + 1, files + 1, page_count);
            for commit in commits {
                commit.pages.iter().for_each(|(pgno, page)| encoder.page(*pgno, page));
                encoder.commit(commit.page_count);
            }
            let parts = commits.len() as u32;
            pack.extend(
                encoder.finish(header.max_txid, header.timestamp_ms, parts).expect("a part of a pack"),
            );
            put(&store, 0, header, pages.into_iter().collect()).await;
        }
        if is_packed {
            let name =
                FileName { min: Txid::FIRST.next(), max: Txid::new(files + 1).expect("a transaction") };
            store.put_pack(name, pack.into()).await.expect("put a pack");
        }
        let began = Instant::now();
        let (from, all) = (Goal::Txid(Txid::FIRST), Selection::default());
        let feed = match is_packed {
            true => Feed::of_commits(&store, from, all).await,
            false => Feed::open(&store, from, all).await,
        };
        let mut feed = feed.expect("open a feed");
        let opened = began.elapsed();
        let (before, began) = (usage(), Instant::now());
        let (mut rows, mut told) = (0, 0);
        while let Some(transaction) = feed.next().await.expect("the next transaction") {
            rows += transaction.rows.len();
            told += usize::from(transaction.is_last);
        }
        let (wall, after) = (began.elapsed(), usage());
        let per = |time: Duration| time.as_secs_f64() * 1e6 / followed.len() as f64;
        println!(
            "feed, {together} transactions a file: opened in {:.3} s, {} transactions, told as {told}, {rows} rows: {:.1} µs of CPU each, {:.1} µs by the clock; {} MiB resident",
            opened.as_secs_f64(),
            followed.len(),
            per(after.cpu - before.cpu),
            per(wall),
            after.rss >> 20
        );
    }
}

fn usage() -> Usage {
    Usage::of(std::process::id()).expect("look at this process")
}
