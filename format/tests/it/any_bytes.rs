//! The fuzz target's body over bytes at random and over damaged files of SQLite, by seed: what the fuzzer looks for is
//! looked for in every test run.

use proptest::prelude::*;

#[path = "../../fuzz/src/body.rs"]
mod body;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes_at_random(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        body::run(&data);
    }
}

/// Two states of databases of each kind of table, the one or the other or both of them damaged.
#[test]
fn damaged_states_of_databases() {
    let mut rng = fastrand::Rng::with_seed(21);
    for (page_size, encoding) in [(512, "UTF-8"), (1024, "UTF-16le")] {
        let db = crate::real::Database::new(page_size, "NONE", encoding);
        db.insert(30);
        db.execute(
            "CREATE TABLE w(k TEXT COLLATE NOCASE PRIMARY KEY, a, b) WITHOUT ROWID;
             CREATE TABLE x(k TEXT PRIMARY KEY DESC, a DEFAULT 7) WITHOUT ROWID;
             CREATE TABLE gone(a); CREATE INDEX i ON t(body);
             INSERT INTO w SELECT 'Key ' || id, id, randomblob(id * 40) FROM t;
             INSERT INTO x SELECT hex(randomblob(20)), id FROM t;
             INSERT INTO gone VALUES (zeroblob(3000));
             INSERT INTO t(body) SELECT randomblob(5000) FROM t LIMIT 2;
             PRAGMA wal_checkpoint(TRUNCATE)",
        );
        let old = db.main();
        db.execute(
            "DELETE FROM t WHERE id % 5 = 0; UPDATE w SET a = a + 1 WHERE a % 7 = 0; DROP TABLE gone;
             ALTER TABLE x ADD COLUMN c DEFAULT 'x'; UPDATE x SET c = 1 WHERE a < 5; INSERT INTO t(body) VALUES (zeroblob(9000));
             PRAGMA wal_checkpoint(TRUNCATE)",
        );
        let new = db.main();
        body::states::both(&old, &new);
        for _ in 0..1500 {
            let damaged = |file: &[u8], rng: &mut fastrand::Rng| {
                let mut file = file.to_vec();
                for _ in 0..rng.usize(0..4) {
                    // The headers of pages deserve most of it.
                    let page = rng.usize(..file.len() / page_size as usize) * page_size as usize;
                    let within = if rng.bool() { 40 } else { page_size as usize };
                    file[page + rng.usize(..within)] ^= 1 << rng.u8(..8);
                }
                file
            };
            let (old, new) = (damaged(&old, &mut rng), damaged(&new, &mut rng));
            body::states::both(&old, &new);
            body::run(&new);
        }
    }
}

/// Damages what SQLite wrote in a few places, which gets further than bytes at random.
#[test]
fn damaged_files_of_sqlite() {
    let mut rng = fastrand::Rng::with_seed(20);
    let db = crate::real::Database::new(512, "FULL", "UTF-8");
    db.insert(40);
    for file in [db.wal(), db.shm(), db.main()] {
        body::run(&file);
        for _ in 0..500 {
            let mut file = file.clone();
            for _ in 0..rng.usize(1..4) {
                // The headers deserve most of it.
                let end = if rng.bool() { 136 } else { file.len() };
                let at = rng.usize(..end);
                file[at] ^= 1 << rng.u8(..8);
            }
            file.truncate(rng.usize(file.len() / 2..=file.len()));
            body::run(&file);
        }
    }
}
