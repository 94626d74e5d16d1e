use std::io::Read as _;

use flate2::read::GzDecoder;
use litekeep_env::{ManualClock, SystemClock};

use super::*;
use crate::spawn::{Command, Spawn};

/// Runs a script whose output goes to the log, until the log has read all of it.
async fn run(log: &Log, script: &str) {
    let (output, mut readers) = log.output().unwrap();
    let script = script.to_owned();
    let start = move || Spawn::new(Command::shell(script)).start("test", "log-test", output, vec![]).unwrap();
    let leader = tokio::task::spawn_blocking(start).await.unwrap();
    readers.ended().await;
    while leader.exit().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    log.written().await;
}

fn open(dir: &tempfile::TempDir, change: impl FnOnce(&mut Settings)) -> Log {
    let mut settings = Settings { path: Some(dir.path().join("app.log")), ..Settings::default() };
    change(&mut settings);
    Log::open(settings, Arc::new(SystemClock)).unwrap()
}

/// Everything in the log's files, oldest first.
async fn content(dir: &tempfile::TempDir, keep: u32) -> Vec<u8> {
    let path = dir.path().join("app.log");
    // Compression goes on beside the writing.
    for _ in 0..1000 {
        if !numbered(&path, 1, "").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut all = Vec::new();
    for number in (1..=keep).rev() {
        if let Ok(file) = File::open(numbered(&path, number, GZIP)) {
            GzDecoder::new(file).read_to_end(&mut all).unwrap();
        }
    }
    all.extend(fs::read(path).unwrap());
    all
}

#[tokio::test]
async fn a_line_that_is_not_utf8_kills_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, |_| ());
    run(&log, "printf 'a\\377\\376b\\n\\000\\n'; echo after; printf 'no end' >&2").await;
    let text = content(&dir, 0).await;
    assert!(
        text.windows(4).any(|w| w == b"a\xff\xfeb") && text.windows(6).any(|w| w == b"after\n"),
        "{text:?}"
    );
    let lines = log.lines_from(0);
    assert_eq!(lines.iter().filter(|line| line.stream == Stream::Stdout).count(), 3);
    assert_eq!(log.last_words(0).unwrap(), "no end");
}

/// Processor seconds of this thread's process.
fn own_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 1..].split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_cheap_and_rotate_while_the_process_runs() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, |settings| (settings.max_bytes, settings.keep) = (1 << 20, 50));
    let script = "awk 'BEGIN { for (i = 0; i < 160000; i++) print i, \"a line of an application that talks a lot\"; \
        system(\"test -e $DIR/app.log.1 -o -e $DIR/app.log.1.gz && echo rotated\") }'";
    let script = format!("export DIR={}; {script}", dir.path().display());
    let before = own_cpu();
    run(&log, &script).await;
    let text = content(&dir, 50).await;
    let cpu = own_cpu() - before;
    let text = String::from_utf8(text).unwrap();
    let numbers = text.lines().filter_map(|line| line.split(' ').next()?.parse::<u32>().ok());
    assert!(numbers.eq(0..160_000), "every line once and in order: {}", text.lines().count());
    assert!(text.contains("\nrotated\n"), "there was a rotated file while the process ran");
    // How many there are depends on how long each compression takes.
    assert!(numbered(&dir.path().join("app.log"), 1, GZIP).exists());
    eprintln!("160,000 lines: {cpu:.2} s of CPU, compression and other tests at the same time included");
    assert!(cpu < 1.0, "{cpu} s of CPU");
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_marked_and_the_process_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, |_| ());
    // The writer is away, as when the disk hangs.
    let writer = log.0.state.lock().unwrap().writer.take().unwrap();
    let lines = 3 * QUEUE / 100;
    let script = format!("awk 'BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%099d\\n\", i }}'");
    run(&log, &script).await;
    assert!(log.0.state.lock().unwrap().queued <= QUEUE);
    log.write(writer);
    let text = String::from_utf8(content(&dir, 0).await).unwrap();
    let dropped: Vec<_> = text.lines().filter(|line| line.starts_with("[litekeep: ")).collect();
    let counts = dropped.iter().map(|line| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap());
    assert_eq!(counts.sum::<usize>() + text.lines().count() - dropped.len(), lines, "{dropped:?}");
    assert!(!dropped.is_empty());
}

