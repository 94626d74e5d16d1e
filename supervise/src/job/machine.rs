//! When a job runs: pure, with no clock and no chance of its own.
//!
//! The wall clock may jump. Every moment that was dealt with lies in a span that is remembered, so a jump back never brings a
//! due moment a second time; a jump forward (or a suspended machine) passes many due moments and is answered by one run. What
//! such a jump passed over is not in a span: when the clock is set back again, those moments come as they should.
//!
//! An interval, a timeout and jitter are measured by steady time, on which the wall clock has no influence.

use std::time::Duration;

use super::{Job, Overlap, Schedule};

/// Wall time is looked at again after this long at the latest.
const LOOK_EVERY_MS: i64 = 60_000;
/// A last due moment that lies further than this in the future was written under a wrong clock.
const BELIEVED_MS: i64 = 24 * 3600 * 1000;
/// Spans that are remembered.
const SPANS: usize = 16;

/// One moment by both clocks, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall_ms: i64,
    /// What the wall clock said at the start plus the time since then, suspension included.
    pub(super) steady_ms: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) schedule: Schedule,
    pub(super) overlap: Overlap,
    pub(super) timeout: Option<Duration>,
    pub(super) jitter: Duration,
    pub(super) catch_up: bool,
}

impl Settings {
    pub(super) fn of(job: &Job) -> Settings {
        let Job { overlap, timeout, jitter, catch_up, .. } = *job;
        Settings { schedule: job.schedule.clone(), overlap, timeout, jitter, catch_up }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// The job is to run from now on; up to this moment it was cared for before.
    Begin { last_ms: Option<i64> },
    /// Time passed.
    Look,
    /// Somebody wants a run.
    Asked,
    /// The run is over.
    Ended,
    /// No more runs.
    Stop,
    /// The run is to end, and what waits for it is left out.
    EndRun,
}

/// Why a run is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    TimedOut,
    Overtaken,
    Stopped,
}

/// What to do now; a due moment is none for a run that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start {
        due_ms: Option<i64>,
    },
    End(Reason),
    Skip {
        due_ms: Option<i64>,
        reason: &'static str,
    },
    /// Everything up to this moment was dealt with.
    Remember {
        up_to_ms: i64,
    },
}

pub(super) struct Machine {
    settings: Settings,
    /// From where an interval counts.
    anchor_ms: i64,
    /// Looked at up to here by the schedule's clock; none while the job is not to run.
    cursor_ms: Option<i64>,
    lived: Spans,
    jittered: Option<Jittered>,
    queued: Option<Option<i64>>,
    running: Option<Running>,
}

/// Due, and waiting for its jitter.
struct Jittered {
    due_ms: i64,
    /// When it starts, by steady time. Only then it is dealt with: a litekeep that ends before leaves it to be made up for.
    at_ms: i64,
    up_to_ms: i64,
}

struct Running {
    ends_at_ms: Option<i64>,
    is_ending: bool,
}

impl Machine {
    pub(super) fn new(settings: Settings) -> Machine {
        Machine {
            settings,
            anchor_ms: 0,
            cursor_ms: None,
            lived: Spans::default(),
            jittered: None,
            queued: None,
            running: None,
        }
    }

