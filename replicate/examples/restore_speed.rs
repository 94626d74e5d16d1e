//! How fast a restore is beside the bare minimum: `cp` of the database, and `lz4 -d` of it.
//!
//! `restore_speed DATABASE FOLDER [ROUNDS]` makes a snapshot of the database in a new folder below FOLDER, restores it, copies
//! and decompresses, in turns, and prints one line for each: seconds, of them waiting for the disk, peak memory in MiB.
//! Program `lz4` is needed.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use litekeep_ltx::{FileName, Txid, WriterId};
use litekeep_replicate::capture::segment::snapshot;
use litekeep_replicate::capture::{Capture, Stamp};
use litekeep_replicate::restore::{Goal, Integrity, Options, Phase, Progress, to_path};
use litekeep_store::{SNAPSHOT_LEVEL, Store, Target};

/// When the last phase began.
struct Phases(Mutex<Instant>);

impl Progress for Phases {
    fn begin(&self, _: Phase, _: u64) {
        *self.0.lock().unwrap() = Instant::now();
    }

    fn advance(&self, _: u64) {}
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (Some(database), Some(folder)) = (args.get(1), args.get(2)) else {
        eprintln!("restore_speed DATABASE FOLDER [ROUNDS]");
        std::process::exit(2);
    };
    let rounds = args.get(3).map_or(3, |n| n.parse().expect("a number of rounds"));
    let dir = tempfile::tempdir_in(folder).expect("a folder to work in");
    let store = Store::open(&Target::Folder(dir.path().join("log"))).expect("a folder for the log");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(put_snapshot(Path::new(database), &store));

    let file = |name: &str| dir.path().join(name);
    let (compressed, target) = (file("db.lz4"), file("restored.db"));
    run("lz4", &["-q", "-f", database, &compressed.display().to_string()]);
    for _ in 0..rounds {
        reset_peak();
        let phases = Phases(Mutex::new(Instant::now()));
        let began = Instant::now();
        let options = Options { integrity: Integrity::None, ..Options::default() };
        let restored = to_path(&store, Goal::Latest, &target, &options, &phases);
        let restored = runtime.block_on(restored).expect("a restore").expect("a new database");
        let (all, disk) = (began.elapsed(), phases.0.lock().unwrap().elapsed());
        report("restore", all, disk);
        eprintln!("{} pages from {} MiB", restored.page_count, restored.bytes >> 20);
        assert_eq!(std::fs::metadata(&target).unwrap().len(), std::fs::metadata(database).unwrap().len());
        std::fs::remove_file(&target).expect("remove the restored database");

        let target = target.display().to_string();
        for (name, program, args) in [
            ("cp", "cp", vec![database.as_str(), &target]),
            ("lz4 -d", "lz4", vec!["-d", "-q", "-f", &compressed.display().to_string(), &target]),
        ] {
            let began = Instant::now();
            run(program, &args);
            let copied = Instant::now();
            std::fs::File::open(&target).and_then(|f| f.sync_all()).expect("sync");
            report(name, began.elapsed(), copied.elapsed());
            std::fs::remove_file(&target).expect("remove the copy");
        }
    }
}

async fn put_snapshot(database: &Path, store: &Store) {
    let (mut capture, _) = Capture::attach(database).expect("a database");
    let stamp = Stamp { txid: Txid::FIRST, writer: WriterId(1), timestamp_ms: 1 };
    let name = FileName { min: Txid::FIRST, max: Txid::FIRST };
    let put = store.put_from(SNAPSHOT_LEVEL, name, 1, None, move |out| {
        let pages = capture.pages()?;
        snapshot(&pages, stamp, out, |_, _| Ok(())).map(|(_, encoded)| encoded.size)
    });
    let done: Result<_, litekeep_replicate::Error> = put.await;
    eprintln!("snapshot of {} MiB", done.expect("a snapshot").0 >> 20);
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(status.is_ok_and(|s| s.success()), "{program} {args:?}");
}

fn report(name: &str, all: Duration, disk: Duration) {
    println!(
        "{name:8} {:6.2} s, disk {:6.2} s, peak {} MiB",
        all.as_secs_f64(),
        disk.as_secs_f64(),
        peak_mib()
    );
}

/// Peak memory of this process counts from here.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
}
