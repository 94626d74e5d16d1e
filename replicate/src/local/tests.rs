use super::*;
use crate::capture::Place;
use litekeep_format::WalChecksum;
use litekeep_ltx::{Checksum, FileName, PageSize, Pgno, Salt, Txid, WriterId};
use std::os::unix::fs::FileExt;

fn state(txid: u64) -> State {
    State {
        writer: WriterId(7),
        txid: Txid::new(txid).unwrap(),
        page_count: 9,
        page_size: PageSize::new(65536).unwrap(),
        place: Some(Place { salt: Salt(*b"saltSALT"), frames: 3, checksum: WalChecksum(1, 2) }),
        synced: Txid::new(txid - 1),
        boot: [9; 16],
        confirmed_ms: -5,
        captured_ms: 6,
    }
}

#[test]
fn the_newer_whole_slot_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut f, none) = StateFile::open(&path).unwrap();
    assert_eq!(none, None);
    f.save(&state(1)).unwrap();
    f.save(&State { place: None, synced: None, ..state(2) }).unwrap();
    assert_eq!(StateFile::peek(&path), Some(State { place: None, synced: None, ..state(2) }));
    f.save(&state(3)).unwrap();
    let (mut f, found) = StateFile::open(&path).unwrap();
    assert_eq!(found, Some(state(3)));
    // The fourth save is torn in the middle: the third counts.
    f.save(&state(4)).unwrap();
    let raw = File::options().write(true).open(&path).unwrap();
    raw.write_all_at(&[0xff; 8], 24).unwrap();
    assert_eq!(StateFile::peek(&path), Some(state(3)));
}

#[test]
fn page_sums_follow_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let sums = PageSums::open(&dir.path().join("pages")).unwrap();
    let mut model: Vec<u64> = vec![];
    let mut x = 88172645463325252u64;
    let mut random = |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    for _ in 0..300 {
        let count = 1 + random(2000) as u32;
        let mut batch: Vec<(Pgno, Checksum)> = (0..random(60))
            .map(|_| (Pgno::new(1 + random(count.into()) as u32).unwrap(), Checksum(1 + random(1 << 40))))
            .collect();
        batch.sort_unstable_by_key(|(p, _)| *p);
        batch.dedup_by_key(|(p, _)| *p);
        sums.apply(&batch, count).unwrap();
        model.resize(count as usize, 0);
        for (p, s) in &batch {
            model[p.get() as usize - 1] = s.0;
        }
        let mut all = vec![Checksum(1); count as usize];
        sums.get(Pgno::FIRST, &mut all).unwrap();
        assert_eq!(sums.page_count().unwrap(), count);
        assert_eq!(all.iter().map(|s| s.0).collect::<Vec<_>>(), model);
    }
}

#[test]
fn the_spool_lists_whole_files_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::new(&dir.path().join("spool"));
    assert_eq!(spool.list().unwrap(), vec![]);
    let name = |n| FileName { min: Txid::new(n).unwrap(), max: Txid::new(n).unwrap() };
    spool.add(name(11), b"eleven").unwrap();
    spool.add(name(2), b"two").unwrap();
    std::fs::write(dir.path().join("spool/0000000000000003-0000000000000003.ltx.tmp"), b"half").unwrap();
    let names: Vec<_> = spool.list().unwrap().iter().map(|f| (f.name.min.get(), f.size)).collect();
    assert_eq!(names, vec![(2, 3), (11, 6)]);
    assert_eq!(spool.read(name(11)).unwrap(), b"eleven");
    spool.remove(name(2)).unwrap();
    let fork = spool.keep_as_fork("0b").unwrap().unwrap();
    assert!(fork.join(name(11).to_string()).exists());
    assert_eq!(spool.list().unwrap(), vec![]);
}

#[test]
fn a_second_claim_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("app.db");
    let path = MetaDir::default_path(&db);
    assert_eq!(path.file_name().unwrap(), ".app.db-litekeep");
    let first = MetaDir::claim(&path, &db).unwrap();
    let claim = || MetaDir::claim(&path, &db).unwrap_err();
    // It lets go of a database that has another name now as soon as it looks for it.
    assert_eq!(claim().kind(), Kind::Unavailable);
    let own = std::fs::read_to_string(path.join("lock")).unwrap();
    std::fs::write(path.join("lock"), "1\n").unwrap();
    let error = claim();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("process 1"), "{error}");
    std::fs::write(path.join("lock"), own).unwrap();
    assert_eq!(MetaDir::claimed_by(&path, &db), Some(std::process::id()));
    drop(first);
    assert_eq!(MetaDir::claimed_by(&path, &db), None);
    MetaDir::claim(&path, &db).unwrap();
}

#[test]
fn asking_who_has_the_folder_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("meta");
    drop(MetaDir::claim(&path, Path::new("app.db")).unwrap());
    let asked = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !asked.load(std::sync::atomic::Ordering::Relaxed) {
                MetaDir::claimed_by(&path, Path::new("app.db"));
            }
        });
        let refused = (0..2000).filter(|_| MetaDir::claim(&path, Path::new("app.db")).is_err()).count();
        asked.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(refused, 0);
    });
}
