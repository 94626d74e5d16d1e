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
