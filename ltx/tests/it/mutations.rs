//! The fuzz target's body over mutated files, by seed: what the fuzzer looks for is looked for in every test run.

use std::path::Path;

use litekeep_ltx::PageChecks;

use crate::sample::{Sample, header, page};

#[path = "../../fuzz/src/body.rs"]
mod body;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let golden = |path: &str| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)).unwrap()
    };
    let changes = [2, 3, 7].map(|n| (n, page(512, n.into(), n % 4 * 5))).into();
    let snapshot = (1..=4).map(|n| (n, page(1024, n.into(), 2))).collect();
    vec![
        Sample { header: header(512, 9, 3, 4), pages: changes }.encode(),
        Sample { header: header(1024, 4, 1, 4), pages: snapshot }.encode(),
        golden("litestream-0.5.15/0000000000000001-0000000000000001.ltx"),
        golden("litestream-0.5.15/0000000000000005-0000000000000005.ltx"),
        golden("litestream-0.5.17/0000000000000004-0000000000000004.ltx"),
    ]
}

fn mutate(random: &mut Random, file: &mut Vec<u8>) {
    let at = random.below(file.len());
    match random.below(8) {
        0 | 1 => file[at] ^= 1 << random.below(8),
        2 => file[at] = random.below(256) as u8,
        3 => file[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        4 => file.truncate(at.max(1)),
        5 => drop(file.splice(at..at, std::iter::repeat_n(random.below(256) as u8, 1 + random.below(20)))),
        6 => drop(file.drain(at..(at + 1 + random.below(20)).min(file.len() - 1).max(at))),
        _ => {
            let (from, len) = (random.below(file.len()), 1 + random.below(40));
            let piece = file[from..(from + len).min(file.len())].to_vec();
            let end = (at + piece.len()).min(file.len());
            file.splice(at..end, piece);
        }
    }
}

#[test]
fn mutated_files() {
    let seeds = seeds();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut sound = 0;
    const RUNS: usize = 8000;
    for run in 0..RUNS {
        let mut file = seeds[run % seeds.len()].clone();
        for _ in 0..1 + random.below(3) {
            mutate(&mut random, &mut file);
        }
        sound += usize::from(body::run(&file));
    }
    // Some mutations leave a sound file behind, most do not: otherwise this would test one side only.
    assert!((RUNS / 100..RUNS / 2).contains(&sound), "{sound} of {RUNS} sound");
    assert!(seeds.iter().all(|file| body::run(file)));
}

/// Records of page checksums, which the body reads too.
#[test]
fn mutated_records() {
    let seeds: Vec<_> = seeds().iter().map(|file| PageChecks::of(&file[..]).unwrap().to_bytes()).collect();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for run in 0..8000 {
        let mut record = seeds[run % seeds.len()].clone();
        mutate(&mut random, &mut record);
        let is_read = PageChecks::parse(&record).is_ok();
        assert_eq!(is_read, seeds.contains(&record));
        assert!(!body::run(&record));
    }
}

#[test]
fn short_and_empty_input() {
    for len in 0..300 {
        assert!(!body::run(&vec![0; len]));
        assert!(!body::run(&vec![0xff; len]));
    }
}
