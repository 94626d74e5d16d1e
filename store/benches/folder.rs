//! How long a put into a folder takes, beside the two fsyncs that it is made of.
//!
//! `cargo bench -p litekeep-store --bench folder [-- DIR]`; the folder should stand on the disk that is to be measured.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use litekeep_ltx::{FileName, Txid};
use litekeep_store::{Put, Store, Target};

const PUTS: u64 = 500;
const BYTES: usize = 10 << 10;

fn main() {
    // Cargo passes `--bench`.
    let place = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let dir = match &place {
        Some(place) => tempfile::tempdir_in(place),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("make a temporary folder");
    let body = Bytes::from(vec![7; BYTES]);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let store = |sub: &str| Store::open(&Target::Folder(dir.path().join(sub))).expect("open the folder");

    let (plain, blocking, asynchronous) = (dir.path().join("plain"), store("blocking"), store("async"));
    fs::create_dir(&plain).expect("make a folder");
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // In turns, so that the disk's moods meet all of them.
    for n in 1..=PUTS {
        times[0].push(timed(|| two_fsyncs(&plain, n, &body)));
        let (name, blocking_body, body) = (name(n), body.clone(), body.clone());
        let mut outcomes = Vec::new();
        times[1].push(timed(|| {
            outcomes.push(blocking.put_blocking(0, name, blocking_body, 1).map(Option::unwrap))
        }));
        times[2].push(timed(|| outcomes.push(runtime.block_on(asynchronous.put(0, name, body, 1)))));
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Put::Written))), "{outcomes:?}");
    }
    for (what, times) in ["file and folder fsync alone", "put_blocking", "put"].iter().zip(&mut times) {
        times.sort();
        let at = |per_cent: usize| times[(times.len() - 1) * per_cent / 100].as_secs_f64() * 1e3;
        println!("{what:28} p50 {:7.3} ms  p90 {:7.3} ms  p99 {:7.3} ms", at(50), at(90), at(99));
    }

    let bytes = 512 << 20;
    let chunk = Bytes::from(vec![9; 256 << 10]);
    let took = timed(|| {
        runtime.block_on(async {
            let mut upload = store("stream").put_stream(9, name(1), 1);
            for _ in 0..bytes / chunk.len() {
                upload.write(chunk.clone()).await.expect("write");
            }
            upload.finish().await.expect("finish");
        });
    });
    println!(
        "{:28} {:.0} MB/s, fsync included",
        "put_stream of 512 MiB",
        bytes as f64 / 1e6 / took.as_secs_f64()
    );
    let listed =
        timed(|| assert_eq!(runtime.block_on(blocking.list()).expect("list").files().count() as u64, PUTS));
    println!("{:28} {:.2} ms", format!("list of {PUTS} files"), listed.as_secs_f64() * 1e3);
}

fn name(n: u64) -> FileName {
    let txid = Txid::new(n).expect("counted from 1");
    FileName { min: txid, max: txid }
}

fn two_fsyncs(dir: &Path, n: u64, body: &[u8]) {
    let mut file = File::create(dir.join(n.to_string())).expect("create");
    file.write_all(body).expect("write");
    file.sync_all().expect("fsync");
    File::open(dir).and_then(|dir| dir.sync_all()).expect("fsync of the folder");
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}
