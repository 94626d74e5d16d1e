use super::*;
use std::os::unix::fs::FileExt;

const WAL_BYTES: u64 = 1 << 20;

/// An application's database, and a copy that follows it.
struct Pair {
    dir: tempfile::TempDir,
    app: Connection,
    writer: PageWriter,
}

impl Pair {
    fn new(schema: &str) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch(&format!("{schema}; PRAGMA journal_mode = WAL; CREATE TABLE t(x)")).unwrap();
        app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        std::fs::copy(dir.path().join("app.db"), dir.path().join("replica.db")).unwrap();
        let writer = PageWriter::open(&dir.path().join("replica.db"), WAL_BYTES).unwrap();
        Pair { dir, app, writer }
    }

    /// What is different, as one transaction.
    fn follow(&mut self) {
        let (theirs, ours) = (pages(&self.app, "main"), pages(&self.writer.reader, "main"));
        assert!(self.writer.begin().unwrap());
        let page_count = theirs.len() as u32;
        for (pgno, page) in (1..).filter_map(Pgno::new).zip(theirs) {
            if ours.get(pgno.get() as usize - 1) != Some(&page) {
                self.writer.write(pgno, &page).unwrap();
            }
        }
        self.writer.commit(page_count).unwrap();
    }

    /// Another process's connection.
    fn reader(&self) -> Connection {
        Connection::open(self.dir.path().join("replica.db")).unwrap()
    }

    fn are_equal(&self) {
        let mut both = [pages(&self.app, "main"), pages(&self.reader(), "main")];
        for page in both.iter_mut().map(|pages| &mut pages[0]) {
            [18..20, 24..28, 92..100].into_iter().for_each(|range| page[range].fill(0));
        }
        assert!(both[0] == both[1], "{} and {} pages", both[0].len(), both[1].len());
        let damage: String = self.reader().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(damage, "ok");
    }

    fn run(&self, sql: &str) {
        self.app.execute_batch(sql).unwrap();
    }
}

fn pages(connection: &Connection, schema: &str) -> Vec<Vec<u8>> {
    let mut select = connection.prepare("SELECT data FROM sqlite_dbpage(?1)").unwrap();
    select.query_map([schema], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

const ROWS: &str = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 300)
    INSERT INTO t SELECT hex(randomblob(500)) FROM n";

#[test]
fn readers_see_each_transaction_as_a_whole() {
    let mut pair = Pair::new("");
    let reader = pair.reader();
    let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    pair.run(ROWS);
    pair.follow();
    pair.are_equal();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), 300);
    pair.run("DELETE FROM t WHERE rowid > 10; CREATE TABLE u(y); INSERT INTO u VALUES (1)");
    pair.follow();
    assert_eq!(count(), 300, "the transaction that was open sees what it saw");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), 10);
    pair.run("VACUUM; DROP TABLE u");
    pair.follow();
    pair.are_equal();
    assert!(reader.query_row("SELECT count(*) FROM u", [], |_| Ok(())).is_err());
}

/// SQLite asked for the schema that it had read before, of pages that were others since.
#[test]
fn a_schema_of_many_pages_may_change_at_every_transaction() {
    let mut pair = Pair::new("");
    let columns: Vec<String> = (0..60).map(|n| format!("a_column_with_a_long_name_{n}")).collect();
    for turn in 0..120 {
        pair.run(&format!("CREATE TABLE t{turn}({})", columns.join(", ")));
        if turn % 3 == 2 {
            pair.run(&format!("DROP TABLE t{}; DROP TABLE t{}", turn - 2, turn - 1));
        }
        if turn % 40 == 39 {
            pair.run("VACUUM");
        }
        pair.follow();
    }
    pair.are_equal();
}

#[test]
fn no_commit_moves_pages_whatever_the_mode_of_auto_vacuum_was() {
    let modes = ["NONE", "FULL", "INCREMENTAL"];
    for before in modes {
        for after in modes {
            let mut pair = Pair::new(&format!("PRAGMA auto_vacuum = {before}"));
            pair.run(ROWS);
            pair.follow();
            // As one transaction: what the log merged.
            pair.run(&format!("PRAGMA auto_vacuum = {after}; VACUUM; DELETE FROM t WHERE rowid % 2"));
            pair.run("CREATE TABLE u(y); DROP TABLE u; DELETE FROM t");
            pair.follow();
            pair.are_equal();
            pair.run(ROWS);
            pair.follow();
            pair.are_equal();
        }
    }
}

