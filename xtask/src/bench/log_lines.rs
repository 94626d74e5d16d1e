//! What does it cost to keep ten million lines, which is a day of a process that prints a hundred a second? The process writes
//! each line by itself, as programs do that print to a pipe: first a thousand a second for as long as the load lasts, then the
//! rest as fast as it can. Whoever follows its output reads 4 KiB every 20 ms. litekeep rotates at its default size and compresses, and keeps all files so that the lines can be counted; PM2 itself
//! rotates nothing. CPU and memory are the manager's alone, until it has nothing left to do. Afterwards every line must be in the
//! files, or counted there as dropped.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use litekeep_testkit::Usage;
use litekeep_testkit::process::eventually;
use serde_json::json;

use crate::outcome::Outcome;
use crate::process_managers::Manager;
use crate::stage::{LONG, Stage};
use crate::system::System;

const NAME: &str = "flood";
/// Lines are numbered; this stands behind the number. With it a line has 100 bytes.
const TEXT: &str = "INFO  http: GET /api/v1/items/4711 200 in 12.3 ms, 2 queries, 3412 bytes, user 4815";
/// Who does nothing for so long has written everything.
const QUIET: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (dir, lines) = (stage.path("lines"), stage.bench.options.lines);
    std::fs::create_dir(&dir)?;
    let paced = ((stage.load().as_secs_f64() * 1000.0) as u64).min(lines / 2);
    std::fs::write(dir.join("flood.py"), program(&dir, paced, lines))?;
    let logs = dir.join("logs");
    let manager = match stage.system {
        System::Litekeep => {
            let log = format!("{{ path = {:?}, keep = 1000 }}", logs.join("flood.log"));
            let command = format!("command = [\"python3\", {:?}]", dir.join("flood.py"));
            Manager::litekeep(stage, &dir, &format!("[process.{NAME}]\n{command}\nlog = {log}\n"))?
        }
        System::Pm2 => {
            let app = json!({
                "name": NAME, "script": dir.join("flood.py"), "interpreter": "python3", "merge_logs": true,
                "out_file": logs.join("flood.log"), "error_file": logs.join("flood.err"),
            });
            Manager::pm2(&dir, vec![app])?
        }
        system => bail!("{} runs no processes", system.name()),
    };
    manager.start()?;
    let reader = SlowReader::start(manager.follow(NAME))?;
    let pid = manager.pid()?;
    let before = Usage::of(pid)?;
    let comes = |file: &str| {
        eventually(file, LONG, || {
            std::thread::sleep(TICK);
            Ok(dir.join(file).exists())
        })
    };
    let a_line = |cpu: Duration, lines: u64| cpu.as_secs_f64() * 1e6 / lines as f64;
    std::fs::write(dir.join("go"), "")?;
    comes("calm")?;
    let (between, calm) = (Usage::of(pid)?, Instant::now());
    outcome.less("CPU a line, 1,000 a second", "µs", a_line(between.cpu - before.cpu, paced));
    comes("done")?;
    outcome.time("all others printed within", calm.elapsed());
    let (after, kept) = idle(pid)?;
    outcome.time("all others kept within", kept - calm);
    outcome.time("CPU for them", after.cpu - between.cpu);
    outcome.less("CPU a line", "µs", a_line(after.cpu - between.cpu, lines - paced));
    outcome.mib("memory before", before.rss);
    outcome.mib("peak memory", after.peak_rss);
    drop(reader);
    manager.end()?;

    let kept = Kept::of(&logs)?;
    outcome.note("lines", "", lines as f64);
    outcome.note("kept", "", kept.lines as f64);
    outcome.less("dropped and counted", "", kept.dropped as f64);
    outcome.note("files", "", kept.files as f64);
    outcome.note("kept bytes, uncompressed", "MiB", kept.bytes as f64 / f64::from(1 << 20));
    outcome.mib("size of the files", kept.size);
    if kept.lines + kept.dropped != lines {
        outcome.wrong(format!(
            "of {lines} lines {} are kept and {} counted as dropped",
            kept.lines, kept.dropped
        ));
    }
    Ok(outcome)
}

/// Prints when the file `go` is there, notes when the calm part is over and when all is, and then waits.
fn program(dir: &Path, paced: u64, lines: u64) -> String {
    format!(
        "import os, time\n\
         os.chdir({:?})\n\
         while not os.path.exists('go'): time.sleep(0.02)\n\
         write, text, begin = os.write, b' {TEXT}\\n', time.monotonic()\n\
         for i in range({paced}):\n\
         \x20   write(1, b'%015d' % i + text)\n\
         \x20   time.sleep(max(0, begin + i / 1000 - time.monotonic()))\n\
         open('calm', 'w').close()\n\
         for i in range({paced}, {lines}): write(1, b'%015d' % i + text)\n\
         open('done', 'w').close()\n\
         time.sleep(1000000)\n",
        dir.display().to_string()
    )
}

/// Waits until a process has used no CPU for a while; what it had used then, and since when.
fn idle(pid: u32) -> Result<(Usage, Instant)> {
    let (mut last, mut since) = (Usage::of(pid)?, Instant::now());
    eventually("the manager rests", LONG, || {
        std::thread::sleep(TICK);
        let now = Usage::of(pid)?;
        // Waking up now and then is no work.
        if now.cpu > last.cpu + Duration::from_millis(20) {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() > QUIET)
    })?;
    Ok((Usage::of(pid)?, since))
}

/// Somebody who looks at the output, and cannot read as fast as it comes.
struct SlowReader(Child);

impl SlowReader {
    fn start(mut command: Command) -> Result<SlowReader> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("follow the output")?;
        let mut output = child.stdout.take().context("the output is a pipe")?;
        std::thread::spawn(move || {
            while matches!(output.read(&mut [0; 4096]), Ok(1..)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Ok(SlowReader(child))
    }
}

impl Drop for SlowReader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the files of a log hold.
#[derive(Default)]
struct Kept {
    files: u64,
    size: u64,
    lines: u64,
    bytes: u64,
    dropped: u64,
}

impl Kept {
    fn of(dir: &Path) -> Result<Kept> {
        let mut kept = Kept::default();
        for entry in std::fs::read_dir(dir).with_context(|| format!("list {dir:?}"))? {
            let path = entry?.path();
            kept.files += 1;
            kept.size += path.metadata()?.len();
            kept.count(&path)?;
        }
        Ok(kept)
    }

    fn count(&mut self, path: &Path) -> Result<()> {
        if path.extension().is_none_or(|extension| extension != "gz") {
            return self.count_lines(File::open(path).with_context(|| format!("open {path:?}"))?);
        }
        let mut zcat = Command::new("zcat").arg(path).stdout(Stdio::piped()).spawn().context("start zcat")?;
        self.count_lines(zcat.stdout.take().context("the output is a pipe")?)?;
        anyhow::ensure!(zcat.wait()?.success(), "{path:?} is damaged");
        Ok(())
    }

    fn count_lines(&mut self, from: impl std::io::Read) -> Result<()> {
        let (mut from, mut line) = (BufReader::new(from), Vec::new());
        while from.read_until(b'\n', &mut line)? > 0 {
            self.bytes += line.len() as u64;
            if line.trim_ascii_end().ends_with(TEXT.as_bytes()) {
                self.lines += 1;
            } else if let Some(mark) = String::from_utf8_lossy(&line).strip_prefix("[litekeep: ") {
                self.dropped +=
                    mark.split(' ').next().unwrap_or_default().parse::<u64>().context("a count")?;
            }
            line.clear();
        }
        Ok(())
    }
}
