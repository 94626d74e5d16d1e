//! What the file of a log has from before what is in memory.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use litekeep_supervise::log::{LONGEST_IN_TAIL, Line, Log};

/// Bytes at the end of the file that are looked at.
const FAR: u64 = 16 << 20;
/// How long the disk may take: what is in memory is shown without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last lines before those that are `known`, at most so many. None where these are not found in the file: it has been rotated since,
/// or does not have all of them. Where none was known, those that have come meanwhile are known afterwards: the file may have them, too.
pub(super) async fn lines(log: &Log, known: &mut Vec<Line>, count: usize) -> Vec<String> {
    let lines = lines_before(log, known.clone(), count).await;
    if known.is_empty() {
        *known = log.lines_from(0);
        if !known.is_empty() {
            return lines_before(log, known.clone(), count).await;
        }
    }
    lines
}

async fn lines_before(log: &Log, known: Vec<Line>, count: usize) -> Vec<String> {
    let Some(path) = log.path() else { return Vec::new() };
    let read = async {
        log.written().await;
        tokio::task::spawn_blocking(move || end_of(&path).map(|text| before(&text, &known, count))).await
    };
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(Ok(lines))) => lines,
        _ => Vec::new(),
    }
}

/// Whole lines at the end of a file.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(FAR);
    file.seek(SeekFrom::Start(begin))?;
    let mut text = Vec::new();
    file.take(FAR).read_to_end(&mut text)?;
    if begin > 0 {
        let whole = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        text.drain(..whole);
    }
    Ok(text)
}

fn before(text: &[u8], known: &[Line], count: usize) -> Vec<String> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let all: Vec<&[u8]> =
        if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == b'\n').collect() };
    let is_same = |(line, known): (&&[u8], &Line)| line[..line.len().min(LONGEST_IN_TAIL)] == known.bytes;
    let Some(last) = all.len().checked_sub(known.len()) else { return Vec::new() };
    let begins = (0..=last).rev().find(|at| all[*at..].iter().zip(known).all(is_same));
    let Some(begins) = begins else { return Vec::new() };
    let older = all[begins.saturating_sub(count)..begins].iter();
    older.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;

    use litekeep_env::SystemClock;
    use litekeep_supervise::log::{Settings, Stream};

    use super::*;

    #[test]
    fn what_is_known_is_found_in_the_file_and_what_is_before_it_is_older() {
        let known = |lines: &[&str]| -> Vec<Line> {
            let line = |(number, text): (u64, &&str)| Line {
                number,
                unix_ms: 0,
                stream: Stream::Stdout,
                bytes: text.as_bytes().to_vec(),
            };
            (7..).zip(lines).map(line).collect()
        };
        let older = |text: &str, lines: &[&str], count| before(text.as_bytes(), &known(lines), count);
        assert_eq!(older("a\nb\nc\nd\n", &["c", "d"], 9), ["a", "b"]);
        assert_eq!(older("a\nb\nc\nd\n", &["c", "d"], 1), ["b"]);
        // One came after they were read.
        assert_eq!(older("a\nb\nc\nd\n", &["b", "c"], 9), ["a"]);
        assert_eq!(older("tick\ntick\ntick\n", &["tick", "tick"], 9), ["tick"]);
        assert_eq!(older("a\nb\n", &[], 9), ["a", "b"]);
        // The file begins among them, or has not all of them.
        assert_eq!(older("c\nd\n", &["b", "c", "d"], 9), [""; 0]);
        assert_eq!(older("a\nb\n[litekeep: 1 lines dropped]\nd\n", &["b", "c", "d"], 9), [""; 0]);
        assert_eq!(older("", &[], 9), [""; 0]);
        let long = "x".repeat(LONGEST_IN_TAIL + 5);
        assert_eq!(older(&format!("a\n{long}\n"), &[&long[..LONGEST_IN_TAIL]], 9), ["a"]);
    }

    /// It was shown as older, and again as what follows.
    #[tokio::test]
    async fn a_line_that_comes_while_none_is_known_is_known_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        std::fs::write(&path, "from before\n").unwrap();
        let settings = Settings { path: Some(path), ..Settings::default() };
        let log = Log::open(settings, Arc::new(SystemClock)).unwrap();
        let mut known = log.lines_from(0);
        assert_eq!(lines(&log, &mut known, 9).await, ["from before"]);
        assert!(known.is_empty());
        let (output, _readers) = log.output().unwrap();
        File::from(output.stdout).write_all(b"new\n").unwrap();
        log.count().wait_for(|count| *count == 1).await.unwrap();
        assert_eq!(lines(&log, &mut known, 9).await, ["from before"]);
        assert_eq!(known.iter().map(|line| &*line.bytes).collect::<Vec<_>>(), [b"new"]);
    }
}
