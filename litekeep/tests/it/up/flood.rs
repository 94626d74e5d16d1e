//! Goal: a process that prints far more than litekeep keeps in memory costs bounded memory, and no line goes unnoticed.
//! Method: one that writes a line at a time as fast as it can, with rotation and compression on and a reader of `logs -f` that
//! reads nothing; then every line is in the files, or among those that the files say are dropped.

use std::process::{Command, Stdio};

use litekeep_testkit::Usage;
use litekeep_testkit::process::eventually;

use super::{Up, configure, reaches};
use crate::Place;
use crate::scene::LONG;

const LINES: u64 = 200_000;
/// More than all that litekeep may have in its hands: what waits, what is being written and the tail.
const LIMIT: u64 = 24 << 20;

/// 300 bytes a line, so all of it is two and a half times the limit.
const FLOOD: &str = r#"
import os, time
while not os.path.exists("go"): time.sleep(0.02)
for i in range(LINES): os.write(1, b"%09d %s\n" % (i, b"a line that says a little " * 11))
open("done", "w")
time.sleep(1000)
"#;

#[test]
fn a_flood_of_lines_takes_bounded_memory_and_each_is_kept_or_counted() {
    let place = Place::new();
    std::fs::write(place.path("flood.py"), FLOOD.replace("LINES", &LINES.to_string())).unwrap();
    let log = "log = { max_size = \"5MiB\", keep = 1000 }\n";
    configure(&place, "", &format!("[process.flood]\ncommand = \"python3 flood.py\"\n{log}"));
    let up = Up::start(place.command(&["up", "--quiet"]), &place);
    reaches(&place, "flood", "healthy");
    let mut reader = place.command(&["logs", "-f", "flood"]).stdout(Stdio::piped()).spawn().unwrap();
    let litekeep = up.0.as_ref().unwrap().id();
    let before = Usage::of(litekeep).unwrap();

    std::fs::write(place.path("go"), "").unwrap();
    eventually("all is printed", LONG, || Ok(place.path("done").exists())).unwrap();
    let after = Usage::of(litekeep).unwrap();
    assert!(after.peak_rss < before.peak_rss + LIMIT, "{before:?} {after:?}");
    up.end();
    reader.kill().unwrap();
    reader.wait().unwrap();

    let (mut next, mut kept, mut dropped) = (0, 0, 0);
    for line in lines(&place) {
        if let Some(mark) = line.strip_prefix("[litekeep: ") {
            dropped += mark.split(' ').next().unwrap().parse::<u64>().unwrap();
            continue;
        }
        let number: u64 = line[..9].parse().unwrap();
        assert!(number >= next, "{number} comes after {next}");
        (next, kept) = (number + 1, kept + 1);
    }
    assert_eq!(kept + dropped, LINES, "{kept} are kept, {dropped} dropped");
}

/// What the files hold, from the oldest line to the newest.
fn lines(place: &Place) -> Vec<String> {
    let age = |name: &str| name.split('.').nth(2).map_or(0, |number| number.parse::<u32>().unwrap());
    let log = place.path(".litekeep/log");
    let mut names: Vec<String> = std::fs::read_dir(&log)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("flood.log"))
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".gz")), "{names:?}");
    names.sort_by_key(|name| std::cmp::Reverse(age(name)));
    let read = |name: &String| {
        let program = if name.ends_with(".gz") { "zcat" } else { "cat" };
        let output = Command::new(program).arg(log.join(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    names.iter().flat_map(|name| read(name).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}