    /// Takes note of an event and says what follows; `chance` is 64 random bits.
    pub(super) fn step(&mut self, event: Event, now: Now, chance: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Begin { last_ms } => {
                self.begin(last_ms, now, &mut actions);
                self.look(now, chance, &mut actions);
            }
            Event::Look => self.look(now, chance, &mut actions),
            Event::Asked if self.cursor_ms.is_none() => {
                actions.push(Action::Skip { due_ms: None, reason: "it is stopped" });
            }
            Event::Asked => self.due(None, now, &mut actions),
            Event::Ended => {
                self.running = None;
                if let Some(due_ms) = self.queued.take() {
                    self.start(due_ms, now, &mut actions);
                }
            }
            Event::Stop => {
                self.cursor_ms = None;
                if self.settings.catch_up
                    && let Some(Jittered { due_ms, .. }) = self.jittered.take()
                {
                    // The next beginning makes up for it.
                    self.lived.forget(due_ms);
                }
                self.end_run(&mut actions);
            }
            Event::EndRun => {
                if let Some(Jittered { up_to_ms, .. }) = self.jittered {
                    actions.push(Action::Remember { up_to_ms });
                }
                self.end_run(&mut actions);
            }
        }
        actions
    }

    /// Goes on by other settings; a run that goes on, or waits, is as it was. Spans are by the wall clock, or by steady time, which
    /// agree as long as nobody sets the clock.
    pub(super) fn change(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes note of a run that goes on since some time.
    pub(super) fn adopt(&mut self, now: Now, age: Duration) {
        let left = |timeout: Duration| timeout.saturating_sub(age).as_millis() as i64;
        let ends_at_ms = self.settings.timeout.map(|timeout| now.steady_ms + left(timeout));
        self.running = Some(Running { ends_at_ms, is_ending: false });
    }

    /// How long nothing can happen by time alone.
    pub(super) fn wake_in(&self, now: Now) -> Duration {
        let timeout = self.running.as_ref().filter(|run| !run.is_ending).and_then(|run| run.ends_at_ms);
        let steady = [timeout, self.jittered.as_ref().map(|waiting| waiting.at_ms)];
        let due = self.next_due_ms().map(|due| due - self.time(now));
        let waits = steady.into_iter().flatten().map(|at| at - now.steady_ms).chain(due);
        let wait = waits.min().unwrap_or(LOOK_EVERY_MS).clamp(0, LOOK_EVERY_MS);
        Duration::from_millis(wait as u64)
    }

    /// The next due moment by the schedule's clock.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        self.due_after(self.cursor_ms?)
    }

    pub(super) fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    /// The time by the clock that the schedule goes by.
    pub(super) fn time(&self, now: Now) -> i64 {
        match self.settings.schedule {
            Schedule::Every(_) => now.steady_ms,
            Schedule::At(_) => now.wall_ms,
        }
    }

    fn begin(&mut self, last_ms: Option<i64>, now: Now, actions: &mut Vec<Action>) {
        let time = self.time(now);
        if self.cursor_ms.is_some() {
            return;
        }
        let known = last_ms.filter(|last| *last <= time);
        self.anchor_ms = known.unwrap_or(time);
        self.cursor_ms = Some(known.filter(|_| self.settings.catch_up).unwrap_or(time));
        let ahead = last_ms.filter(|last| *last > time);
        let is_believed = |ahead: i64| ahead - time <= BELIEVED_MS;
        if let Some(ahead) = ahead {
            let from = if is_believed(ahead) { time } else { ahead - 1 };
            self.lived.add(from, ahead);
        }
        // From here it counts also for the next litekeep, which may come before anything was due.
        if known.is_none() && !ahead.is_some_and(is_believed) {
            actions.push(Action::Remember { up_to_ms: time });
        }
    }

    fn look(&mut self, now: Now, chance: u64, actions: &mut Vec<Action>) {
        if let Some(run) = &mut self.running
            && !run.is_ending
            && run.ends_at_ms.is_some_and(|at| at <= now.steady_ms)
        {
            run.is_ending = true;
            actions.push(Action::End(Reason::TimedOut));
        }
        if let Some(Jittered { due_ms, up_to_ms, .. }) =
            self.jittered.take_if(|waiting| waiting.at_ms <= now.steady_ms)
        {
            actions.push(Action::Remember { up_to_ms });
            self.due(Some(due_ms), now, actions);
        }
        let Some(cursor) = self.cursor_ms else { return };
        let time = self.time(now);
        // The clock was set back: from here it counts anew, without the spans.
        let cursor = cursor.min(time);
        self.cursor_ms = Some(time);
        let Some(due_ms) = self.due_after(cursor).filter(|due| *due <= time) else {
            return self.lived.add(cursor, time);
        };
        let passed_more = self.due_after(due_ms).is_some_and(|next| next <= time);
        self.lived.add(cursor, if passed_more { due_ms } else { time });
        let up_to_ms = if passed_more { self.latest(time) } else { due_ms };
        if let Some(waiting) = &mut self.jittered {
            waiting.up_to_ms = up_to_ms;
            let reason = "the one before still waits for its jitter";
            actions.push(Action::Skip { due_ms: Some(due_ms), reason });
        } else if self.settings.jitter.is_zero() {
            actions.push(Action::Remember { up_to_ms });
            self.due(Some(due_ms), now, actions);
        } else {
            let wait = (self.settings.jitter.as_millis() * u128::from(chance)) >> 64;
            self.jittered = Some(Jittered { due_ms, at_ms: now.steady_ms + wait as i64, up_to_ms });
        }
    }

    /// A run is wanted: by its schedule, or by somebody.
    fn due(&mut self, due_ms: Option<i64>, now: Now, actions: &mut Vec<Action>) {
        let Some(run) = &mut self.running else { return self.start(due_ms, now, actions) };
        match self.settings.overlap {
            Overlap::Skip => actions.push(Action::Skip { due_ms, reason: "the one before still runs" }),
            Overlap::Queue if self.queued.is_some() => {
                actions.push(Action::Skip { due_ms, reason: "one waits already" });
            }
            Overlap::Queue => self.queued = Some(due_ms),
            Overlap::Kill => {
                if !std::mem::replace(&mut run.is_ending, true) {
                    actions.push(Action::End(Reason::Overtaken));
                }
                if let Some(due_ms) = self.queued.replace(due_ms) {
                    actions.push(Action::Skip { due_ms, reason: "a later one took its place" });
                }
            }
        }
    }

    fn start(&mut self, due_ms: Option<i64>, now: Now, actions: &mut Vec<Action>) {
        let ends_at_ms = self.settings.timeout.map(|timeout| now.steady_ms + timeout.as_millis() as i64);
        self.running = Some(Running { ends_at_ms, is_ending: false });
        actions.push(Action::Start { due_ms });
    }

    fn end_run(&mut self, actions: &mut Vec<Action>) {
        let waiting = self.jittered.take().map(|waiting| Some(waiting.due_ms));
        for due_ms in waiting.into_iter().chain(self.queued.take()) {
            actions.push(Action::Skip { due_ms, reason: "it was stopped" });
        }
        if let Some(run) = &mut self.running
            && !std::mem::replace(&mut run.is_ending, true)
        {
            actions.push(Action::End(Reason::Stopped));
        }
    }

    /// The first due moment after this that was not dealt with.
    fn due_after(&self, after_ms: i64) -> Option<i64> {
        let mut after = after_ms;
        loop {
            let due = match &self.settings.schedule {
                Schedule::Every(_) => self.latest(after).checked_add(self.interval_ms())?,
                // One that does not go on has ended.
                Schedule::At(next) => next(after).filter(|due| *due > after)?,
            };
            match self.lived.end_around(due) {
                Some(end) => after = end,
                None => return Some(due),
            }
        }
    }

    /// The latest moment of the schedule up to `time`, as far as that can be said without a search.
    fn latest(&self, time: i64) -> i64 {
        match &self.settings.schedule {
            Schedule::Every(_) => time - (time - self.anchor_ms).rem_euclid(self.interval_ms()),
            Schedule::At(_) => time,
        }
    }

    fn interval_ms(&self) -> i64 {
        match &self.settings.schedule {
            Schedule::Every(interval) => i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1),
            Schedule::At(_) => 1,
        }
    }
}

