//! What a frame looks like.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap};

use crate::dashboard::{DatabaseView, View, file_name};
use crate::report::text;
use crate::stack::{JobStatus, ProcessStatus};

/// Problems that are named; of more only the number.
const PROBLEMS: usize = 5;

/// What the user has chosen.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Which process.
    chosen: usize,
    /// The process that is restarted when the answer is yes.
    pub(super) asks: Option<String>,
}

impl State {
    pub(super) fn up(&mut self) {
        self.chosen = self.chosen.saturating_sub(1);
    }

    pub(super) fn down(&mut self) {
        self.chosen += 1;
    }

    pub(super) fn keep_within(&mut self, view: &View) {
        self.chosen = self.chosen.min(processes(view).len().saturating_sub(1));
    }

    pub(super) fn chosen_name(&self, view: &View) -> Option<String> {
        processes(view).get(self.chosen).map(|process| process.name.clone())
    }
}

fn processes(view: &View) -> &[ProcessStatus] {
    view.stack.as_ref().map_or(&[], |stack| &stack.processes)
}

/// Everything that a frame shows.
pub(super) struct Screen<'a> {
    pub(super) view: &'a View,
    pub(super) state: &'a State,
    /// What came of the last key.
    pub(super) said: Option<&'a str>,
    pub(super) has_keys: bool,
}