#[test]
fn a_database_grows_over_the_lock_page_and_shrinks_again() {
    let mut pair = Pair::new("PRAGMA page_size = 65536");
    let small = pages(&pair.app, "main");
    let lock_page = pair.writer.page_size().lock_page().get();
    let first = |page_count: u32| {
        let mut first = small[0].clone();
        first[28..32].copy_from_slice(&page_count.to_be_bytes());
        first
    };
    // A file of holes up to one page before the lock page.
    let path = pair.dir.path().join("replica.db");
    drop(pair.writer);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&first(lock_page - 2), 0).unwrap();
    file.set_len(u64::from(lock_page - 2) * 65536).unwrap();
    drop(file);
    pair.writer = PageWriter::open(&path, WAL_BYTES).unwrap();
    let page_count = lock_page + 2;
    assert!(pair.writer.begin().unwrap());
    pair.writer.write(Pgno::FIRST, &first(page_count)).unwrap();
    for pgno in [lock_page - 1, lock_page + 1, lock_page + 2] {
        pair.writer.write(Pgno::new(pgno).unwrap(), &vec![7; 65536]).unwrap();
    }
    pair.writer.commit(page_count).unwrap();
    assert!(pair.writer.checkpoint().unwrap().is_complete());
    let reader = pair.reader();
    let byte = |pgno: u32| {
        let sql = "SELECT substr(data, 1000, 1) FROM sqlite_dbpage WHERE pgno = ?1";
        reader.query_row(sql, [pgno], |row| row.get::<_, Vec<u8>>(0)).unwrap()[0]
    };
    let around = [lock_page - 1, lock_page, lock_page + 1, lock_page + 2];
    assert_eq!(around.map(byte), [7, 0, 7, 7]);
    assert_eq!(pair.writer.page_count().unwrap(), page_count);
    assert!(pair.writer.begin().unwrap());
    pair.writer.write(Pgno::FIRST, &small[0]).unwrap();
    pair.writer.commit(small.len() as u32).unwrap();
    pair.are_equal();
}

#[test]
fn what_somebody_else_writes_is_noticed_before_anything_is_written_over_it() {
    let mut pair = Pair::new("");
    pair.run(ROWS);
    pair.follow();
    assert!(!pair.writer.is_foreign().unwrap(), "what it writes itself is its own");
    assert!(pair.writer.checkpoint_all(Duration::ZERO).unwrap().is_complete());
    assert!(!pair.writer.is_foreign().unwrap());
    pair.reader().execute_batch("INSERT INTO t VALUES ('theirs')").unwrap();
    assert!(pair.writer.is_foreign().unwrap() && !pair.writer.begin().unwrap());
    let mut count = 0;
    let all = pair.writer.read_all(|_, _| {
        count += 1;
        Ok::<(), Error>(())
    });
    assert_eq!(all.unwrap(), count);
    pair.writer.accept();
    assert!(!pair.writer.is_foreign().unwrap() && pair.writer.begin().unwrap());
    pair.writer.rollback();
    let theirs = pair.reader().query_row("SELECT count(*) FROM t WHERE x = 'theirs'", [], |row| row.get(0));
    assert_eq!(theirs, Ok(1));
}

#[test]
fn readers_find_their_files_when_it_is_closed() {
    let mut pair = Pair::new("");
    pair.run(ROWS);
    pair.follow();
    let Pair { dir, writer, .. } = pair;
    drop(writer);
    for name in ["replica.db-wal", "replica.db-shm"] {
        assert!(dir.path().join(name).metadata().unwrap().len() > 0, "{name}");
    }
    assert!(PageWriter::open(&dir.path().join("nowhere.db"), WAL_BYTES).is_err());
    assert!(!dir.path().join("nowhere.db").exists());
}

#[test]
fn a_wal_that_was_begun_anew_is_cut() {
    let mut pair = Pair::new("");
    let wal = pair.dir.path().join("replica.db-wal");
    let reader = pair.reader();
    reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    for _ in 0..10 {
        pair.run("DELETE FROM t");
        pair.run(ROWS);
        pair.follow();
        pair.writer.checkpoint().unwrap();
    }
    assert!(wal.metadata().unwrap().len() > WAL_BYTES);
    assert!(!pair.writer.checkpoint_all(Duration::ZERO).unwrap().is_complete(), "a reader is there");
    reader.execute_batch("COMMIT").unwrap();
    assert!(pair.writer.checkpoint_all(Duration::ZERO).unwrap().is_complete());
    pair.run("INSERT INTO t VALUES (1)");
    pair.follow();
    assert!(wal.metadata().unwrap().len() <= WAL_BYTES);
}