/// Spans of time, each from after its first moment to its last one; in order and apart from each other.
#[derive(Debug, Default)]
struct Spans(Vec<(i64, i64)>);

impl Spans {
    fn add(&mut self, from: i64, to: i64) {
        if from >= to {
            return;
        }
        let touches = |span: &(i64, i64)| span.0 <= to && from <= span.1;
        let merged = self
            .0
            .iter()
            .filter(|span| touches(span))
            .fold((from, to), |sum, span| (sum.0.min(span.0), sum.1.max(span.1)));
        self.0.retain(|span| !touches(span));
        let at = self.0.partition_point(|span| span.0 < merged.0);
        self.0.insert(at, merged);
        if self.0.len() > SPANS {
            // What lay between the two oldest is taken for dealt with: rather once too seldom than twice.
            let (first, second) = (self.0.remove(0), self.0[0]);
            self.0[0] = (first.0, second.1);
        }
    }

    /// Leaves out one moment.
    fn forget(&mut self, moment: i64) {
        let Some(at) = self.0.iter().position(|span| span.0 < moment && moment <= span.1) else { return };
        let (from, to) = self.0.remove(at);
        self.add(from, moment - 1);
        self.add(moment, to);
    }

    /// The end of the span that holds a moment.
    fn end_around(&self, moment: i64) -> Option<i64> {
        self.0.iter().find(|span| span.0 < moment && moment <= span.1).map(|span| span.1)
    }
}

#[cfg(test)]
mod tests;
