//! Goal: a feed gives every transaction, or every single commit, once and in order, whatever stands in its way. Method: logs
//! that are made of a database's pages after each of its commits, with files and packs that are damaged, repaired and ahead.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use litekeep_format::Value;
use litekeep_ltx::{
    Encoder, FileName, Header, IndexTail, PackEncoder, PageIndex, PageSize, Pgno, Point, Pos, Salt, Txid,
    WriterId,
};
use litekeep_replicate::restore::Goal;
use litekeep_replicate::{log_state, parents};
use litekeep_rows::feed::{Feed, Transaction};
use litekeep_rows::{Kind, Selection};
use litekeep_store::{Store, Target};
use rusqlite::Connection;
use tempfile::TempDir;

const PAGE_SIZE: u32 = 1024;
/// In the first state; large enough that its file is not read whole.
const ROWS: i64 = 20_000;

/// A database after each of its commits, and a folder for its log.
pub(crate) struct Story {
    pub(crate) dir: TempDir,
    pub(crate) store: Store,
    pub(crate) images: Vec<Vec<u8>>,
}

/// Pages that a commit wrote, and pages of the database after it.
type Commit = (Vec<(Pgno, Vec<u8>)>, u32);

fn page_size() -> PageSize {
    PageSize::new(PAGE_SIZE).unwrap()
}

pub(crate) fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

fn time_of(n: u64) -> i64 {
    1_700_000_000_000 + n as i64
}

impl Story {
    /// Each statement is a commit. The state before them is the log's first transaction.
    pub(crate) async fn new(statements: &[String]) -> Story {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={PAGE_SIZE}; CREATE TABLE t(id INTEGER PRIMARY KEY, x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
               INSERT INTO t SELECT i, randomblob(40) FROM n"
        ))
        .unwrap();
        let image = || std::fs::read(&path).unwrap();
        let mut images = vec![image()];
        for statement in statements {
            db.execute_batch(statement).unwrap();
            images.push(image());
        }
        let store = Store::open(&Target::Folder(dir.path().join("log"))).unwrap();
        let story = Story { dir, store, images };
        story.put(9, 1, time_of(1), &story.pages(None, 0));
        let state = log_state::open(&story.store, Goal::Latest).await.unwrap();
        let map = parents::of(&story.store, &state).await.unwrap();
        parents::put(&story.store, Txid::FIRST, &map).await.unwrap();
        story
    }

    /// What differs between two states.
    fn pages(&self, from: Option<usize>, to: usize) -> Commit {
        let pages = |image: usize| self.images[image].chunks(PAGE_SIZE as usize);
        let mut before = from.map(pages);
        let mut differ = vec![];
        for (n, page) in (1..).zip(pages(to)) {
            if before.as_mut().and_then(Iterator::next) != Some(page) {
                differ.push((Pgno::new(n).unwrap(), page.to_vec()));
            }
        }
        (differ, pages(to).len() as u32)
    }

    fn put(&self, level: u8, n: u64, timestamp_ms: i64, (pages, page_count): &Commit) {
        let header = Header {
            page_size: page_size(),
            commit: *page_count,
            min_txid: txid(n),
            max_txid: txid(n),
            timestamp_ms,
            wal_offset: 32,
            // As if read from a WAL: all that was written is there.
            wal_size: 1,
            wal_salt: Salt::default(),
            node: WriterId(1),
        };
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        pages.iter().for_each(|(pgno, page)| encoder.page(*pgno, page).unwrap());
        // Not by the store: a thousand fsyncs take long on a slow disk.
        let path = self.file(level, n);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, encoder.finish().unwrap().writer).unwrap();
    }

    /// The commits of a transaction, of which each one has so many.
    fn commits_of(&self, n: u64, each: usize) -> Range<usize> {
        let first = (n as usize - 2) * each;
        first..first + each
    }

    /// Puts a transaction of so many commits.
    fn put_commits(&self, n: u64, each: usize, timestamp_ms: i64) {
        let commits = self.commits_of(n, each);
        self.put(0, n, timestamp_ms, &self.pages(Some(commits.start), commits.end));
    }

    /// Puts a transaction of one commit.
    pub(crate) fn put_one(&self, n: u64) {
        self.put_commits(n, 1, time_of(n));
    }

    /// The single commits of these transactions.
    fn pack(&self, transactions: Range<u64>, each: usize) -> Vec<u8> {
        let mut pack = PackEncoder::header(page_size(), WriterId(1));
        let mut encoder = PackEncoder::new(page_size(), 1 << 20);
        for n in transactions {
            for commit in self.commits_of(n, each) {
                let (pages, page_count) = self.pages(Some(commit), commit + 1);
                pages.iter().for_each(|(pgno, page)| encoder.page(*pgno, page));
                encoder.commit(page_count);
            }
            pack.extend(encoder.finish(txid(n), time_of(n), each as u32).unwrap());
        }
        pack
    }

    fn file(&self, level: u8, n: u64) -> PathBuf {
        let name = FileName { min: txid(n), max: txid(n) };
        self.dir.path().join(format!("log/ltx/{level}/{name}"))
    }

    /// Damages the page of the first state that a commit changes, and no other. Returns what repairs it.
    fn damage_before(&self, commit: usize) -> impl FnOnce() {
        let (pages, _) = self.pages(Some(commit), commit + 1);
        let (pgno, _) = pages.iter().rfind(|(pgno, _)| *pgno != Pgno::FIRST).unwrap();
        let path = self.file(9, 1);
        let bytes = std::fs::read(&path).unwrap();
        let IndexTail::Index(index) = PageIndex::from_tail(bytes.len() as u64, &bytes).unwrap() else {
            panic!("it has an index")
        };
        // The length of its block.
        let at = index.get(*pgno).unwrap().start + 6;
        write_at(&path, at, &[0; 4]);
        move || write_at(&path, at, &bytes[at as usize..][..4])
    }
}

fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Where a transaction stands, and the rows that it changed.
type Told = (Point, Vec<i64>);

fn told(transaction: &Transaction) -> Told {
    assert!(transaction.is_last && transaction.before == 0, "{transaction:?}");
    let ids = transaction.rows.iter().map(|row| match row.key[0].1 {
        Value::Integer(id) => id,
        _ => panic!("{row:?}"),
    });
    (transaction.point(), ids.collect())
}

/// What a feed gives before it has nothing more, or fails.
async fn rest(feed: &mut Feed, into: &mut Vec<Told>) -> Result<(), litekeep_rows::Error> {
    while let Some(transaction) = feed.next().await? {
        into.push(told(&transaction));
    }
    Ok(())
}

fn updates(count: i64) -> Vec<String> {
    (1..=count).map(|n| format!("UPDATE t SET x = 'changed {n}' WHERE id = {}", row_of(n))).collect()
}

/// Each one on a page of its own.
fn row_of(nth: i64) -> i64 {
    nth * 60
}

/// Each commit by itself, where a transaction has so many.
fn single(transactions: Range<u64>, each: u32) -> Vec<Told> {
    let commits = transactions.flat_map(|n| (1..=each).map(move |seq| (n, seq)));
    let told = |((n, seq), nth)| (Point { txid: txid(n), seq: Some(seq) }, vec![row_of(nth)]);
    commits.zip(1..).map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn single_commits_go_on_where_an_error_stopped_them() {
    let story = Story::new(&updates(15)).await;
    for n in 2..=6 {
        story.put_commits(n, 3, time_of(n));
    }
    let name = FileName { min: txid(2), max: txid(6) };
    story.store.put_pack(name, story.pack(2..7, 3).into()).await.unwrap();
    // In the middle of a transaction, and at the beginning of one.
    for damaged in [7, 6] {
        let repair = story.damage_before(damaged);
        let mut feed =
            Feed::of_commits(&story.store, Goal::Txid(Txid::FIRST), Selection::default()).await.unwrap();
        let mut told = vec![];
        for _ in 0..3 {
            let error = rest(&mut feed, &mut told).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert_eq!(told, single(2..7, 3)[..damaged]);
        }
        repair();
        rest(&mut feed, &mut told).await.unwrap();
        assert_eq!(told, single(2..7, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_go_on_where_an_error_stopped_them() {
    let commits = 600;
    let mut statements = updates(commits / 2);
    // One that is not read together with others, and one that comes in parts.
    let large = format!("INSERT INTO t SELECT id + {ROWS}, randomblob(400) FROM t WHERE id <= 1500");
    statements[199] = large;
    statements.extend((0..commits / 2).map(|n| format!("UPDATE t SET x = {n} WHERE id = 7")));
    let story = Story::new(&statements).await;
    for n in 2..commits as u64 + 2 {
        story.put_commits(n, 1, time_of(n));
    }
    let path = story.file(0, 102);
    let whole = std::fs::read(&path).unwrap();
    write_at(&path, 200, &[whole[200] ^ 1]);
    let repair = story.damage_before(50);
    let mut feed = Feed::open(&story.store, Goal::Txid(Txid::FIRST), Selection::default()).await.unwrap();
    let mut told = vec![];
    assert_eq!(rest(&mut feed, &mut told).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(told.len(), 50);
    repair();
    for _ in 0..2 {
        assert_eq!(rest(&mut feed, &mut told).await.unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(told.len(), 100);
    }
    write_at(&path, 200, &whole[200..201]);
    let mut rows = 0;
    let mut points = vec![];
    while let Some(part) = feed.next().await.unwrap() {
        rows += part.rows.len();
        if part.is_last {
            points.push(part.point());
        }
    }
    let expected: Vec<Point> = (102..commits as u64 + 2).map(|n| txid(n).into()).collect();
    assert_eq!(points, expected);
    assert_eq!(rows, commits as usize - 101 + 1500);
}

/// What is on the machine may become something else, when litekeep is killed before it is confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_nobody_has_confirmed_are_not_told() {
    let story = Story::new(&updates(12)).await;
    for n in 2..=4 {
        story.put_commits(n, 3, time_of(n));
    }
    let packs = story.dir.path().join("packs");
    std::fs::create_dir(&packs).unwrap();
    std::fs::write(packs.join("one"), story.pack(2..6, 3)).unwrap();
    let here = story.store.clone().with_packs_in(&packs);
    let mut feed = Feed::of_commits(&here, Goal::Txid(Txid::FIRST), Selection::default()).await.unwrap();
    let mut told = vec![];
    rest(&mut feed, &mut told).await.unwrap();
    assert_eq!(told, single(2..5, 3));
    let of = |n, seq| Goal::Commit(Pos { txid: txid(n), seq });
    assert_eq!(log_state::open(&here, Goal::Latest).await.unwrap().point(), txid(4).into());
    assert_eq!(
        log_state::open(&here, of(4, 2)).await.unwrap().point(),
        Point { txid: txid(4), seq: Some(2) }
    );
    log_state::open(&here, of(5, 2)).await.unwrap_err();

    // Something else gets that number.
    let other = story.commits_of(5, 3).start;
    story.put(0, 5, time_of(50), &story.pages(Some(other), other + 1));
    rest(&mut feed, &mut told).await.unwrap();
    assert_eq!(told[9..], [(txid(5).into(), vec![row_of(10)])]);
    log_state::open(&here, of(5, 2)).await.unwrap_err();
    let mut anew = vec![];
    let mut feed = Feed::of_commits(&here, Goal::Txid(Txid::FIRST), Selection::default()).await.unwrap();
    rest(&mut feed, &mut anew).await.unwrap();
    assert_eq!(anew, told);
}

/// What a consumer has that keeps the rows by their keys, and applies each as it comes.
async fn applied(feed: &mut Feed) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    while let Some(part) = feed.next().await.unwrap() {
        for event in part.rows.iter().filter(|event| event.table == "named") {
            let key = format!("{:?}", event.key);
            match &event.after {
                Some(row) => drop(rows.insert(key, format!("{row:?}"))),
                None => assert!(rows.remove(&key).is_some(), "{event:?}"),
            }
        }
    }
    rows
}

/// Rows that get the keys of others, few of them and so many that they come in parts.
#[tokio::test(flavor = "multi_thread")]
async fn rows_may_exchange_their_keys() {
    let numbers =
        |to: u32| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {to})");
    let statements = [
        "CREATE TABLE named(list INT, pos INT, x, PRIMARY KEY(list, pos));".to_owned()
            + &format!("{} INSERT INTO named SELECT 1, i, 'first ' || i FROM n", numbers(20)),
        "BEGIN; UPDATE named SET pos = -pos; UPDATE named SET pos = 1 - pos; INSERT INTO named VALUES(1, 1, 'new'); COMMIT"
            .to_owned(),
        "BEGIN; DELETE FROM named WHERE pos = 20; UPDATE named SET pos = 20 WHERE pos = 3; COMMIT".to_owned(),
        format!("{} INSERT INTO named SELECT 2, i, 'x' FROM n", numbers(9_000)),
        "BEGIN; UPDATE named SET pos = -pos; UPDATE named SET pos = 9001 + pos, x = x || list; COMMIT".to_owned(),
        "BEGIN; DELETE FROM named WHERE pos > 8000; UPDATE named SET pos = pos + 500 WHERE list = 2; COMMIT".to_owned(),
    ];
    let story = Story::new(&statements).await;
    (2..=7).for_each(|n| story.put_one(n));
    let mut feed = Feed::open(&story.store, Goal::Txid(Txid::FIRST), Selection::default()).await.unwrap();
    let found = applied(&mut feed).await;
    let db = Connection::open(story.dir.path().join("app.db")).unwrap();
    let mut select = db.prepare("SELECT list, pos, x FROM named").unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        let named = |name: &str, value| (name.to_owned(), value);
        let (list, pos) =
            (named("list", Value::Integer(row.get(0)?)), named("pos", Value::Integer(row.get(1)?)));
        let x = named("x", Value::Text(row.get::<_, String>(2)?.into_bytes()));
        Ok((format!("{:?}", vec![list.clone(), pos.clone()]), format!("{:?}", vec![list, pos, x])))
    };
    let expected: BTreeMap<_, _> = select.query_map((), row).unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), expected.len());
    assert!(found == expected);
    // For who looks at rows, and not at keys.
    let feed = Feed::open(&story.store, Goal::Txid(txid(3)), Selection::default()).await.unwrap();
    let mut feed = feed.with_whole_rows();
    let part = feed.next().await.unwrap().unwrap();
    assert!(part.rows.iter().any(|row| row.before.is_some() && row.after.is_some()));
}