impl Screen<'_> {
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let view = self.view;
        let width = usize::from(frame.area().width.max(20));
        let jobs = view.stack.as_ref().map_or(&[][..], |stack| &stack.jobs);
        // A table has a title, a head and its rows.
        let rows = |count: usize| if count == 0 { 0 } else { count as u16 + 3 };
        let databases = view.databases.iter().map(|database| database.backups.len().max(1)).sum::<usize>();
        let problems = view.problems.len().min(PROBLEMS + 1);
        let sentence = view.sentence.chars().count().div_ceil(width - 2).max(1);
        let heights = [
            Constraint::Length(1),
            Constraint::Length((sentence + problems + 2) as u16),
            Constraint::Length(rows(databases)),
            Constraint::Length(rows(processes(view).len())),
            Constraint::Length(self.words_height()),
            Constraint::Length(rows(jobs.len())),
            Constraint::Min(0),
            Constraint::Length(1),
        ];
        let [head, said, backups, running, words, scheduled, _, foot] =
            Layout::vertical(heights).areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.sentence(), said);
        frame.render_widget(self.databases(), backups);
        if !processes(view).is_empty() {
            frame.render_widget(self.processes(), running);
            self.draw_words(frame, words);
        }
        if !jobs.is_empty() {
            frame.render_widget(self.jobs(jobs), scheduled);
        }
        if self.has_keys {
            frame.render_widget(self.foot(), foot);
        }
    }

    fn sentence(&self) -> Paragraph<'_> {
        let view = self.view;
        let (mark, style) = if view.safe { ("✓ ", good()) } else { ("! ", bad()) };
        let mut lines = vec![
            Line::from(vec![Span::raw(mark), Span::raw(view.sentence.as_str())])
                .style(style.add_modifier(Modifier::BOLD)),
        ];
        let named = view.problems.iter().take(PROBLEMS);
        lines.extend(named.map(|problem| Line::from(format!("  ! {problem}")).style(bad())));
        if view.problems.len() > PROBLEMS {
            lines.push(Line::from(format!("  and {} more", view.problems.len() - PROBLEMS)).style(bad()));
        }
        Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::new().borders(Borders::TOP))
    }

    fn databases(&self) -> Table<'_> {
        let row = |database: &DatabaseView| {
            let mut lag = match database.lag_seconds {
                ..0.05 => "0 s".to_owned(),
                lag if lag < 10.0 => format!("{lag:.1} s"),
                lag => text::age((lag * 1000.0) as i64),
            };
            if database.lag_bytes > 0 {
                lag += &format!(", {}", text::size(database.lag_bytes));
            }
            let size = |bytes: Option<u64>| bytes.map_or("-".to_owned(), text::size);
            let rows = database.backups.iter().enumerate().map(|(place, backup)| {
                let is_first = place == 0;
                let own = |text: String| if is_first { text } else { String::new() };
                let state = if database.ok {
                    Cell::from("● ok").style(good())
                } else {
                    Cell::from("▲ RED").style(bad())
                };
                Row::new([
                    Cell::from(own(file_name(&database.path))),
                    if is_first { state } else { Cell::default() },
                    Cell::from(own(lag.clone())),
                    Cell::from(own(self.age(database.confirmed_at.as_deref()))),
                    Cell::from(own(size(database.size_bytes))),
                    Cell::from(own(text::size(database.wal_bytes))),
                    Cell::from(size(backup.size_bytes)),
                    Cell::from(backup.url.clone()),
                ])
            });
            rows.collect::<Vec<_>>()
        };
        let widths =
            [16, 6, 16, 10, 10, 10, 10].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
        table("Databases", ["NAME", "STATE", "LAG", "UPLOADED", "SIZE", "WAL", "REPLICA", "BACKUP"])
            .rows(self.view.databases.iter().flat_map(row))
            .widths(widths)
    }

    fn processes(&self) -> Table<'_> {
        let row = |(place, process): (usize, &ProcessStatus)| {
            let why = if process.reason.is_empty() { &process.restart_reason } else { &process.reason };
            let (mark, style) = match process.state.as_str() {
                "healthy" | "completed" => ("●", good()),
                "failed" | "unhealthy" | "backing_off" => ("▲", bad()),
                _ => ("○", quiet()),
            };
            let row = Row::new([
                Cell::from(process.name.clone()),
                Cell::from(format!("{mark} {}", process.state.replace('_', " "))).style(style),
                Cell::from(self.age(Some(&process.since))),
                Cell::from(self.probe(process)),
                Cell::from(process.pid.map_or("-".to_owned(), |pid| pid.to_string())),
                Cell::from(process.restarts.to_string()),
                Cell::from(why.clone()),
            ]);
            let is_chosen = self.has_keys && place == self.state.chosen;
            if is_chosen { row.style(Style::new().add_modifier(Modifier::REVERSED)) } else { row }
        };
        let widths = [16, 14, 8, 20, 8, 8].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
        table("Processes", ["NAME", "STATE", "FOR", "PROBE", "PID", "RESTARTS", "WHY"])
            .rows(processes(self.view).iter().enumerate().map(row))
            .widths(widths)
    }

    /// How long the last answer to a probe took, and when that was.
    fn probe(&self, process: &ProcessStatus) -> Line<'_> {
        let Some(last) = process.health.as_ref().or(process.liveness.as_ref()) else {
            return Line::default();
        };
        let text = format!("{:.1} ms, {} ago", last.took_ms, self.age(Some(&last.at)));
        Line::from(text).style(if last.ok { Style::new() } else { bad() })
    }

    fn jobs(&self, jobs: &[JobStatus]) -> Table<'_> {
        let row = |job: &JobStatus| {
            let next = match (&job.running_since, &job.next_due) {
                (Some(_), _) => "runs now".to_owned(),
                (None, Some(due)) => format!("in {}", self.until(due)),
                (None, None) => "never".to_owned(),
            };
            let last = job.history.first();
            let style = if job.is_red() { bad() } else { Style::new() };
            let said = last.map_or_else(String::new, |run| {
                format!("{}, {} ago", run.outcome, self.age(Some(&run.ended)))
            });
            Row::new([
                Cell::from(job.name.clone()),
                Cell::from(job.schedule.clone()),
                Cell::from(next),
                Cell::from(said).style(style),
            ])
        };
        let widths = [16, 34, 12].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
        table("Jobs", ["NAME", "SCHEDULE", "NEXT", "LAST"]).rows(jobs.iter().map(row)).widths(widths)
    }

    /// The last lines of the chosen process's standard error; without keys of none.
    fn words(&self) -> &[String] {
        let chosen = self.state.chosen_name(self.view).filter(|_| self.has_keys);
        let own = self.view.last_words.iter().find(|own| Some(&own.process) == chosen.as_ref());
        own.map_or(&[], |own| &own.lines)
    }

    fn words_height(&self) -> u16 {
        match self.words().len() {
            0 => 0,
            count => count as u16 + 1,
        }
    }

    fn draw_words(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<Line<'_>> = self.words().iter().map(|line| Line::from(line.as_str())).collect();
        let title = Line::from(" its standard error, the last lines").style(quiet());
        frame.render_widget(Paragraph::new(lines).block(Block::new().title(title)), area);
    }

    fn head(&self) -> Line<'_> {
        let view = self.view;
        let mut head = format!("litekeep {} on {}  {}", view.version, view.host, view.at);
        if let Some(last) = view.deploys.last() {
            let (names, age) = (last.processes.join(", "), self.age(Some(&last.at)));
            head += &format!("  last deploy {age} ago: {names}");
        }
        Line::from(head).style(quiet())
    }

    fn foot(&self) -> Line<'_> {
        let keys = " q quit   ↑ ↓ choose a process   r restart it";
        match (&self.state.asks, self.said) {
            (Some(name), _) => Line::from(format!(" Restart {name}? y / n")).style(bad()),
            (None, Some(said)) => Line::from(format!(" {said}")),
            (None, None) => Line::from(keys).style(quiet()),
        }
    }

    /// How long ago that was when the view was made.
    fn age(&self, at: Option<&str>) -> String {
        let now = self.view.at.parse::<Timestamp>();
        match (at.map(str::parse::<Timestamp>), now) {
            (Some(Ok(at)), Ok(now)) => text::age(now.as_millisecond() - at.as_millisecond()),
            _ => "-".to_owned(),
        }
    }

    fn until(&self, at: &str) -> String {
        match (at.parse::<Timestamp>(), self.view.at.parse::<Timestamp>()) {
            (Ok(at), Ok(now)) => text::age(at.as_millisecond() - now.as_millisecond()),
            _ => "-".to_owned(),
        }
    }
}

fn table<'a, const N: usize>(title: &'a str, head: [&'a str; N]) -> Table<'a> {
    let title = Line::from(format!(" {title} ")).style(Style::new().add_modifier(Modifier::BOLD));
    Table::default()
        .header(Row::new(head).style(quiet()))
        .block(Block::new().borders(Borders::TOP).title(title))
}

fn good() -> Style {
    Style::new().fg(Color::Green)
}

fn bad() -> Style {
    Style::new().fg(Color::Red)
}

fn quiet() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}
