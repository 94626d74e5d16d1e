//! What the processes print, on its way to who reads it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use litekeep_supervise::events::Next;
use litekeep_supervise::log::{self, Log, Stream};
use litekeep_supervise::{Event, Events, Process, job};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::{Stack, older};
use crate::control::Out;
use crate::dashboard::LastWords;
use crate::report::{self, Format, text};

/// Lines of its standard error that explain what became of a process.
const LAST_WORDS: usize = 8;
/// Lines of each process that whoever begins to look sees at once.
const LATELY: u64 = 50;
/// How often it is looked for new processes.
const SETTLE: Duration = Duration::from_secs(1);

/// A line of a process's output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) process: String,
    /// `None` where the line comes from a file.
    pub(crate) time: Option<String>,
    /// `stdout` or `stderr`.
    pub(crate) stream: Option<String>,
    /// The line; what is not UTF-8 in it is replaced.
    pub(crate) line: String,
    /// How many lines before it are not shown: they came faster than they could be read, and are in the file.
    pub(crate) skipped: u64,
}

impl Line {
    fn of(process: &str, line: &log::Line, skipped: u64) -> Line {
        let stream = match line.stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        Line {
            process: process.to_owned(),
            time: Some(text::rfc3339(line.unix_ms)),
            stream: Some(stream.to_owned()),
            line: String::from_utf8_lossy(&line.bytes).into_owned(),
            skipped,
        }
    }

    /// A line of a log file, which does not say when and where it was written.
    pub(crate) fn of_file(process: &str, line: &str) -> Line {
        let (process, line) = (process.to_owned(), line.to_owned());
        Line { process, time: None, stream: None, line, skipped: 0 }
    }

    /// For people, with the name in a column.
    pub(crate) fn text(&self, width: usize) -> String {
        let name = &self.process;
        let skipped = match self.skipped {
            0 => String::new(),
            n => format!("{name:width$} | [{n} lines are only in the file]\n"),
        };
        format!("{skipped}{name:width$} | {}\n", self.line)
    }
}

/// A process or job, and what it prints.
pub(super) struct Printed {
    name: String,
    log: Log,
    /// Nothing more comes then.
    gone: BoxFuture<'static, ()>,
}

impl Printed {
    pub(super) fn of_process(process: &Process) -> Printed {
        Printed { name: process.name().to_owned(), log: process.log().clone(), gone: process.gone() }
    }

    pub(super) fn of_job(job: &job::Handle) -> Printed {
        Printed { name: job.name().to_owned(), log: job.log().clone(), gone: job.gone() }
    }

    /// Follows it from a line on, until it is gone.
    async fn follow(mut self, mut next: u64, lines: mpsc::Sender<Line>) {
        let mut count = self.log.count();
        let mut is_gone = false;
        loop {
            for line in self.log.lines_from(next) {
                let told = Line::of(&self.name, &line, line.number - next);
                next = line.number + 1;
                if lines.send(told).await.is_err() {
                    return;
                }
            }
            if is_gone {
                return;
            }
            tokio::select! {
                _ = count.wait_for(|count| *count > next) => {}
                () = &mut self.gone => is_gone = true,
            }
        }
    }
}

/// The last lines of some processes, in the order of their times, and what follows where that is wanted. What is not in memory any more,
/// or is from before, comes from the files, the same number of each.
pub(super) async fn send(all: Vec<Printed>, lines: usize, is_followed: bool, out: &mut Out) -> Result<()> {
    let mut past: Vec<(i64, usize, u64, Line)> = Vec::new();
    let (sender, mut receiver) = mpsc::channel(64);
    let known: Vec<Vec<log::Line>> = all.iter().map(|printed| printed.log.lines_from(0)).collect();
    let count: usize = known.iter().map(Vec::len).sum();
    let missing = lines.saturating_sub(count) / all.len().max(1);
    for (order, (printed, mut known)) in all.into_iter().zip(known).enumerate() {
        let name = &printed.name;
        let older = match missing {
            0 => Vec::new(),
            _ => older::lines(&printed.log, &mut known, missing).await,
        };
        let before = known.first().map_or(0, |line| line.number);
        let next = known.last().map_or(0, |line| line.number + 1);
        let mut told: Vec<_> =
            known.iter().map(|line| (line.unix_ms, order, line.number, Line::of(name, line, 0))).collect();
        if missing > 0 {
            // The file does not say when, so they come before all that have a time.
            let of_file =
                older.iter().zip(0..).map(|(line, at)| (i64::MIN, order, at, Line::of_file(name, line)));
            told.splice(0..0, of_file);
            if let Some((.., first)) = told.first_mut() {
                first.skipped = match older.len() {
                    found if found < missing => before.saturating_sub(found as u64),
                    _ => 0,
                };
            }
        }
        past.extend(told);
        if is_followed {
            tokio::spawn(printed.follow(next, sender.clone()));
        }
    }
    drop(sender);
    past.sort_by_key(|(time, order, number, _)| (*time, *order, *number));
    for (.., line) in past.iter().skip(past.len().saturating_sub(lines)) {
        out.item(line).await?;
    }
    while let Some(line) = receiver.recv().await {
        out.item(&line).await?;
    }
    Ok(())
}