#[tokio::test]
async fn an_old_file_is_rotated_and_only_so_many_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.unix_ms()));
    let settings = Settings {
        path: Some(dir.path().join("app.log")),
        max_age: Some(Duration::from_secs(3600)),
        keep: 2,
        ..Settings::default()
    };
    let log = Log::open(settings, clock.clone()).unwrap();
    for n in 0..5 {
        run(&log, &format!("echo day {n}")).await;
        content(&dir, 2).await;
        clock.advance(Duration::from_secs(7200));
    }
    assert_eq!(content(&dir, 2).await, b"day 2\nday 3\nday 4\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn the_tail_is_bounded_in_lines_and_bytes() {
    let log = Log::open(Settings { tail: 3, ..Settings::default() }, Arc::new(SystemClock)).unwrap();
    run(&log, "for i in 1 2 3 4 5; do echo $i; done; head -c 200000 /dev/zero | tr '\\0' x; echo; echo last")
        .await;
    let lines = log.lines_from(0);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2].bytes, b"last");
    assert!(lines.iter().all(|line| line.bytes.len() <= LONGEST_IN_TAIL));
    assert_eq!(lines[2].number + 1, *log.count().borrow());
    assert_eq!(log.lines_from(lines[2].number).len(), 1);
}

#[tokio::test]
async fn a_full_disk_loses_lines_and_nothing_else() {
    let settings = Settings { path: Some("/dev/full".into()), ..Settings::default() };
    let log = Log::open(settings, Arc::new(SystemClock)).unwrap();
    run(&log, "echo one; echo two; sleep 0.1; echo three").await;
    assert_eq!(log.0.state.lock().unwrap().writer.as_ref().unwrap().lost, 3);
    assert_eq!(log.lines_from(0).len(), 3);
}

#[tokio::test]
async fn many_small_chunks_wait_in_few_buffers() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, |_| ());
    let writer = log.0.state.lock().unwrap().writer.take();
    for _ in 0..100_000 {
        log.take(Stream::Stdout, b"x\n");
    }
    let state = log.0.state.lock().unwrap();
    let capacity: usize = state.queue.iter().map(|(_, chunk)| chunk.capacity()).sum();
    assert!(state.queue.len() <= 4 && capacity <= 2 * state.queued, "{} {capacity}", state.queue.len());
    assert!(writer.is_some());
}

/// At the next rotation the rotated files were shifted, one a try, until none was left, and what came went into a file that nobody saw.
#[tokio::test]
async fn a_file_that_somebody_deleted_or_moved_is_begun_anew_and_the_rotated_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, |settings| {
        (settings.max_bytes, settings.keep, settings.gzip) = (1000, 3, false);
    });
    let path = dir.path().join("app.log");
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    let all = || [number(path.clone()), number(numbered(&path, 1, "")), number(numbered(&path, 2, ""))];
    let print = async |n: u32| run(&log, &format!("printf '%01500d\\n' {n}")).await;
    for n in 0..4 {
        print(n).await;
    }
    assert_eq!(all(), [Some(3), Some(2), Some(1)]);
    fs::remove_file(&path).unwrap();
    print(4).await;
    assert_eq!(all(), [Some(4), Some(2), Some(1)]);
    fs::rename(&path, dir.path().join("moved")).unwrap();
    print(5).await;
    assert_eq!(all(), [Some(5), Some(2), Some(1)]);
    assert_eq!(number(dir.path().join("moved")), Some(4));
    print(6).await;
    assert_eq!(all(), [Some(6), Some(5), Some(2)]);
    assert_eq!(number(numbered(&path, 3, "")), Some(1));
}