/// Something that happened to a process or a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) number: u64,
    pub(crate) time: String,
    /// The process or job.
    pub(crate) name: String,
    pub(crate) kind: String,
    /// A reason, a process id; may be empty.
    pub(crate) text: String,
}

/// All events that are kept, and those that come.
async fn tell_events(stack: Weak<Stack>, to: mpsc::Sender<Happened>) {
    let events = loop {
        match stack.upgrade().map(|stack| stack.running().events.clone()) {
            Some(Some(events)) => break events,
            // It is still starting.
            Some(None) => tokio::time::sleep(SETTLE).await,
            None => return,
        }
    };
    let mut news = events.subscribe(0);
    loop {
        let next = tokio::select! {
            next = news.next() => next,
            () = to.closed() => return,
        };
        if let Next::Event(event) = next
            && to.send(Happened::of(&event)).await.is_err()
        {
            return;
        }
    }
}

/// The last lines of all processes, and those that come, also of processes that a reload brings, or brings back.
async fn tell_lines(stack: Weak<Stack>, to: mpsc::Sender<Line>) {
    let mut followed: Vec<(Log, AbortHandle)> = Vec::new();
    let mut followers = JoinSet::new();
    let mut lately = LATELY;
    while let Some(processes) = stack.upgrade().map(|stack| stack.processes()) {
        followed.retain(|(_, task)| !task.is_finished());
        for process in processes {
            let log = process.log();
            if !followed.iter().any(|(known, _)| known.is(log)) {
                let next = log.count().borrow().saturating_sub(lately);
                let task = followers.spawn(Printed::of_process(&process).follow(next, to.clone()));
                followed.push((log.clone(), task));
            }
        }
        // Those that come later are followed from their beginning.
        lately = u64::MAX;
        tokio::select! {
            () = tokio::time::sleep(SETTLE) => {}
            () = to.closed() => return,
        }
        while followers.try_join_next().is_some() {}
    }
}

impl Happened {
    fn of(event: &Event) -> Happened {
        let (name, text) = (event.name.clone(), event.text.clone());
        let (time, kind) = (text::rfc3339(event.unix_ms), event.kind.name().to_owned());
        Happened { number: event.number, time, name, kind, text }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let name = if self.name.is_empty() { "-" } else { &self.name };
        format!("{}  {name}  {}  {}", self.time, self.kind.replace('_', " "), self.text).trim_end().to_owned()
            + "\n"
    }
}

/// The last events, and what follows where that is wanted.
pub(super) async fn happened(events: &Events, lines: usize, is_followed: bool, out: &mut Out) -> Result<()> {
    let (_, past) = events.since(0);
    for event in past.iter().skip(past.len().saturating_sub(lines)) {
        out.item(&Happened::of(event)).await?;
    }
    let mut news = events.subscribe(past.last().map_or(0, |event| event.number + 1));
    if !is_followed {
        return Ok(());
    }
    loop {
        // Of what was missed the gap in the numbers tells.
        if let Next::Event(event) = news.next().await {
            out.item(&Happened::of(&event)).await?;
        }
    }
}

impl Stack {
    /// The last lines of each process's standard error.
    pub(crate) fn last_words(&self) -> Vec<LastWords> {
        let words = |process: &Process| {
            let lines = process.log().lines_from(0);
            let errors = lines.iter().rev().filter(|line| line.stream == Stream::Stderr).take(LAST_WORDS);
            let mut lines: Vec<String> =
                errors.map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect();
            lines.reverse();
            LastWords { process: process.name().to_owned(), lines }
        };
        self.processes().iter().map(words).collect()
    }

    /// What happened and what was printed lately, and then what comes, until nobody wants it any more.
    pub(crate) fn news(stack: &Arc<Stack>) -> (mpsc::Receiver<Happened>, mpsc::Receiver<Line>) {
        let (to_events, events) = mpsc::channel(64);
        let (to_lines, lines) = mpsc::channel(64);
        tokio::spawn(tell_events(Arc::downgrade(stack), to_events));
        tokio::spawn(tell_lines(Arc::downgrade(stack), to_lines));
        (events, lines)
    }

    /// Prints what the processes print, if it is to be shown, also those that come later. Does not return.
    pub(crate) async fn print(self: &Arc<Self>, format: Option<Format>) {
        let Some(format) = format else { return std::future::pending().await };
        let (to_lines, mut lines) = mpsc::channel(64);
        tokio::spawn(tell_lines(Arc::downgrade(self), to_lines));
        // Whoever reads may stop reading, and nothing else may wait for that.
        std::thread::spawn(move || {
            let mut width = 0;
            while let Some(line) = lines.blocking_recv() {
                width = width.max(line.process.len());
                report::line_out(format, &line, || line.text(width));
            }
        });
        std::future::pending().await
    }
}
